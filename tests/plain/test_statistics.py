"""The interval of the gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_ftguard.statistics import FloatArray, cluster, gap_interval


def sample(k: int, n: int, seed: int) -> tuple[FloatArray, FloatArray]:
    random = np.random.default_rng(seed)
    tokens = random.integers(5, 130, n).astype(np.float64)
    return random.normal(0.01, 0.05, (k, n)) * tokens, tokens


@given(k=st.integers(1, 8), n=st.integers(2, 300), seed=st.integers(0, 999), confidence=st.floats(0.6, 0.99))
@settings(deadline=None, max_examples=50)
def test_the_bounds_are_those_of_the_formula(k: int, n: int, seed: int, confidence: float) -> None:
    """The interval agrees with the two-component formula written out with scipy.stats."""
    d, tokens = sample(k, n, seed)
    found = gap_interval(d, tokens, confidence)
    r = d.sum() / (k * tokens.sum())
    z = (d.mean(axis=0) - r * tokens) / tokens.mean()
    v_items = z.var(ddof=1) / n
    v_seeds = (d.sum(axis=1) / tokens.sum()).var(ddof=1) / k if k > 1 else 0.0
    df = (v_items + v_seeds) ** 2 / (v_items**2 / (n - 1) + (v_seeds**2 / (k - 1) if k > 1 else 0))
    scale = np.sqrt(v_items + v_seeds)
    lower, upper = (float(stats.t.ppf(p, df, loc=r, scale=scale)) for p in (1 - confidence, confidence))
    assert found.value == pytest.approx(r, abs=1e-12)
    assert (found.lower, found.upper) == pytest.approx((lower, upper), rel=1e-6, abs=1e-9)


@given(k=st.integers(1, 4), n=st.integers(2, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_the_order_of_sequences_and_seeds_does_not_matter(k: int, n: int, seed: int) -> None:
    """Permuting rows and columns leaves the interval where it is."""
    d, tokens = sample(k, n, seed)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(k), random.permutation(n)
    ours, theirs = gap_interval(d, tokens, 0.95), gap_interval(d[rows][:, columns], tokens[columns], 0.95)
    assert (ours.value, ours.lower, ours.upper) == pytest.approx((theirs.value, theirs.lower, theirs.upper), rel=1e-9)


def test_distinct_documents_change_nothing_and_shared_ones_do() -> None:
    """Clustering by document is summing, so documents of one sequence each are the sequences."""
    d, tokens = sample(3, 60, 1)
    alone, n_alone = cluster(d, tokens, tuple(range(60)))
    assert np.array_equal(alone, d)
    assert np.array_equal(n_alone, tokens)
    sums, n_pairs = cluster(d, tokens, tuple(i // 2 for i in range(60)))
    assert np.allclose(sums, d[:, ::2] + d[:, 1::2])
    assert np.array_equal(n_pairs, tokens[::2] + tokens[1::2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    """No interval is ever made of NaN."""
    d, tokens = sample(2, 10, 0)
    d[1, 3] = bad
    with pytest.raises(ValueError, match="finite"):
        gap_interval(d, tokens, 0.95)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 0.0, np.nan])
def test_a_confidence_outside_its_range_is_refused(confidence: float) -> None:
    """One half and one are outside."""
    with pytest.raises(ValueError, match="confidence"):
        gap_interval(*sample(2, 10, 0), confidence)


def test_at_the_margin_a_bad_merge_passes_in_about_a_twentieth_of_runs() -> None:
    """Three seeds of SD 0.006 and 256 sequences of SD 0.058: the rate of false passes stays near 5 %."""
    random = np.random.default_rng(0)
    margin, runs, n, k = 0.02, 1500, 256, 3
    tokens = np.full(n, 127.0)
    passed = 0
    for _ in range(runs):
        items, seeds = random.normal(0, 0.058, n), random.normal(0, 0.006, (k, 1))
        passed += gap_interval((margin + items + seeds) * tokens, tokens, 0.95).upper <= margin
    assert 0.03 < passed / runs < 0.07
