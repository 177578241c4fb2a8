"""The sentences of a verdict on losses, below its first line: why, and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from pytest_ftguard.comparison.capacity import capacity_of, left_out, reaches_little
from pytest_ftguard.comparison.changing import how_to_set
from pytest_ftguard.comparison.curves import has_own_curves
from pytest_ftguard.comparison.pairs import Comparison, Trend, trend_of
from pytest_ftguard.comparison.problem import Problem, name_of
from pytest_ftguard.gates.margin import Margin
from pytest_ftguard.gates.rates import how_to_search, how_to_settle
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.verdict import Status
from pytest_ftguard.gates.way_out import way_out
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.statistics import Interval

__all__ = [
    "BEYOND",
    "UNDECIDED",
    "WITHIN",
    "Units",
    "basis",
    "basis_of",
    "below",
    "better",
    "ends_err",
    "larger_noise",
    "learn_more",
    "measured_elsewhere",
    "no_gain",
    "no_share",
    "no_trend",
    "outlook",
    "reason",
    "standing",
    "units_of",
    "what_to_do",
    "widening",
]

WITHIN: Final = "The whole interval is within the limit."
BEYOND: Final = "The whole interval is beyond the limit."
UNDECIDED: Final = "The interval contains the limit: undecided."


def no_gain(
    baseline: TrainedVariant, gain: Interval, rule: Rule, margin: Margin, status_at: Callable[[float], Status]
) -> Problem:
    """Return why nothing may be concluded next to a baseline that learned too little itself.

    Args:
        baseline: The variant that learned too little.
        gain: What it gained over the base model, in nats per token.
        rule: How many margins it must gain.
        margin: What the limit allows.
        status_at: Returns the gate's answer at another limit.
    """
    largest = _smaller_limit(margin, gain.lower / rule.gain_factor, status_at) if margin.nats > 0 else ""
    smaller = f"if there is no more to learn, set a limit of at most {largest}; otherwise " if largest else ""
    return Problem(
        f"this test has no power: {baseline.label} gained only {margin.show_gain(gain.value)}",
        why=f"Over the base model it gained at least {gain.lower:+.4f}, which is less than {rule.gain_factor:g} times "
        f"the limit of {margin}: a variant that learned little could pass.",
        remedy=f"{smaller}{learn_more(baseline)}",
        rate_of=baseline.variant,
    )


def no_share(baseline: TrainedVariant, gain: Interval) -> Problem:
    """Return why no share of a baseline's gain can be judged.

    Args:
        baseline: The variant that learned too little.
        gain: What it gained over the base model, in nats per token.
    """
    return Problem(
        f"{baseline.label} has no clear gain to retain",
        why=f"It improved on the base model by {gain.value:+.4f} nats per token, at least {gain.lower:+.4f}.",
        remedy=learn_more(baseline),
        rate_of=baseline.variant,
    )


def learn_more(variant: TrainedVariant) -> str:
    """Return how a variant could learn more."""
    is_open = variant.rate.origin != "searched" and not variant.rate.why_not
    way = how_to_search(variant) if is_open else None
    search = f"search {variant.label}'s learning rate ({way}), or " if way else ""
    return f"{search}train for more steps"


class Units(NamedTuple):
    """What an interval rests on.

    Attributes:
        number: How many.
        name: What they are: "sequences", "documents", ...
    """

    number: int
    name: str


def units_of(comparison: Comparison) -> Units:
    """Return what the interval of a gap in losses rests on."""
    return Units(comparison.units, comparison.unit_name)


def _smaller_limit(margin: Margin, nats: float, status_at: Callable[[float], Status]) -> str:
    """Return the largest limit below a gain, and what comes of it; "" if the gate gives no answer there either."""
    if not nats > 0:
        return ""
    largest = below(margin.worth(nats))
    # At a limit that leaves the gate in doubt the next message would refuse again.
    return {"PASS": largest, "FAIL": f"{largest}, at which this result fails"}.get(status_at(float(largest)), "")


def below(value: float) -> str:
    """Return a value with two digits, rounded down, so that it lies below the bound."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{(math.ceil(value / unit * (1 - 1e-9)) - 1) * unit:.2g}"


# With fewer there are no three points along training.
_FEWEST_STEPS: Final = 4


def _if_final(variant: TrainedVariant) -> str:
    """Return what to do if the steps stand for no longer run."""
    way = how_to_set(variant, final=True)
    return f"If these are the steps of production, set {way}: then the trend does not decide."


def no_trend(comparison: Comparison) -> tuple[str, str]:
    """Return why a PASS comes too early, and what to do: nothing shows whether the gap is widening."""
    if not has_own_curves(comparison.candidate, comparison.baseline):
        return (
            "Too early to tell: the losses along training of the two were not measured on the same sequences of the "
            "validation text, so nothing shows whether the gap is widening.",
            f"train both with the present validation text. {_if_final(comparison.candidate)}",
        )
    fewest = max(_FEWEST_STEPS, comparison.candidate.workload.steps + 1)
    return (
        "Too early to tell: the loss along training was measured at fewer than three points, so nothing shows whether "
        "the gap is widening.",
        f"train for at least {fewest} steps (100 or more are sensible). {_if_final(comparison.candidate)}",
    )


def widening(candidate: TrainedVariant, gap: Interval, trend: Trend, margin: Margin) -> tuple[str, str] | None:
    """Return why a PASS comes too early, and what to do: the gap could exceed the margin at twice the steps."""
    if not trend.per_doubling.lower > 0:
        return None
    grown = gap.value + trend.per_doubling.value
    # The last value and the slope rest on overlapping sequences; their half-widths are added as independent ones are.
    reach = ((gap.upper - gap.value) ** 2 + (trend.per_doubling.upper - trend.per_doubling.value) ** 2) ** 0.5
    if not grown + reach > margin.nats:
        return None
    last = trend.steps[-1]
    return (
        f"Too early to tell: the gap is widening. It grew by {trend.per_doubling.value:.4f} nats per token with each "
        f"doubling of the steps since step {trend.steps[0]}. At {2 * last} steps expect about {grown:+.4f}, and at "
        f"most {grown + reach:+.4f}; the limit allows {margin}.",
        f"train for more steps. {_if_final(candidate)}",
    )


def standing(comparison: Comparison) -> str:
    """Return both losses."""
    candidate, baseline = comparison.candidate, comparison.baseline
    return (
        f"After {candidate.workload.steps} steps {candidate.label} is at {candidate.loss:.4f} nats per token, "
        f"{baseline.label} at {baseline.loss:.4f}."
    )


def ends_err(confidence: float) -> str:
    """Return in words how often the true value lies beyond each of two bounds."""
    return f"each bound is wrong in at most {100 * (1 - confidence):.3g} % of cases"


def basis(comparison: Comparison, rule: Rule, units: Units | None = None) -> str:
    """Return what the bounds rest on, how often they err, and what one seed or one of several looks can show."""
    return basis_of(units or units_of(comparison), comparison.seeds, rule)


def basis_of(units: Units, seeds: int, rule: Rule) -> str:
    """Return the same of so many units and seeds."""
    sequences = f"{units.number} {units.name}"
    errs = ends_err(rule.confidence)
    if rule.looks > 1:
        return (
            f"The interval rests on {sequences} and {seeds} seeds. This was look {rule.look} of at most "
            f"{rule.looks}: {errs}, so all looks together err no more often than a single one would."
        )
    if rule.seed_noise is not None:
        calibrated = f"the noise of seeds that was calibrated on {rule.seed_noise.degrees_of_freedom + 1} of them"
        return f"The interval rests on {sequences} and {calibrated}; {errs}."
    if seeds > 1:
        return f"The interval rests on {sequences} and {seeds} seeds; {errs}."
    return (
        f"The interval rests on {sequences}; {errs}. One seed: the verdict is about these two checkpoints, not about "
        "the next training run."
    )


def reason(status: Status, comparison: Comparison, interval: Interval, rule: Rule, units: Units | None = None) -> str:
    """Return why the verdict is what it is."""
    if status == "INCONCLUSIVE":
        return f"{UNDECIDED} {larger_noise(units or units_of(comparison), comparison.seeds, interval, rule)}"
    return WITHIN if status == "PASS" else BEYOND


def what_to_do(
    status: Status,
    comparison: Comparison,
    doubt: tuple[Interval, float],
    rule: Rule,
    units: Units | None = None,
) -> str:
    """Return what to do about a verdict; "" if that is nothing.

    Args:
        status: The gate's answer.
        comparison: The two variants.
        doubt: An interval and a value that it must leave aside for an answer.
        rule: How the gate decides.
        units: What the interval rests on; by default all sequences of the validation text.
    """
    settle = how_to_settle(comparison.candidate, comparison.baseline)
    if status == "FAIL":
        return _after_a_failure(comparison)
    if status == "PASS":
        return settle
    candidate, baseline = comparison.candidate, comparison.baseline
    losses = candidate.trials[0].measured.validation
    assert losses is not None  # else there is no interval
    way = way_out(doubt, rule, candidate, losses, "validation", of=units)
    if "elsewhere" in (candidate.workload_maker, baseline.workload_maker) and candidate.source is not baseline.source:
        way += f" Train {candidate.label} and {baseline.label} alike."
    return f"{way} And {settle}." if settle else way


def _after_a_failure(comparison: Comparison) -> str:
    """Return the ways out of a gap that is too large; a higher rank only helps at a good learning rate."""
    candidate = comparison.candidate
    way = None if candidate.rate.why_not else how_to_search(candidate)
    other = comparison.baseline
    instead = "full fine-tuning" if other.variant.kind == "full" else other.label
    last = f"choose {instead}. Raise the limit only if you accept that loss of quality."
    match candidate.rate.origin:
        case "default":
            settle = how_to_settle(candidate, other)
            return f"{settle or 'try other learning rates first'}. If the gap stays, {last}"
        case "searched":
            return f"{_more_reach(candidate)}{last}"
    rate = f"{candidate.variant.learning_rate:g}"
    search = f"search it first ({way})" if way else "try other rates first"
    return (
        f"if {rate} may not be the best learning rate of {candidate.label}, {search}. If the gap stays, "
        f"{_more_reach(candidate)}{last}"
    )


def _more_reach(candidate: TrainedVariant) -> str:
    """Return what the candidate's own figures say that it lacks, as the beginning of a sentence; "" if nothing."""
    if candidate.variant.kind == "full":
        return ""
    if reaches_little(candidate) and (kinds := left_out(candidate)):
        return f"adapt {' and '.join(kinds)} with {candidate.label}, or "
    capacity = capacity_of(candidate)
    if capacity is not None and capacity.is_too_small:
        return f"give {candidate.label} more capacity ({candidate.variant.more_capacity}), or "
    return ""


def larger_noise(units: Units, count: int, interval: Interval, rule: Rule) -> str:
    """Return from which of both noises most of the uncertainty comes, with so many seeds."""
    text = f"the choice of {units.number} validation {units.name.removeprefix('validation ')}"
    if count == 1 and rule.seed_noise is None:
        return f"Its width comes from {text}."
    share = interval.seed_variance / (interval.seed_variance + interval.item_variance)
    seeds = f"the {count} seeds" if count > 1 else "the one seed"
    source, percent = (seeds, share) if share > 0.5 else (text, 1 - share)
    return f"{100 * percent:.0f} % of the uncertainty comes from {source}."


def outlook(comparison: Comparison, margin: Margin, rule: Rule) -> str:
    """Say whether the loss of both variants had stopped falling when a PASS was given."""
    steps = comparison.candidate.workload.steps
    moving = [
        side.label
        for side in (comparison.candidate, comparison.baseline)
        # A side of which nothing is known has not converged either.
        if (trend := trend_of(side, rule.confidence)) is None or not -trend.per_doubling.lower <= margin.nats / 4
    ]
    if moving:
        return f"This holds at {steps} steps; {' and '.join(moving)} had not converged (see assert_converged)."
    return f"Both had converged at {steps} steps: twice the steps would gain less than a quarter of the limit."


def better(comparison: Comparison, *, beyond_noise: bool) -> list[str]:
    """Return what it mostly means that a candidate beats full fine-tuning beyond noise; nothing if it does not."""
    candidate, baseline = comparison.candidate, comparison.baseline
    if baseline.variant.kind != "full" or not beyond_noise:
        return []
    # If nobody chose the rate, the line before has said how to search it, or why it could not be searched.
    is_said = baseline.rate.origin == "default" and not baseline.rate.why_not
    todo = "search its learning rate, or train for more steps" if is_said else learn_more(baseline)
    return [
        f"{candidate.label} is better than {baseline.label} beyond noise, so {baseline.label} is probably "
        f"undertrained: {todo}, before you rely on this PASS."
    ]


def little_power(
    baseline: TrainedVariant, gain: Interval, margin: Margin, status_at: Callable[[float], Status]
) -> list[str]:
    """Return that a PASS proves nothing, which only a `gain_factor` below 1 allows; nothing if it does."""
    if gain.lower > max(0.0, margin.nats):
        return []
    largest = _smaller_limit(margin, gain.lower, status_at)
    smaller = f"Set a limit of at most {largest}, or leave" if largest else ""
    return [
        f"This PASS proves nothing: {baseline.label} gained at least {gain.lower:+.4f} nats per token over the base "
        "model, not more than the limit allows, so a variant that learned nothing would pass too. "
        f"{smaller or 'Leave'} gain_factor at its default."
    ]


def measured_elsewhere(trial: Trial) -> Problem:
    """Return why bytes and seconds of a stored trial do not count here."""
    return Problem(
        f"{name_of(trial)}, comes from the store",
        why=f"Its bytes and seconds do not count here: {trial.provenance.measured_elsewhere}.",
        remedy="--ftguard-no-cache trains it here",
    )
