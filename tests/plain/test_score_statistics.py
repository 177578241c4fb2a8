"""The intervals of scores: gaps between two variants, and means of one."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_ftguard.score_statistics import score_gap, score_mean
from pytest_ftguard.statistics import FloatArray, SeedNoise, gap_interval

SPAN = (0.0, 1.0)


def right_or_wrong(seeds: int, examples: int, share: float, seed: int) -> FloatArray:
    random = np.random.default_rng(seed)
    return (random.random((seeds, examples)) < share).astype(np.float64)


def clustered(seeds: int, units: int, seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return sums of the scores of two sides, and the sizes of the units."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 6, units).astype(np.float64)
    ours, theirs = (random.choice([0, 0.5, 1], (seeds, units), p=[0.2, 0.2, 0.6]) * counts for _ in range(2))
    return ours, theirs, counts


def exact(count: int, examples: int, confidence: float) -> tuple[float, float]:
    """Return the one-sided limits of Clopper and Pearson."""
    found = stats.binomtest(count, examples).proportion_ci(2 * confidence - 1, "exact")
    return float(found.low), float(found.high)


some = settings(deadline=None, max_examples=50)
cases = {"k": st.integers(1, 5), "n": st.integers(2, 80), "seed": st.integers(0, 999)}


@given(**cases, confidence=st.floats(0.6, 0.99))
@some
def test_the_estimate_lies_between_its_bounds_and_all_within_the_span(
    k: int, n: int, seed: int, confidence: float
) -> None:
    """No bound of a gap or of a mean is on the wrong side, nor where no score can be."""
    ours, theirs, counts = clustered(k, n, seed)
    gap = score_gap(ours, theirs, counts, confidence, span=SPAN)
    mean = score_mean(ours, counts, confidence, span=SPAN)
    assert -1 <= gap.lower <= gap.value <= gap.upper <= 1
    assert 0 <= mean.lower <= mean.value <= mean.upper <= 1
    assert gap.value == pytest.approx((ours - theirs).sum() / k / counts.sum())
    assert mean.value == pytest.approx(ours.sum() / k / counts.sum())


@given(**cases)
@some
def test_no_bound_is_closer_than_that_of_the_plain_interval(k: int, n: int, seed: int) -> None:
    """Each bound is the wider of two, or the end of the span."""
    ours, theirs, counts = clustered(k, n, seed)
    plain = gap_interval(ours - theirs, counts, 0.95, terms=(ours, theirs))
    gap = score_gap(ours, theirs, counts, 0.95, span=SPAN)
    assert gap.lower <= max(-1, plain.lower) + 1e-12
    assert gap.upper >= min(1, plain.upper) - 1e-12
    assert gap.seed_variance == plain.seed_variance
    assert gap.item_variance >= plain.item_variance or gap.degrees_of_freedom == plain.degrees_of_freedom


@given(**cases)
@some
def test_swapping_the_sides_mirrors_the_interval(k: int, n: int, seed: int) -> None:
    """The gap the other way round has the same bounds with the sign changed; right for wrong mirrors a mean."""
    ours, theirs, counts = clustered(k, n, seed)
    gap, swapped = (score_gap(*sides, counts, 0.95, span=SPAN) for sides in ((ours, theirs), (theirs, ours)))
    assert (gap.value, gap.lower, gap.upper) == pytest.approx((-swapped.value, -swapped.upper, -swapped.lower))
    mean, missed = (score_mean(scores, counts, 0.95, span=SPAN) for scores in (ours, counts - ours))
    assert (mean.value, mean.lower, mean.upper) == pytest.approx((1 - missed.value, 1 - missed.upper, 1 - missed.lower))


@given(**cases, scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
@some
def test_the_interval_follows_the_scale_of_the_score(k: int, n: int, seed: int, scale: float, shift: float) -> None:
    """Percent instead of shares, or a score that starts elsewhere, gives the same bounds in the other unit."""
    ours, theirs, counts = clustered(k, n, seed)
    span = (shift, shift + scale)
    gap = score_gap(ours, theirs, counts, 0.95, span=SPAN)
    other = score_gap(shift * counts + scale * ours, shift * counts + scale * theirs, counts, 0.95, span=span)
    assert [x / scale for x in (other.value, other.lower, other.upper)] == pytest.approx(
        [gap.value, gap.lower, gap.upper], abs=1e-6
    )
    mean = score_mean(ours, counts, 0.95, span=SPAN)
    moved = score_mean(shift * counts + scale * ours, counts, 0.95, span=span)
    assert [(x - shift) / scale for x in (moved.value, moved.lower, moved.upper)] == pytest.approx(
        [mean.value, mean.lower, mean.upper], abs=1e-6
    )


@given(**cases, times=st.integers(2, 5))
@some
def test_more_examples_of_the_same_kind_make_the_interval_narrower(k: int, n: int, seed: int, times: int) -> None:
    """All units several times over have the same estimate with closer bounds, or both are the whole range of a gap."""
    ours, theirs, counts = clustered(k, n, seed)
    more = (np.tile(ours, times), np.tile(theirs, times), np.tile(counts, times))
    noise = SeedNoise(0.001, 30)
    gap, longer = (
        score_gap(*sides, confidence=0.95, seed_noise=noise, span=SPAN) for sides in ((ours, theirs, counts), more)
    )
    assert longer.value == pytest.approx(gap.value)
    assert longer.upper - longer.lower < gap.upper - gap.lower or (longer.lower, longer.upper) == (-1, 1)


@given(n=st.integers(2, 300), share=st.sampled_from([0.0, 0.02, 0.3, 0.9, 0.99, 1.0]), seed=st.integers(0, 99))
@some
def test_a_mean_of_right_and_wrong_answers_has_at_least_the_exact_bounds(n: int, share: float, seed: int) -> None:
    """With one seed each bound is that of Clopper and Pearson or of the t interval, that which is farther away."""
    scores = right_or_wrong(1, n, share, seed)
    plain = gap_interval(scores, np.ones(n), 0.95)
    low, high = exact(int(scores.sum()), n, 0.95)
    found = score_mean(scores, np.ones(n), 0.95, span=SPAN)
    assert found.lower == pytest.approx(max(0.0, min(low, plain.lower)), abs=1e-9)
    assert found.upper == pytest.approx(min(1.0, max(high, plain.upper)), abs=1e-9)


@pytest.mark.parametrize("share", [0, 1])
@pytest.mark.parametrize("seeds", [1, 3])
def test_all_or_no_right_answers_leave_the_exact_doubt(share: int, seeds: int) -> None:
    """The bound of 0 or 100 % of 256 is 1.2 points away, with one seed and with three that agree."""
    found = score_mean(np.full((seeds, 256), float(share)), np.ones(256), 0.95, span=SPAN)
    low, high = exact(share * 256, 256, 0.95)
    assert (found.lower, found.upper) == pytest.approx((low, high))
    assert found.upper - found.lower == pytest.approx(1 - 0.05 ** (1 / 256))


@given(worse=st.integers(0, 40), n=st.integers(50, 400), confidence=st.floats(0.6, 0.99))
@some
def test_if_the_candidate_is_never_better_the_lower_bound_is_the_exact_one(
    worse: int, n: int, confidence: float
) -> None:
    """The number of examples that it loses is a binomial count."""
    baseline = np.ones((1, n))
    candidate = baseline - (np.arange(n) < worse)
    found = score_gap(candidate, baseline, np.ones(n), confidence, span=SPAN)
    plain = gap_interval(candidate - baseline, np.ones(n), confidence)
    assert found.lower == pytest.approx(min(plain.lower, -exact(worse, n, confidence)[1]))


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_answers_never_give_an_interval_without_width(seeds: int) -> None:
    """With no differing example in 64 a loss of 4 points is possible, so a margin of 2 does not pass."""
    scores = np.repeat(right_or_wrong(1, 64, 0.8, 0), seeds, axis=0)
    found = score_gap(scores, scores, np.ones(64), 0.95, span=SPAN)
    assert found.value == 0
    assert (found.lower, found.upper) == pytest.approx((-(1 - 0.05 ** (1 / 64)), 1 - 0.05 ** (1 / 64)))
    assert found.lower < -0.02
    assert found.item_variance > 0


def test_equal_clusters_leave_more_doubt_than_as_many_single_examples() -> None:
    """320 examples in 64 clusters of five that no side loses have the bounds of 64, not of 320."""
    counts = np.full(64, 5.0)
    found = score_gap(counts[None], counts[None], counts, 0.95, span=SPAN)
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 64))


def test_many_differing_examples_cost_little_width() -> None:
    """With 923 examples, a tenth of which differs in each of three seeds, it is within a tenth of the t interval."""
    random = np.random.default_rng(0)
    baseline, candidate = np.ones((3, 923)), np.ones((3, 923))
    flips = random.random(923) < 0.2
    for side in (baseline, candidate):
        side[:, flips] = random.random((3, flips.sum())) < 0.5
    plain = gap_interval(candidate - baseline, np.ones(923), 0.95, terms=(candidate, baseline))
    found = score_gap(candidate, baseline, np.ones(923), 0.95, span=SPAN)
    assert plain.upper - plain.lower < found.upper - found.lower < 1.1 * (plain.upper - plain.lower)


def test_the_seeds_part_is_added_to_that_of_few_examples() -> None:
    """A seed that loses many answers, or a calibrated noise, makes the bounds wider."""
    scores = np.ones((3, 400))
    other = scores.copy()
    other[0, :12] = 0
    agreeing = scores.copy()
    agreeing[:, :4] = 0
    apart, alike = (score_gap(side, scores, np.ones(400), 0.95, span=SPAN) for side in (other, agreeing))
    assert apart.value == pytest.approx(alike.value)
    assert apart.seed_variance > 1e-6 > alike.seed_variance
    assert apart.lower < alike.lower
    known = score_gap(agreeing, scores, np.ones(400), 0.95, SeedNoise(0.02, 9), span=SPAN)
    assert known.seed_variance == pytest.approx(0.02**2 / 3)
    assert known.lower < alike.lower


def test_more_noise_of_examples_never_makes_a_bound_closer() -> None:
    """The sum of two noises may have a smaller quantile than that of two seeds alone; then the plain bound stays."""
    baseline = np.ones((2, 300))
    candidate = baseline.copy()
    candidate[0, :60] = 0
    plain = gap_interval(candidate - baseline, np.ones(300), 0.95, terms=(candidate, baseline))
    found = score_gap(candidate, baseline, np.ones(300), 0.95, span=SPAN)
    assert found.lower <= max(-1, plain.lower)
    assert found.upper >= min(1, plain.upper)


def test_at_the_margin_a_candidate_passes_in_at_most_a_twentieth_of_runs() -> None:
    """Three seeds that agree and 923 examples, nine of which the candidate loses on average, rarely err."""
    random = np.random.default_rng(0)
    baseline, runs = np.ones((3, 923)), 2000
    answers = [0, 0]
    for _ in range(runs):
        found = score_gap(
            np.repeat(random.random((1, 923)) >= 0.01, 3, axis=0).astype(float), baseline, np.ones(923), 0.95, span=SPAN
        )
        answers[0] += found.lower >= -0.01
        answers[1] += found.upper < -0.01
    assert 0.02 < answers[0] / runs < 0.06
    assert answers[1] / runs < 0.06


@pytest.mark.parametrize(
    ("candidate", "baseline", "counts", "words"),
    [
        (np.ones((2, 5)), np.ones((3, 5)), np.ones(5), "one shape"),
        (np.ones((2, 5)), np.ones((2, 5)), np.ones(4), "shape"),
        (np.ones((2, 1)), np.ones((2, 1)), np.ones(1), "units >= 2"),
        (np.ones((0, 5)), np.ones((0, 5)), np.ones(5), "shape"),
        (np.ones(5), np.ones(5), np.ones(5), "shape"),
        (np.ones((1, 5)), np.full((1, 5), np.nan), np.ones(5), "within the span"),
        (np.full((1, 5), -0.1), np.ones((1, 5)), np.ones(5), "within the span"),
        (np.ones((1, 5)), np.full((1, 5), 1.1), np.ones(5), "within the span"),
        (np.zeros((1, 5)), np.zeros((1, 5)), np.array([1, 1, 1, 1, 0.0]), "above 0"),
        (np.ones((1, 5)), np.ones((1, 5)), np.array([1, 1, 1, 1, np.inf]), "finite"),
    ],
)
def test_scores_of_a_wrong_shape_or_size_are_refused(
    candidate: FloatArray, baseline: FloatArray, counts: FloatArray, words: str
) -> None:
    """Each is an error with words for it."""
    with pytest.raises(ValueError, match=words):
        score_gap(candidate, baseline, counts, 0.95, span=SPAN)
    if candidate.shape == baseline.shape:
        worse = candidate if (candidate < 0).any() else baseline
        with pytest.raises(ValueError, match=words):
            score_mean(worse, counts, 0.95, span=SPAN)


@pytest.mark.parametrize("span", [(1.0, 1.0), (1.0, 0.0), (0.0, np.inf), (np.nan, 1.0)])
def test_a_span_that_is_none_is_refused(span: tuple[float, float]) -> None:
    """The lowest score is below the highest, and both are numbers."""
    with pytest.raises(ValueError, match="span"):
        score_mean(np.ones((1, 5)), np.ones(5), 0.95, span=span)


@pytest.mark.parametrize("confidence", [0.5, 1.0, np.nan])
def test_a_confidence_outside_its_range_is_refused(confidence: float) -> None:
    """One half and one are outside."""
    with pytest.raises(ValueError, match="confidence"):
        score_gap(np.ones((1, 5)), np.ones((1, 5)), np.ones(5), confidence, span=SPAN)


def test_rounding_is_not_taken_for_a_difference() -> None:
    """Scores that differ in the last digit have the bounds of equal ones, and all are plain numbers."""
    ours, theirs = np.full((1, 50), 0.1 + 0.2), np.full((1, 50), 0.3)
    found = score_gap(ours, theirs, np.ones(50), 0.95, span=SPAN)
    assert (found.lower, found.upper) == pytest.approx((-(1 - 0.05 ** (1 / 50)), 1 - 0.05 ** (1 / 50)))
    assert {type(value) for value in astuple(found)} == {float}


def test_a_mean_that_rounding_put_beyond_the_span_is_its_own_bound() -> None:
    """A hair above the highest score, which a sum of shares can give, is allowed; the bounds stay in order."""
    found = score_mean(np.full((1, 50), 1 + 1e-9), np.ones(50), 0.95, span=(0, 1))
    assert found.lower < 1 < found.value == found.upper
    assert {type(value) for value in astuple(found)} == {float}


@pytest.mark.parametrize(("differing", "is_wide"), [(29, True), (30, False)])
def test_many_groups_that_differ_in_one_example_show_that_no_group_is_lost_whole(differing: int, is_wide: bool) -> None:
    """Of 200 groups of 20 examples: with fewer that differ, the next one may differ in all of its examples."""
    counts = np.full(200, 20.0)
    theirs = np.full((1, 200), 15.0)
    ours = theirs.copy()
    ours[0, :differing] -= 1
    bound = score_gap(ours, theirs, counts, 0.95, span=(0, 1)).lower
    assert (bound < -0.015) is is_wide
