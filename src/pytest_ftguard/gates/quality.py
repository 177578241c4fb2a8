"""Gates on what was learnt: the loss gap and its relatives, each judged by an interval that counts both noises."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pytest_ftguard.comparison import Comparison, compare, reference_losses, text_problems, trend_of
from pytest_ftguard.gates import explain
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
    return _conclude("loss_gap", comparison, interval, limit, rule, margin=limit.value)


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
    # A margin in perplexity is about this many nats where the baseline stands.
    margin = limit.value / max(1.0, baseline.perplexity or 1.0)
    return _conclude("perplexity_gap", comparison, interval, limit, rule, margin=margin)


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
        return invalid("retention", candidate, baseline, limit, [explain.no_gain(baseline, gain, rule, 0.0, limit)])
    # What may be lost of the gain, in nats, is the margin of this gate.
    return _conclude("retention", comparison, interval, limit, rule, margin=(1 - limit.value) * gain.value)


def _conclude(
    gate: str, comparison: Comparison, interval: Interval, limit: Limit, rule: Rule, *, margin: float
) -> Verdict:
    """Decide, and hold back what may not be called a PASS: no visible gain, or a gap that grows beyond the margin."""
    candidate, baseline, losses = comparison.candidate, comparison.baseline, comparison.losses
    status = decide(gate, interval, limit.value)
    if status == "INVALID":
        return invalid(gate, candidate, baseline, limit, [_NOT_FINITE])
    gain = losses.gain(rule.confidence)
    # Retention is a share of the gain, and by its own bounds shows whether the gain is large enough.
    sees = gate == "retention" or gain.lower > rule.gain_factor * max(0.0, margin)
    if status != "FAIL" and not sees:
        return invalid(gate, candidate, baseline, limit, [explain.no_gain(baseline, gain, rule, margin, limit)])
    reasons = explain.reason(status, comparison, interval, limit, rule)
    trend = None if candidate.workload.final else comparison.trend(rule.confidence)
    if status == "PASS" and not candidate.workload.final:
        gap = losses.gap(rule.confidence, rule.seed_noise)
        if early := explain.widening(gap, trend, margin) if trend else explain.no_trend(comparison):
            status, reasons = "INCONCLUSIVE", early
    lines = [
        explain.headline(gate, comparison, status),
        explain.measured(gate, comparison, interval, limit, rule),
        f"Allowed: at {'least' if gate in AT_LEAST else 'most'} {limit}, set by {limit.place}.",
        *reasons,
        *(explain.outlook(comparison, margin, rule) if status == "PASS" else []),
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
    )


def assess_convergence(variant: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge how much a variant's validation loss would still improve if the steps were doubled.

    Args:
        variant: The variant that is judged.
        limit: The largest accepted improvement, in nats per token.
        rule: How it is judged.
    """
    problems = text_problems([variant], "validation")
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
    lines = [
        f"convergence {status}: doubling the {variant.workload.steps} steps would improve {variant.label} by about "
        f"{value} nats per token. Judging from {trend.sequences} sequences at steps {steps}, it lies between {lower} "
        f"and {upper} ({explain.ends_err(rule.confidence)}).",
        f"Allowed: at most {limit}, set by {limit.place}.",
    ]
    if status == "FAIL":
        lines.append(
            "Even the better of the two ends is beyond the limit: the loss is still falling. What to do: train for "
            "more steps (ftguard_steps), until it comes to rest."
        )
    elif status == "INCONCLUSIVE":
        lines.append(
            "The limit lies between the two ends, so it is not certain that the loss has come to rest. What to do: "
            "train for more steps (ftguard_steps); more seeds bring the ends closer."
        )
    return give(
        "convergence",
        status,
        candidate=variant,
        baseline=None,
        measured=interval,
        limit=limit,
        message="\n".join(lines),
    )


def assess_forgetting(candidate: TrainedVariant, limit: Limit, rule: Rule, baseline: TrainedVariant | None) -> Verdict:
    """Judge how much the loss on the reference text has grown by training.

    Args:
        candidate: The variant that is judged.
        limit: The largest accepted growth, in nats per token.
        rule: How it is judged.
        baseline: The variant that it is judged against; the base model where there is none.
    """
    problems = text_problems([candidate, baseline] if baseline else [candidate], "reference")
    if baseline is not None:
        problems += compare(candidate, baseline, same_learning_rate=True).loss_problems
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
    lines = [
        f"forgetting {status}: on the reference text {candidate.label}'s loss is {side}. Judging from "
        f"{len(losses.tokens)} sequences, the difference lies between {lower} and {upper} "
        f"({explain.ends_err(rule.confidence)}).",
        f"Allowed: at most {limit}, set by {limit.place}.",
    ]
    if status == "FAIL":
        lines.append(
            "Even the better of the two ends is beyond the limit, so this is not chance. What to do: a lower learning "
            "rate, fewer steps, a lower rank, or general text among the training data."
        )
    elif status == "INCONCLUSIVE":
        lines.append(
            "The limit lies between the two ends, so neither answer is safe. What to do: a longer reference text "
            "(and more ftguard_validation_sequences, which count for it too) or more seeds bring the ends closer."
        )
    return give(
        "forgetting",
        status,
        candidate=candidate,
        baseline=baseline,
        measured=interval,
        limit=limit,
        message="\n".join(lines),
    )
