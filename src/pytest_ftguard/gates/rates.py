"""What the learning rate does to a verdict on losses: a run that learned nothing, and a rate that nobody chose."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_ftguard.comparison.changing import set_key
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.comparison.same_work import same_sequences
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.statistics import Interval, one_run_interval

__all__ = [
    "better_rate",
    "how_to_search",
    "how_to_settle",
    "learned_nothing",
    "rates_line",
    "rates_note",
    "undertrained",
    "unsettled",
]


def how_to_search(variant: TrainedVariant) -> str | None:
    """Return what has a variant's learning rate searched in the same test; None if nothing in this run can."""
    match variant.rate.maker:
        case "settings":
            return set_key(variant, f"{variant.variant.settings_prefix}_search_learning_rate", "yes")
        case "code":
            return f'{type(variant.variant).__name__}(..., search_learning_rate="yes")'
    return None


def rates_line(*variants: TrainedVariant) -> str:
    """Return the learning rates that a verdict holds at, and where each comes from.

    Args:
        variants: The variants that the verdict rests on.
    """
    if all(side.rate.origin == "given" for side in variants):
        given = ", ".join(f"{side.label} {side.variant.learning_rate:g}" for side in variants)
        return f"At the learning rates given: {given}."
    rates = ", ".join(f"{side.label} {side.variant.learning_rate:g} ({_origin(side)})" for side in variants)
    return f"At the learning rates: {rates}."


def _origin(variant: TrainedVariant) -> str:
    rate = variant.rate
    if rate.origin != "searched" or rate.first is None:
        return {"given": "given", "searched": "searched", "default": "the default"}[rate.origin]
    if rate.first == variant.variant.learning_rate:
        return "the default, and a search found none better"
    return f"searched, in place of {rate.first:g}"


def undertrained(baseline: TrainedVariant) -> list[str]:
    """Return that a search has found a better rate of the baseline than the default; nothing if it has not."""
    rate, first = baseline.variant.learning_rate, baseline.rate.first
    if first is None or rate == first:
        return []
    return [
        f"{baseline.label} was undertrained at its default learning rate of {first:g}: a search found {rate:g}, and "
        "this verdict is at that rate."
    ]


def better_rate(candidate: TrainedVariant) -> list[str]:
    """Return that a PASS holds at a rate that a search found, in place of the default; nothing if it does not."""
    rate, first = candidate.variant.learning_rate, candidate.rate.first
    if first is None or rate == first:
        return []
    return [
        f"This holds for {candidate.label} at the learning rate {rate:g}, which a search found in place of its default "
        f"of {first:g}: train it at that rate."
    ]


def unsettled(*variants: TrainedVariant) -> list[str]:
    """Return that other learning rates may change a verdict; nothing if all rates were searched or set.

    Args:
        variants: The variants that the verdict rests on.
    """
    rates = [f"{side.label}, {side.variant.learning_rate:g}" for side in _at_defaults(variants)]
    if len(rates) > 1:
        listed = ", and of ".join(rates)
        found = [f"The learning rates of {listed}, are only defaults. Other rates may change this verdict."]
    else:
        found = [
            f"The learning rate of {one}, is only a default. Another rate may change this verdict." for one in rates
        ]
    return [*found, *(f"It could not be searched: {side.rate.why_not}." for side in variants if side.rate.why_not)]


def how_to_settle(*variants: TrainedVariant) -> str:
    """Return how the learning rates that nobody chose are searched, as the rest of a sentence; "" if there are none."""
    sides = [side for side in _at_defaults(variants) if not side.rate.why_not]
    ways = " and ".join(dict.fromkeys(filter(None, map(how_to_search, sides))))
    return f"search {'both learning rates' if len(sides) > 1 else 'the learning rate'}: {ways}" if ways else ""


def rates_note(*variants: TrainedVariant) -> list[str]:
    """Return `unsettled` and `how_to_settle` in one text, for the summary; nothing if all rates were chosen."""
    found, way = unsettled(*variants), how_to_settle(*variants)
    return [*found, f"{way[:1].upper()}{way[1:]}."] if found and way else found


def _at_defaults(variants: Iterable[TrainedVariant]) -> list[TrainedVariant]:
    return [side for side in variants if side.rate.origin == "default" and not side.rate.is_open]


def learned_nothing(variant: TrainedVariant, confidence: float) -> list[Problem]:
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
        which = f"{which}, seed{'s' if len(idle) > 1 else ''} {', '.join(map(str, idle))},"
    value, lower = (sum(getattr(gains[seed], name) for seed in idle) / len(idle) for name in ("value", "lower"))
    if value > 0:
        clearly = "clearly "
        found = f"the gain is {value:.4f} nats per token, the lower bound {lower:+.4f}"
    else:
        clearly = ""
        found = f"the loss is {-value:.4f} nats per token above the base model's"
    return [
        Problem(
            f"{which} is not {clearly}better than the base model",
            why=f"After {variant.workload.steps} steps {found}. This is a fault of the run, not a gap.",
            remedy=_remedy(variant),
            rate_of=variant.variant,
        )
    ]


def _gain(trial: Trial, confidence: float) -> Interval | None:
    """Return what a trial gained over the base model, in nats per token; None if it was not measured."""
    ours, base = trial.measured.validation, trial.measured.base_validation
    if ours is None or base is None or not same_sequences(ours, base):
        return None
    return one_run_interval(base.nll, ours.nll, base.tokens, base.documents, confidence)


def _remedy(variant: TrainedVariant) -> str:
    rest = "the format of the text (chat template), the target modules, and whether the steps are enough"
    if variant.rate.origin == "searched":
        return f"the learning rate was searched, so check {rest}"
    origin = {"given": "set by you", "default": "the default"}[variant.rate.origin]
    way = None if variant.rate.why_not else how_to_search(variant)
    search = f"; search it: {way}" if way is not None else ""
    return f"check its learning rate first: {variant.variant.learning_rate:g} ({origin}){search}. Then check {rest}"
