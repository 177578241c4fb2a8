"""How often a gate errs if a search may change the learning rates before it answers: a second chance for either answer.

A candidate may pass at its default or, if it does not, at the rate that a search found. Here both rates are drawn from
the noise of really trained pairs (`data/pairs.npz`), as in proof.py, and the search's own trials too. The rates are
equally good, or the other one is worse by what a column says; the true gap at the better rate is the limit. So every
PASS and every FAIL is an error.

"One noise" says that a rate leaves the noise of a seed as it was; "own noise" draws other trainings for the other rate,
which is the worst case. The order in which sides are searched is that of `gates/settling.py`.

    python benchmarks/proof_search.py [--draws 10000]
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from proof import CONFIDENCE, DATA, MARGIN, SEQUENCES, upper_bound

from pytest_ftguard.comparison.pairs import PairedLosses
from pytest_ftguard.gates.verdict import Status, decide
from pytest_ftguard.statistics import FloatArray, one_run_interval

TOKENS: Final = np.full(SEQUENCES, 127.0)
WORSE: Final = (0.01, 0.02, 0.05)
SEEDS: Final = (3, 5)


@dataclass(frozen=True)
class Losses:
    """Centred losses per token of really trained pairs.

    Attributes:
        candidate: Those of LoRA, shape (pairs, sequences).
        baseline: Those of full fine-tuning, of the same shape.
    """

    candidate: FloatArray
    baseline: FloatArray


@dataclass(frozen=True)
class Setup:
    """What is simulated.

    Attributes:
        seeds: Number of seeds of the gate.
        worse: What the worse of the candidate's two rates costs, in nats per token.
        first_is_worse: Whether the candidate starts at the worse rate.
        own_noise: Whether other trainings are drawn for the other rate.
    """

    seeds: int
    worse: float
    first_is_worse: bool
    own_noise: bool


def read(path: Path = DATA) -> Losses:
    """Return the losses of the trained pairs, each side centred."""
    with np.load(path) as data:
        losses = np.stack([data["lora"], data["full"]]).astype(np.float64) / data["tokens"]
    candidate, baseline = losses - losses.mean(axis=(1, 2), keepdims=True)
    return Losses(candidate, baseline)


def answer(random: np.random.Generator, losses: Losses, setup: Setup, *, searches: bool) -> Status:
    """Return the answer to one draw.

    Args:
        random: The generator.
        losses: What is drawn from.
        setup: What is simulated.
        searches: Whether rates are searched before the answer.
    """
    pairs, sequences = losses.candidate.shape
    columns = random.integers(0, sequences, SEQUENCES)
    rows = random.integers(0, pairs, (setup.seeds, 1))
    others = random.integers(0, pairs, (setup.seeds, 1)) if setup.own_noise else rows
    shifts = (setup.worse, 0.0) if setup.first_is_worse else (0.0, setup.worse)
    candidates = [
        losses.candidate[which, columns] + MARGIN + shift for which, shift in zip((rows, others), shifts, strict=True)
    ]
    baselines = [losses.baseline[which, columns] for which in (rows, others)]

    def status(candidate: FloatArray, baseline: FloatArray) -> Status:
        ours, theirs = candidate * TOKENS, baseline * TOKENS
        return decide("loss_gap", PairedLosses(ours, theirs, TOKENS, TOKENS).gap(CONFIDENCE, None), MARGIN)

    candidate, baseline = candidates[0], baselines[0]
    found = status(candidate, baseline)
    if not searches:
        return found
    open_sides = {"candidate", "baseline"}
    order = {"FAIL": ("candidate",), "PASS": ("baseline",), "INCONCLUSIVE": ("candidate", "baseline")}
    while side := next((one for one in order[found] if one in open_sides), None):
        open_sides.remove(side)
        moves = _moves(random, getattr(losses, side), shifts if side == "candidate" else (0.0, 0.0), setup)
        if side == "candidate":
            candidate = candidates[moves]
        elif moves and baselines[1].mean() <= baseline.mean():  # a baseline that is worse in the end is not taken
            baseline = baselines[1]
        found = status(candidate, baseline)
    return found


def _moves(random: np.random.Generator, losses: FloatArray, shifts: tuple[float, float], setup: Setup) -> bool:
    """Return whether a search leaves the first rate: one trial at each, on sequences of its own."""
    columns = random.integers(0, losses.shape[1], SEQUENCES)
    first = random.integers(0, len(losses))
    other = random.integers(0, len(losses)) if setup.own_noise else first
    ours, theirs = (
        (losses[row, columns] + shift) * TOKENS for row, shift in zip((other, first), reversed(shifts), strict=True)
    )
    gap = one_run_interval(tuple(ours), tuple(theirs), tuple(TOKENS), None, CONFIDENCE)
    return gap is not None and gap.upper < 0


def table(draws: int) -> None:
    """Print false passes and false fails at the margin, without the search and with it."""
    losses = read()
    print(f"true gap at the better rate = margin = {MARGIN}, {draws:,} draws of {len(losses.candidate)} trained pairs")
    print(f"{'seeds':5} {'the other rate':34} {'search':6} {'false pass':>20} {'false fail':>20}")
    for seeds in SEEDS:
        alike = [Setup(seeds, 0.0, first_is_worse=False, own_noise=own) for own in (False, True)]
        apart = [Setup(seeds, worse, first, own_noise=True) for worse in WORSE for first in (False, True)]
        for setup in alike + apart:
            for searches in (False, True):
                _row(losses, setup, draws, searches=searches)


def _row(losses: Losses, setup: Setup, draws: int, *, searches: bool) -> None:
    random = np.random.default_rng(0)
    counts = Counter(answer(random, losses, setup, searches=searches) for _ in range(draws))
    errors = [f"{counts[s] / draws:6.2%} (<= {upper_bound(counts[s], draws):6.2%})" for s in ("PASS", "FAIL")]
    which = f"{'better' if setup.first_is_worse else 'worse'} by {setup.worse:g}" if setup.worse else "as good"
    what = f"{which}, {'own' if setup.own_noise else 'one'} noise"
    print(f"{setup.seeds:5} {what:34} {'yes' if searches else 'no':6} {errors[0]:>20} {errors[1]:>20}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=10_000)
    table(parser.parse_args().draws)


if __name__ == "__main__":
    main()
