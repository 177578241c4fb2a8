"""How far the domain lies from what the base model knows, and what full fine-tuning learned of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_ftguard.comparison.examples import best_full
from pytest_ftguard.comparison.means import loss_is_per
from pytest_ftguard.results import TrainedVariant

__all__ = ["Specialization", "specialization_of"]


@dataclass(frozen=True)
class Specialization:
    """The base model on the domain and on the reference text, and full's gain on the domain.

    Attributes:
        domain_loss: Loss of the base model on the validation text.
        reference_loss: Loss of the base model on the reference text.
        gains: By how much the loss of full fine-tuning on the validation text is below the base model's, for each seed;
            empty if full fine-tuning was not trained to its end.
        per: What the losses are a mean over: "token" or, of classes, "example".
    """

    domain_loss: float
    reference_loss: float
    gains: tuple[float, ...]
    per: Literal["token", "example"]

    @property
    def difference(self) -> float:
        """By how much the base model's loss on the domain is above that on the reference text."""
        return self.domain_loss - self.reference_loss


def specialization_of(variants: Sequence[TrainedVariant]) -> Specialization | None:
    """Return how special a domain is; None if the base model's loss on one of the two texts was not measured.

    Args:
        variants: The variants of one workload.
    """
    measured = next(
        (
            trial.measured
            for variant in variants
            for trial in variant.trials
            if trial.measured.base_validation and trial.measured.base_reference
        ),
        None,
    )
    if measured is None or measured.base_validation is None or measured.base_reference is None:
        return None
    domain, reference = measured.base_validation.loss, measured.base_reference.loss
    full = best_full(variants)
    gains = tuple(domain - loss for loss in (full.losses if full and full.losses else ()))
    if not (math.isfinite(domain) and math.isfinite(reference)):
        return None
    return Specialization(domain, reference, gains, loss_is_per(measured.base_validation))
