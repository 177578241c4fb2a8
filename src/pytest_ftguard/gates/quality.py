"""Gates on what was learnt: the loss gap and its relatives, each judged by an interval that counts both noises."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pytest_ftguard.comparison import Comparison, compare, reference_losses, text_problems, trend_of
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.margin import Margin, margin_of
from pytest_ftguard.gates.rates import learned_nothing, unsettled
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.verdict import AT_LEAST, Verdict, decide, give, invalid
from pytest_ftguard.limits import Limit
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval, gap_interval, perplexity_gap, retention
from pytest_ftguard.units import decimals_apart

__all__ = [
    "assess_convergence",
    "assess_forgetting",
    "assess_loss_gap",
    "assess_perplexity_gap",
    "assess_retention",
]

_NOT_FINITE: Final = "the value or its bounds are not finite numbers"


def assess_loss_gap(candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge the gap between the validation losses, candidate minus baseline, in nats per token.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        limit: The margin.
        rule: How it is judged.
    """
    comparison = compare(candidate, baseline, same_learning_rate=rule.same_learning_rate)
    if comparison.loss_problems:
        return invalid("loss_gap", candidate, baseline, limit, comparison.loss_problems)
    losses = comparison.losses
    interval = losses.gap(rule.confidence, rule.seed_noise)
    return _conclude("loss_gap", comparison, interval, rule, margin_of(limit, baseline))


def assess_perplexity_gap(candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge the gap between the perplexities exp(loss), candidate minus baseline.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        limit: The margin, in points of perplexity.
        rule: How it is judged.
    """
    comparison = compare(candidate, baseline, same_learning_rate=rule.same_learning_rate)
    if comparison.loss_problems:
        return invalid("perplexity_gap", candidate, baseline, limit, comparison.loss_problems)
    losses = comparison.losses
    try:
        interval = perplexity_gap(losses.candidate, losses.baseline, losses.tokens, rule.confidence, rule.seed_noise)
    except OverflowError:
        return invalid("perplexity_gap", candidate, baseline, limit, [_NOT_FINITE])
    return _conclude("perplexity_gap", comparison, interval, rule, margin_of(limit, baseline))


def assess_retention(candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge the share of the baseline's gain over the base model that the candidate retains.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        limit: The smallest accepted share.
        rule: How it is judged; a calibrated noise is not used, for it is that of the gap and not of the share.
    """
    rule = replace(rule, seed_noise=None)
    comparison = compare(candidate, baseline, same_learning_rate=rule.same_learning_rate)
    if comparison.loss_problems:
        return invalid("retention", candidate, baseline, limit, comparison.loss_problems)
    losses = comparison.losses
    gain = losses.gain(rule.confidence)
    try:
        interval = retention(losses.candidate, losses.baseline, losses.base, losses.tokens, rule.confidence)
    except ValueError:
        problems = [*learned_nothing(candidate, rule.confidence), explain.no_share(baseline, gain)]
        return invalid("retention", candidate, baseline, limit, problems)
    # What may be lost of the gain, in nats, is the margin of this gate.
    return _conclude(
        "retention", comparison, interval, rule, Margin((1 - limit.value) * gain.value, limit, baseline.label)
    )


def _conclude(gate: str, comparison: Comparison, interval: Interval, rule: Rule, margin: Margin) -> Verdict:
    """Decide, and hold back what may not be called FAIL or PASS.

    A run that learned nothing is at fault itself, so it has no gap. A PASS needs a visible gain of the baseline, and a
    gap that does not grow beyond the margin.
    """
    candidate, baseline, limit = comparison.candidate, comparison.baseline, margin.limit
    status = decide(gate, interval, limit.value)
    if status == "INVALID":
        return invalid(gate, candidate, baseline, limit, [_NOT_FINITE])
    if faults := learned_nothing(candidate, rule.confidence):
        return invalid(gate, candidate, baseline, limit, faults + learned_nothing(baseline, rule.confidence))
    gain = comparison.losses.gain(rule.confidence)
    # Retention is a share of the gain, and by its own bounds shows whether the gain is large enough.
    sees = gate == "retention" or gain.lower > rule.gain_factor * max(0.0, margin.nats)
    if status != "FAIL" and not sees:
        faults = learned_nothing(baseline, rule.confidence) or [explain.no_gain(baseline, gain, rule, margin)]
        return invalid(gate, candidate, baseline, limit, faults)
    reasons = explain.reason(status, comparison, interval, limit, rule)
    if status == "PASS" and (early := _too_early(comparison, rule, margin)):
        status, reasons = "INCONCLUSIVE", early
    notes = unsettled(candidate, baseline)
    if status == "PASS":
        notes += explain.better(comparison, rule)
        reasons.append(explain.outlook(comparison, margin, rule))
    lines = [
        explain.headline(gate, comparison, status),
        *notes,
        explain.measured(gate, comparison, interval, limit, rule),
        f"Allowed: at {'least' if gate in AT_LEAST else 'most'} {limit}, set by {limit.place}.",
        *reasons,
        *explain.about_seeds(comparison, rule),
    ]
    return give(
        gate,
        status,
        candidate=candidate,
        baseline=baseline,
        measured=interval,
        limit=limit,
        message="\n".join(lines),
        note=" ".join(notes) or None,
    )


def _too_early(comparison: Comparison, rule: Rule, margin: Margin) -> list[str] | None:
    """Return why a PASS comes too early; None if it does not, or if the steps are those of production."""
    if comparison.candidate.workload.final:
        return None
    trend = comparison.trend(rule.confidence)
    if trend is None:
        return explain.no_trend(comparison)
    return explain.widening(comparison.losses.gap(rule.confidence, rule.seed_noise), trend, margin)


def assess_convergence(variant: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge how much a variant's validation loss would still improve if the steps were doubled.

    Args:
        variant: The variant that is judged.
        limit: The largest accepted improvement, in nats per token.
        rule: How it is judged.
    """
    problems = text_problems([variant], "validation")
    # A loss that never fell has come to rest as well.
    problems = problems or learned_nothing(variant, rule.confidence)
    trend = None if problems else trend_of(variant, rule.confidence)
    if trend is None:
        few = "too few points along training were measured to see a trend: train for at least 4 steps"
        return invalid("convergence", variant, None, limit, problems or [few])
    slope = trend.per_doubling
    interval = replace(slope, value=-slope.value, lower=-slope.upper, upper=-slope.lower)
    status = decide("convergence", interval, limit.value)
    if status == "INVALID":
        return invalid("convergence", variant, None, limit, [_NOT_FINITE])
    decimals = decimals_apart((interval.value, interval.lower, interval.upper), limit.value, 4)
    value, lower, upper = (f"{number:+.{decimals}f}" for number in (interval.value, interval.lower, interval.upper))
    steps = ", ".join(map(str, trend.steps))
    notes = unsettled(variant)
    lines = [
        f"convergence {status}: twice the {variant.workload.steps} steps would improve {variant.label} by about "
        f"{value} nats per token. Judging from {trend.sequences} sequences at steps {steps}, it lies between {lower} "
        f"and {upper} ({explain.ends_err(rule.confidence)}).",
        *notes,
        f"Allowed: at most {limit}, set by {limit.place}.",
    ]
    if status == "FAIL":
        lines.append(
            "The whole interval is beyond the limit: the loss is still falling. What to do: train for more steps."
        )
    elif status == "INCONCLUSIVE":
        lines.append(
            "The interval contains the limit: undecided. What to do: train for more steps; more seeds make the "
            "interval narrower."
        )
    return give(
        "convergence",
        status,
        candidate=variant,
        baseline=None,
        measured=interval,
        limit=limit,
        message="\n".join(lines),
        note=" ".join(notes) or None,
    )


def assess_forgetting(candidate: TrainedVariant, limit: Limit, rule: Rule, baseline: TrainedVariant | None) -> Verdict:
    """Judge how much the loss on the reference text has grown by training.

    Args:
        candidate: The variant that is judged.
        limit: The largest accepted growth, in nats per token.
        rule: How it is judged.
        baseline: The variant that it is judged against; the base model if there is none.
    """
    problems = text_problems([candidate, baseline] if baseline else [candidate], "reference")
    if baseline is not None:
        problems += compare(candidate, baseline, same_learning_rate=True).loss_problems
    # A model that learned nothing forgets nothing.
    problems = problems or learned_nothing(candidate, rule.confidence)
    if problems:
        return invalid("forgetting", candidate, baseline, limit, problems)
    losses = reference_losses(candidate, baseline or candidate)
    # The base model has no seeds, so against it the candidate's own noise is all there is.
    above_base = gap_interval(losses.candidate - losses.base, losses.tokens, rule.confidence)
    interval = above_base if baseline is None else losses.gap(rule.confidence)
    status = decide("forgetting", interval, limit.value)
    if status == "INVALID":
        return invalid("forgetting", candidate, baseline, limit, [_NOT_FINITE])
    decimals = decimals_apart((interval.value, interval.lower, interval.upper), limit.value, 4)
    value, lower, upper = (f"{number:+.{decimals}f}" for number in (interval.value, interval.lower, interval.upper))
    than = "the base model's" if baseline is None else f"{baseline.label}'s"
    side = f"{value.lstrip('+-')} nats per token {'above' if interval.value >= 0 else 'below'} {than}"
    notes = unsettled(candidate, *([baseline] if baseline else []))
    lines = [
        f"forgetting {status}: on the reference text {candidate.label}'s loss is {side}. Judging from "
        f"{len(losses.tokens)} sequences, the difference lies between {lower} and {upper} "
        f"({explain.ends_err(rule.confidence)}).",
        *notes,
        f"Allowed: at most {limit}, set by {limit.place}.",
    ]
    if status == "FAIL":
        lines.append(
            "The whole interval is beyond the limit. What to do: lower the learning rate, train for fewer steps, lower "
            "the rank, or mix general text into the training data."
        )
    elif status == "INCONCLUSIVE":
        lines.append(
            "The interval contains the limit: undecided. What to do: give a longer reference text (and raise "
            "validation_sequences, which counts for it too), or train more seeds."
        )
    return give(
        "forgetting",
        status,
        candidate=candidate,
        baseline=baseline,
        measured=interval,
        limit=limit,
        message="\n".join(lines),
        note=" ".join(notes) or None,
    )
