"""How often the verdict from a wrong learning rate is that of an exhaustive grid: with the search, and without one.

    python benchmarks/rates_proof.py quickstart [--plot FILE]    # the plot needs matplotlib

It replays the trials of rates_grid.py and trains the few that a search asks for beyond the grid.

The truth is the verdict at the best rate of each side, of all that the grid has. The cases start from rates that are
wrong by up to a factor of ten on either side, with limits around the true gap. Each case runs the plugin's own search
and its own gate: `find_learning_rate`, `look` and `assess_loss_gap`. Only the trials are looked up in the grid.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rates_grid import JOBS, Job, cell, grid_of, trained

from pytest_ftguard.gates.asking import look
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.running.search import find_learning_rate
from pytest_ftguard.specs import RateSource, Variant, Workload

NOTCH: Final = math.sqrt(10)
STARTS: Final = (-2, -1, 0, 1, 2)
# In nats per token, next to the true gap: gaps of the quickstart are known to about 0.02 with three seeds.
OFFSETS: Final = (-0.1, -0.05, -0.03, 0.03, 0.05, 0.1)
RATES: Final = 7
OPEN: Final = RateSource("default", "settings", is_open=True)
CLOSED: Final = RateSource("default", "settings")
ANSWERS: Final = ("PASS", "FAIL")


class Replay:
    """Gives variants as a run of the plugin would train them, and counts the steps of what a search adds.

    Args:
        workload: What is trained.

    Attributes:
        searched: Optimizer steps of the trials of searches, by variant.
        again: Optimizer steps of trainings at a rate that a search has found, by variant.
        further: Optimizer steps of further seeds that a gate in doubt has asked for, by variant.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.searched: dict[str, int] = {}
        self.again: dict[str, int] = {}
        self.further: dict[str, int] = {}

    def train(self, variant: Variant, rate: RateSource = OPEN) -> TrainedVariant:
        """Return a variant with the seeds of the gates."""
        return self._trained(self.workload, variant, rate)

    def _trained(self, workload: Workload, variant: Variant, rate: RateSource) -> TrainedVariant:
        trials = tuple(cell(workload, variant, seed) for seed in workload.seeds)
        return TrainedVariant(workload, variant, trials, rate=rate, source=self)

    def settle(self, trained: TrainedVariant) -> TrainedVariant:
        """Return a variant at the rate that a search finds, as the plugin's lab does."""
        first, label = trained.variant.learning_rate, trained.label

        def short(work: Workload, one: Variant) -> TrainedVariant:
            self.searched[label] = self.searched.get(label, 0) + work.steps
            return TrainedVariant(work, one, tuple(cell(work, one, seed) for seed in work.seeds))

        rate = find_learning_rate(short, self.workload, trained.variant)
        found = RateSource("searched", "settings", first=first)
        if rate == first:
            return replace(trained, rate=found)
        self.again[label] = self.workload.steps * len(self.workload.seeds)
        return self.train(replace(trained.variant, learning_rate=rate, search_learning_rate="yes"), found)

    def complete(self, trained: TrainedVariant) -> TrainedVariant:
        """Return the variant: the grid has all of its seeds."""
        return trained

    def with_curves(self, trained: TrainedVariant) -> TrainedVariant:
        """Return the variant: its steps are those of production, so no trend is judged."""
        return trained

    def more_seeds(self, trained: TrainedVariant, count: int) -> TrainedVariant:
        """Return the variant with more seeds, for a gate in doubt; what the grid lacks is trained."""
        more = self.workload.steps * (count - len(trained.workload.seeds))
        self.further[trained.label] = self.further.get(trained.label, 0) + more
        work = replace(trained.workload, seeds=tuple(range(count)))
        return self._trained(work, trained.variant, trained.rate)

    def time_beside(
        self, candidate: TrainedVariant, baseline: TrainedVariant, why: str, look: int
    ) -> tuple[TrainedVariant, TrainedVariant]:
        """Refuse: nothing is timed."""
        raise NotImplementedError

    def forms(self, trial: Trial, shipping: Shipping) -> tuple[FormLosses, ...]:
        """Refuse: nothing is saved."""
        raise NotImplementedError

    def load(self, trial: Trial) -> tuple[Any, Any]:
        """Refuse: the grid keeps no weights."""
        raise NotImplementedError


@dataclass(frozen=True)
class Case:
    """One start, one limit, and what came of it.

    Attributes:
        candidate: Label of the candidate.
        notches: How far the candidate's and full's first rates are from the best ones, in half decades.
        truth: The verdict at the best rates.
        found: The verdict with the search.
        plain: The verdict at the first rates.
        gap: What the gap with the search is above the true one, in nats per token; None if there is no verdict.
        cost: Steps of the searches, as a share of one variant's training with all seeds.
        again: Steps of the trainings at rates that were found, as the same share.
        further: Steps of further seeds, as the same share.
    """

    candidate: str
    notches: tuple[int, int]
    truth: str
    found: str
    plain: str
    gap: float | None
    cost: float
    again: float
    further: float

    @property
    def distance(self) -> int:
        """How far the worse of both starts is from the best rate, in half decades."""
        return max(map(abs, self.notches))


def cases(job: Job, folder: Path, most_seeds: int) -> Iterator[Case]:
    """Yield all cases of a job.

    Args:
        job: The job.
        folder: Where its texts are, for what the grid lacks.
        most_seeds: How many seeds a gate in doubt may use.
    """
    workload = job.workload(folder)
    full, *candidates = job.variants
    for candidate in candidates:
        grids = [trained(job, workload, one) for one in (candidate, full)]
        if any(len(grid) < RATES for grid in grids):
            continue  # not all of it was trained
        ours, theirs = (best(grid.values()) for grid in grids)
        gap = judged(ours, theirs, 0.0)[1]
        assert gap is not None  # the best rates learn
        for offset, one, other in itertools.product(OFFSETS, STARTS, STARTS):
            limit = round(gap + offset, 4)
            truth, _ = judged(ours, theirs, limit)
            replay = Replay(replace(workload, most_seeds=most_seeds))
            first, start = (replay.train(moved(side.variant, by)) for side, by in ((ours, one), (theirs, other)))
            found, reached = judged(first, start, limit)
            # Without a search the rates stay, and so do the grid's seeds.
            ours_first, theirs_first = (replace(side, workload=workload, rate=CLOSED) for side in (first, start))
            plain, _ = judged(ours_first, theirs_first, limit)
            whole = workload.steps * len(workload.seeds)
            yield Case(
                candidate.label,
                (one, other),
                truth,
                found,
                plain,
                None if reached is None else reached - gap,
                sum(replay.searched.values()) / whole,
                sum(replay.again.values()) / whole,
                sum(replay.further.values()) / whole,
            )


def best(variants: Iterable[TrainedVariant]) -> TrainedVariant:
    """Return the variant at its best rate: that with the lowest mean loss over all seeds."""
    return min((one for one in variants if one.loss is not None), key=lambda one: one.loss or 0.0)


def moved(variant: Variant, notches: int) -> Variant:
    """Return a variant at another learning rate."""
    rate = (variant.learning_rate or 0.0) * NOTCH**notches
    return replace(variant, learning_rate=float(f"{rate:.2g}"), search_learning_rate="auto")


def judged(candidate: TrainedVariant, baseline: TrainedVariant, limit: float) -> tuple[str, float | None]:
    """Return the verdict and the gap."""
    bound = Limit(limit, NATS_PER_TOKEN, Origin("argument", "the argument at_most"))
    verdict = look(assess_loss_gap, candidate, baseline, bound, Rule(same_learning_rate=True))
    return verdict.status, verdict.value


def agreement(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the share of verdicts that are the true ones; INCONCLUSIVE on one side only counts as half."""

    def score(pair: tuple[str, str]) -> float:
        return 1.0 if len(set(pair)) == 1 else 0.5 if kind_of(*pair) == KINDS[1] else 0.0

    return statistics.fmean(map(score, pairs))


def opposite(pairs: Sequence[tuple[str, str]]) -> int:
    """Return how many verdicts are PASS for FAIL or the reverse."""
    return sum(one != other and one in ANSWERS and other in ANSWERS for one, other in pairs)


def show(name: str, found: Sequence[Case]) -> None:
    """Print the table of a job."""
    print(f"\n{name}: {len(found)} cases, {len({one.candidate for one in found})} candidates")
    print(f"{'':16}{'':7}  {'with the search':25}  {'at the first rates':25}")
    heads = f"{'agree':>7} {'opposite':>8} {'INVALID':>7} "
    print(f"{'first rates':16}{'cases':>7}  {heads}  {heads}")
    for label, least, most in (("right", 0, 0), ("3 x wrong", 1, 1), ("10 x wrong", 2, 2), ("all", 0, 2)):
        some = [one for one in found if least <= one.distance <= most]
        print(f"{label:16}{len(some):7}  {'  '.join(_row(some, which) for which in ('found', 'plain'))}")
    for what, shares in (
        ("searches", [one.cost for one in found]),
        ("trainings at rates that were found", [one.again for one in found]),
        ("trainings of further seeds", [one.further for one in found]),
    ):
        print(f"{what}, in trainings of one variant: mean {statistics.fmean(shares):.2f}, largest {max(shares):.2f}")
    gaps = [one.gap for one in found if one.gap is not None]
    spread = f"from {min(gaps):+.4f} to {max(gaps):+.4f}"
    print(f"the gap less the grid's: mean {statistics.fmean(gaps):+.4f}, {spread} nats per token")
    opposites = Counter((one.candidate, one.notches) for one in found if opposite([(one.truth, one.found)]))
    for (candidate, notches), count in sorted(opposites.items()):
        print(f"opposite: {candidate}, {count} limits, first rates wrong by {notches} half decades (candidate, full)")


def _row(cases: Sequence[Case], which: str) -> str:
    pairs = [(one.truth, getattr(one, which)) for one in cases]
    invalid = sum("INVALID" in pair for pair in pairs)
    return f"{100 * agreement(pairs):6.1f}% {opposite(pairs):8} {invalid:7} "


KINDS: Final = ("as the grid", "INCONCLUSIVE on one side", "INVALID", "opposite")


def kind_of(truth: str, found: str) -> str:
    """Return how a verdict stands to the grid's."""
    if truth == found:
        return KINDS[0]
    pair = (truth, found)
    return KINDS[2] if "INVALID" in pair else KINDS[1] if "INCONCLUSIVE" in pair else KINDS[3]


def plot(found: Sequence[Case], path: Path) -> None:
    """Draw the shares of verdicts that are the grid's, by how wrong the first rates are.

    Args:
        found: The cases of a job.
        path: The file.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    names = ("right", "3 x", "10 x")
    for axis, which, title in ((axes[0], "plain", "at the first rates"), (axes[1], "found", "with the search")):
        below = [0.0] * len(names)
        for kind, colour in zip(KINDS, ("tab:green", "lightgrey", "tab:orange", "tab:red"), strict=True):
            shares = []
            for distance in range(len(names)):
                some = [one for one in found if one.distance == distance]
                shares.append(100 * sum(kind_of(one.truth, getattr(one, which)) == kind for one in some) / len(some))
            axis.bar(names, shares, bottom=below, color=colour, label=kind)
            below = [low + share for low, share in zip(below, shares, strict=True)]
        axis.set(title=title, xlabel="how wrong the worse of both first rates is")
    axes[0].set_ylabel("verdicts, %")
    axes[1].legend(loc="lower right")
    figure.savefig(path)


def main() -> None:
    """Print the table of a job, and draw the plot if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=list(JOBS))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--most-seeds", type=int, default=0, help="as seeds = 3..N: a gate in doubt uses up to N")
    options = parser.parse_args()
    job = JOBS[options.job]
    with tempfile.TemporaryDirectory() as folder:
        job.prepare(Path(folder))
        found = list(cases(job, Path(folder), options.most_seeds))
    grid_of(job.name).pack()  # with what was trained for a search beyond the grid
    show(options.job, found)
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
