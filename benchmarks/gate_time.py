"""How long a gate takes to decide, for 8 seeds of 2,000 sequences with a curve: from results to verdict and message.

python benchmarks/gate_time.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from pytest_ftguard.gates.limits import NATS_PER_TOKEN, OF_GAIN, PERPLEXITY, Limit
from pytest_ftguard.gates.quality import assess_loss_gap, assess_perplexity_gap, assess_retention
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import CurvePoint, Environment, Measured, SequenceLosses, TrainedVariant, Trial
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload

SEEDS, SEQUENCES, CURVE = 8, 2000, 200
RUNS = 30
WORKLOAD = Workload(model="m", train="t", validation="v", seeds=tuple(range(SEEDS)))


def losses(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> SequenceLosses:
    """Return losses of 127 tokens a sequence."""
    return SequenceLosses(tuple((127 * values).tolist()), (127,) * len(values), None, "digest")


def trained(variant: Variant, loss: float) -> TrainedVariant:
    """Return made-up trials of a variant, with noise of seeds and sequences."""
    trials = []
    for seed in WORKLOAD.seeds:
        random = np.random.default_rng(seed)
        values = loss + random.normal(0, 0.05, SEQUENCES) + random.normal(0, 0.006)
        curve = tuple(
            CurvePoint(step, loss, losses(values[:CURVE] + 0.1 / max(step, 1)).nll) for step in (0, 62, 125, 250, 500)
        )
        trials.append(
            Trial(
                TrialSpec(workload=WORKLOAD, variant=variant, seed=seed),
                Measured(
                    outcome="ok",
                    validation=losses(values),
                    base_validation=losses(np.full(SEQUENCES, 3.0)),
                    curve=(CurvePoint(0, 3.0, (1.0,)), *curve[1:]),
                    data_order=f"order {seed}",
                    environment=Environment("cpu", "a processor", "fp32", 2, "Linux", {}),
                ),
            )
        )
    return TrainedVariant(WORKLOAD, variant, tuple(trials))


def main() -> None:
    """Print the median and the largest time of each gate."""
    full, lora = trained(Full(learning_rate=1e-4), 2.0), trained(LoRA(learning_rate=1e-3), 2.02)
    gates: dict[str, Callable[[], Verdict]] = {
        "loss gap": lambda: assess_loss_gap(lora, full, Limit(0.02, NATS_PER_TOKEN, Origin("", "")), Rule()),
        "perplexity gap": lambda: assess_perplexity_gap(lora, full, Limit(0.2, PERPLEXITY, Origin("", "")), Rule()),
        "retention": lambda: assess_retention(lora, full, Limit(0.98, OF_GAIN, Origin("", "")), Rule()),
    }
    for name, gate in gates.items():
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            verdict = gate()
            times.append(1000 * (time.perf_counter() - start))
        middle, largest = statistics.median(times), max(times)
        assert verdict.status != "INVALID", verdict.message  # an early refusal would be no measurement
        print(f"{name:15s} {verdict.status:13s} median {middle:5.1f} ms, largest {largest:5.1f} ms")


if __name__ == "__main__":
    main()
