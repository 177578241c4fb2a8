"""Whether short trials give the ratio of step times that whole trainings give: both side by side, seed by seed.

python benchmarks/short_timing.py [SEEDS]; prints the table that `results/short_timing.txt` holds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.running.executor import ExecutorOptions
from pytest_ftguard.running.lab import Lab, LabOptions
from pytest_ftguard.running.local.executor import LocalExecutor
from pytest_ftguard.specs import Full, LoRA, Workload
from pytest_ftguard.statistics import FloatArray, mean_log_ratio

QUICKSTART: Final = Path(__file__).parents[1] / "examples" / "quickstart"
FULL, LORA = Full(learning_rate=5e-4), LoRA(r=8, learning_rate=5e-3)


def write_tiny(folder: Path) -> Path:
    """Write the random model of 44,000 parameters that the tests use."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=384, n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return folder


def seconds(sides: list[TrainedVariant]) -> FloatArray:
    """Return the time of a step of each seed, in milliseconds."""
    return np.array([1e3 * (side.seconds_per_step or np.nan) for side in sides])


def compare(name: str, workload: Workload, seeds: int) -> None:
    """Train a pair and time it again, seed by seed, and print both ratios and how they differ."""
    lab = Lab(LabOptions(device="cpu", keep_at_most_bytes=0), LocalExecutor(ExecutorOptions()), lambda _: None)
    columns: dict[str, list[TrainedVariant]] = {"lora": [], "full": [], "short lora": [], "short full": []}
    took = {"whole": 0.0, "short": 0.0}
    for seed in range(seeds):
        work, start = replace(workload, seeds=(seed,)), time.perf_counter()
        # In turns too, so that a machine that grows slower is held against neither.
        order = (LORA, FULL) if seed % 2 else (FULL, LORA)
        one, other = (lab.train(work, variant) for variant in order)
        lora, full = (one, other) if order[0] == LORA else (other, one)
        took["whole"] += time.perf_counter() - start
        start = time.perf_counter()
        short = lora.timed_beside(full, "benchmark")
        took["short"] += time.perf_counter() - start
        for column, side in zip(columns.values(), (lora, full, *short), strict=True):
            column.append(side)
    lab.close()
    print(f"{name}, {seeds} seeds")
    ratios = {}
    for which, prefix in {"whole": "", "short": "short "}.items():
        ours, theirs = seconds(columns[f"{prefix}lora"]), seconds(columns[f"{prefix}full"])
        interval = mean_log_ratio(ours, theirs, 0.95)
        ratios[which] = ours / theirs
        steps = columns[f"{prefix}lora"][0].workload.steps
        print(
            f"  {steps:4} steps: full {np.median(theirs):6.2f} ms, lora {np.median(ours):6.2f} ms, ratio "
            f"{interval.value:.3f} [{interval.lower:.3f}, {interval.upper:.3f}], {took[which]:.0f} s in all"
        )
    between = mean_log_ratio(ratios["short"], ratios["whole"], 0.95)
    print(f"  ratio of the short by that of the whole: {between.value:.3f} [{between.lower:.3f}, {between.upper:.3f}]")


def main(seeds: int) -> None:
    """Compare a tiny model and the quickstart's."""
    sys.path.insert(0, str(QUICKSTART))
    from texts import write_texts

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder)
        train, validation = str(folder / "train.txt"), str(folder / "validation.txt")
        tiny = str(write_tiny(folder / "tiny"))
        base = Workload(
            model=tiny, train=train, validation=validation, steps=2000, batch_size=8, precision="fp32", seeds=(0,)
        )
        compare("tiny GPT-2, 44,000 parameters", base, seeds)
        quickstart = replace(base, model=str(QUICKSTART / "base_model"), steps=400)
        compare("quickstart, 0.86 million parameters", quickstart, seeds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
