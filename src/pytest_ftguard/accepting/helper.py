"""The assertion helper across commits: it finds what was accepted, asks the gate, or accepts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Protocol, cast

from pytest_ftguard.accepting.asked import Asked, Metric
from pytest_ftguard.accepting.files import AcceptedFiles
from pytest_ftguard.accepting.gate import accept, assess_regression
from pytest_ftguard.accepting.history import History
from pytest_ftguard.accepting.metrics import MEASURES
from pytest_ftguard.accepting.missing import missing_in_plan
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.asking import (
    ActiveTest,
    Reaction,
    check_pair,
    check_variant,
    conclude,
    find_test,
    limit_of,
    rule_of,
    setting_of,
    value_of,
)
from pytest_ftguard.gates.limits import GROWTH, NATS_PER_TOKEN, POINTS, SCORE, Limit
from pytest_ftguard.gates.timed_pair import TimedPair, timed, with_times
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import ACCURACY, TrainedVariant
from pytest_ftguard.specs import Variant

__all__ = ["assert_no_regression"]


class _AcceptingTest(ActiveTest, Protocol):
    """The test that is running, which may have accepted results."""

    @property
    def accepted(self) -> AcceptedFiles:
        """The files of results that were accepted for this test."""

    def refusals(self) -> list[Problem]:
        """Return why nothing may be accepted here and now, whatever was measured."""


def assert_no_regression(
    candidate: TrainedVariant,
    baseline: TrainedVariant | None = None,
    *,
    metric: Metric = "loss_gap",
    score: str | None = None,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
    same_learning_rate: bool = False,
    on_missing: Reaction | None = None,
) -> Verdict:
    """Fail the test unless the candidate, compared with its baseline, is about as good as when it was accepted.

    The growth of the difference between both is judged, so that the baseline absorbs what the machine has changed.
    A pair does not show what makes both variants worse alike. Without a baseline, the growth of the candidate's own
    loss is judged, paired by example and seed, on any machine and with any versions.

    Seconds that cannot be compared are measured again. Under `--ftguard-update` nothing is judged: the result is
    accepted, and written to the test's file once the test has passed with every gate that it asked.

    Args:
        candidate: The variant that is judged; its settings may have changed.
        baseline: The variant that it is judged against, with the settings it had; None judges the candidate's own loss.
        metric: "loss_gap", "memory" or "time"; without a baseline there is only the loss.
        score: Judge a score in place of the loss: by how much it has fallen, or the gap in it. It is "accuracy" if the
            limit is in percentage points and no score is named.
        at_most: The largest accepted growth, 0.01 (nats per token) or "5%" (of memory or time), or the largest accepted
            fall of a score: "1 pp", or a number in the score's own unit; see `max_regression`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".
        same_learning_rate: Allow full fine-tuning and LoRA to have the same learning rate.
        on_missing: What a missing accepted result does, "fail" or "warn"; by default `on_missing`, or "fail".

    Returns:
        The verdict: PASS; PENDING under `--ftguard-update`; or INCONCLUSIVE, or INVALID because there is no accepted
        result, if that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE, or the result was not accepted.
        ConfigurationError: There is no limit or no running test, an argument is wrong, or the file is damaged.
    """
    metric = _metric(metric, candidate, baseline)
    limit, score = _limit(metric, score, at_most)
    rule = rule_of(confidence, same_learning_rate)
    reaction, updates = setting_of("on_missing", on_missing), value_of("update", None, False)
    choice = "fail" if reaction is None else reaction.value
    test = _test()
    file = test.accepted.find(candidate, baseline)
    if test.is_planned and file.history is None and not updates:
        test.note(missing_in_plan(file, choice))
    if MEASURES[metric].depends_on_rates and (updates or file.history):
        candidate, baseline = _settled(candidate, baseline, None if updates else file.history)
    asked = _asked(candidate, baseline, limit=limit, rule=rule, metric=metric, score=score, file=file)
    verdict = _accept(test, asked) if updates else assess_regression(asked, reaction)
    # A pair that is unsound by itself fails also if there is nothing to compare it with.
    warns = not updates and choice == "warn" and file.history is None and not asked.problems()
    sides = (candidate,) if baseline is None else (candidate, baseline)
    return conclude(verdict, on_inconclusive, *sides, warn_of_invalid=warns)


def _metric(metric: Metric, candidate: TrainedVariant, baseline: TrainedVariant | None) -> Metric:
    """Return what is judged of a pair, or of one variant.

    Raises:
        ConfigurationError: It cannot be judged of them.
    """
    if baseline is not None:
        check_pair("assert_no_regression", candidate, baseline)
        if metric == "loss":
            message = "assert_no_regression judges the metric 'loss' of one variant by itself: leave out the baseline"
            raise ConfigurationError(message)
        return metric
    check_variant("assert_no_regression", candidate)
    if metric in ("memory", "time"):
        message = (
            f"assert_no_regression judges the metric {metric!r} as a share of a baseline's: give one, "
            f"assert_no_regression(lora_variant, full_variant, metric={metric!r})"
        )
        raise ConfigurationError(message)
    return "loss" if metric == "loss_gap" else metric


def _asked(candidate: TrainedVariant, baseline: TrainedVariant | None, *, metric: Metric, **rest: Any) -> Asked:
    """Return what is asked, with seconds that can be compared if they are judged."""
    if baseline is None:
        return Asked(candidate=candidate, baseline=None, metric=metric, **rest)
    pair = timed(candidate, baseline) if metric == "time" else TimedPair(candidate, baseline)
    ours, theirs = with_times(candidate, pair.candidate), with_times(baseline, pair.baseline)
    return Asked(candidate=ours, baseline=theirs, metric=metric, origin=pair.origin, **rest)


def _settled(
    candidate: TrainedVariant, baseline: TrainedVariant | None, history: History | None
) -> tuple[TrainedVariant, TrainedVariant | None]:
    """Return both sides at settled learning rates: at those that were accepted, or at those that a search finds.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against; None if there is none.
        history: What was accepted, and is compared with; None if nothing is.
    """

    def settled(side: TrainedVariant, accepted: Variant | None) -> TrainedVariant:
        is_that = accepted is not None and accepted.learning_rate == side.variant.learning_rate
        return replace(side, rate=replace(side.rate, is_open=False)) if is_that else side.settled()

    then = history.accepted if history else None
    ours = settled(candidate, then.candidate.variant if then else None)
    if baseline is None:
        return ours, None
    return ours, settled(baseline, then.baseline.variant if then and then.baseline else None)


def _accept(test: _AcceptingTest, asked: Asked) -> Verdict:
    """Queue what is accepted: it is written once the test has passed."""
    verdict, updated = accept(asked, test.refusals())
    if updated is not None:
        test.accepted.queue(asked.file, updated)
    return verdict


def _test() -> _AcceptingTest:
    test = find_test()
    if test is None:
        raise ConfigurationError("assert_no_regression finds what was accepted by the test's name: call it in a test")
    return cast("_AcceptingTest", test)


def _limit(metric: Metric, score: object, argument: float | str | None) -> tuple[Limit, str | None]:
    """Return the limit, and the name of the score that it is of; None if it is of the metric.

    Raises:
        ConfigurationError: There is no limit, it has another unit, or an argument is wrong.
    """
    if metric not in MEASURES:
        known = ", ".join(repr(name) for name in MEASURES if name != "loss")
        message = f"assert_no_regression takes the metric {known}, got {metric!r}"
        raise ConfigurationError(message)
    limit = limit_of("assert_no_regression", "max_regression", argument)
    is_of_loss = metric in ("loss_gap", "loss")
    if score is not None:
        if not (isinstance(score, str) and score.strip()):
            message = f"assert_no_regression takes the name of a score, such as 'exact_match', got score={score!r}"
            raise ConfigurationError(message)
        if not is_of_loss:
            message = f"assert_no_regression judges a score or the metric {metric!r}, and was given both"
            raise ConfigurationError(message)
        return _limit_of_score(score.strip(), limit), score.strip()
    if limit.unit == POINTS and is_of_loss:
        return limit, ACCURACY
    if limit.unit != MEASURES[metric].unit:
        wanted = 'a share such as "5%"' if MEASURES[metric].unit == GROWTH else "a number such as 0.01 (nats per token)"
        message = (
            f"max_regression is {limit} (set by {limit.origin.name}), and a limit for the metric {metric!r} is "
            f"{wanted}: pass at_most=..., or mark the test with ftguard(max_regression=...)"
        )
        raise ConfigurationError(message)
    return limit, None


# A number in a place that holds for all tests is one of nats per token.
_OF_ONE_TEST: Final = ("argument", "marker")


def _limit_of_score(score: str, limit: Limit) -> Limit:
    """Return a limit in percentage points, or a number in the unit of a score.

    Raises:
        ConfigurationError: It is neither.
    """
    if limit.unit == POINTS:
        return limit
    if limit.unit == NATS_PER_TOKEN and limit.origin.kind in _OF_ONE_TEST:
        return replace(limit, unit=SCORE)
    message = (
        f"max_regression is {limit} (set by {limit.origin.name}), and a limit for the score {score!r} is percentage "
        'points such as "1 pp", or a number in its own unit: pass at_most=..., or mark the test with '
        "ftguard(max_regression=...)"
    )
    raise ConfigurationError(message)
