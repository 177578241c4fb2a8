"""How a gate decides, and how often each of several looks may err."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pytest_ftguard.statistics import SeedNoise

__all__ = ["GAIN_FACTOR", "Rule", "confidence_at_timing"]

GAIN_FACTOR: Final = 3.0
"""How many margins full fine-tuning must gain over the base model before a gap of one margin can be seen."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a gate decides.

    Attributes:
        confidence: One-sided confidence of each bound.
        gain_factor: How many margins the baseline must gain over the base model.
        same_learning_rate: Allow full fine-tuning and LoRA to have the same learning rate.
        seed_noise: The calibrated noise of seeds; None if there is none.
        look: Which look at the data this is, from 1.
        looks: How many looks there may be; each has its share of the error that `confidence` allows.
    """

    confidence: float = 0.95
    gain_factor: float = GAIN_FACTOR
    same_learning_rate: bool = False
    seed_noise: SeedNoise | None = None
    look: int = 1
    looks: int = 1

    def at_look(self, look: int, looks: int) -> Rule:
        """Return the rule for one of several looks: whoever looks three times may err a third as often at each."""
        return replace(self, look=look, looks=looks, confidence=1 - (1 - self.confidence) / looks)


def confidence_at_timing(confidence: float, timing: int) -> float:
    """Return the confidence of a bound at one of the timings of a pair: all their errors add up to what is allowed.

    The first one, mostly the only one, may err in four fifths of the cases that are allowed. Each further one may err
    in four fifths of the rest.

    Args:
        confidence: That of all timings together.
        timing: Which timing it is, from 1.
    """
    return 1 - (1 - confidence) * 0.8 * 0.2 ** (timing - 1)
