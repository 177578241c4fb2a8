"""How often a gate on scores errs at the margin: the shipped interval, and the tests that are in use elsewhere.

    python benchmarks/proof_scores.py simulated [--draws 10000]
    python benchmarks/proof_scores.py trained [--draws 10000] [--data FILE]

Simulated: the truth is known by construction. One seed is enumerated, not drawn. Trained: the noise is that of really
trained pairs (data/score_pairs.npz). The pairs and the groups of examples are drawn from it with replacement, so the
gap over all pairs and examples is the truth.

The true gap is exactly the limit, so each PASS and each FAIL is an error. "t interval alone" is the shipped interval
without the limits for few differing examples. McNemar's test fails a candidate that is significantly worse and passes
all others, whatever the limit is. The test of two proportions takes both sides for independent samples.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from scipy import stats
from scipy.special import bdtrc, ndtri
from score_noise import Case, Draw, gap_cases, mean_cases, ordinary_cases

from pytest_ftguard.score_statistics import score_gap, score_mean
from pytest_ftguard.statistics import FloatArray, cluster, gap_interval

DATA: Final = Path(__file__).parent / "data" / "score_pairs.npz"
CONFIDENCE: Final = 0.95
SPAN: Final = (0.0, 1.0)
SEEDS: Final = 3
# Limits next to the true gap, in score.
OFFSETS: Final = (-0.06, -0.04, -0.03, -0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06)
# Probabilities below it are left out of an enumeration, which is less than 1e-6 in all.
NEGLIGIBLE: Final = 1e-12

Bounds = tuple[float, float]
ALWAYS_PASS: Final[Bounds] = (np.inf, np.inf)
ALWAYS_FAIL: Final[Bounds] = (-np.inf, -np.inf)


def shipped(draw: Draw) -> Bounds:
    """The interval of pytest-ftguard."""
    interval = score_gap(draw.candidate, draw.baseline, draw.counts, CONFIDENCE, span=SPAN)
    return interval.lower, interval.upper


def shipped_one_seed(draw: Draw) -> Bounds:
    """The interval of pytest-ftguard from the first seed, which cannot see the seeds' noise."""
    interval = score_gap(draw.candidate[:1], draw.baseline[:1], draw.counts, CONFIDENCE, span=SPAN)
    return interval.lower, interval.upper


def t_alone(draw: Draw) -> Bounds:
    """The interval without the limits for few differing examples."""
    sides = (draw.candidate, draw.baseline)
    interval = gap_interval(draw.candidate - draw.baseline, draw.counts, CONFIDENCE, terms=sides)
    return interval.lower, interval.upper


def mcnemar(draw: Draw) -> Bounds:
    """McNemar's exact test on the first seed: FAIL if the candidate is significantly worse, one-sided, or else PASS."""
    worse, better = draw.worse, draw.better
    chance = bdtrc(worse - 1, worse + better, 0.5) if worse else 1.0
    return ALWAYS_FAIL if chance < 1 - CONFIDENCE else ALWAYS_PASS


def two_proportions(draw: Draw) -> Bounds:
    """The interval of two independent proportions, on the first seed."""
    examples = draw.counts.sum()
    ours, theirs = draw.candidate[0].sum() / examples, draw.baseline[0].sum() / examples
    width = ndtri(CONFIDENCE) * np.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / examples)
    return ours - theirs - width, ours - theirs + width


def point(draw: Draw) -> Bounds:
    """The difference of two means, of all seeds, as if it had no noise."""
    gap = float((draw.candidate - draw.baseline).sum() / (len(draw.candidate) * draw.counts.sum()))
    return gap, gap


Rule = Callable[[Draw], Bounds]
RULES: Final[dict[str, Rule]] = {
    "shipped": shipped,
    "t interval alone": t_alone,
    "McNemar, one seed": mcnemar,
    "two proportions, one seed": two_proportions,
    "point": point,
}


def shipped_mean(draw: Draw) -> Bounds:
    """The interval of pytest-ftguard for the mean score of the candidate alone."""
    interval = score_mean(draw.candidate, draw.counts, CONFIDENCE, span=SPAN)
    return interval.lower, interval.upper


def t_mean(draw: Draw) -> Bounds:
    """The same without the limits for few wrong or few right answers."""
    interval = gap_interval(draw.candidate, draw.counts, CONFIDENCE)
    return interval.lower, interval.upper


@dataclass(frozen=True)
class Rates:
    """Shares of errors at the margin.

    Attributes:
        passed: Share of false PASS.
        failed: Share of false FAIL.
        draws: Number of draws; 0 if the shares are exact.
    """

    passed: float
    failed: float
    draws: int = 0

    def __str__(self) -> str:
        """Return both shares."""
        return f"{self.passed:.1%}/{self.failed:.1%}"

    @property
    def bounds(self) -> str:
        """The upper bounds of both shares (Clopper and Pearson, 1934)."""
        if not self.draws:
            return "exact"
        counts = [round(share * self.draws) for share in (self.passed, self.failed)]
        return "/".join(
            f"{stats.binomtest(count, self.draws).proportion_ci(0.90, 'exact').high:.1%}" for count in counts
        )


# The name of a case, its limit, and the errors of each rule.
Row = tuple[str, float, list[Rates]]


def rates(case: Case, rules: Iterable[Rule], draws: int) -> list[Rates]:
    """Return the errors of each rule on the same draws."""
    random, rules = np.random.default_rng(0), list(rules)
    errors = np.zeros((len(rules), 2))
    for _ in range(draws):
        draw = case.draw(random)
        for index, rule in enumerate(rules):
            lower, upper = rule(draw)
            errors[index] += (lower >= case.limit, upper < case.limit)
    return [Rates(passed, failed, draws) for passed, failed in (errors / draws).tolist()]


# One seed, answers right or wrong: all tables of (worse, better) are enumerated.


@functools.cache
def _bounds(rule: Rule, examples: int, worse: int, better: int) -> Bounds:
    right = round(0.75 * examples)  # of the baseline; only the test of two proportions sees it
    candidate, baseline = np.zeros((1, examples)), np.zeros((1, examples))
    baseline[0, :right] = 1
    candidate[0, worse : right + better] = 1
    return rule(Draw(candidate, baseline, np.ones(examples), worse, better))


def enumerated(rule: Rule, examples: int, limit: float, differing: float) -> Rates:
    """Return the exact errors of a rule on one seed.

    Args:
        rule: The rule.
        examples: Number of examples.
        limit: The true gap.
        differing: Share of the examples on which both variants differ.
    """
    share = ((differing - limit) / 2, (differing + limit) / 2)
    differ = np.arange(examples + 1)
    errors = np.zeros(2)
    for count, outer in zip(differ, stats.binom.pmf(differ, examples, differing), strict=True):
        if outer < NEGLIGIBLE:
            continue
        worse = np.arange(count + 1)
        for one, inner in zip(worse, stats.binom.pmf(worse, count, share[0] / differing), strict=True):
            if outer * inner >= NEGLIGIBLE:
                lower, upper = _bounds(rule, examples, int(one), int(count - one))
                errors += outer * inner * np.array([lower >= limit, upper < limit])
    return Rates(float(errors[0]), float(errors[1]))


def simulated(draws: int) -> None:
    """Print the errors of each rule where the truth is known by construction."""
    print(f"the true gap is the limit; shares of false PASS/false FAIL; bounds at {CONFIDENCE:.0%} each")
    _table("one seed, answers right or wrong, exact", RULES, _enumerations())
    gaps = ((case.name, case.limit, rates(case, RULES.values(), draws)) for case in gap_cases())
    _table(f"two variants, {draws:,} draws", RULES, gaps)
    rules: dict[str, Rule] = {"shipped": shipped_mean, "t interval alone": t_mean}
    means = ((case.name, case.limit, rates(case, rules.values(), draws)) for case in mean_cases())
    _table(f"one variant, the true mean is the limit, {draws:,} draws", rules, means)
    widths()


def widths() -> None:
    """Print how much wider the shipped interval is than the t interval alone if about a tenth of the answers differ."""
    print("\nmean half width in points, shipped and t interval alone, and their ratio; 500 draws")
    for case in ordinary_cases():
        random = np.random.default_rng(0)
        draws = (case.draw(random) for _ in range(500))
        found = [[np.ptp(rule(draw)) / 2 for rule in (shipped, t_alone)] for draw in draws]
        ours, plain = np.mean(found, axis=0)
        print(f"{case.name:70s} {case.limit:+6.1%}  {100 * ours:.2f}  {100 * plain:.2f}  {ours / plain:.2f}")


def _enumerations() -> Iterator[Row]:
    for examples, limit in itertools.product((64, 128, 256, 923, 2000), (-0.005, -0.01, -0.02, -0.04, -0.08)):
        for differing in sorted({-limit, 0.01 - limit, 0.1, 0.3}):
            found = [enumerated(rule, examples, limit, differing) for rule in RULES.values()]
            yield f"{examples} examples, {differing:.1%} differ", limit, found
        _bounds.cache_clear()


def _table(title: str, rules: Iterable[str], rows: Iterable[Row]) -> None:
    """Print a row for each case, and the largest errors of the first rule."""
    first, *others = rules
    print(f"\n{title}\n{'':70s} {'limit':>6s}  {first:13s}{'bounds':13s}" + "".join(f"{name:26s}" for name in others))
    largest = np.zeros(2)
    for name, limit, (one, *rest) in rows:
        shares = "".join(f"{other!s:26s}" for other in rest).rstrip()
        print(f"{name:70s} {limit:+6.1%}  {one!s:13s}{one.bounds:13s}{shares}", flush=True)
        largest = np.maximum(largest, (one.passed, one.failed))
    print(f"{f'largest of {first}':70s} {'':6s}  {Rates(float(largest[0]), float(largest[1]))}")


# Really trained pairs.


def trained(path: Path, draws: int) -> None:
    """Print how often each rule passes and fails on the noise of really trained pairs, by the limit.

    Args:
        path: A file with the arrays correct_full and correct_lora of shape (pairs, examples) and groups (examples,).
        draws: Number of draws.
    """
    with np.load(path) as data:
        answers_of = np.stack([data["correct_lora"], data["correct_full"]]).astype(np.float64)
        groups = tuple(data["groups"].tolist())
    gap = float((answers_of[0] - answers_of[1]).mean())
    lora, full = answers_of.mean(axis=(1, 2))
    print(
        f"{answers_of.shape[1]} pairs, {answers_of.shape[2]} examples in {len(set(groups))} groups, {draws:,} draws; "
        f"right: full {full:.2%}, LoRA {lora:.2%}, so the true gap is {gap:+.2%}"
    )
    rules: dict[str, Rule] = {f"shipped, {SEEDS} seeds": shipped, "shipped, 1 seed": shipped_one_seed, **RULES}
    del rules["shipped"]
    limits = gap + np.array(OFFSETS)
    counts = np.zeros((len(rules), len(limits), 2), dtype=int)
    random, units = np.random.default_rng(0), _units(answers_of, groups)
    for _ in range(draws):
        draw = _resampled(random, *units)
        for index, rule in enumerate(rules.values()):
            lower, upper = rule(draw)
            counts[index] += np.stack([lower >= limits, upper < limits], axis=1)
    print("shares of PASS/FAIL at a limit so far from the true gap; at 0 each is an error, and bounded")
    print(f"{'rule':26s}" + "".join(f"{offset:+14.1%}" for offset in OFFSETS) + f"{'bounds at 0':>16s}")
    for name, table in zip(rules, counts / draws, strict=True):
        found = [Rates(float(passed), float(failed), draws) for passed, failed in table]
        shares = "".join(f"{one!s:>14s}" for one in found)
        print(f"{name:26s}{shares}{found[OFFSETS.index(0.0)].bounds:>16s}")


def _units(scores: FloatArray, groups: tuple[int, ...]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the sums over each group: scores of both sides, numbers of examples, and of worse and better ones."""
    differences = scores[0] - scores[1]
    differ = np.stack([differences < 0, differences > 0]).astype(np.float64)
    return cluster(scores, groups), cluster(np.ones(len(groups)), groups), cluster(differ, groups)


def _resampled(random: np.random.Generator, scores: FloatArray, counts: FloatArray, differ: FloatArray) -> Draw:
    """Return pairs and groups that are drawn with replacement."""
    pairs = random.integers(0, scores.shape[1], SEEDS)
    units = random.integers(0, len(counts), len(counts))
    drawn = scores[:, pairs[:, None], units]
    worse, better = differ[:, pairs[0], units].sum(axis=1)
    return Draw(drawn[0], drawn[1], counts[units], int(worse), int(better))


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("noise", choices=["simulated", "trained"])
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    if options.noise == "simulated":
        simulated(options.draws)
    else:
        trained(options.data, options.draws)


if __name__ == "__main__":
    main()
