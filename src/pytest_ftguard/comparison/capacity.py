"""Whether an adapter can hold what the training text can teach, and how much of the model it reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pytest_ftguard.results import TrainedVariant

__all__ = ["Capacity", "capacity_of", "left_out", "reaches_little"]

# A parameter of a language model holds about two bits of knowledge (Allen-Zhu and Li, "Physics of Language Models: Part
# 3.3, Knowledge Capacity Scaling Laws", 2024).
_BITS_PER_PARAMETER: Final = 2.0
# In a usual transformer attention has at most a third of the matrix weights, and the MLP at least two thirds. Adapters
# on the MLP alone do about as well as on all layers, and those on attention alone do worse at any rank (Schulman et
# al., "LoRA Without Regret", 2025): half lies between.
_SMALL_SHARE: Final = 0.5
# A router or a projection for a few tokens is not what an adapter lacks.
_LEAST_SHARE_OF_THE_REST: Final = 0.1


@dataclass(frozen=True)
class Capacity:
    """What an adapter can hold, next to what there is to learn.

    Attributes:
        holds_bits: What its trained parameters can hold.
        text_bits: The most that the training text can teach: its loss under the base model.
        tokens: Number of training tokens.
    """

    holds_bits: float
    text_bits: float
    tokens: int

    @property
    def is_too_small(self) -> bool:
        """Whether the text can teach more than the adapter can hold."""
        return self.holds_bits < self.text_bits


def capacity_of(variant: TrainedVariant) -> Capacity | None:
    """Return what a variant can hold; None if that was not measured."""
    base = next((trial.measured.base_validation for trial in variant.trials if trial.measured.base_validation), None)
    if base is None or variant.trainable_parameters is None:
        return None
    work = variant.workload
    tokens = _supervised(variant) or work.steps * work.batch_size * work.block_size
    return Capacity(_BITS_PER_PARAMETER * variant.trainable_parameters, tokens * base.loss / math.log(2), tokens)


def _supervised(variant: TrainedVariant) -> int | None:
    """Return of how many tokens the loss was taken, if these are not all tokens of full blocks."""
    if variant.workload.task == "causal-lm":
        return None
    counts = (trial.measured.supervised_tokens for trial in variant.trials)
    return next((count for count in counts if count), None)


def reaches_little(variant: TrainedVariant) -> bool:
    """Return whether a variant is known to adapt a small part of the model's matrix weights only."""
    counts = next((trial.measured.parameters for trial in variant.trials if trial.measured.parameters), None)
    share = counts.adapted_share if counts else None
    return counts is not None and bool(counts.adapted) and share is not None and share < _SMALL_SHARE


def left_out(variant: TrainedVariant) -> list[str]:
    """Return what kinds of matrices have no adapter, in the words of an advice to adapt them; see `reaches_little`.

    Fused experts are parameters and no layers, so peft adapts them through `target_parameters` only.
    """
    counts = next((trial.measured.parameters for trial in variant.trials if trial.measured.parameters), None)
    shares = (counts.left_alone or {}) if counts else {}
    fused = math.fsum(share for name, share in shares.items() if "experts" in name.split("."))
    rest = math.fsum(shares.values()) - fused
    method = variant.variant
    if getattr(method, "target_modules", None) == "all-linear" and "exclude_modules" not in getattr(
        method, "options", ()
    ):
        fused, rest = fused + rest, 0.0  # no linear layer is left
    least = _LEAST_SHARE_OF_THE_REST * (fused + rest)
    kinds = {"all linear layers": rest, "fused experts (target_parameters)": fused}
    return [kind for kind, share in kinds.items() if share > least]
