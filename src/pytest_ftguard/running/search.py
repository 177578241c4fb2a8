"""The search for a variant's learning rate: short trials at rates around a first guess."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from pytest_ftguard.errors import hide_our_frames
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import Variant, Workload

__all__ = ["find_learning_rate", "next_rate", "search_workload"]

__tracebackhide__ = hide_our_frames

_FACTOR: Final = 3.0
_MOST_RATES: Final = 5
_SHARE_OF_STEPS: Final = 4


def search_workload(workload: Workload) -> Workload:
    """Return what a search trains: a quarter of the steps, one seed, judged on sequences that no gate uses."""
    return replace(
        workload,
        steps=max(1, workload.steps // _SHARE_OF_STEPS),
        seeds=workload.seeds[:1],
        most_seeds=0,
        reference=None,
        purpose="search",
    )


def next_rate(first: float, losses: Mapping[float, float]) -> float | None:
    """Return the learning rate to try next; None where the best is known.

    The grid is the first guess, a third and three times of it; while the best so far lies at an edge, it grows there,
    up to five rates.

    Args:
        first: The first guess.
        losses: Loss of each rate that was tried; infinity where the trial failed.
    """
    for rate in (first, _rounded(first / _FACTOR), _rounded(first * _FACTOR)):
        if rate not in losses:
            return rate
    best = min(losses, key=lambda rate: (losses[rate], rate))
    if len(losses) >= _MOST_RATES or not math.isfinite(losses[best]):
        return None
    if best == min(losses):
        return _rounded(best / _FACTOR)
    return _rounded(best * _FACTOR) if best == max(losses) else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def find_learning_rate(
    train: Callable[[Workload, Variant], TrainedVariant], workload: Workload, variant: Variant
) -> float:
    """Return the best of the learning rates that were tried; the variant's own is the first guess.

    Where no trial ended well the first guess stays, and the gates will say what is wrong.

    Args:
        train: Trains a variant, or returns what was trained before.
        workload: What the variant will be trained on afterwards.
        variant: The variant, with a learning rate.
    """
    short = search_workload(workload)
    assert variant.learning_rate is not None  # with_learning_rate has filled it in
    rate: float | None = variant.learning_rate
    losses: dict[float, float] = {}
    while rate is not None:
        loss = train(short, replace(variant, learning_rate=rate)).loss
        losses[rate] = math.inf if loss is None else loss
        rate = next_rate(variant.learning_rate, losses)
    best = min(losses, key=lambda rate: (losses[rate], rate))
    return best if math.isfinite(losses[best]) else variant.learning_rate
