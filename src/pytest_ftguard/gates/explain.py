"""The sentences of a verdict on losses: what was measured, what was allowed, why, and what to do."""

from __future__ import annotations

import math
from typing import Final

from pytest_ftguard.comparison.pairs import Comparison, Trend, trend_of
from pytest_ftguard.gates.catalogue import GATES
from pytest_ftguard.gates.limits import OF_GAIN, Limit
from pytest_ftguard.gates.margin import Margin
from pytest_ftguard.gates.rates import how_to_search
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.verdict import Status
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.statistics import Effort, Interval, effort_to_settle
from pytest_ftguard.units import decimals_apart

__all__ = [
    "about_seeds",
    "better",
    "ends_err",
    "headline",
    "measured",
    "measured_elsewhere",
    "name_of",
    "no_gain",
    "no_share",
    "no_trend",
    "outlook",
    "reason",
    "way_out_of_growth",
    "widening",
]


def no_gain(baseline: TrainedVariant, gain: Interval, rule: Rule, margin: Margin) -> str:
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
    return (
        f"this test has no power: {baseline.label} improved on the base model by only {margin.show_gain(gain.value)}, "
        f"at least {gain.lower:+.4f}. That is less than {rule.gain_factor:g} times the limit of {margin}, so a "
        f"variant that learned little could pass. What to do: {smaller}{_learn_more(baseline)}"
    )


def no_share(baseline: TrainedVariant, gain: Interval) -> str:
    """Return why no share of a baseline's gain can be judged.

    Args:
        baseline: The variant that learned too little.
        gain: What it gained over the base model, in nats per token.
    """
    return (
        f"{baseline.label} is not clearly better than the base model, so there is no gain to retain: it improved by "
        f"{gain.value:+.4f} nats per token, at least {gain.lower:+.4f}. What to do: {_learn_more(baseline)}"
    )


def _learn_more(variant: TrainedVariant) -> str:
    """Return how a variant could learn more."""
    way = how_to_search(variant) if variant.rate.origin != "searched" else None
    search = f"search {variant.label}'s learning rate ({way}), or " if way else ""
    return f"{search}train for more steps"


def _below(value: float) -> str:
    """Return a value with two digits, rounded down, so that it lies below the bound."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{(math.ceil(value / unit * (1 - 1e-9)) - 1) * unit:.2g}"


_FINAL: Final = (
    "If these are the steps of production, set the workload's final = true: then "
    "the trend is reported and does not decide."
)


def no_trend(comparison: Comparison) -> list[str]:
    """Return why a PASS comes too early: nothing shows whether the gap is widening."""
    return [
        "Too early to tell: the loss along training was measured at fewer than three points, so nothing shows whether "
        "the gap is widening.",
        f"What to do: train for more than {comparison.candidate.workload.steps} steps (100 or more are sensible). "
        f"{_FINAL}",
    ]


def widening(gap: Interval, trend: Trend, margin: Margin) -> list[str] | None:
    """Return why a PASS comes too early: the gap grows, and could exceed the margin when the steps are doubled."""
    if not trend.per_doubling.lower > 0:
        return None
    grown = gap.value + trend.per_doubling.value
    # The last value and the slope rest on overlapping sequences; their half-widths are added as independent ones are.
    reach = ((gap.upper - gap.value) ** 2 + (trend.per_doubling.upper - trend.per_doubling.value) ** 2) ** 0.5
    if not grown + reach > margin.nats:
        return None
    last = trend.steps[-1]
    return [
        f"Too early to tell: the gap is widening. It is {gap.value:+.4f} nats per token at {last} steps, and grew by "
        f"{trend.per_doubling.value:.4f} with each doubling of the steps since step {trend.steps[0]}. At {2 * last} "
        f"steps expect about {grown:+.4f}, and at most {grown + reach:+.4f}. The limit allows {margin}.",
        f"What to do: train for more steps. {_FINAL}",
    ]


def headline(gate: str, comparison: Comparison, status: Status) -> str:
    """Return the first line: the verdict, and both losses."""
    candidate, baseline = comparison.candidate, comparison.baseline
    return (
        f"{GATES[gate].title} {status}: after {candidate.workload.steps} steps {candidate.label} is at "
        f"{candidate.loss:.4f} nats per token, {baseline.label} at {baseline.loss:.4f}."
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
    """Return in words how often the true value lies beyond each of two bounds."""
    return f"each bound is wrong in at most {100 * (1 - confidence):.3g} % of cases"


def _basis(comparison: Comparison, rule: Rule) -> str:
    """Say what the bounds are judged from."""
    sequences = f"{comparison.units} {comparison.unit_name}"
    if rule.seed_noise is not None:
        seeds = f"the noise of seeds that was calibrated on {rule.seed_noise.degrees_of_freedom + 1} of them"
        return f"Judging from {sequences} and {seeds}"
    if comparison.seeds > 1:
        return f"Judging from {sequences} and {comparison.seeds} seeds"
    return f"Judging from {sequences}"


def reason(status: Status, comparison: Comparison, interval: Interval, limit: Limit, rule: Rule) -> list[str]:
    """Return why the verdict is what it is, and what to do."""
    if status == "PASS":
        return ["The whole interval is within the limit."]
    if status == "FAIL":
        return ["The whole interval is beyond the limit.", f"What to do: {_after_a_failure(comparison)}"]
    shape = (comparison.seeds, comparison.units)
    effort = effort_to_settle(interval, limit.value, shape, rule.confidence, rule.seed_noise)
    return [
        f"The interval contains the limit: undecided. {_larger_noise(comparison, interval, rule)}",
        f"What to do: {_way_out(effort.seeds, effort.sequences, comparison)}",
    ]


def _after_a_failure(comparison: Comparison) -> str:
    """Return the ways out of a gap that is too large; a higher rank only helps at a good learning rate."""
    candidate = comparison.candidate
    label, way = candidate.label, how_to_search(candidate)
    capacity = (
        ""
        if candidate.variant.kind == "full"
        else f"give {label} more capacity ({candidate.variant.more_capacity}), or "
    )
    last = "choose full fine-tuning. Raise the limit only if you accept that loss of quality."
    match candidate.rate.origin:
        case "default":
            return f"search the learning rate first, as the second line says. If the gap stays, {last}"
        case "searched":
            return f"{capacity}{last}"
    rate = f"{candidate.variant.learning_rate:g}"
    search = f"search it first ({way})" if way else "try other rates first"
    return f"if {rate} may not be the best learning rate of {label}, {search}. If it is the best, {capacity}{last}"


def _larger_noise(comparison: Comparison, interval: Interval, rule: Rule) -> str:
    text = f"the choice of {comparison.units} validation {comparison.unit_name}"
    if comparison.seeds == 1 and rule.seed_noise is None:
        return f"The width of the interval comes from {text}. One seed does not show what another one would change."
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
    return "; ".join(words) + ". That holds if the value stays where it is."


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
            "where it is."
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
        f"in both results, {' or '.join(words)} would settle it if the growth stays where it is. More of them now "
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


def about_seeds(comparison: Comparison, rule: Rule) -> list[str]:
    """Say what one seed, or one of several looks, can show."""
    if rule.looks > 1:
        share = 100 * (1 - rule.confidence)
        return [
            f"This was look {rule.look} of at most {rule.looks}, with {comparison.seeds} seeds. Each look may err in "
            f"{share:.3g} % of cases, so all of them together err no more often than a single one would."
        ]
    if comparison.seeds > 1 or rule.seed_noise is not None:
        return []
    return ["One seed: the verdict is about these two checkpoints, not about the next training run."]


def measured_elsewhere(trial: Trial) -> str:
    """Return why bytes and seconds of a stored trial do not count here."""
    why = trial.provenance.measured_elsewhere
    return f"{name_of(trial)}, comes from the store: {why}; --ftguard-no-cache trains it here"


def name_of(trial: Trial) -> str:
    """Return what a sentence calls a trial."""
    return f"{trial.spec.variant.label}, seed {trial.spec.seed}"
