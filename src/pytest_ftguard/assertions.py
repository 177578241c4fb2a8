"""The assertion helpers: they find the limit, ask the gate, record the verdict, and fail the test."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol

from pytest_ftguard.errors import ConfigurationError, FtguardWarning, GateFailure, LimitExceeded, hide_our_frames
from pytest_ftguard.gates.budgets import assess_memory, assess_time, foretell_memory
from pytest_ftguard.gates.quality import (
    assess_convergence,
    assess_forgetting,
    assess_loss_gap,
    assess_perplexity_gap,
    assess_retention,
)
from pytest_ftguard.gates.rule import GAIN_FACTOR, Rule
from pytest_ftguard.gates.verdict import Verdict, needs_seeds
from pytest_ftguard.limits import Limit
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.settings import Setting, argument_setting
from pytest_ftguard.statistics import SeedNoise

__all__ = [
    "ActiveTest",
    "active_test",
    "assert_converged",
    "assert_forgetting",
    "assert_loss_gap",
    "assert_memory_budget",
    "assert_perplexity_gap",
    "assert_retention",
    "assert_time_budget",
]

__tracebackhide__ = hide_our_frames

DEFAULT_CONFIDENCE = 0.95

Gate = Callable[[TrainedVariant, TrainedVariant, Limit, Rule], Verdict]


class ActiveTest(Protocol):
    """The test that is running: where its limits were set, and where its verdicts go."""

    @property
    def is_planned(self) -> bool:
        """Whether the variants are planned only, and not trained."""

    def setting(self, name: str) -> Setting | None:
        """Return a setting from the marker, the command line, the environment or the ini file."""

    def seed_noise(self, candidate: TrainedVariant, baseline: TrainedVariant) -> SeedNoise | None:
        """Return the calibrated noise of seeds for two variants, where there is one."""

    def record(self, verdict: Verdict, variants: Sequence[TrainedVariant]) -> None:
        """Keep a verdict, and the variants that it is about, for the summary and the files."""


active_test: ContextVar[ActiveTest | None] = ContextVar("ftguard_active_test", default=None)


def assert_loss_gap(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: str | None = None,
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
    _check_pair("assert_loss_gap", candidate, baseline)
    limit = _limit("assert_loss_gap", "max_loss_gap", at_most)
    verdict = _look(assess_loss_gap, candidate, baseline, limit, _rule(confidence, same_learning_rate))
    return _conclude(verdict, on_inconclusive, candidate, baseline)


def assert_perplexity_gap(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: str | None = None,
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
    _check_pair("assert_perplexity_gap", candidate, baseline)
    limit = _limit("assert_perplexity_gap", "max_perplexity_gap", at_most)
    verdict = _look(assess_perplexity_gap, candidate, baseline, limit, _rule(confidence, same_learning_rate))
    return _conclude(verdict, on_inconclusive, candidate, baseline)


def assert_retention(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    at_least: str | None = None,
    confidence: float | None = None,
    on_inconclusive: str | None = None,
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
    _check_pair("assert_retention", candidate, baseline)
    limit = _limit("assert_retention", "min_retention", at_least)
    verdict = _look(assess_retention, candidate, baseline, limit, _rule(confidence, same_learning_rate))
    return _conclude(verdict, on_inconclusive, candidate, baseline)


def assert_forgetting(
    candidate: TrainedVariant,
    baseline: TrainedVariant | None = None,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: str | None = None,
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
    _check_variant("assert_forgetting", candidate)
    if baseline is not None:
        _check_pair("assert_forgetting", candidate, baseline)
    limit = _limit("assert_forgetting", "max_forgetting", at_most)
    verdict = assess_forgetting(candidate, limit, _rule(confidence), baseline)
    return _conclude(verdict, on_inconclusive, candidate, *([baseline] if baseline else ()))


def assert_converged(
    variant: TrainedVariant,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: str | None = None,
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
    _check_variant("assert_converged", variant)
    limit = _limit("assert_converged", "max_improvement", at_most)
    return _conclude(assess_convergence(variant, limit, _rule(confidence)), on_inconclusive, variant)


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
    _check_variant("assert_memory_budget", candidate)
    if of is not None:
        _check_pair("assert_memory_budget", candidate, of, "lora_variant, of=full_variant")
    limit = _limit("assert_memory_budget", "max_memory", at_most)
    test = active_test.get()
    assess = foretell_memory if test is not None and test.is_planned else assess_memory
    return _conclude(assess(candidate, limit, of), None, candidate, *([of] if of else ()))


def assert_time_budget(
    candidate: TrainedVariant,
    at_most: str | None = None,
    *,
    of: TrainedVariant,
    confidence: float | None = None,
    on_inconclusive: str | None = None,
) -> Verdict:
    """Fail the test unless a step of the candidate takes at most so large a share of the baseline's.

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
    _check_pair("assert_time_budget", candidate, of, "lora_variant, of=full_variant")
    limit = _limit("assert_time_budget", "max_time", at_most)
    return _conclude(assess_time(candidate, limit, of, _rule(confidence).confidence), on_inconclusive, candidate, of)


def _check_pair(helper: str, candidate: object, baseline: object, usage: str = "lora_variant, full_variant") -> None:
    ours, theirs = _check_variant(helper, candidate), _check_variant(helper, baseline)
    if ours.variant.kind == "full" and theirs.variant.kind != "full":
        message = (
            f"{helper} was given {ours.label} as the candidate and {theirs.label} as the baseline; "
            f"the other way round is meant: {helper}({usage})"
        )
        raise ConfigurationError(message)
    # Also where one of the two was read from a report: the same variant cannot be worse than itself.
    if ours is theirs or ours.variant == theirs.variant:
        message = (
            f"{helper} was given {ours.label} as the candidate and as the baseline: such a gate cannot fail; "
            f"give two variants: {helper}({usage})"
        )
        raise ConfigurationError(message)


def _rule(confidence: float | None, same_learning_rate: bool = False) -> Rule:
    return Rule(
        confidence=_value("confidence", confidence, DEFAULT_CONFIDENCE),
        gain_factor=_value("gain_factor", None, GAIN_FACTOR),
        same_learning_rate=same_learning_rate,
    )


def _look(assess: Gate, candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Ask a gate, and where it is in doubt and the workload allows it, ask again with more seeds."""
    # Each side keeps the seeds that it has; only what was trained in this run, with the same ones, is extended.
    both = candidate.extend and baseline.extend and candidate.workload.looks == baseline.workload.looks
    looks = candidate.workload.looks if both else ()
    rule = _calibrated(rule, candidate, baseline)
    if len(looks) < 2:
        # Whoever stopped a run in another one, at the look that answered, owes that look's share of the error.
        elsewhere = [side.workload.looks for side in (candidate, baseline) if side.extend is None]
        taken = max(elsewhere, key=len, default=looks)
        if len(taken) > 1:
            rule = rule.at_look(1 + sum(len(candidate.trials) > seeds for seeds in taken), len(taken))
        return assess(candidate, baseline, limit, rule)
    for look, seeds in enumerate(looks, start=1):
        sides = candidate.with_seeds(seeds), baseline.with_seeds(seeds)
        verdict = assess(*sides, limit, rule.at_look(look, len(looks)))
        if not needs_seeds(verdict):
            break
    return verdict


def _calibrated(rule: Rule, candidate: TrainedVariant, baseline: TrainedVariant) -> Rule:
    test = active_test.get()
    return rule if test is None else replace(rule, seed_noise=test.seed_noise(candidate, baseline))


def _check_variant(helper: str, value: object) -> TrainedVariant:
    if not isinstance(value, TrainedVariant):
        message = f"{helper} takes trained variants, such as the fixture lora_variant gives, got {value!r}"
        raise ConfigurationError(message)
    return value


def _setting(name: str, argument: Any) -> Setting | None:
    if argument is not None:
        return argument_setting(name, argument)
    test = active_test.get()
    return test.setting(name) if test else None


def _value(name: str, argument: Any, default: Any) -> Any:
    setting = _setting(name, argument)
    return default if setting is None else setting.value


def _limit(helper: str, name: str, argument: Any) -> Limit:
    setting = _setting(name, argument)
    if setting is None:
        message = (
            f"{helper} has no limit, and a gate without a limit is never green: pass {_argument(name)}=..., mark the "
            f"test with ftguard({name}=...), or set ftguard_{name} in the ini file"
        )
        raise ConfigurationError(message)
    limit: Limit = setting.value
    return limit


def _argument(name: str) -> str:
    return "at_least" if name.startswith("min_") else "at_most"


def _conclude(verdict: Verdict, on_inconclusive: str | None, *variants: TrainedVariant) -> Verdict:
    choice = _value("on_inconclusive", on_inconclusive, "fail")
    test = active_test.get()
    if test is not None:
        test.record(verdict, variants)
        if test.is_planned:  # nothing was trained, so nothing is decided
            return verdict
    if verdict.status == "PASS":
        return verdict
    if verdict.status == "INCONCLUSIVE" and choice == "warn":
        # The frame that called the helper, two above this one, is where the user looks.
        warnings.warn(FtguardWarning(verdict.message), stacklevel=3)
        return verdict
    raise (LimitExceeded if verdict.status == "FAIL" else GateFailure)(verdict.message)
