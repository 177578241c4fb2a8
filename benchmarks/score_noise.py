"""Scores with a known gap, drawn from noise that is known too; see proof_scores.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pytest_ftguard.statistics import FloatArray


@dataclass(frozen=True)
class Draw:
    """Scores of one run.

    Attributes:
        candidate: Summed scores, shape (seeds, units).
        baseline: Likewise.
        counts: Examples of each unit.
        worse: Examples on which the candidate is worse, in the first seed.
        better: Examples on which it is better.
    """

    candidate: FloatArray
    baseline: FloatArray
    counts: FloatArray
    worse: int
    better: int


@dataclass(frozen=True)
class Case:
    """A way to draw scores with a known gap.

    Attributes:
        name: What is drawn.
        limit: The true gap, which is the limit too; below 0 the candidate is worse.
        draw: Draws the scores of one run.
    """

    name: str
    limit: float
    draw: Callable[[np.random.Generator], Draw]


def answers(examples: int, seeds: int, limit: float, *, flips: float, swapped: float, seed_sd: float) -> Case:
    """Return answers that are right or wrong, by shared hard examples, flips of each seed, and good and bad seeds.

    Args:
        examples: Number of examples.
        seeds: Number of seeds.
        limit: The true gap: so many examples only the baseline gets right, in every seed.
        flips: Share of examples that each side and seed gets right by chance, with a probability from 0.35 to 0.65.
        swapped: Share that one side gets right in every seed and the other never, as many one way as the other.
        seed_sd: Standard deviation of a side's score over seeds, apart from the flips.
    """
    kinds = [-limit, swapped / 2, swapped / 2, flips, 0.6, 0.4 + limit - swapped - flips]
    # Probability of a right answer of the candidate and of the baseline, by kind; of flips it is drawn.
    sure = np.array([[0, 1, 0, 0, 1, 0], [1, 0, 1, 0, 1, 0]], dtype=np.float64)

    def draw(random: np.random.Generator) -> Draw:
        kind = random.choice(len(kinds), size=examples, p=kinds)
        chance = np.where(kind == 3, random.uniform(0.35, 0.65, examples), sure[:, None, kind])
        shift = np.clip(random.normal(0, seed_sd / flips, (2, seeds, 1)), -0.35, 0.35) if flips else 0.0
        scores = (random.random((2, seeds, examples)) < chance + shift * (kind == 3)).astype(np.float64)
        return _of_examples(scores, np.ones(examples))

    name = f"{examples} examples, {seeds} seeds, {flips:.0%} flip, {swapped:.0%} swapped, seed SD {seed_sd:.1%}"
    return Case(name, limit, draw)


def clusters(groups: int, seeds: int, limit: float, *, shared: float, differing: float, is_uneven: bool) -> Case:
    """Return answers in clusters of 2 to 10 examples, or of 1 and some of 20.

    Args:
        groups: Number of clusters.
        seeds: Number of seeds.
        limit: The true gap.
        shared: Share of clusters in which all examples have one fate; in the others each has its own.
        differing: Share of examples on which both sides differ, in every seed.
        is_uneven: Whether a twentieth of the clusters has 20 examples and the others one.
    """
    kinds = [(differing - limit) / 2, (differing + limit) / 2, 0.75 - differing, 0.25]

    def draw(random: np.random.Generator) -> Draw:
        counts = np.where(random.random(groups) < 0.05, 20, 1) if is_uneven else random.integers(2, 11, groups)
        owner = np.repeat(np.arange(groups), counts)
        kind = random.choice(4, size=len(owner), p=kinds)
        common = random.choice(4, size=groups, p=kinds)
        kind = np.where((random.random(groups) < shared)[owner], common[owner], kind)
        scores = np.stack([kind == 1, kind == 0]) + (kind == 2)
        return _of_examples(np.repeat(scores[:, None].astype(np.float64), seeds, axis=1), counts.astype(np.float64))

    sizes = "1 or 20" if is_uneven else "2 to 10"
    name = f"{groups} clusters of {sizes}, {seeds} seeds, {shared:.0%} of one fate, {differing:.0%} differ"
    return Case(name, limit, draw)


def overlaps(examples: int, seeds: int, limit: float, *, changed: float, is_rare: bool) -> Case:
    """Return scores from 0 to 1 with many zeros and ones, as token F1 has.

    Args:
        examples: Number of examples.
        seeds: Number of seeds.
        limit: The true gap.
        changed: Share of examples that each seed and side answers in its own way.
        is_rare: Whether the candidate loses all of a few answers, or a little of many.
    """
    part = 1.0 if is_rare else 0.1

    def some(random: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        scores = random.choice([0.0, 1.0, np.nan], size=shape, p=[0.25, 0.35, 0.4])
        return np.where(np.isnan(scores), random.beta(2, 2, shape), scores)

    def draw(random: np.random.Generator) -> Draw:
        shape = (2, seeds, examples)
        own = random.random(shape) < changed
        scores = np.where(own, some(random, shape), some(random, (examples,)))
        # 0.55 is the mean score before the loss.
        scores[0] *= 1 - part * (random.random(examples) < -limit / (0.55 * part))
        return _of_examples(scores, np.ones(examples))

    how = "few lose all" if is_rare else "many lose a tenth"
    return Case(f"F1, {examples} examples, {seeds} seeds, {changed:.0%} change, {how}", limit, draw)


def _of_examples(scores: FloatArray, counts: FloatArray) -> Draw:
    """Return a draw from scores of single examples, shape (2, seeds, examples), in units of so many."""
    first = scores[0, 0] - scores[1, 0]
    worse, better = int((first < 0).sum()), int((first > 0).sum())
    sums = np.add.reduceat(scores, np.cumsum(counts).astype(int) - counts.astype(int), axis=2)
    return Draw(sums[0], sums[1], counts, worse, better)


def right(examples: int, seeds: int, share: float, *, flips: float, seed_sd: float) -> Case:
    """Return answers of one variant of which a share is right, so many by flips of each seed, in good and bad seeds."""

    def draw(random: np.random.Generator) -> Draw:
        kind = random.choice(3, size=examples, p=[share - flips / 2, flips, 1 - share - flips / 2])
        shift = np.clip(random.normal(0, seed_sd / flips, (seeds, 1)), -0.5, 0.5) if flips else 0.0
        scores = random.random((1, seeds, examples)) < np.array([1.0, 0.5, 0.0])[kind] + shift * (kind == 1)
        return _of_examples(np.concatenate([scores, scores]).astype(np.float64), np.ones(examples))

    return Case(f"{examples} examples, {seeds} seeds, {flips:.0%} flip, seed SD {seed_sd:.1%}", share, draw)


def gap_cases() -> Iterator[Case]:
    """Yield all cases with two variants that are drawn."""
    for examples, seeds in itertools.product((64, 256, 923), (3, 5)):
        for flips, swapped, seed_sd in ((0.0, 0.0, 0.0), (0.02, 0.0, 0.002), (0.06, 0.02, 0.005), (0.2, 0.02, 0.015)):
            yield answers(examples, seeds, -0.02, flips=flips, swapped=swapped, seed_sd=seed_sd)
    for is_uneven, groups, shared in itertools.product((False, True), (40, 150, 400), (0.2, 0.8)):
        for differing in (0.02, 0.1):
            yield clusters(groups, 1, -0.02, shared=shared, differing=differing, is_uneven=is_uneven)
    for examples, seeds, is_rare in itertools.product((64, 256, 923), (1, 3), (True, False)):
        for changed in (0.0, 0.2):
            yield overlaps(examples, seeds, -0.02, changed=changed, is_rare=is_rare)


def ordinary_cases() -> Iterator[Case]:
    """Yield cases in which about a tenth of the answers differ, to compare widths."""
    for examples in (64, 256, 923, 2000):
        yield answers(examples, 3, -0.01, flips=0.14, swapped=0.02, seed_sd=0.005)
    for groups, is_uneven in itertools.product((150, 400), (False, True)):
        yield clusters(groups, 1, -0.01, shared=0.2, differing=0.1, is_uneven=is_uneven)
    yield overlaps(923, 3, -0.01, changed=0.2, is_rare=True)


def mean_cases() -> Iterator[Case]:
    """Yield all cases with one variant."""
    for examples, share in itertools.product((64, 256, 923), (0.5, 0.9, 0.98, 0.995)):
        yield right(examples, 1, share, flips=0.0, seed_sd=0.0)
        yield right(examples, 3, share, flips=min(0.2, 2 - 2 * share), seed_sd=min(0.01, (1 - share) / 4))
