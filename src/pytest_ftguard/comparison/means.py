"""What is told of losses and scores besides verdicts: their means, over all examples and over those of each slice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_ftguard.comparison.scores import Slice, slices_of
from pytest_ftguard.results import ACCURACY, SequenceLosses, TrainedVariant

__all__ = ["SliceMeans", "by_slice", "loss_is_per", "main_score", "mean", "mean_scores", "own_scores"]


@dataclass(frozen=True)
class SliceMeans:
    """What one model comes to on the examples of a slice.

    Attributes:
        examples: How many there are.
        loss: Mean loss in nats per token or, of classes, per example.
        scores: Mean over the examples of each score, by its name; accuracy is among them.
    """

    examples: int
    loss: float
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)


def mean(values: Iterable[float]) -> float:
    """Return a mean; no finite number if one of the values is none, or there are no values."""
    known = list(values)
    return sum(known) / len(known) if known else float("nan")


def loss_is_per(losses: SequenceLosses) -> Literal["token", "example"]:
    """Return what a loss is a mean over: of classes there is one for each example."""
    return "token" if losses.answers is None else "example"


def mean_scores(losses: SequenceLosses) -> dict[str, float]:
    """Return the mean over the examples of each score, by its name; accuracy is among them."""
    return {name: mean(values) for name, values in losses.scored.items()}


def by_slice(losses: SequenceLosses) -> dict[Slice, SliceMeans]:
    """Return what a model comes to on each slice, in the order in which slices are shown."""
    return {one: _of_places(losses, one.places(losses)) for one in slices_of(losses)}


def _of_places(losses: SequenceLosses, places: Sequence[int]) -> SliceMeans:
    tokens = sum(losses.tokens[place] for place in places)
    nll = sum(losses.nll[place] for place in places)
    return SliceMeans(
        len(places),
        nll / tokens if tokens else float("nan"),
        {name: mean(values[place] for place in places) for name, values in losses.scored.items()},
    )


def own_scores(variants: Iterable[TrainedVariant]) -> tuple[str, ...]:
    """Return the names of the team's own scores that some model of these variants has."""
    return tuple(
        dict.fromkeys(
            name
            for variant in variants
            for trial in variant.trials
            for losses in (trial.measured.validation, trial.measured.base_validation)
            if losses is not None and losses.scores is not None
            for name in losses.scores.values
        )
    )


def main_score(variants: Sequence[TrainedVariant]) -> str | None:
    """Return the score that readers look at first: the first of the team's own, else accuracy; None without any."""
    own = own_scores(variants)
    if own:
        return own[0]
    measured = (trial.measured.validation for variant in variants for trial in variant.trials)
    return ACCURACY if any(losses is not None and losses.answers is not None for losses in measured) else None
