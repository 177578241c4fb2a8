"""Intervals of scores per example, such as accuracy, that also hold if few examples differ or none does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, stdtrit

from pytest_ftguard.statistics import FloatArray, Interval, SeedNoise, gap_interval, satterthwaite

__all__ = ["score_gap", "score_mean"]

# This share of the span is taken for rounding.
_ROUNDING = 1e-6
# So many units that differ show how much of a unit differs at a time.
_MANY = 30


@dataclass(frozen=True)
class _Total:
    """A total over units, each of which adds something from 0 up to what the largest unit can add.

    Attributes:
        value: The total.
        lower: Lower limit of its expectation.
        upper: Upper limit, likewise.
        square: Sum of squares of what the units add.
    """

    value: float
    lower: float
    upper: float
    square: float


def score_gap(
    candidate: FloatArray,
    baseline: FloatArray,
    counts: FloatArray,
    confidence: float,
    seed_noise: SeedNoise | None = None,
    *,
    span: tuple[float, float],
) -> Interval:
    """Return the candidate's mean score less the baseline's, with one-sided bounds; below 0 the candidate is worse.

    Each bound is the wider of two. One is that of `gap_interval`, which suits many different examples. It has no
    width if both variants answer alike everywhere, and is too narrow if few answers differ. The other holds then:

    1. The difference of a unit, averaged over the seeds, is a shortfall or an excess. `_total` gives limits for the
       total of each, which hold for small counts too.
    2. Both are combined by squaring and adding the distances from limit to estimate, with the term of their
       correlation (Newcombe, Statistics in Medicine 1998, 17:2635, method 10, for paired proportions; in general, under
       the name of MOVER, Zou and Donner, Statistics in Medicine 2008, 27:1693).
    3. The distance becomes a variance of the examples, and the seeds' part is added as in `gap_interval`.

    benchmarks/results/proof_scores.txt tells how often a gate with these bounds errs.

    Args:
        candidate: Summed scores of each unit, shape (k seeds, n units). A unit is an example or a cluster of examples.
        baseline: Likewise, paired by seed and unit.
        counts: Examples of each unit, shape (n,).
        confidence: One-sided confidence of each bound, between 0.5 and 1.
        seed_noise: The seeds' part if it was calibrated, in units of the score.
        span: Lowest and highest score that an example can have.

    Raises:
        ValueError: The shapes do not match, n < 2, a score is not within the span, or the confidence is out of range.
    """
    candidate, baseline, counts = (np.asarray(values, dtype=np.float64) for values in (candidate, baseline, counts))
    _check(candidate, counts, span)
    _check(baseline, counts, span)
    if candidate.shape != baseline.shape:
        message = f"candidate and baseline must be of one shape, got {candidate.shape}, {baseline.shape}"
        raise ValueError(message)
    plain = gap_interval(candidate - baseline, counts, confidence, seed_noise, terms=(candidate, baseline))
    reach = span[1] - span[0]
    differences = (candidate - baseline).mean(axis=0) / reach
    differences[abs(differences) < _ROUNDING * counts] = 0.0
    shortfall, excess = (_total(np.maximum(0.0, sign * differences), counts, confidence) for sign in (-1, 1))
    correlation = _correlation(shortfall, excess, len(counts))
    down = _square_and_add(excess.value - excess.lower, shortfall.upper - shortfall.value, correlation)
    up = _square_and_add(excess.upper - excess.value, shortfall.value - shortfall.lower, correlation)
    scale = reach / float(counts.sum())
    freedom = max(1, len(candidate) - 1) if seed_noise is None else seed_noise.degrees_of_freedom
    return _widened(plain, (scale * down, scale * up), (len(counts) - 1, freedom), confidence, (-reach, reach))


def score_mean(scores: FloatArray, counts: FloatArray, confidence: float, *, span: tuple[float, float]) -> Interval:
    """Return the mean score of one variant with one-sided bounds, which also hold if all or no answers are right.

    Each bound is the wider of two, as for `score_gap`. Here the second is the upper limit of what is missing to the
    highest score, for the lower bound, and of what is above the lowest score, for the upper bound. For one seed and
    scores that are 0 or 1 both are the limits of Clopper and Pearson.

    Args:
        scores: Summed scores of each unit, shape (k seeds, n units). A unit is an example or a cluster of examples.
        counts: Examples of each unit, shape (n,).
        confidence: One-sided confidence of each bound, between 0.5 and 1.
        span: Lowest and highest score that an example can have.

    Raises:
        ValueError: As for `score_gap`.
    """
    scores, counts = np.asarray(scores, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    _check(scores, counts, span)
    plain = gap_interval(scores, counts, confidence)
    reach = span[1] - span[0]
    reached = np.clip((scores.mean(axis=0) - span[0] * counts) / reach, 0.0, counts)
    missed, got = (_total(weights, counts, confidence) for weights in (counts - reached, reached))
    scale = reach / float(counts.sum())
    distances = (scale * (missed.upper - missed.value), scale * (got.upper - got.value))
    return _widened(plain, distances, (len(counts) - 1, max(1, len(scores) - 1)), confidence, span)


def _check(scores: FloatArray, counts: FloatArray, span: tuple[float, float]) -> None:
    if scores.ndim != 2 or scores.shape[0] < 1 or scores.shape[1] < 2 or counts.shape != (scores.shape[1],):
        message = f"need scores of shape (seeds, units >= 2) and as many counts, got {scores.shape}, {counts.shape}"
        raise ValueError(message)
    lowest, highest = span
    if not (lowest < highest and math.isfinite(highest - lowest)):
        message = f"span must be a lowest and a highest score, got {span!r}"
        raise ValueError(message)
    if not (np.isfinite(counts).all() and (counts > 0).all()):
        message = "counts must be finite and above 0"
        raise ValueError(message)
    slack = _ROUNDING * (highest - lowest) * counts
    if not ((scores >= lowest * counts - slack) & (scores <= highest * counts + slack)).all():
        message = f"each score must be a number within the span, from {lowest:g} to {highest:g}"
        raise ValueError(message)


def _total(weights: FloatArray, counts: FloatArray, confidence: float) -> _Total:
    """Return a total with the limits of Clopper and Pearson (Biometrika 1934, 26:404) on an effective count.

    Fay and Feuer (Statistics in Medicine 1997, 16:791) make an effective count of a sum of weighted Poisson counts: the
    sum and its variance are those of one count times a scale. For the upper limit one more unit is added, with the
    largest weight that a unit can have. Here the count is binomial, out of as many as there are units, so that its
    variance is also that of the weights if most units have one. If all weights are 0 or 1, the limits are exact.

    That one more unit may be as large as the largest there is: next time all of its examples may differ. If many units
    have a weight, the largest of these weights shows how much of a unit differs at a time, and stands for it. On groups
    of 1 to 50 examples, of which single ones or all differ, at most 5 % of gaps at the margin passed either way.
    """
    units, largest = len(weights), float(counts.max())
    if np.count_nonzero(weights > _ROUNDING * counts) >= _MANY:
        largest = float(weights.max())
    total, square = float(weights.sum()), float((weights**2).sum())
    lower = 0.0
    if square > 0:
        scale = square / total
        lower = scale * units * float(betaincinv(total / scale, units - total / scale + 1, 1 - confidence))
    scale = (square + largest**2) / (total + largest)
    effective = (total + largest) / scale
    # No more than units + 1 by the inequality of Cauchy and Schwarz, and just as many if all weights are the largest.
    rest = max(units + 1 - effective, 0.0)
    upper = scale * units * (float(betaincinv(effective, rest, confidence)) if rest > _ROUNDING else 1.0)
    return _Total(total, min(lower, total), max(upper, total), square)


def _correlation(one: _Total, other: _Total, units: int) -> float:
    """Return the correlation of two totals to which no unit adds both; 0 if there is none in one of them."""
    scatter = [total.square - total.value**2 / units for total in (one, other)]
    if min(scatter) <= 0:
        return 0.0
    return max(-1.0, -one.value * other.value / units / math.sqrt(scatter[0] * scatter[1]))


def _square_and_add(one: float, other: float, correlation: float) -> float:
    return math.sqrt(one**2 + other**2 - 2 * correlation * one * other)


def _widened(
    plain: Interval,
    distances: tuple[float, float],
    freedom: tuple[float, float],
    confidence: float,
    limits: tuple[float, float],
) -> Interval:
    """Return an interval with each bound at least as far away as a distance and the seeds' part say.

    Args:
        plain: The interval.
        distances: Of the lower and the upper bound from the estimate, without the seeds' part.
        freedom: Degrees of freedom of the items' and of the seeds' variance.
        confidence: One-sided confidence of each bound.
        limits: What the truth cannot leave, nor a bound.
    """
    sides = []
    for distance, so_far in zip(distances, (plain.value - plain.lower, plain.upper - plain.value), strict=True):
        items = max(plain.item_variance, (distance / float(stdtrit(freedom[0], confidence))) ** 2)
        half_width, both = satterthwaite(items, plain.seed_variance, *freedom, confidence)
        # With more variance of the items the quantile may fall towards theirs, so this bound may be the closer one.
        sides.append(
            max((float(half_width), items, float(both)), (so_far, plain.item_variance, plain.degrees_of_freedom))
        )
    lower, upper = (side[0] for side in sides)
    _, item_variance, degrees = max(sides)
    return Interval(
        value=plain.value,
        lower=min(plain.value, max(float(limits[0]), plain.value - lower)),
        upper=max(plain.value, min(float(limits[1]), plain.value + upper)),
        item_variance=item_variance,
        seed_variance=plain.seed_variance,
        degrees_of_freedom=degrees,
    )
