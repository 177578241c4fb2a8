"""Gates on scores: accuracy, or what a function of the team's own makes of each example."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pytest_ftguard.comparison.scores import Slice, every_slice
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.asking import (
    Reaction,
    check_pair,
    check_variant,
    conclude_all,
    limit_of,
    look,
    rule_of,
)
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.score_rules import Judged, assess_score, assess_score_gap
from pytest_ftguard.gates.settling import settle_one
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import ACCURACY, TrainedVariant

__all__ = ["assert_accuracy_gap", "assert_score", "assert_score_gap"]


def assert_accuracy_gap(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    at_most: str | None = None,
    slice: str | None = None,  # noqa: A002
    each_slice: bool = False,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
    same_learning_rate: bool = False,
) -> Verdict:
    """Fail the test unless the candidate's accuracy is at most the margin below the baseline's.

    Args:
        candidate: The variant that is judged, usually LoRA.
        baseline: The variant that it is judged against, usually full fine-tuning.
        at_most: The margin in percentage points, as in "2 pp"; by default `max_accuracy_gap` of marker, option,
            environment or ini.
        slice: Judge the examples of one slice, as in "language=de"; by default all.
        each_slice: Judge each slice by itself. All must pass, and the error that is allowed is split over them.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".
        same_learning_rate: Allow full fine-tuning and LoRA to have the same learning rate.

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns. Of several slices it is that of the one that is worst.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no margin, or an argument is wrong.
    """
    check_pair("assert_accuracy_gap", candidate, baseline)
    limit = limit_of("assert_accuracy_gap", "max_accuracy_gap", at_most)
    slices = _slices("assert_accuracy_gap", candidate, slice, each_slice)
    rule = _split(rule_of(confidence, same_learning_rate), len(slices))
    asked = [Judged("accuracy_gap", ACCURACY, one) for one in slices]
    verdicts = [look(partial(assess_score_gap, judged=one), candidate, baseline, limit, rule) for one in asked]
    return conclude_all(verdicts, on_inconclusive, candidate, baseline)


def assert_score_gap(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    score: str | None = None,
    at_most: float | str | None = None,
    slice: str | None = None,  # noqa: A002
    each_slice: bool = False,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
    same_learning_rate: bool = False,
) -> Verdict:
    """Fail the test unless the candidate's score is at most the margin below the baseline's. Higher scores are better.

    Args:
        candidate: The variant that is judged, usually LoRA.
        baseline: The variant that it is judged against, usually full fine-tuning.
        score: Name of the score: "accuracy", or one of those that `ftguard_score` gives. It may be left out if that
            gives one only, or if there is none.
        at_most: The margin in the score's own unit, or in percentage points, as in "2 pp", of a score from 0 to 1; by
            default `max_score_gap` of marker, option, environment or ini.
        slice: Judge the examples of one slice, as in "language=de"; by default all.
        each_slice: Judge each slice by itself. All must pass, and the error that is allowed is split over them.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".
        same_learning_rate: Allow full fine-tuning and LoRA to have the same learning rate.

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns. Of several slices it is that of the one that is worst.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no margin, or an argument is wrong.
    """
    check_pair("assert_score_gap", candidate, baseline)
    limit = limit_of("assert_score_gap", "max_score_gap", at_most)
    name = _score_of("assert_score_gap", candidate, score)
    slices = _slices("assert_score_gap", candidate, slice, each_slice)
    rule = _split(rule_of(confidence, same_learning_rate), len(slices))
    asked = [Judged("score_gap", name, one) for one in slices]
    verdicts = [look(partial(assess_score_gap, judged=one), candidate, baseline, limit, rule) for one in asked]
    return conclude_all(verdicts, on_inconclusive, candidate, baseline)


def assert_score(
    candidate: TrainedVariant,
    *,
    score: str | None = None,
    at_least: float | str | None = None,
    slice: str | None = None,  # noqa: A002
    each_slice: bool = False,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
) -> Verdict:
    """Fail the test unless the score of a variant is high enough.

    Args:
        candidate: The variant that is judged.
        score: Name of the score: "accuracy", or one of those that `ftguard_score` gives. It may be left out if that
            gives one only, or if there is none.
        at_least: The smallest accepted score in its own unit, or "80%" of a score from 0 to 1; by default `min_score`
            of marker, option, environment or ini.
        slice: Judge the examples of one slice, as in "language=de"; by default all.
        each_slice: Judge each slice by itself. All must pass, and the error that is allowed is split over them.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns. Of several slices it is that of the one that is worst.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no limit, or an argument is wrong.
    """
    check_variant("assert_score", candidate)
    limit = limit_of("assert_score", "min_score", at_least)
    name = _score_of("assert_score", candidate, score)
    slices = [Judged("score", name, one) for one in _slices("assert_score", candidate, slice, each_slice)]
    rule = _split(rule_of(confidence), len(slices))
    verdicts = [settle_one(partial(assess_score, limit=limit, rule=rule, judged=one), candidate) for one in slices]
    return conclude_all(verdicts, on_inconclusive, candidate)


def _split(rule: Rule, slices: int) -> Rule:
    """Return the rule for each of several slices: all of them together err no more often than one gate may."""
    return replace(rule, confidence=1 - (1 - rule.confidence) / slices)


def _score_of(helper: str, variant: TrainedVariant, score: object) -> str:
    """Return the name of the score that is judged.

    Raises:
        ConfigurationError: It is no name, or it is not clear which score is meant.
    """
    if isinstance(score, str) and score.strip():
        return score.strip()
    if score is not None:
        message = f"{helper} takes the name of a score, such as 'exact_match', got score={score!r}"
        raise ConfigurationError(message)
    function = variant.workload.score
    if function is None:
        return ACCURACY
    # If it failed, the verdict says so: no other score is judged in its place.
    measured = (trial.measured.validation.scores for trial in variant.trials if trial.measured.validation)
    known = list(next((one.values for one in measured if one is not None and one.values), ()))
    if len(known) > 1:
        message = f"{helper} was not told which score to judge: pass score=..., one of {', '.join(known)}"
        raise ConfigurationError(message)
    return known[0] if known else function.rpartition(":")[2]


def _slices(helper: str, variant: TrainedVariant, chosen: object, each: object) -> tuple[Slice, ...]:
    """Return the slices that are judged.

    Raises:
        ConfigurationError: An argument is wrong, or there are no slices.
    """
    if not isinstance(each, bool):
        message = f"{helper} takes each_slice=True or False, got {each!r}"
        raise ConfigurationError(message)
    if chosen is not None and each:
        message = f"{helper} takes slice=... or each_slice=True, and was given both"
        raise ConfigurationError(message)
    if not each:
        one = chosen.partition("=") if isinstance(chosen, str) else ("", "", "")
        if chosen is not None and not (one[0].strip() and one[1]):
            message = f'{helper} takes a slice such as slice="language=de", got {chosen!r}'
            raise ConfigurationError(message)
        return (Slice.of(chosen if isinstance(chosen, str) else None),)
    found = every_slice(variant)
    is_measured = any(trial.measured.validation is not None for trial in variant.trials)
    if not found and (is_measured or (variant.source is not None and not variant.workload.slices)):
        where = "" if variant.source is not None else f" of {variant.label}, which was trained elsewhere"
        message = f"{helper} was given each_slice=True, but there are no slices{where}: set ftguard_slices = COLUMN"
        raise ConfigurationError(message)
    # If nothing was measured, the verdict on all examples says why.
    return found or (Slice(),)
