"""Intervals on plain arrays; this module knows nothing of models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

__all__ = ["Interval", "cluster", "gap_interval"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its one-sided bounds.

    Attributes:
        value: The estimate.
        lower: Lower bound: the truth lies above it with the given confidence.
        upper: Upper bound, likewise.
        item_variance: Part of the estimate's variance that comes from the choice of evaluation sequences.
        seed_variance: Part that comes from the choice of seeds; 0 where there is one seed, which cannot show it.
        degrees_of_freedom: Satterthwaite's, for the sum of both.
    """

    value: float
    lower: float
    upper: float
    item_variance: float
    seed_variance: float
    degrees_of_freedom: float


def cluster(differences: FloatArray, tokens: FloatArray, documents: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Sum differences and token counts over the sequences of each document.

    Sequences cut from one document are not independent, so the document is the unit of the interval.

    Args:
        differences: Differences of summed losses, shape (seeds, sequences).
        tokens: Tokens per sequence, shape (sequences,).
        documents: Number of each sequence's document, length sequences.

    Returns:
        Arrays of shape (seeds, documents) and (documents,).
    """
    _, index = np.unique(np.asarray(documents), return_inverse=True)
    count = int(index.max()) + 1
    sums = np.stack([np.bincount(index, weights=row, minlength=count) for row in differences])
    return sums.astype(np.float64), np.bincount(index, weights=tokens, minlength=count).astype(np.float64)


def gap_interval(differences: FloatArray, tokens: FloatArray, confidence: float) -> Interval:
    """Return the gap per token with one-sided bounds that count both noises: sequences and seeds.

    The gap is a ratio estimator, sum of differences over sum of tokens; the variance of its sequence part is
    that of its linearisation (Cochran, Sampling Techniques, 1977, chapter 6). Sequences are crossed with
    seeds, so the two variance components are added, with Satterthwaite's degrees of freedom.

    With one seed the seeds' part is unknown: the interval then speaks of these two checkpoints only.

    Args:
        differences: Summed loss of the candidate minus that of the baseline, in nats, shape (k seeds, n sequences).
        tokens: Predicted tokens of each sequence, shape (n,).
        confidence: One-sided confidence of each bound, between 0.5 and 1.

    Raises:
        ValueError: The shapes do not match, n < 2, a value is not finite, or the confidence is out of range.
    """
    d = np.asarray(differences, dtype=np.float64)
    n_tokens = np.asarray(tokens, dtype=np.float64)
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
    k, n = d.shape
    gap = d.sum() / (k * n_tokens.sum())
    residuals = (d.mean(axis=0) - gap * n_tokens) / n_tokens.mean()
    item_variance = residuals.var(ddof=1) / n
    seed_variance = (d.sum(axis=1) / n_tokens.sum()).var(ddof=1) / k if k > 1 else 0.0
    variance = item_variance + seed_variance
    if variance == 0:
        return Interval(float(gap), float(gap), float(gap), 0.0, 0.0, math.inf)
    # Satterthwaite's formula in shares of the sum, which cannot underflow.
    item_share = item_variance / variance
    freedom = 1 / (item_share**2 / (n - 1) + ((1 - item_share) ** 2 / (k - 1) if k > 1 else 0.0))
    # The same quantile as scipy.stats.t.ppf, without the second that importing scipy.stats costs.
    half_width = stdtrit(freedom, confidence) * math.sqrt(variance)
    return Interval(
        value=float(gap),
        lower=float(gap - half_width),
        upper=float(gap + half_width),
        item_variance=float(item_variance),
        seed_variance=float(seed_variance),
        degrees_of_freedom=float(freedom),
    )
