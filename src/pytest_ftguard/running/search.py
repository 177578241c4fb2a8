"""The search for a variant's learning rate: short trials at rates around a first guess."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import Variant, Workload
from pytest_ftguard.specs.short import search_workload

__all__ = ["find_learning_rate", "next_rate"]

_FACTOR: Final = 3.0
_MOST_RATES: Final = 5


def next_rate(first: float, losses: Mapping[float, float]) -> float | None:
    """Return the learning rate to try next; None if the best is known.

    The grid is the first guess, a third and three times of it; while the best so far lies at an edge, it grows there,
    up to five rates.

    Args:
        first: The first guess.
        losses: Loss of each rate that was tried; infinity if the training diverged.
    """
    for rate in (first, _rounded(first / _FACTOR), _rounded(first * _FACTOR)):
        if rate not in losses:
            return rate
    best = min(losses, key=lambda rate: (losses[rate], rate))
    if len(losses) >= _MOST_RATES:
        return None
    if best == min(losses):  # also if all of them diverged: only a lower rate can help
        return _rounded(best / _FACTOR)
    return _rounded(best * _FACTOR) if best == max(losses) else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def find_learning_rate(
    train: Callable[[Workload, Variant], TrainedVariant], workload: Workload, variant: Variant
) -> float:
    """Return the best of the learning rates that were tried; the variant's own is the first guess.

    If all of them diverged, the lowest is returned, and the gates will say what is wrong.

    Args:
        train: Trains a variant, or returns what was trained before.
        workload: What the variant will be trained on afterwards.
        variant: The variant, with a learning rate.

    Raises:
        ConfigurationError: A trial failed for another reason than its rate, or the rate changes nothing.
    """
    short = search_workload(workload)
    assert variant.learning_rate is not None  # with_learning_rate has filled it in
    rate: float | None = variant.learning_rate
    losses: dict[float, float] = {}
    while rate is not None:
        trained = train(short, replace(variant, learning_rate=rate))
        for trial in trained.trials:
            if trial.measured.outcome not in ("ok", "diverged"):
                # Taken for a bad rate, a machine's failure would decide which rate looks best.
                message = f"the search for {variant.label}'s learning rate cannot go on at {rate:g}: {trial.failure}"
                raise ConfigurationError(message)
        losses[rate] = math.inf if trained.loss is None else trained.loss
        rate = next_rate(variant.learning_rate, losses)
    if len(set(losses.values())) == 1 and math.isfinite(losses[variant.learning_rate]):
        message = (
            f"the search for {variant.label}'s learning rate found the same loss, {trained.loss:.4f}, at each of "
            f"{', '.join(f'{rate:g}' for rate in sorted(losses))}: the training does not use spec.variant.learning_rate"
        )
        raise ConfigurationError(message)
    return min(losses, key=lambda rate: (losses[rate], rate))
