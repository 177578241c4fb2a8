"""Whether a score can tell a good variant from a bad one: what was gained over the base model, and what forbids it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.comparison.scores import PairedScores
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.limits import POINTS, Limit
from pytest_ftguard.gates.rates import learned_nothing
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.verdict import Status
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import FloatArray, Interval

__all__ = ["in_unit", "no_gain", "no_score_learned", "tells_nothing", "unfit"]


def in_unit(interval: Interval, limit: Limit) -> Interval:
    """Return an interval of a score in the unit of a limit: in percentage points, or as it is."""
    by = 100.0 if limit.unit == POINTS else 1.0
    return replace(
        interval,
        value=by * interval.value,
        lower=by * interval.lower,
        upper=by * interval.upper,
        item_variance=by**2 * interval.item_variance,
        seed_variance=by**2 * interval.seed_variance,
    )


def unfit(score: str, span: tuple[float, float], limit: Limit, example: str) -> list[Problem]:
    """Return why a limit in percentage points does not fit a score.

    Args:
        score: Its name.
        span: The lowest and the highest score.
        limit: The limit.
        example: A limit that fits.
    """
    if limit.unit != POINTS or span == (0.0, 1.0):
        return []
    low, high = span
    return [
        Problem(
            f"{score} lies between {low:g} and {high:g}, and percentage points are of scores from 0 to 1",
            remedy=f"give a limit in the score's own unit, such as {example}",
        )
    ]


def tells_nothing(score: str, scores: PairedScores) -> list[Problem]:
    """Return that a score is the same for all that was scored, which no limit that it meets can make a PASS."""
    if not scores.is_constant:
        return []
    return [
        Problem(
            f"{score} is {scores.mean_of(scores.base):g} for every example, of the base model too",
            why="So it tells neither examples nor models apart, and anything that is trained would pass.",
            remedy="let the score look at what the model answers",
        )
    ]


def no_score_learned(
    variant: TrainedVariant, side: FloatArray, scores: PairedScores, confidence: float
) -> list[Problem]:
    """Return that a variant is better than the base model neither by its loss nor by its score.

    Args:
        variant: The variant.
        side: Its scores.
        scores: All scores.
        confidence: One-sided confidence of a bound.
    """
    faults = learned_nothing(variant, confidence)
    # A loss may rise while the score still does too.
    return [] if faults and scores.gain(side, confidence).lower > 0 else faults


def no_gain(
    baseline: TrainedVariant,
    gain: Interval,
    score: str,
    *,
    rule: Rule,
    fall: Limit,
    status_at: Callable[[float], Status],
) -> Problem:
    """Return why nothing may be concluded next to a variant that hardly gained in its score.

    Args:
        baseline: The variant.
        gain: What it gained over the base model, in the unit of the limit.
        score: Name of the score.
        rule: How many times the limit it must gain.
        fall: The largest accepted fall, at least 0.
        status_at: Returns the gate's answer at another largest fall.
    """
    unit = " pp" if fall.unit == POINTS else ""
    return Problem(
        f"this test has no power: {baseline.label} gained only {gain.value:+.3g}{unit} {score}",
        why=f"Over the base model it gained at least {gain.lower:+.3g}{unit}, and {rule.gain_factor:g} times "
        f"the accepted fall of {fall.value:.3g}{unit} is needed: a variant that learned little could pass.",
        remedy=f"{_smaller(gain, rule, unit, status_at)}{explain.learn_more(baseline)}",
        rate_of=baseline.variant,
    )


def _smaller(gain: Interval, rule: Rule, unit: str, status_at: Callable[[float], Status]) -> str:
    """Return the largest limit that this gain allows, as the beginning of a sentence; "" if there is none."""
    most = gain.lower / rule.gain_factor if rule.gain_factor > 0 else 0.0
    if not most > 0:
        return ""
    text = explain.below(most)
    outcome = {"PASS": "", "FAIL": ", at which this result fails"}.get(status_at(float(text)))
    if outcome is None:
        return ""
    return f"if there is no more to learn, set a limit of at most {text}{unit}{outcome}; otherwise "
