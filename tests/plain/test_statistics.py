"""The interval of the gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_ftguard.statistics import (
    FloatArray,
    SeedNoise,
    cluster,
    effort_to_settle,
    gap_interval,
    line_weights,
    mean_log_ratio,
    perplexity_gap,
    retention,
)


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
    """Permuting rows and columns does not change the interval."""
    d, tokens = sample(k, n, seed)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(k), random.permutation(n)
    ours, theirs = gap_interval(d, tokens, 0.95), gap_interval(d[rows][:, columns], tokens[columns], 0.95)
    assert (ours.value, ours.lower, ours.upper) == pytest.approx((theirs.value, theirs.lower, theirs.upper), rel=1e-9)


def test_distinct_documents_change_nothing_and_shared_ones_do() -> None:
    """Clustering by document is summing, so documents of one sequence each are the sequences."""
    d, tokens = sample(3, 60, 1)
    alone = tuple(range(60))
    assert np.array_equal(cluster(d, alone), d)
    assert np.array_equal(cluster(tokens, alone), tokens)
    pairs = tuple(i // 2 for i in range(60))
    assert np.allclose(cluster(d, pairs), d[:, ::2] + d[:, 1::2])
    assert np.array_equal(cluster(tokens, pairs), tokens[::2] + tokens[1::2])


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


@given(slope=st.floats(-1, 1), level=st.floats(-3, 3), last=st.integers(8, 10_000))
@settings(deadline=None, max_examples=50)
def test_a_straight_line_in_log_steps_is_found_and_continued(slope: float, level: float, last: int) -> None:
    """The weights give the slope and the value at any step of values that lie on a line."""
    steps = (last // 4, last // 2, last)
    values = level + slope * np.log(steps)
    slope_weights, weights = line_weights(steps, at=2 * last)
    assert slope_weights @ values == pytest.approx(slope, abs=1e-9)
    assert weights @ values == pytest.approx(level + slope * np.log(2 * last), abs=1e-9)


@given(k=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_a_share_is_within_the_bounds_of_retention_exactly_where_its_gap_is_not_refused(k: int, seed: int) -> None:
    """The bounds invert the interval of candidate - f baseline - (1 - f) base."""
    random = np.random.default_rng(seed)
    tokens = np.full(100, 127.0)
    base = random.normal(3, 0.3, 100) * tokens
    baseline = base - random.normal(0.5, 0.1, (k, 100)) * tokens
    candidate = base - random.normal(0.4, 0.1, (k, 100)) * tokens
    found = retention(candidate, baseline, base, tokens, 0.95)
    assert found.lower < found.value < found.upper
    for share in (found.lower - 1e-4, found.lower + 1e-4, found.value, found.upper - 1e-4, found.upper + 1e-4):
        terms = (candidate, share * baseline)
        gap = gap_interval(candidate - terms[1] - (1 - share) * base, tokens, 0.95, terms=terms)
        assert (found.lower <= share <= found.upper) == (gap.lower <= 0 <= gap.upper)


def test_retention_needs_a_gain() -> None:
    """A gain is refused if its lower bound is not above 0."""
    base = np.full(10, 3.0)
    with pytest.raises(ValueError, match="gain"):
        retention(np.full((1, 10), 2.0), np.full((1, 10), 3.0), base, np.ones(10), 0.95)


@given(k=st.integers(2, 5), seed=st.integers(0, 99), distance=st.floats(0.001, 0.02))
@settings(deadline=None, max_examples=50)
def test_the_number_of_seeds_that_is_named_is_the_first_that_is_enough(k: int, seed: int, distance: float) -> None:
    """With that many the half-width is below the distance to the limit, with one less it is not."""
    random = np.random.default_rng(seed)
    tokens = np.full(256, 127.0)
    d = (random.normal(0, 0.02, 256) + random.normal(0, 0.01, (k, 1))) * tokens
    interval = gap_interval(d, tokens, 0.95)
    effort = effort_to_settle(interval, interval.value + distance, (k, 256), 0.95)

    def half_width(seeds: int) -> float:
        items, ours = interval.item_variance, interval.seed_variance * k / seeds
        df = (items + ours) ** 2 / (items**2 / 255 + ours**2 / (seeds - 1))
        return float(stats.t.ppf(0.95, df) * np.sqrt(items + ours))

    if effort.seeds is None:
        assert half_width(100) >= distance
    else:
        assert half_width(effort.seeds) < distance
        assert effort.seeds == k + 1 or half_width(effort.seeds - 1) >= distance


def test_calibrated_noise_replaces_that_of_the_seeds_at_hand() -> None:
    """One seed with a calibrated tau has the bounds of the formula; without it only sequences count."""
    d, tokens = sample(1, 200, 3)
    alone, known = gap_interval(d, tokens, 0.95), gap_interval(d, tokens, 0.95, SeedNoise(0.01, 9))
    assert alone.seed_variance == 0
    assert known.seed_variance == pytest.approx(1e-4)
    items = known.item_variance
    df = (items + 1e-4) ** 2 / (items**2 / 199 + 1e-8 / 9)
    assert known.upper - known.value == pytest.approx(stats.t.ppf(0.95, df) * np.sqrt(items + 1e-4))


def test_the_perplexity_gap_is_that_of_the_mean_losses() -> None:
    """Exp of each mean, subtracted; the bounds stand on both sides of it."""
    candidate, baseline = np.full((2, 50), 210.0), np.full((2, 50), 200.0)
    candidate[:, ::2] += 1
    found = perplexity_gap(candidate, baseline, np.full(50, 100.0), 0.95, None)
    assert found.value == pytest.approx(np.exp(2.105) - np.exp(2.0))
    assert found.lower < found.value < found.upper


def test_a_ratio_of_times_is_judged_on_the_log_scale() -> None:
    """Half and double have the mean 1, and a pair is needed at least twice."""
    found = mean_log_ratio(np.array([1.0, 4.0]), np.array([2.0, 2.0]), 0.95)
    assert found.value == pytest.approx(1)
    assert found.lower * found.upper == pytest.approx(1)
    for bad in (np.array([1.0]), np.array([0.0, 1.0]), np.array([np.nan, 1.0])):
        with pytest.raises(ValueError, match="two pairs"):
            mean_log_ratio(bad, np.ones(len(bad)), 0.95)


@given(k=st.integers(2, 6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_the_larger_estimate_of_the_seeds_part_counts(k: int, seed: int) -> None:
    """From the paired gaps, or from both variants apart; the estimate itself does not move."""
    random = np.random.default_rng(seed)
    tokens = np.full(100, 127.0)
    ours, theirs = ((2 + random.normal(0, 0.01, (k, 1)) + random.normal(0, 0.02, 100)) * tokens for _ in range(2))
    paired = gap_interval(ours - theirs, tokens, 0.95)
    found = gap_interval(ours - theirs, tokens, 0.95, terms=(ours, theirs))
    apart = sum((x.sum(axis=1) / tokens.sum()).var(ddof=1) for x in (ours, theirs)) / k
    assert found.value == paired.value
    assert found.seed_variance == pytest.approx(max(paired.seed_variance, apart))
    assert found.upper >= paired.upper - 1e-12
