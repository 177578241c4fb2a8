"""The sentences of a verdict on losses, below its first line: why, and what to do."""

from __future__ import annotations

import math
from typing import Final

from pytest_ftguard.comparison.capacity import capacity_of, reaches_little
from pytest_ftguard.comparison.curves import has_own_curves
from pytest_ftguard.comparison.pairs import Comparison, Trend, trend_of
from pytest_ftguard.comparison.problem import Problem, name_of
from pytest_ftguard.gates.margin import Margin
from pytest_ftguard.gates.rates import how_to_search, how_to_settle
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.verdict import Status
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.statistics import Effort, Interval, effort_to_settle

__all__ = [
    "BEYOND",
    "UNDECIDED",
    "WITHIN",
    "basis",
    "better",
    "ends_err",
    "measured_elsewhere",
    "no_gain",
    "no_share",
    "no_trend",
    "outlook",
    "reason",
    "standing",
    "way_out_of_growth",
    "what_to_do",
    "widening",
]

WITHIN: Final = "The whole interval is within the limit."
BEYOND: Final = "The whole interval is beyond the limit."
UNDECIDED: Final = "The interval contains the limit: undecided."


def no_gain(baseline: TrainedVariant, gain: Interval, rule: Rule, margin: Margin) -> Problem:
    """Return why nothing may be concluded next to a baseline that learned too little itself.

    Args:
        baseline: The variant that learned too little.
        gain: What it gained over the base model, in nats per token.
        rule: How many margins it must gain.
        margin: What the limit allows.
    """
    smaller = ""
    if margin.nats > 0 and gain.lower > 0:
        largest = _below(margin.worth(gain.lower / rule.gain_factor))
        smaller = f"if there is no more to learn, set a limit of at most {largest}; otherwise "
    return Problem(
        f"this test has no power: {baseline.label} gained only {margin.show_gain(gain.value)}",
        why=f"Over the base model it gained at least {gain.lower:+.4f}, which is less than {rule.gain_factor:g} times "
        f"the limit of {margin}: a variant that learned little could pass.",
        remedy=f"{smaller}{_learn_more(baseline)}",
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
        remedy=_learn_more(baseline),
        rate_of=baseline.variant,
    )


def _learn_more(variant: TrainedVariant) -> str:
    """Return how a variant could learn more."""
    is_open = variant.rate.origin != "searched" and not variant.rate.why_not
    way = how_to_search(variant) if is_open else None
    search = f"search {variant.label}'s learning rate ({way}), or " if way else ""
    return f"{search}train for more steps"


def _below(value: float) -> str:
    """Return a value with two digits, rounded down, so that it lies below the bound."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{(math.ceil(value / unit * (1 - 1e-9)) - 1) * unit:.2g}"


_FINAL: Final = "If these are the steps of production, set the workload's final = true: then the trend does not decide."


def no_trend(comparison: Comparison) -> tuple[str, str]:
    """Return why a PASS comes too early, and what to do: nothing shows whether the gap is widening."""
    if not has_own_curves(comparison.candidate, comparison.baseline):
        return (
            "Too early to tell: the losses along training of the two were not measured on the same sequences of the "
            "validation text, so nothing shows whether the gap is widening.",
            f"train both with the present validation text. {_FINAL}",
        )
    return (
        "Too early to tell: the loss along training was measured at fewer than three points, so nothing shows whether "
        "the gap is widening.",
        f"train for more than {comparison.candidate.workload.steps} steps (100 or more are sensible). {_FINAL}",
    )


def widening(gap: Interval, trend: Trend, margin: Margin) -> tuple[str, str] | None:
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
        f"train for more steps. {_FINAL}",
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


def basis(comparison: Comparison, rule: Rule) -> str:
    """Return what the bounds rest on, how often they err, and what one seed or one of several looks can show."""
    sequences = f"{comparison.units} {comparison.unit_name}"
    errs = ends_err(rule.confidence)
    if rule.looks > 1:
        return (
            f"The interval rests on {sequences} and {comparison.seeds} seeds. This was look {rule.look} of at most "
            f"{rule.looks}: {errs}, so all looks together err no more often than a single one would."
        )
    if rule.seed_noise is not None:
        calibrated = f"the noise of seeds that was calibrated on {rule.seed_noise.degrees_of_freedom + 1} of them"
        return f"The interval rests on {sequences} and {calibrated}; {errs}."
    if comparison.seeds > 1:
        return f"The interval rests on {sequences} and {comparison.seeds} seeds; {errs}."
    return (
        f"The interval rests on {sequences}; {errs}. One seed: the verdict is about these two checkpoints, not about "
        "the next training run."
    )


def reason(status: Status, comparison: Comparison, interval: Interval, rule: Rule) -> str:
    """Return why the verdict is what it is."""
    if status == "INCONCLUSIVE":
        return f"{UNDECIDED} {_larger_noise(comparison, interval, rule)}"
    return WITHIN if status == "PASS" else BEYOND


def what_to_do(status: Status, comparison: Comparison, interval: Interval, limit: float, rule: Rule) -> str:
    """Return what to do about a verdict; "" if that is nothing."""
    settle = how_to_settle(comparison.candidate, comparison.baseline)
    if status == "FAIL":
        return _after_a_failure(comparison)
    if status == "PASS":
        return settle
    shape = (comparison.seeds, comparison.units)
    effort = effort_to_settle(interval, limit, shape, rule.confidence, rule.seed_noise)
    way_out = _way_out(effort.seeds, effort.sequences, comparison)
    return f"{way_out} And {settle}." if settle else way_out


def _after_a_failure(comparison: Comparison) -> str:
    """Return the ways out of a gap that is too large; a higher rank only helps at a good learning rate."""
    candidate = comparison.candidate
    way = None if candidate.rate.why_not else how_to_search(candidate)
    last = "choose full fine-tuning. Raise the limit only if you accept that loss of quality."
    match candidate.rate.origin:
        case "default":
            settle = how_to_settle(candidate, comparison.baseline)
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
    if reaches_little(candidate):
        return f"adapt all linear layers with {candidate.label}, or "
    capacity = capacity_of(candidate)
    if capacity is not None and capacity.is_too_small:
        return f"give {candidate.label} more capacity ({candidate.variant.more_capacity}), or "
    return ""


def _larger_noise(comparison: Comparison, interval: Interval, rule: Rule) -> str:
    text = f"the choice of {comparison.units} validation {comparison.unit_name}"
    if comparison.seeds == 1 and rule.seed_noise is None:
        return f"Its width comes from {text}."
    share = interval.seed_variance / (interval.seed_variance + interval.item_variance)
    seeds = f"the {comparison.seeds} seeds" if comparison.seeds > 1 else "the one seed"
    source, percent = (seeds, share) if share > 0.5 else (text, 1 - share)
    return f"{100 * percent:.0f} % of the uncertainty comes from {source}."


def _way_out(seeds: int | None, sequences: int | None, comparison: Comparison) -> str:
    """Name the cheapest way to an answer: to evaluate more text costs a fraction of training more seeds."""
    words = []
    if sequences is not None:
        words.append(
            f"about {sequences} validation {comparison.unit_name} instead of {comparison.units} would settle it: raise "
            "validation_sequences and, if the text has fewer, give a longer validation text"
        )
    if seeds is not None:
        words.append(f"about {seeds} seeds instead of {comparison.seeds} would settle it")
    if not words:
        return (
            "the value is so close to the limit that neither more seeds nor more validation text alone would settle "
            "it. Choose another limit, or improve the candidate."
        )
    if sequences is None:
        words.append("more validation text alone would not")
    elif seeds is None and comparison.seeds > 1:
        words.append("more seeds alone would not")
    return "; ".join(words) + ". That holds if the value stays the same."


def way_out_of_growth(effort: Effort, paired: int, accepted: int, units: tuple[int, str], accept_again: str) -> str:
    """Name the cheapest way to an answer on a growth, for which only the seeds and text of both results count.

    Args:
        effort: What would settle it, in both results.
        paired: Number of seeds that both have.
        accepted: Number of seeds of the accepted result.
        units: How many sequences or documents there are, and which of the two.
        accept_again: How to accept again.
    """
    seeds, sequences = effort.seeds, effort.sequences
    if seeds is not None and seeds <= accepted:
        return (
            f"about {seeds} of the {accepted} accepted seeds, instead of {paired}, would settle it if the growth stays "
            "the same."
        )
    words = [f"about {seeds} seeds instead of {paired}"] if seeds is not None else []
    if sequences is not None:
        words.append(f"about {sequences} validation {units[1]} instead of {units[0]}")
    if not words:
        return (
            "the growth is so close to the limit that neither more seeds nor more validation text alone would settle "
            "it. Choose another limit."
        )
    return (
        f"in both results, {' or '.join(words)} would settle it if the growth stays the same. More of them now "
        "alone would not, because each is paired with the same one of the accepted result: "
        f"{accept_again}, with as many in that run."
    )


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


def better(comparison: Comparison, rule: Rule) -> list[str]:
    """Return what it mostly means that a candidate beats full fine-tuning beyond noise; nothing if it does not."""
    candidate, baseline = comparison.candidate, comparison.baseline
    gap = comparison.losses.gap(rule.confidence, rule.seed_noise)
    if baseline.variant.kind != "full" or not gap.upper < 0:
        return []
    # If nobody chose the rate, the line before has said how to search it.
    steps = baseline.rate.origin == "default"
    todo = "search its learning rate, or train for more steps" if steps else _learn_more(baseline)
    return [
        f"{candidate.label} is better than {baseline.label} beyond noise, so {baseline.label} is probably "
        f"undertrained: {todo}, before you rely on this PASS."
    ]


def little_power(baseline: TrainedVariant, gain: Interval, margin: Margin) -> list[str]:
    """Return that a PASS proves nothing, which only a `gain_factor` below 1 allows; nothing if it does."""
    if gain.lower > max(0.0, margin.nats):
        return []
    return [
        f"This PASS proves nothing: {baseline.label} gained at least {gain.lower:+.4f} nats per token over the base "
        "model, not more than the limit allows, so a variant that learned nothing would pass too. Set a lower limit, "
        "or leave gain_factor at its default."
    ]


def measured_elsewhere(trial: Trial) -> Problem:
    """Return why bytes and seconds of a stored trial do not count here."""
    return Problem(
        f"{name_of(trial)}, comes from the store",
        why=f"Its bytes and seconds do not count here: {trial.provenance.measured_elsewhere}.",
        remedy="--ftguard-no-cache trains it here",
    )
