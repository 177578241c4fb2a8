"""How good the learning rates are that the search finds, against the best of a grid at the full number of steps.

The job is the quickstart's model and texts, 400 steps of 8x128. Each search starts at a rate that is wrong by up to a
factor of nine. The regret is the loss at the rate that was found minus that at the best rate of the grid. Before, the
search had one round of a quarter of the steps, and took the rate with the lowest loss.

    python benchmarks/rates.py [FILE]    # about 20 minutes on two cores; writes what was trained
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.running.search import find_learning_rate, next_notch
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.specs.short import search_workloads

QUICKSTART: Final = Path(__file__).parents[1] / "examples" / "quickstart"
DATA: Final = Path(__file__).parent / "data" / "rates.json"
VARIANTS: Final = (
    Full(learning_rate=5e-4),
    LoRA(r=2, learning_rate=5e-3),
    LoRA(r=8, learning_rate=5e-3),
    LoRA(r=32, learning_rate=5e-3),
)
# In factors of three from the rates above.
GRID: Final = range(-3, 3)
STARTS: Final = range(-2, 3)

Row = dict[str, object]


def job(texts: Path) -> Workload:
    """Return what is trained, on the texts of a folder."""
    return Workload(
        model=str(QUICKSTART / "base_model"),
        train=str(texts / "train.txt"),
        validation=str(texts / "validation.txt"),
        block_size=128,
        batch_size=8,
        steps=400,
        seeds=(0,),
        precision="fp32",
    )


class Trainer:
    """Trains each trial once.

    Attributes:
        rows: What was trained, and its loss; None if it diverged.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._trained: dict[TrialSpec, TrainedVariant] = {}

    def train(self, workload: Workload, variant: Variant) -> TrainedVariant:
        """Return a variant, trained with the first seed."""
        from pytest_ftguard.training.trial import TrialFolder, run_trial

        spec = TrialSpec(workload=workload, variant=variant, seed=workload.seeds[0], device="cpu")
        if spec not in self._trained:
            with tempfile.TemporaryDirectory() as folder:
                trial = run_trial(spec, TrialFolder(Path(folder), 0), lambda *_: None)
            self._trained[spec] = TrainedVariant(workload, variant, (trial,))
            self.rows.append(
                {
                    "variant": variant.label,
                    "learning_rate": variant.learning_rate,
                    "steps": workload.steps,
                    "purpose": workload.purpose,
                    "loss": self._trained[spec].loss,
                }
            )
        return self._trained[spec]


def at(variant: Variant, notch: int) -> Variant:
    """Return a variant at another rate."""
    return replace(variant, learning_rate=float(f"{(variant.learning_rate or 0.0) * 3.0**notch:.2g}"))


def one_round(train: Callable[[Workload, Variant], TrainedVariant], work: Workload, variant: Variant) -> float:
    """Return the rate that the search found before it had two rounds."""
    short = replace(search_workloads(work)[0], steps=work.steps // 4)
    losses: dict[int, float] = {}
    notch: int | None = 0
    while notch is not None:
        loss = train(short, at(variant, notch)).loss
        losses[notch] = math.inf if loss is None else loss
        notch = next_notch(losses)
    return at(variant, min(losses, key=lambda one: (losses[one], one))).learning_rate or 0.0


def judge(texts: Path, variant: Variant) -> tuple[list[Row], list[str]]:
    """Return what was trained for a variant, and the lines of the table."""
    import torch

    torch.set_num_threads(1)
    work, trainer = job(texts), Trainer()
    grid = {one.learning_rate: trainer.train(work, one).loss for one in (at(variant, notch) for notch in GRID)}
    best = min((loss, rate) for rate, loss in grid.items() if loss is not None)
    shown = ", ".join(f"{rate:g}: {'diverged' if loss is None else f'{loss:.4f}'}" for rate, loss in grid.items())
    lines = [f"{variant.label}, loss at {work.steps} steps by learning rate: {shown}"]
    for notch in STARTS:
        cells = [f"start {at(variant, notch).learning_rate:g}"]
        for name, find in (("one round", one_round), ("two rounds", find_learning_rate)):
            tried: list[int] = []
            rate = find(partial(counted, trainer, tried), work, at(variant, notch))
            loss = trainer.train(work, replace(variant, learning_rate=rate)).loss
            regret = "diverged" if loss is None else f"{loss - best[0]:+.4f}"
            cost = sum(tried) / work.steps
            cells.append(f"{name} {rate:g}, regret {regret}, {cost:.2f} trainings")
        lines.append("  " + "; ".join(cells))
    print("\n".join(lines), flush=True)
    return trainer.rows, lines


def counted(trainer: Trainer, tried: list[int], workload: Workload, variant: Variant) -> TrainedVariant:
    """Train, and note the steps."""
    tried.append(workload.steps)
    return trainer.train(workload, variant)


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write what was trained."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main(path: Path) -> None:
    """Train, search and print the table."""
    sys.path.insert(0, str(QUICKSTART))
    import texts

    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        texts.write_texts(Path(name))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as executor:
            found = list(executor.map(partial(judge, Path(name)), VARIANTS))
    write(path, (row for rows, _ in found for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
