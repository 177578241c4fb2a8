"""The assertion helpers: they find the limit, ask the gate, record the verdict, and fail the test."""

from __future__ import annotations

from pytest_ftguard.accepting.helper import assert_no_regression
from pytest_ftguard.assertions.asking import (
    ActiveTest,
    Reaction,
    active_test,
    check_pair,
    check_variant,
    conclude,
    find_test,
    limit_of,
    look,
    rule_of,
)
from pytest_ftguard.assertions.timing import judge_time
from pytest_ftguard.errors import hide_our_frames
from pytest_ftguard.gates.budgets import assess_memory, foretell_memory
from pytest_ftguard.gates.quality import (
    assess_convergence,
    assess_forgetting,
    assess_loss_gap,
    assess_perplexity_gap,
    assess_retention,
)
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant

__all__ = [
    "ActiveTest",
    "active_test",
    "assert_converged",
    "assert_forgetting",
    "assert_loss_gap",
    "assert_memory_budget",
    "assert_no_regression",
    "assert_perplexity_gap",
    "assert_retention",
    "assert_time_budget",
]

__tracebackhide__ = hide_our_frames


def assert_loss_gap(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
    same_learning_rate: bool = False,
) -> Verdict:
    """Fail the test unless the candidate's validation loss exceeds the baseline's by at most the margin.

    Args:
        candidate: The variant that is judged, usually LoRA.
        baseline: The variant that it is judged against, usually full fine-tuning.
        at_most: The margin in nats per token; by default `max_loss_gap` of marker, option, environment or ini.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".
        same_learning_rate: Whether an equal learning rate of full fine-tuning and LoRA is meant.

    Returns:
        The verdict: PASS, or INCONCLUSIVE where that only warns.

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
    """Fail the test unless the candidate's validation perplexity exceeds the baseline's by at most the margin.

    Args:
        candidate: The variant that is judged, usually LoRA.
        baseline: The variant that it is judged against, usually full fine-tuning.
        at_most: The margin in points of perplexity; by default `max_perplexity_gap`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".
        same_learning_rate: Whether an equal learning rate of full fine-tuning and LoRA is meant.

    Returns:
        The verdict: PASS, or INCONCLUSIVE where that only warns.

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
        same_learning_rate: Whether an equal learning rate of full fine-tuning and LoRA is meant.

    Returns:
        The verdict: PASS, or INCONCLUSIVE where that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no limit, or an argument is wrong.
    """
    check_pair("assert_retention", candidate, baseline)
    limit = limit_of("assert_retention", "min_retention", at_least)
    verdict = look(assess_retention, candidate, baseline, limit, rule_of(confidence, same_learning_rate))
    return conclude(verdict, on_inconclusive, candidate, baseline)


def assert_forgetting(
    candidate: TrainedVariant,
    baseline: TrainedVariant | None = None,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
) -> Verdict:
    """Fail the test unless the loss on the reference text has grown by at most the margin.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against; the base model where there is none.
        at_most: The margin in nats per token; by default `max_forgetting`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".

    Returns:
        The verdict: PASS, or INCONCLUSIVE where that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no margin, or an argument is wrong.
    """
    check_variant("assert_forgetting", candidate)
    if baseline is not None:
        check_pair("assert_forgetting", candidate, baseline)
    limit = limit_of("assert_forgetting", "max_forgetting", at_most)
    verdict = assess_forgetting(candidate, limit, rule_of(confidence), baseline)
    return conclude(verdict, on_inconclusive, candidate, *([baseline] if baseline else ()))


def assert_converged(
    variant: TrainedVariant,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
) -> Verdict:
    """Fail the test unless doubling the steps would improve the validation loss by at most so much.

    Args:
        variant: The variant that is judged.
        at_most: The improvement in nats per token; by default `max_improvement`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".

    Returns:
        The verdict: PASS, or INCONCLUSIVE where that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no limit, or an argument is wrong.
    """
    check_variant("assert_converged", variant)
    limit = limit_of("assert_converged", "max_improvement", at_most)
    return conclude(assess_convergence(variant, limit, rule_of(confidence)), on_inconclusive, variant)


def assert_memory_budget(
    candidate: TrainedVariant, at_most: str | None = None, *, of: TrainedVariant | None = None
) -> Verdict:
    """Fail the test unless the candidate's peak memory of training is within the budget.

    Args:
        candidate: The variant that is judged, usually LoRA.
        at_most: A size ("0.9 GB") or a share ("60%"); by default `max_memory` of marker, option, environment or ini.
        of: The variant whose peak is the whole of a share.

    Returns:
        The verdict, which is PASS.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID.
        ConfigurationError: There is no budget, a share without `of`, or an argument is wrong.
    """
    check_variant("assert_memory_budget", candidate)
    if of is not None:
        check_pair("assert_memory_budget", candidate, of, "lora_variant, of=full_variant")
    limit = limit_of("assert_memory_budget", "max_memory", at_most)
    test = find_test()
    assess = foretell_memory if test is not None and test.is_planned else assess_memory
    return conclude(assess(candidate, limit, of), None, candidate, *([of] if of else ()))


def assert_time_budget(
    candidate: TrainedVariant,
    at_most: str | None = None,
    *,
    of: TrainedVariant,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
) -> Verdict:
    """Fail the test unless a step of the candidate takes at most so large a share of the baseline's.

    Where both were trained by the plugin and the seconds that were stored cannot be compared, both are timed again.

    Args:
        candidate: The variant that is judged, usually LoRA.
        at_most: The share, for example "80%"; by default `max_time`.
        of: The variant whose time is the whole.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".

    Returns:
        The verdict: PASS, or INCONCLUSIVE where that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no limit, or an argument is wrong.
    """
    check_pair("assert_time_budget", candidate, of, "lora_variant, of=full_variant")
    limit = limit_of("assert_time_budget", "max_time", at_most)
    return conclude(judge_time(candidate, limit, of, rule_of(confidence).confidence), on_inconclusive, candidate, of)
