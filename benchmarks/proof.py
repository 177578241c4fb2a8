"""How often a gate errs: the shipped functions on planted gaps, in simulated noise and in that of real trainings.

The real noise is in `data/pairs.npz` (see `proof_pairs.py`): the losses per sequence of really trained pairs. Their
gaps are centred, a gap is planted, and seeds and sequences are drawn from them with replacement, so that the truth is
known. Rules that are in use elsewhere are tried on the same draws. "Calibrated" is the shipped
rule with the seeds' noise taken from ten other seeds, as a calibration gives it.

    python benchmarks/proof.py [--draws 10000] [--plot FILE]       # the plot needs matplotlib
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from pytest_ftguard.comparison.pairs import PairedLosses
from pytest_ftguard.gates.verdict import Status, decide
from pytest_ftguard.statistics import FloatArray, Interval, SeedNoise, gap_interval, line_weights

DATA = Path(__file__).parent / "data" / "pairs.npz"
MARGIN = 0.05
CONFIDENCE = 0.95
SEQUENCES = 256
CALIBRATION_SEEDS = 10
LOOKS = (3, 5, 8)
RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class Noise:
    """Losses of two variants with a true gap of 0, to draw from.

    Attributes:
        name: What the noise is.
        draw: Given a generator and a number of seeds, losses per token of candidate and baseline, shape (2, seeds,
            SEQUENCES).
        token_sd: Standard deviation of a difference over tokens.
        tokens: Tokens of a sequence.
    """

    name: str
    draw: Callable[[np.random.Generator, int], FloatArray]
    token_sd: float
    tokens: int = 127


def simulated(seed_sd: float, item_sd: float, both_sd: float) -> Noise:
    """Return normal noise of seeds, of sequences, and of both together."""

    def draw(random: np.random.Generator, seeds: int) -> FloatArray:
        # Half of each variance belongs to either variant, so that the gap between them has all of it.
        half = np.sqrt(0.5)
        items = random.normal(0, half * item_sd, (2, 1, SEQUENCES))
        ours = random.normal(0, half * seed_sd, (2, seeds, 1))
        return items + ours + random.normal(0, half * both_sd, (2, seeds, SEQUENCES))

    return Noise(f"simulated, seeds {seed_sd:g}, sequences {item_sd:g}", draw, token_sd=0.5)


def trained(path: Path = DATA) -> Noise:
    """Return the noise of really trained pairs."""
    with np.load(path) as data:
        losses = np.stack([data["lora"], data["full"]]).astype(np.float64) / data["tokens"]
        token_sd = float(data["token_sd"])
    centred = losses - losses.mean(axis=(1, 2), keepdims=True)

    def draw(random: np.random.Generator, seeds: int) -> FloatArray:
        rows = random.integers(0, centred.shape[1], (seeds, 1))
        drawn: FloatArray = centred[:, rows, random.integers(0, centred.shape[2], SEQUENCES)]
        return drawn

    return Noise(f"{centred.shape[1]} trained pairs", draw, token_sd)


def shipped(losses: FloatArray, noise: Noise) -> Status:
    """The rule of pytest-ftguard."""
    return _shipped(losses, noise, None)


def escalating(losses: FloatArray, noise: Noise) -> Status:
    """The rule of pytest-ftguard with seeds = 3..8: more seeds in doubt, a third of the error at each look."""
    status: Status = "INCONCLUSIVE"
    for count in LOOKS:
        status = _shipped(losses[:, : CALIBRATION_SEEDS + count], noise, None, 1 - (1 - CONFIDENCE) / len(LOOKS))
        if status != "INCONCLUSIVE":
            break
    return status


def calibrated(losses: FloatArray, noise: Noise) -> Status:
    """The rule of pytest-ftguard with the noise of seeds from a calibration."""
    tau = (losses[0] - losses[1])[:CALIBRATION_SEEDS].mean(axis=1).std(ddof=1)
    return _shipped(losses, noise, SeedNoise(float(tau), CALIBRATION_SEEDS - 1))


def _shipped(losses: FloatArray, noise: Noise, seed_noise: SeedNoise | None, confidence: float = CONFIDENCE) -> Status:
    tokens = np.full(losses.shape[2], float(noise.tokens))
    candidate, baseline = losses[:, CALIBRATION_SEEDS:] * tokens
    interval = PairedLosses(candidate, baseline, tokens, tokens).gap(confidence, seed_noise)
    return decide("loss_gap", interval, MARGIN)


def _judged(losses: FloatArray) -> FloatArray:
    """Return the gaps of the seeds that are judged, shape (seeds, SEQUENCES)."""
    gaps: FloatArray = (losses[0] - losses[1])[CALIBRATION_SEEDS:]
    return gaps


def _by_bounds(value: float, half_width: float) -> Status:
    return decide("loss_gap", Interval(value, value - half_width, value + half_width, 0, 0, 0), MARGIN)


def paired_only(losses: FloatArray, noise: Noise) -> Status:
    """The rule of pytest-ftguard without the second estimate of the seeds' noise."""
    gaps, tokens = _judged(losses), np.full(losses.shape[2], float(noise.tokens))
    return decide("loss_gap", gap_interval(gaps * tokens, tokens, CONFIDENCE), MARGIN)


def point_estimate(losses: FloatArray, noise: Noise) -> Status:
    """The difference of two means against the limit."""
    return _by_bounds(float(_judged(losses).mean()), 0.0)


def token_wise(losses: FloatArray, noise: Noise) -> Status:
    """An interval that takes every token for an independent observation."""
    gaps = _judged(losses)
    half_width = stats.norm.ppf(CONFIDENCE) * noise.token_sd / np.sqrt(gaps.size * noise.tokens)
    return _by_bounds(float(gaps.mean()), float(half_width))


def seeds_only(losses: FloatArray, noise: Noise) -> Status:
    """A t test over one number per seed."""
    gaps = _judged(losses).mean(axis=1)
    half_width = stats.t.ppf(CONFIDENCE, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return _by_bounds(float(gaps.mean()), float(half_width))


Rule = Callable[[FloatArray, Noise], Status]
RULES: dict[str, Rule] = {
    "shipped": shipped,
    "shipped, calibrated": calibrated,
    "paired seeds alone": paired_only,
    "point estimate": point_estimate,
    "tokens as units": token_wise,
    "seeds only (t test)": seeds_only,
}


def shares(
    rule: Callable[[FloatArray, Noise], Status], noise: Noise, seeds: int, gap: float, draws: int
) -> Counter[str]:
    """Return how often a rule gave each answer at a true gap."""
    random = np.random.default_rng(0)
    shift = np.array([gap, 0.0])[:, None, None]
    return Counter(rule(noise.draw(random, seeds + CALIBRATION_SEEDS) + shift, noise) for _ in range(draws))


def upper_bound(count: int, draws: int) -> float:
    """Return the exact one-sided 95 % bound of a proportion (Clopper and Pearson, 1934)."""
    return float(stats.binomtest(count, draws).proportion_ci(0.90, "exact").high)


def table(noises: list[Noise], draws: int) -> None:
    """Print false passes and false fails at the margin."""
    print(f"true gap = margin = {MARGIN}, {draws:,} draws, {SEQUENCES} sequences, bounds at {CONFIDENCE:.0%} each")
    print(f"{'noise':38s} {'seeds':>5s} {'rule':20s} {'false pass':>20s} {'false fail':>20s}")
    for noise in noises:
        for seeds in (3, 5, 8):
            for name, rule in RULES.items() if seeds < LOOKS[-1] else [("shipped, 3..8", escalating)]:
                counts = shares(rule, noise, seeds, MARGIN, draws)
                errors = [
                    f"{counts[s] / draws:6.2%} (<= {upper_bound(counts[s], draws):6.2%})" for s in ("PASS", "FAIL")
                ]
                print(f"{noise.name:38s} {seeds:5d} {name:20s} {errors[0]:>20s} {errors[1]:>20s}", flush=True)


def extrapolation(path: Path = DATA) -> None:
    """Print how well the last three points predict the gap at twice the steps, on the trained pairs."""
    with np.load(path) as data:
        steps = data["curve_steps"].tolist()
        gaps = (data["lora_curves"] - data["full_curves"]).sum(axis=2) / (127 * data["full_curves"].shape[2])
    print("\ngap foretold at twice the steps, from one pair each (mean and SD of foretold - found, nats per token)")
    for last in range(4, len(steps)):
        slope, _ = line_weights(steps[last - 3 : last], at=steps[last])
        foretold = gaps[:, last - 1] + gaps[:, last - 3 : last] @ slope * np.log(2)
        error = foretold - gaps[:, last]
        print(
            f"from {steps[last - 3 : last]} to {steps[last]}: found {gaps[:, last].mean():+.4f}, "
            f"foretold {foretold.mean():+.4f}, error {error.mean():+.4f} +- {error.std(ddof=1):.4f}"
        )


def plot(noise: Noise, path: Path, draws: int) -> None:
    """Draw the share of each answer against the true gap."""
    import matplotlib.pyplot as plt

    colours = {"PASS": "#2a9d8f", "INCONCLUSIVE": "#b8b8b8", "FAIL": "#d1495b"}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, seeds in zip(axes, (3, 5), strict=True):
        counts = [shares(shipped, noise, seeds, MARGIN * ratio, draws) for ratio in RATIOS]
        axis.stackplot(
            RATIOS, [[c[s] / draws for c in counts] for s in colours], labels=colours, colors=colours.values()
        )
        axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
        axis.set(title=f"{seeds} seeds, noise of {noise.name}", xlabel="true gap / margin", xlim=(0, 2), ylim=(0, 1))
    axes[0].set_ylabel("share of verdicts")
    axes[1].legend(loc="lower right")
    figure.savefig(path)


def main() -> None:
    """Print the table, and draw the plot if a file is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    noises = [simulated(0.006, 0.058, 0.0), simulated(0.02, 0.02, 0.03), simulated(0.001, 0.1, 0.0), trained()]
    table(noises, options.draws)
    extrapolation()
    if options.plot:
        plot(noises[-1], options.plot, options.draws // 5)


if __name__ == "__main__":
    main()
