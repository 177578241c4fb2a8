"""Intervals on plain arrays; this module knows nothing of models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtrit

__all__ = [
    "Effort",
    "Interval",
    "SeedNoise",
    "change_of_gap",
    "cluster",
    "effort_to_settle",
    "gap_interval",
    "line_weights",
    "mean_log_ratio",
    "one_run_interval",
    "perplexity_gap",
    "retention",
    "satterthwaite",
]

FloatArray = NDArray[np.float64]
_Row = Sequence[float]

_MOST_SEEDS, _MOST_TIMES = 100, 1000


@dataclass(frozen=True)
class SeedNoise:
    """The seeds' part of a gap's noise, calibrated beforehand on many seeds.

    Attributes:
        tau: Standard deviation of the gap over seeds, in nats per token.
        degrees_of_freedom: Number of seeds that were calibrated on, less one.
        taus: Standard deviation of the gap of each score over seeds, by its name, in the score's unit.
    """

    tau: float
    degrees_of_freedom: float
    taus: Mapping[str, float] = field(default_factory=dict, hash=False)

    def of_score(self, score: str) -> SeedNoise | None:
        """Return the noise of the gap in a score; None if it was not calibrated."""
        return replace(self, tau=self.taus[score]) if score in self.taus else None


@dataclass(frozen=True)
class Interval:
    """An estimate with its one-sided bounds.

    Attributes:
        value: The estimate.
        lower: Lower bound: the truth lies above it with the given confidence.
        upper: Upper bound, likewise.
        item_variance: Part of the estimate's variance that comes from the choice of evaluation sequences.
        seed_variance: Part that comes from the choice of seeds; 0 if there is one seed, which cannot show it.
        degrees_of_freedom: Satterthwaite's, for the sum of both.
    """

    value: float
    lower: float
    upper: float
    item_variance: float
    seed_variance: float
    degrees_of_freedom: float

    @property
    def is_finite(self) -> bool:
        """Whether the estimate and both bounds are numbers that can be compared."""
        return all(map(math.isfinite, (self.value, self.lower, self.upper)))


@dataclass(frozen=True)
class Effort:
    """What would settle a verdict in doubt if the estimate stays the same.

    Attributes:
        seeds: Seeds in all, with the same sequences; None if no affordable number is enough.
        sequences: Sequences (or documents) in all, with the same seeds; None likewise.
    """

    seeds: int | None
    sequences: int | None


def one_run_interval(
    ours: _Row, theirs: _Row, tokens: _Row, documents: tuple[int, ...] | None, confidence: float
) -> Interval | None:
    """Return the interval of ours minus theirs in nats per token, in which only the choice of the sequences is noise.

    None if there are fewer than two sequences or documents, or a loss is not finite.

    Args:
        ours: Summed loss of each sequence, in nats, of one model.
        theirs: Likewise, of the other model.
        tokens: Predicted tokens of each sequence.
        documents: Number of the document of each sequence; None if all are independent.
        confidence: One-sided confidence of each bound.
    """
    row, counts = np.subtract([ours], [theirs]), np.array(tokens, dtype=np.float64)
    if documents is not None:
        row, counts = cluster(row, documents), cluster(counts, documents)
    return gap_interval(row, counts, confidence) if len(counts) > 1 and np.isfinite(row).all() else None


def cluster(sums: FloatArray, documents: tuple[int, ...]) -> FloatArray:
    """Sum losses, differences or token counts over the sequences of each document.

    Sequences cut from one document are not independent, so the document is the unit of the interval.

    Args:
        sums: One value per sequence in the last dimension, shape (..., sequences).
        documents: Number of each sequence's document, length sequences.

    Returns:
        An array of shape (..., documents).
    """
    _, index = np.unique(np.asarray(documents), return_inverse=True)

    def add_up(row: FloatArray) -> FloatArray:
        return np.bincount(index, weights=row).astype(np.float64)

    return np.apply_along_axis(add_up, -1, sums)


def gap_interval(
    differences: FloatArray,
    tokens: FloatArray,
    confidence: float,
    seed_noise: SeedNoise | None = None,
    *,
    terms: Sequence[FloatArray] = (),
) -> Interval:
    """Return the gap per token with one-sided bounds that count both noises: sequences and seeds.

    The gap is a ratio estimator, sum of differences over sum of tokens; the variance of its sequence part is
    that of its linearisation (Cochran, Sampling Techniques, 1977, chapter 6). Sequences are crossed with
    seeds, so the two variance components are added, with Satterthwaite's degrees of freedom.

    A few seeds often lie closer together by chance than many do. With skewed noise this happens just when the gap is
    small. So the seeds' part is the larger of two estimates: from the differences, and from each side alone. On really
    trained pairs this brought false passes at the margin from 8 to 5 % (docs/error-rates.md).

    With one seed and no calibration the seeds' part is unknown: then the interval is about these checkpoints only.

    Args:
        differences: Summed loss of the candidate minus that of the baseline, in nats, shape (k seeds, n sequences).
        tokens: Predicted tokens of each sequence, shape (n,).
        confidence: One-sided confidence of each bound, between 0.5 and 1.
        seed_noise: The seeds' part if it was calibrated; it replaces the estimate from these k seeds.
        terms: What the differences were made of, each of their shape, for the second estimate of the seeds' part.

    Raises:
        ValueError: The shapes do not match, n < 2, a value is not finite, or the confidence is out of range.
    """
    d = np.asarray(differences, dtype=np.float64)
    n_tokens = np.asarray(tokens, dtype=np.float64)
    _check(d, n_tokens, confidence)
    k, n = d.shape
    gap = d.sum() / (k * n_tokens.sum())
    residuals = (d.mean(axis=0) - gap * n_tokens) / n_tokens.mean()
    item_variance = residuals.var(ddof=1) / n
    seed_variance, seed_freedom = _seeds_part(d, n_tokens, terms, seed_noise)
    half_width, freedom = satterthwaite(item_variance, seed_variance, n - 1, seed_freedom, confidence)
    return Interval(
        value=float(gap),
        lower=float(gap - half_width),
        upper=float(gap + half_width),
        item_variance=float(item_variance),
        seed_variance=float(seed_variance),
        degrees_of_freedom=float(freedom),
    )


def _seeds_part(
    differences: FloatArray, tokens: FloatArray, terms: Sequence[FloatArray], seed_noise: SeedNoise | None
) -> tuple[float, float]:
    """Return the seeds' part of the variance of a gap, with its degrees of freedom; see `gap_interval`."""
    count = len(differences)
    if seed_noise is not None:
        return seed_noise.tau**2 / count, seed_noise.degrees_of_freedom
    if count == 1:
        return 0.0, 1
    apart = sum(_seed_variance(term, tokens) for term in terms)
    return max(_seed_variance(differences, tokens), apart) / count, count - 1


def change_of_gap(
    now: FloatArray, then: FloatArray, tokens: FloatArray, confidence: float, *, paired: bool
) -> Interval:
    """Return by how much a gap per token has changed: the difference of differences, with its bounds.

    The sequences are the same on both sides. If the seeds are paired, their noise is estimated from the pairs alone:
    each is a difference of two like things, so it is not skewed as a gap is (docs/error-rates.md). Without pairs the
    noises of both sides are added.

    Args:
        now: Summed loss of the candidate minus that of the baseline, in nats, shape (k seeds, n sequences).
        then: Likewise, at the earlier commit; of the same shape if the seeds are paired.
        tokens: Predicted tokens of each sequence, shape (n,).
        confidence: One-sided confidence of each bound.
        paired: Whether the rows of both sides belong to the same seeds.

    Raises:
        ValueError: As for `gap_interval`; or the seeds are not paired and a side has one only, which shows no noise.
    """
    if paired:
        return gap_interval(now - then, tokens, confidence)
    if min(len(now), len(then)) < 2:
        message = f"without pairs each side needs at least two seeds, got {len(now)} and {len(then)}"
        raise ValueError(message)
    ours, theirs = (_seed_variance(side, tokens) / len(side) for side in (now, then))
    _, freedom = satterthwaite(ours, theirs, len(now) - 1, len(then) - 1, confidence)
    noise = SeedNoise(math.sqrt(ours + theirs), float(freedom))
    means = now.mean(axis=0, keepdims=True) - then.mean(axis=0, keepdims=True)
    return gap_interval(means, tokens, confidence, noise)


def _seed_variance(values: FloatArray, tokens: FloatArray) -> float:
    return float((values.sum(axis=1) / tokens.sum()).var(ddof=1))


def _check(d: FloatArray, n_tokens: FloatArray, confidence: float) -> None:
    if d.ndim != 2 or d.shape[0] < 1 or d.shape[1] < 2 or n_tokens.shape != (d.shape[1],):
        message = (
            f"need differences of shape (seeds, sequences >= 2) and as many tokens, got {d.shape}, {n_tokens.shape}"
        )
        raise ValueError(message)
    if not (np.isfinite(d).all() and np.isfinite(n_tokens).all() and (n_tokens > 0).all()):
        message = "differences and tokens must be finite, and tokens above 0"
        raise ValueError(message)
    if not 0.5 < confidence < 1:
        message = f"confidence must lie between 0.5 and 1, got {confidence!r}"
        raise ValueError(message)


def satterthwaite(
    item_variance: Any, seed_variance: Any, item_freedom: Any, seed_freedom: Any, confidence: float
) -> tuple[Any, Any]:
    """Return the distance of the bounds from the estimate, and the degrees of freedom; also for arrays of each."""
    variance = np.add(item_variance, seed_variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Satterthwaite's formula in shares of the sum, which cannot underflow; without any variance nothing is unsure.
        item_share = np.where(variance > 0, item_variance / variance, 1.0)
        freedom = 1 / (item_share**2 / item_freedom + (1 - item_share) ** 2 / seed_freedom)
    # The same quantile as scipy.stats.t.ppf, without the second that importing scipy.stats costs.
    return stdtrit(freedom, confidence) * np.sqrt(variance), np.where(variance > 0, freedom, np.inf)


def effort_to_settle(
    interval: Interval, limit: float, shape: tuple[int, int], confidence: float, seed_noise: SeedNoise | None = None
) -> Effort:
    """Return how many seeds, or sequences, alone would make an interval that does not contain the limit.

    Args:
        interval: The interval.
        limit: The limit, which it contains.
        shape: Numbers of seeds and sequences that the interval rests on.
        confidence: One-sided confidence of each bound.
        seed_noise: The calibrated noise of seeds that the interval was computed with.
    """
    k, n = shape
    distance = abs(interval.value - limit)

    def first(numbers: FloatArray, seeds: Any, sequences: Any) -> int | None:
        half_width, _ = satterthwaite(
            interval.item_variance * n / sequences,
            interval.seed_variance * k / seeds,
            sequences - 1,
            np.maximum(1, seeds - 1) if seed_noise is None else seed_noise.degrees_of_freedom,
            confidence,
        )
        enough = np.flatnonzero(half_width < distance)
        return int(numbers[enough[0]]) if len(enough) else None

    seeds = np.arange(k + 1, _MOST_SEEDS + 1, dtype=np.float64)
    sequences = np.unique(np.ceil(n * np.geomspace(1, _MOST_TIMES, 400)))
    return Effort(
        seeds=first(seeds, seeds, float(n)) if interval.seed_variance > 0 and len(seeds) else None,
        sequences=first(sequences, float(k), sequences),
    )


def line_weights(steps: Sequence[int], at: int) -> tuple[FloatArray, FloatArray]:
    """Return the weights that turn values along training into a slope and a prediction.

    The least-squares line through the values against log(step) is a weighted sum of them, and so a sum over the
    sequences of any one of them: the same interval that judges a gap judges its slope.

    Args:
        steps: Steps at which the values were measured, at least two different ones, all above 0.
        at: The step of the prediction.

    Returns:
        Weights of the slope per unit of log(step), and of the line's value at the step.
    """
    x = np.log(np.asarray(steps, dtype=np.float64))
    centred = x - x.mean()
    slope = centred / (centred**2).sum()
    return slope, 1 / len(x) + slope * (math.log(at) - x.mean())


def perplexity_gap(
    candidate: FloatArray, baseline: FloatArray, tokens: FloatArray, confidence: float, seed_noise: SeedNoise | None
) -> Interval:
    """Return the gap between the perplexities exp(mean loss), candidate minus baseline, with its bounds.

    The bounds are those of the delta method: exp is taken as a straight line over the width of the interval.

    Args:
        candidate: Summed losses in nats, shape (k seeds, n sequences).
        baseline: Likewise, paired by seed and sequence.
        tokens: Predicted tokens of each sequence, shape (n,).
        confidence: One-sided confidence of each bound.
        seed_noise: Calibrated noise of the loss gap, which the baseline's perplexity turns into one of this gap.
    """
    scale = len(candidate) * tokens.sum()
    ours, theirs = candidate.sum() / scale, baseline.sum() / scale
    terms = (math.exp(ours) * (candidate - ours * tokens), math.exp(theirs) * (baseline - theirs * tokens))
    noise = None if seed_noise is None else replace(seed_noise, tau=seed_noise.tau * math.exp(max(ours, theirs)))
    centred = gap_interval(terms[0] - terms[1], tokens, confidence, noise, terms=terms)
    value = math.exp(ours) - math.exp(theirs)
    return replace(centred, value=value, lower=value + centred.lower, upper=value + centred.upper)


def retention(
    candidate: FloatArray, baseline: FloatArray, base: FloatArray, tokens: FloatArray, confidence: float
) -> Interval:
    """Return the share of the baseline's gain over the base model that the candidate retains, with its bounds.

    At the true share f, candidate - f baseline - (1 - f) base has mean 0. A share is refused if the interval of gaps
    excludes 0 (Fieller's method). This needs a gain that is clearly above 0.

    Args:
        candidate: Summed losses in nats, shape (k seeds, n sequences).
        baseline: Likewise, paired by seed and sequence.
        base: Summed losses of the base model, shape (n,).
        tokens: Predicted tokens of each sequence, shape (n,).
        confidence: One-sided confidence of each bound.

    Raises:
        ValueError: The gain is not clearly above 0.
    """
    gain = gap_interval(base - baseline, tokens, confidence)
    if not gain.lower > 0:
        message = f"the baseline's gain over the base model is not clearly above 0: {gain.value:g}, from {gain.lower:g}"
        raise ValueError(message)

    def at(share: float) -> Interval:
        terms = (candidate, share * baseline)
        return gap_interval(candidate - terms[1] - (1 - share) * base, tokens, confidence, terms=terms)

    def root(bound: Callable[[Interval], float]) -> float:
        reach = 2.0
        while not (bound(at(-reach)) < 0 < bound(at(reach))):
            reach *= 2
        return float(brentq(lambda share: bound(at(share)), -reach, reach, xtol=1e-9))

    value = float((base - candidate).sum() / (base - baseline).sum())
    here = at(value)
    return replace(
        here,
        value=value,
        lower=root(lambda interval: interval.upper),
        upper=root(lambda interval: interval.lower),
        item_variance=here.item_variance / gain.value**2,
        seed_variance=here.seed_variance / gain.value**2,
    )


def mean_log_ratio(candidate: FloatArray, baseline: FloatArray, confidence: float) -> Interval:
    """Return the ratio of paired durations, candidate over baseline, with bounds from a t test on the log scale.

    Args:
        candidate: Durations, one per seed, shape (k >= 2,).
        baseline: Likewise, paired by seed.
        confidence: One-sided confidence of each bound.

    Raises:
        ValueError: There are fewer than two pairs, or a duration is not above 0.
    """
    if candidate.shape != baseline.shape or len(candidate) < 2 or not ((candidate > 0) & (baseline > 0)).all():
        message = f"need at least two pairs of durations above 0, got {candidate} and {baseline}"
        raise ValueError(message)
    logs = np.log(candidate / baseline)
    variance = logs.var(ddof=1) / len(logs)
    half_width = stdtrit(len(logs) - 1, confidence) * math.sqrt(variance)
    value = float(logs.mean())
    lower, upper = math.exp(value - half_width), math.exp(value + half_width)
    return Interval(math.exp(value), lower, upper, 0.0, float(variance), float(len(logs) - 1))
