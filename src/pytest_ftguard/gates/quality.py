"""Gates on the validation loss: its gap, the gap of the perplexities, and the share of full's gain."""

from __future__ import annotations

from dataclasses import replace

from pytest_ftguard.comparison.pairs import Comparison, compare
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.asking import (
    Reaction,
    check_pair,
    conclude,
    limit_of,
    look,
    rule_of,
)
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.margin import Margin, margin_of
from pytest_ftguard.gates.rates import better_rate, learned_nothing, rates_line, rates_note, undertrained, unsettled
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.verdict import NOT_FINITE, Status, Verdict, decide, give, invalid
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval, perplexity_gap, retention

__all__ = [
    "assert_loss_gap",
    "assert_perplexity_gap",
    "assert_retention",
    "assess_loss_gap",
    "assess_perplexity_gap",
    "assess_retention",
]


def assert_loss_gap(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
    same_learning_rate: bool = False,
) -> Verdict:
    """Fail the test unless the candidate's validation loss is at most the margin above the baseline's.

    Args:
        candidate: The variant that is judged, usually LoRA.
        baseline: The variant that it is judged against, usually full fine-tuning.
        at_most: The margin in nats per token; by default `max_loss_gap` of marker, option, environment or ini.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".
        same_learning_rate: Allow full fine-tuning and LoRA to have the same learning rate.

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no margin, or an argument is wrong.
    """
    check_pair("assert_loss_gap", candidate, baseline)
    limit = limit_of("assert_loss_gap", "max_loss_gap", at_most)
    verdict = look(assess_loss_gap, candidate, baseline, limit, rule_of(confidence, same_learning_rate))
    return conclude(verdict, on_inconclusive, candidate, baseline)


def assert_perplexity_gap(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
    same_learning_rate: bool = False,
) -> Verdict:
    """Fail the test unless the candidate's validation perplexity is at most the margin above the baseline's.

    Args:
        candidate: The variant that is judged, usually LoRA.
        baseline: The variant that it is judged against, usually full fine-tuning.
        at_most: The margin in points of perplexity; by default `max_perplexity_gap`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".
        same_learning_rate: Allow full fine-tuning and LoRA to have the same learning rate.

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no margin, or an argument is wrong.
    """
    check_pair("assert_perplexity_gap", candidate, baseline)
    limit = limit_of("assert_perplexity_gap", "max_perplexity_gap", at_most)
    verdict = look(assess_perplexity_gap, candidate, baseline, limit, rule_of(confidence, same_learning_rate))
    return conclude(verdict, on_inconclusive, candidate, baseline)


def assert_retention(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    at_least: str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
    same_learning_rate: bool = False,
) -> Verdict:
    """Fail the test unless the candidate retains enough of what the baseline gained over the base model.

    The share has no scale, so one limit serves many models; 90 to 95 % is a sensible one.

    Args:
        candidate: The variant that is judged, usually LoRA.
        baseline: The variant that it is judged against, usually full fine-tuning.
        at_least: The share, for example "90%"; by default `min_retention`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".
        same_learning_rate: Allow full fine-tuning and LoRA to have the same learning rate.

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no limit, or an argument is wrong.
    """
    check_pair("assert_retention", candidate, baseline)
    limit = limit_of("assert_retention", "min_retention", at_least)
    verdict = look(assess_retention, candidate, baseline, limit, rule_of(confidence, same_learning_rate))
    return conclude(verdict, on_inconclusive, candidate, baseline)


def assess_loss_gap(candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge the gap between the validation losses, candidate minus baseline, in nats per token."""
    comparison = compare(candidate, baseline, same_learning_rate=rule.same_learning_rate)
    if comparison.loss_problems:
        return invalid("loss_gap", candidate, baseline, limit, comparison.loss_problems)
    losses = comparison.losses
    interval = losses.gap(rule.confidence, rule.seed_noise)
    return _conclude("loss_gap", comparison, interval, rule, margin_of(limit, baseline))


def assess_perplexity_gap(candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge the gap between the perplexities exp(loss), candidate minus baseline, in points of perplexity."""
    comparison = compare(candidate, baseline, same_learning_rate=rule.same_learning_rate)
    if comparison.loss_problems:
        return invalid("perplexity_gap", candidate, baseline, limit, comparison.loss_problems)
    losses = comparison.losses
    try:
        interval = perplexity_gap(losses.candidate, losses.baseline, losses.tokens, rule.confidence, rule.seed_noise)
    except OverflowError:
        return invalid("perplexity_gap", candidate, baseline, limit, [NOT_FINITE])
    return _conclude("perplexity_gap", comparison, interval, rule, margin_of(limit, baseline))


def assess_retention(candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge the share of the baseline's gain over the base model that the candidate retains.

    A calibrated noise is not used: it is the noise of the gap, not of the share.
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
    """Decide, but give neither FAIL nor PASS without grounds.

    A run that learned nothing has a fault of its own, so it has no gap. A PASS needs a visible gain of the baseline,
    and a gap that does not grow beyond the margin.
    """
    candidate, baseline, limit = comparison.candidate, comparison.baseline, margin.limit

    def status_at(value: float) -> Status:
        return _conclude(gate, comparison, interval, rule, margin_of(replace(limit, value=value), baseline)).status

    status = decide(gate, interval, limit.value)
    if status == "INVALID":
        return invalid(gate, candidate, baseline, limit, [NOT_FINITE])
    if faults := learned_nothing(candidate, rule.confidence):
        return invalid(gate, candidate, baseline, limit, faults + learned_nothing(baseline, rule.confidence))
    gain = comparison.losses.gain(rule.confidence)
    # Retention is a share of the gain, and by its own bounds shows whether the gain is large enough.
    sees = gate == "retention" or gain.lower > rule.gain_factor * max(0.0, margin.nats)
    if status != "FAIL" and not sees:
        faults = learned_nothing(baseline, rule.confidence) or [
            explain.no_gain(baseline, gain, rule, margin, status_at)
        ]
        return invalid(gate, candidate, baseline, limit, faults)
    reason = f"{explain.standing(comparison)} {explain.reason(status, comparison, interval, rule)}"
    doubt = interval, limit.value
    if gate == "retention":  # its bounds lie where this gap leaves 0 aside
        doubt = comparison.losses.short_of(limit.value, rule.confidence), 0.0
    todo = explain.what_to_do(status, comparison, doubt, rule)
    if status == "PASS" and (early := _too_early(comparison, rule, margin)):
        status, (reason, todo) = "INCONCLUSIVE", early
    praise = undertrained(baseline)
    if status == "PASS":
        praise += [*better_rate(candidate), *explain.better(comparison, beyond_noise=_is_better(comparison, rule))]
    if status == "PASS" and gate != "retention":
        praise += explain.little_power(baseline, gain, margin, status_at)
    why = [
        reason,
        explain.basis(comparison, rule),
        *([explain.outlook(comparison, margin, rule)] if status == "PASS" else []),
        *unsettled(candidate, baseline),
        *praise,
    ]
    return give(
        gate,
        status,
        candidate=candidate,
        baseline=baseline,
        measured=interval,
        limit=limit,
        at=rates_line(candidate, baseline),
        why=why,
        what_to_do=todo,
        note=" ".join([*rates_note(candidate, baseline), *praise]) or None,
    )


def _is_better(comparison: Comparison, rule: Rule) -> bool:
    """Return whether the candidate beats the baseline beyond noise."""
    return comparison.losses.gap(rule.confidence, rule.seed_noise).upper < 0


def _too_early(comparison: Comparison, rule: Rule, margin: Margin) -> tuple[str, str] | None:
    """Return why a PASS comes too early, and what to do; None if it does not, or the steps are those of production."""
    if comparison.candidate.workload.final:
        return None
    trend = comparison.trend(rule.confidence)
    if trend is None:
        return explain.no_trend(comparison)
    gap = comparison.losses.gap(rule.confidence, rule.seed_noise)
    return explain.widening(comparison.candidate, gap, trend, margin)
