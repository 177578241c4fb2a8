"""The sentences of a verdict on losses: what was measured, what was allowed, why, and what to do."""

from __future__ import annotations

import math

from pytest_ftguard.comparison import Comparison, Trend, trend_of
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.verdict import TITLES, Status
from pytest_ftguard.limits import OF_GAIN, Limit
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Effort, Interval, effort_to_settle
from pytest_ftguard.units import decimals_apart

__all__ = [
    "about_seeds",
    "ends_err",
    "headline",
    "measured",
    "no_gain",
    "no_trend",
    "outlook",
    "reason",
    "way_out_of_growth",
    "widening",
]


def no_gain(baseline: TrainedVariant, gain: Interval, rule: Rule, margin: float, limit: Limit) -> str:
    """Return why nothing may be concluded beside a baseline that itself learnt too little.

    Args:
        baseline: The variant that learnt too little.
        gain: What it gained over the base model, in nats per token.
        rule: How many margins it must gain.
        margin: What the limit is in nats per token.
        limit: The limit, in its own unit.
    """
    smaller = ""
    if margin > 0 and gain.lower > 0:
        largest = limit.value * gain.lower / (rule.gain_factor * margin)
        smaller = f"if that is all there is to learn, set a limit of at most {_floor(largest)}; otherwise "
    search = f"ftguard_{baseline.variant.kind}_search_learning_rate = true"
    return (
        f"the test cannot tell good from bad: {baseline.label} itself is only {gain.value:+.4f} nats per token better "
        f"than the base model (at least {gain.lower:+.4f}), and beside a gain of less than {rule.gain_factor:g} times "
        f"the limit a bad variant looks as good. What to do: {smaller}train for more steps, or search "
        f"{baseline.label}'s learning rate ({search})"
    )


def _floor(value: float) -> str:
    """Return a value with two digits, rounded down, so that it is still allowed."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / unit * (1 + 1e-9)) * unit:.2g}"


def no_trend(comparison: Comparison) -> list[str]:
    """Return why a PASS comes too early where nothing shows whether the gap is widening."""
    return [
        "Too early to tell: the loss along training was measured at fewer than three points, so nothing shows whether "
        "the gap is widening.",
        f"What to do: train for more than {comparison.candidate.workload.steps} steps (100 or more are sensible); or, "
        "if these are the steps of production, set ftguard_final = true, and the trend no longer decides.",
    ]


def widening(gap: Interval, trend: Trend, margin: float) -> list[str] | None:
    """Return why a PASS comes too early: the gap grows, and could exceed the margin when the steps are doubled."""
    if not trend.per_doubling.lower > 0:
        return None
    grown = gap.value + trend.per_doubling.value
    # The last value and the slope rest on overlapping sequences; their half-widths are added as independent ones are.
    reach = ((gap.upper - gap.value) ** 2 + (trend.per_doubling.upper - trend.per_doubling.value) ** 2) ** 0.5
    if not grown + reach > margin:
        return None
    last = trend.steps[-1]
    return [
        f"Too early to tell: the gap is widening. It is {gap.value:+.4f} at {last} steps and grew by "
        f"{trend.per_doubling.value:.4f} with each doubling of the steps since step {trend.steps[0]}, so about "
        f"{grown:+.4f} is to be expected at {2 * last} steps, and up to {grown + reach:+.4f} is possible; "
        f"a gap of {margin:.4g} is what is allowed.",
        "What to do: train for more steps; or, if these are the steps of production, set ftguard_final = true, and the "
        "trend no longer decides.",
    ]


def headline(gate: str, comparison: Comparison, status: Status) -> str:
    """Return the first line: the answer, and where the two stand."""
    candidate, baseline = comparison.candidate, comparison.baseline
    return (
        f"{TITLES[gate]} {status}: after {candidate.workload.steps} steps {candidate.label} is at {candidate.loss:.4f} "
        f"nats per token, {baseline.label} at {baseline.loss:.4f}."
    )


def measured(gate: str, comparison: Comparison, interval: Interval, limit: Limit, rule: Rule) -> str:
    """Return what was measured, with its bounds and what they count."""
    values = (interval.value, interval.lower, interval.upper)
    if limit.unit == OF_GAIN:
        decimals = decimals_apart([100 * value for value in values], 100 * limit.value, 1)
        value, lower, upper = (f"{100 * value:.{decimals}f}%" for value in values)
        what = f"{value} of {comparison.baseline.label}'s gain over the base model"
    else:
        decimals = decimals_apart(values, limit.value, 4)
        value, lower, upper = (f"{value:+.{decimals}f}" for value in values)
        what = f"a gap of {value}{' points of perplexity' if gate == 'perplexity_gap' else ''}"
    chance = ends_err(rule.confidence)
    return f"Measured: {what}. {_basis(comparison, rule)}, the true value lies between {lower} and {upper} ({chance})."


def ends_err(confidence: float) -> str:
    """Return how often the true value lies beyond each of two bounds, in words."""
    return f"each end is wrong in at most {100 * (1 - confidence):.3g} % of cases"


def _basis(comparison: Comparison, rule: Rule) -> str:
    """Say what else could have come out, and what that is judged from."""
    sequences = f"{comparison.units} {comparison.unit_name}"
    if rule.seed_noise is not None:
        seeds = f"the spread over seeds that was calibrated on {rule.seed_noise.degrees_of_freedom + 1} of them"
        return f"Other validation text or seeds would give another number; judging from {sequences} and {seeds}"
    if comparison.seeds > 1:
        return (
            "Other validation text or seeds would give another number; judging from "
            f"{sequences} and {comparison.seeds} seeds"
        )
    return f"Other validation text would give another number; judging from {sequences}"


def reason(status: Status, comparison: Comparison, interval: Interval, limit: Limit, rule: Rule) -> list[str]:
    """Return why the answer is what it is, and what to do."""
    label = comparison.candidate.label
    if status == "PASS":
        return ["Even the worse of the two ends is within the limit."]
    if status == "FAIL":
        return [
            "Even the better of the two ends is beyond the limit, so this is not chance.",
            f"What to do: search {label}'s learning rate "
            f"(ftguard_{comparison.candidate.variant.kind}_search_learning_rate = true), give it more capacity (rank, "
            "target modules), or choose full fine-tuning; raise the limit only if the loss of quality is acceptable.",
        ]
    shape = (comparison.seeds, comparison.units)
    effort = effort_to_settle(interval, limit.value, shape, rule.confidence, rule.seed_noise)
    return [
        f"The limit lies between the two ends, so neither answer is safe. {_larger_noise(comparison, interval, rule)}",
        f"What to do: {_way_out(effort.seeds, effort.sequences, comparison)}",
    ]


def _larger_noise(comparison: Comparison, interval: Interval, rule: Rule) -> str:
    text = f"the choice of {comparison.units} validation {comparison.unit_name}"
    if comparison.seeds == 1 and rule.seed_noise is None:
        return f"The distance of the ends comes from {text}; what another seed would change is not counted."
    share = interval.seed_variance / (interval.seed_variance + interval.item_variance)
    seeds = f"the {comparison.seeds} seeds" if comparison.seeds > 1 else "the one seed"
    source, percent = (seeds, share) if share > 0.5 else (text, 1 - share)
    return f"{100 * percent:.0f} % of the uncertainty comes from {source}."


def _way_out(seeds: int | None, sequences: int | None, comparison: Comparison) -> str:
    """Name the cheapest way to an answer: evaluating more text costs a fraction of training more seeds."""
    words = []
    if sequences is not None:
        words.append(
            f"about {sequences} validation {comparison.unit_name} instead of {comparison.units} would settle it, by "
            "ftguard_validation_sequences and, where it has fewer, a longer validation text"
        )
    if seeds is not None:
        words.append(f"about {seeds} seeds instead of {comparison.seeds} would settle it")
    if not words:
        return (
            "the value is so close to the limit that neither more seeds nor more validation text alone would settle "
            "it; choose a limit that is not on the edge, or give the candidate more capacity."
        )
    if sequences is None:
        words.append("more validation text alone would not")
    elif seeds is None and comparison.seeds > 1:
        words.append("more seeds alone would not")
    return "; ".join(words) + ". That holds if the value stays where it is."


def way_out_of_growth(effort: Effort, paired: int, accepted: int, units: tuple[int, str], anew: str) -> str:
    """Name the cheapest way to an answer on a growth, for which only what both results have in common counts.

    Args:
        effort: What would settle it, in both results.
        paired: Number of seeds that both have.
        accepted: Number of seeds of the accepted result.
        units: How many sequences or documents there are, and which of the two.
        anew: How to accept a result anew.
    """
    seeds, sequences = effort.seeds, effort.sequences
    if seeds is not None and seeds <= accepted:
        return (
            f"about {seeds} of the {accepted} seeds that were accepted, instead of {paired}, would settle it, if the "
            "growth stays where it is."
        )
    words = [f"about {seeds} seeds instead of {paired}"] if seeds is not None else []
    if sequences is not None:
        words.append(f"about {sequences} validation {units[1]} instead of {units[0]}")
    if not words:
        return (
            "the growth is so close to the limit that neither more seeds nor more validation text alone would settle "
            "it; choose a limit that is not on the edge."
        )
    return (
        f"in both results, {' or '.join(words)} would settle it, if the growth stays where it is. More of them now "
        f"alone would not, because each is paired with the same one then: {anew}, measured like that."
    )


def outlook(comparison: Comparison, margin: float, rule: Rule) -> list[str]:
    """Say of a PASS whether training had come to rest."""
    steps = comparison.candidate.workload.steps
    moving = [
        side.label
        for side in (comparison.candidate, comparison.baseline)
        # Not converged too where nothing is known about it.
        if (trend := trend_of(side, rule.confidence)) is None or not -trend.per_doubling.lower <= margin / 4
    ]
    rest = f"Both had converged at {steps} steps: doubling them would gain less than a quarter of the margin."
    if moving:
        rest = f"This holds at {steps} steps; {' and '.join(moving)} had not converged (see assert_converged)."
    return [rest, *_better(comparison, rule)]


def _better(comparison: Comparison, rule: Rule) -> list[str]:
    """Say that a candidate that beats full fine-tuning beyond noise is a reason to look at full fine-tuning."""
    losses, baseline = comparison.losses, comparison.baseline
    gap = losses.gap(rule.confidence, rule.seed_noise)
    if baseline.variant.kind != "full" or not gap.upper < 0:
        return []
    return [
        f"{comparison.candidate.label} is better than {baseline.label} beyond noise, which mostly means that "
        f"{baseline.label} is undertrained: raise full_learning_rate or steps before you rely on this."
    ]


def about_seeds(comparison: Comparison, rule: Rule) -> list[str]:
    """Say what one seed speaks of."""
    if rule.looks > 1:
        share = 100 * (1 - rule.confidence)
        return [
            f"This was look {rule.look} of at most {rule.looks}, with {comparison.seeds} seeds; each may err in "
            f"{share:.3g} % of cases, so that all together err no more often than one would."
        ]
    if comparison.seeds > 1 or rule.seed_noise is not None:
        return []
    return ["With one seed this speaks of these two checkpoints, not of the next training run."]
