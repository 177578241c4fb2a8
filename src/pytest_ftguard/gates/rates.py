"""What a verdict on losses owes to the learning rate: a run that learned nothing, and a rate that nobody chose."""

from __future__ import annotations

import numpy as np

from pytest_ftguard.comparison.same_work import same_sequences
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.statistics import Interval, cluster, gap_interval

__all__ = ["how_to_search", "learned_nothing", "unsettled"]


def how_to_search(variant: TrainedVariant) -> str | None:
    """Return what has a variant's learning rate searched in the same test; None if nothing in this run can."""
    match variant.rate.maker:
        case "settings":
            return f"ftguard_{variant.variant.settings_prefix}_search_learning_rate = true"
        case "code":
            return f"{type(variant.variant).__name__}(..., search_learning_rate=True)"
    return None


def unsettled(*variants: TrainedVariant) -> list[str]:
    """Return that other rates may change a verdict, and how to search them; nothing if all were chosen.

    Args:
        variants: The variants that the verdict rests on.
    """
    sides = [side for side in variants if side.rate.origin == "default"]
    if not sides:
        return []
    rates = " and ".join(f"{side.label}'s {side.variant.learning_rate:g}" for side in sides)
    ways = " and ".join(dict.fromkeys(filter(None, map(how_to_search, sides))))
    if len(sides) == 1:
        return [
            f"The learning rate was neither searched nor set by you: {rates} is the default. Another rate may change "
            f"this verdict. Search it: {ways}."
        ]
    return [
        f"The learning rates were neither searched nor set by you: {rates} are the defaults. Other rates may change "
        f"this verdict. Search both: {ways}."
    ]


def learned_nothing(variant: TrainedVariant, confidence: float) -> list[str]:
    """Return why a variant is not better than the base model: a fault of its run, which says nothing about a gap.

    The question is about these very trainings, each by itself, so only the choice of the sequences is noise here.

    Args:
        variant: The variant; trials without both losses are passed over, because other checks name them.
        confidence: One-sided confidence of each bound.
    """
    gains = {trial.spec.seed: gain for trial in variant.trials if (gain := _gain(trial, confidence)) is not None}
    idle = [seed for seed, gain in gains.items() if not gain.lower > 0]
    if not idle:
        return []
    which = variant.label
    if len(idle) < len(gains):
        which = f"seed{'s' if len(idle) > 1 else ''} {', '.join(map(str, idle))} of {which}"
    value, lower = (sum(getattr(gains[seed], name) for seed in idle) / len(idle) for name in ("value", "lower"))
    if value > 0:
        where = (
            f"clearly better than the base model: the gain is {value:.4f} nats per token, the lower bound {lower:+.4f}"
        )
    else:
        where = f"better than the base model: the loss is {-value:.4f} nats per token above the base model's"
    verb = "are" if 1 < len(idle) < len(gains) else "is"
    return [
        f"after {variant.workload.steps} steps {which} {verb} not {where}. This is a fault of the run, not a gap. "
        f"{_remedy(variant)}"
    ]


def _gain(trial: Trial, confidence: float) -> Interval | None:
    """Return what a trial gained over the base model, in nats per token; None if it was not measured."""
    ours, base = trial.measured.validation, trial.measured.base_validation
    if ours is None or base is None or not same_sequences(ours, base):
        return None
    row, tokens = np.subtract([base.nll], [ours.nll]), np.array(base.tokens, dtype=np.float64)
    if base.documents is not None:
        row, tokens = cluster(row, base.documents), cluster(tokens, base.documents)
    return gap_interval(row, tokens, confidence) if len(tokens) > 1 and np.isfinite(row).all() else None


def _remedy(variant: TrainedVariant) -> str:
    origin = {"given": "set by you", "searched": "found by the search", "default": "the default"}[variant.rate.origin]
    way = how_to_search(variant)
    search = f"; search it: {way}" if way is not None and variant.rate.origin != "searched" else ""
    return (
        f"What to do: check its learning rate first: {variant.variant.learning_rate:g} ({origin}){search}. "
        "Then check the chat template or format of the text, the target modules, and whether the steps are enough"
    )
