"""How often the gate across commits errs: a regression planted at the limit, in the noise of really trained pairs.

Both commits are drawn with replacement from the same centred pairs (see `proof.py`), on the same sequences. How much
two commits have in common is not known beforehand, so there are three cases: nothing but the sequences; the full
variant too, as if only LoRA was changed; and most of LoRA's noise as well, as if little was changed.

    python benchmarks/proof_regression.py [--draws 4000]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pytest_ftguard.gates.verdict import Status, decide
from pytest_ftguard.statistics import FloatArray, change_of_gap, gap_interval

DATA = Path(__file__).parent / "data"
MARGIN, CONFIDENCE, SEQUENCES, TOKENS = 0.05, 0.95, 256, 127
CASES = ("nothing in common", "the same full variant", "most of LoRA's noise too")

Rule = Callable[[FloatArray, FloatArray, FloatArray], Status]


def _decide(now: FloatArray, then: FloatArray, tokens: FloatArray, paired: bool) -> Status:
    return decide("regression", change_of_gap(now, then, tokens, CONFIDENCE, paired=paired), MARGIN)


def _apart(now: FloatArray, then: FloatArray, tokens: FloatArray) -> Status:
    """Take the larger of two estimates of the seeds' noise, as the gate on the loss gap itself does."""
    return decide("regression", gap_interval(now - then, tokens, CONFIDENCE, terms=(now, then)), MARGIN)


RULES: dict[str, Rule] = {
    "shipped, seeds paired": lambda now, then, tokens: _decide(now, then, tokens, True),
    "shipped, other seeds": lambda now, then, tokens: _decide(now, then, tokens, False),
    "larger of two estimates": _apart,
}


def shares(name: str, rule: Rule, case: str, *, seeds: int, regression: float, draws: int) -> Counter[str]:
    """Return how often a rule gave each answer."""
    with np.load(DATA / name) as data:
        losses = np.stack([data["lora"], data["full"]]).astype(np.float64) / data["tokens"]
    centred = losses - losses.mean(axis=(1, 2), keepdims=True)
    random, tokens = np.random.default_rng(0), np.full(SEQUENCES, float(TOKENS))
    counts = Counter[str]()
    for _ in range(draws):
        items = random.integers(0, centred.shape[2], SEQUENCES)
        one, other = (centred[:, random.integers(0, centred.shape[1], (seeds, 1)), items] for _ in range(2))
        lora, full = other if case == CASES[0] else (other[0], one[1])
        if case == CASES[2]:
            lora = 0.8 * one[0] + 0.6 * other[0]
        counts[rule((one[0] - one[1] + regression) * TOKENS, (lora - full) * TOKENS, tokens)] += 1
    return counts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=4000)
    draws = parser.parse_args().draws
    print(
        f"true regression = limit = {MARGIN}, {draws:,} draws, {SEQUENCES} sequences, bounds at {CONFIDENCE:.0%} each"
    )
    print(f"{'pairs':13s} {'in common':25s} {'seeds':>5s} {'rule':24s} false pass  false fail  PASS without regression")
    for name in ("pairs.npz", "held_out.npz"):
        for case in CASES:
            for seeds in (3, 5):
                for label, rule in RULES.items():
                    at, none = (
                        shares(name, rule, case, seeds=seeds, regression=gap, draws=draws) for gap in (MARGIN, 0.0)
                    )
                    errors = f"{at['PASS'] / draws:10.1%}  {at['FAIL'] / draws:10.1%}  {none['PASS'] / draws:10.1%}"
                    print(f"{name:13s} {case:25s} {seeds:5d} {label:24s} {errors}", flush=True)


if __name__ == "__main__":
    main()
