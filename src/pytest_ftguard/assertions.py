"""The assertion helpers: they find the limit, ask the gate, record the verdict, and fail the test."""

from __future__ import annotations

import warnings
from contextvars import ContextVar
from typing import Any, Protocol

from pytest_ftguard.errors import ConfigurationError, FtguardWarning, GateFailure, LimitExceeded
from pytest_ftguard.gates import Verdict, assess_loss_gap, assess_memory
from pytest_ftguard.limits import Limit
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.settings import Setting, argument_setting

__all__ = ["ActiveTest", "active_test", "assert_loss_gap", "assert_memory_budget"]

DEFAULT_CONFIDENCE = 0.95


class ActiveTest(Protocol):
    """The test that is running: where its limits were set, and where its verdicts go."""

    def setting(self, name: str) -> Setting | None:
        """Return a setting from the marker, the command line, the environment or the ini file."""

    def record(self, verdict: Verdict) -> None:
        """Keep a verdict for the summary and the files."""


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
    __tracebackhide__ = True
    _check_variant("assert_loss_gap", candidate)
    _check_variant("assert_loss_gap", baseline)
    if candidate.variant.kind == "full" and baseline.variant.kind != "full":
        message = (
            f"assert_loss_gap was given {candidate.label} as the candidate and {baseline.label} as the baseline; "
            "the other way round is meant: assert_loss_gap(lora_variant, full_variant)"
        )
        raise ConfigurationError(message)
    verdict = assess_loss_gap(
        candidate,
        baseline,
        _limit("assert_loss_gap", "max_loss_gap", at_most),
        confidence=_value("confidence", confidence, DEFAULT_CONFIDENCE),
        same_learning_rate=same_learning_rate,
    )
    return _conclude(verdict, _value("on_inconclusive", on_inconclusive, "fail"))


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
    __tracebackhide__ = True
    _check_variant("assert_memory_budget", candidate)
    if of is not None:
        _check_variant("assert_memory_budget", of)
    return _conclude(assess_memory(candidate, _limit("assert_memory_budget", "max_memory", at_most), of), "fail")


def _check_variant(helper: str, value: object) -> None:
    __tracebackhide__ = True
    if not isinstance(value, TrainedVariant):
        message = f"{helper} takes trained variants, such as the fixture lora_variant gives, got {value!r}"
        raise ConfigurationError(message)


def _setting(name: str, argument: Any) -> Setting | None:
    __tracebackhide__ = True
    if argument is not None:
        return argument_setting(name, argument)
    test = active_test.get()
    return test.setting(name) if test else None


def _value(name: str, argument: Any, default: Any) -> Any:
    __tracebackhide__ = True
    setting = _setting(name, argument)
    return default if setting is None else setting.value


def _limit(helper: str, name: str, argument: Any) -> Limit:
    __tracebackhide__ = True
    setting = _setting(name, argument)
    if setting is None:
        message = (
            f"{helper} has no limit, and a gate without a limit is never green: pass at_most=..., mark the test with "
            f"ftguard({name}=...), or set ftguard_{name} in the ini file"
        )
        raise ConfigurationError(message)
    limit: Limit = setting.value
    return limit


def _conclude(verdict: Verdict, on_inconclusive: str) -> Verdict:
    __tracebackhide__ = True
    test = active_test.get()
    if test is not None:
        test.record(verdict)
    if verdict.status == "PASS":
        return verdict
    if verdict.status == "INCONCLUSIVE" and on_inconclusive == "warn":
        # The frame that called the helper, two above this one, is where the user looks.
        warnings.warn(FtguardWarning(verdict.message), stacklevel=3)
        return verdict
    raise (LimitExceeded if verdict.status == "FAIL" else GateFailure)(verdict.message)
