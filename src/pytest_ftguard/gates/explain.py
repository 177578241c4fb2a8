"""The sentences of a verdict on losses: what was measured, what was allowed, why, and what to do."""

from __future__ import annotations

from pytest_ftguard.comparison import Comparison, Trend, trend_of
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.verdict import TITLES, Status
from pytest_ftguard.limits import OF_GAIN, Limit
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval, effort_to_settle
from pytest_ftguard.units import decimals_apart

__all__ = ["about_seeds", "headline", "measured", "no_gain", "no_trend", "outlook", "reason", "widening"]


def no_gain(baseline: TrainedVariant, gain: Interval, rule: Rule, margin: float) -> str:
    """Return why nothing may be concluded beside a baseline that itself learnt too little."""
    least = rule.gain_factor * max(0.0, margin)
    return (
        f"the test cannot tell good from bad: {baseline.label} itself is only {gain.value:+.4f} nats per token better "
        f"than the base model (at least {gain.lower:+.4f}), but must be better by more than {rule.gain_factor:g} times "
        f"the margin, {least:.4g}: beside a baseline that learnt so little a bad variant looks equal. Train for more "
        f"steps, search {baseline.label}'s learning rate, or set a smaller limit"
    )


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
    return (
        f"Measured: {what}. Counting the noise of {_basis(comparison, rule)}, the true value may lie anywhere between "
        f"{lower} and {upper} (each bound holds with {100 * rule.confidence:.4g} % confidence)."
    )


def _basis(comparison: Comparison, rule: Rule) -> str:
    sequences = f"{comparison.units} {comparison.unit_name}"
    if rule.seed_noise is not None:
        return f"{sequences} and of seeds, calibrated on {rule.seed_noise.degrees_of_freedom + 1} of them"
    return f"{sequences} and {comparison.seeds} seeds" if comparison.seeds > 1 else sequences


def reason(status: Status, comparison: Comparison, interval: Interval, limit: Limit, rule: Rule) -> list[str]:
    """Return why the answer is what it is, and what to do."""
    label = comparison.candidate.label
    if status == "PASS":
        return ["Even the worse of the two bounds is within the limit."]
    if status == "FAIL":
        return [
            "Even the better of the two bounds is beyond the limit, so this is not noise.",
            f"What to do: give {label} more capacity (rank, target modules), search its learning rate, or choose full "
            "fine-tuning; raise the limit only if the loss of quality is acceptable.",
        ]
    shape = (comparison.seeds, comparison.units)
    effort = effort_to_settle(interval, limit.value, shape, rule.confidence, rule.seed_noise)
    share = interval.seed_variance / (interval.seed_variance + interval.item_variance)
    noise, percent = (f"the {comparison.seeds} seeds", share) if share > 0.5 else (_sequences(comparison), 1 - share)
    return [
        f"The limit lies between the bounds, so neither answer is safe. {100 * percent:.0f} % of the noise comes from "
        f"{noise}.",
        f"What to do: {_way_out(effort.seeds, effort.sequences, comparison)}",
    ]


def _sequences(comparison: Comparison) -> str:
    return f"the choice of {comparison.units} validation {comparison.unit_name}"


def _way_out(seeds: int | None, sequences: int | None, comparison: Comparison) -> str:
    """Name the cheapest way to an answer: evaluating more text costs a fraction of training more seeds."""
    words = []
    if sequences is not None:
        words.append(
            f"about {sequences} validation {comparison.unit_name} instead of {comparison.units} would settle it "
            "(ftguard_validation_sequences, and a longer validation text where it has fewer)"
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
    return "; ".join(words) + " (if the value stays where it is)."


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
