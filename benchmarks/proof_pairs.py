"""Train many pairs of full fine-tuning and LoRA, and keep their losses per sequence: real noise for `proof.py`.

The job is the quickstart's model and texts, 60 steps of 8x128, with more validation sequences than a gate would use, so
that gates can be given samples of them.

    python benchmarks/proof_pairs.py [PAIRS] [FILE] [--first-seed N]    # about 15 minutes for 96 pairs on two cores
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pytest_ftguard.results import Trial
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Workload

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
DATA = Path(__file__).parent / "data" / "pairs.npz"
PAIRS = 96
SEQUENCES = 1024
VARIANTS = (Full(learning_rate=5e-4), LoRA(r=8, learning_rate=5e-3))


def job(texts: Path) -> Workload:
    """Return what is trained, on the texts of a folder."""
    return Workload(
        model=str(QUICKSTART / "base_model"),
        train=str(texts / "train.txt"),
        validation=str(texts / "validation.txt"),
        block_size=128,
        batch_size=8,
        steps=60,
        seeds=(0,),
        precision="fp32",
        validation_sequences=SEQUENCES,
    )


def train_pair(texts: Path, first_seed: int, seed: int) -> tuple[Trial, Trial, float]:
    """Return both trials of a seed, and for the first one the standard deviation of their difference over tokens."""
    import torch

    from pytest_ftguard.tasks.causal_lm import data
    from pytest_ftguard.training import kept
    from pytest_ftguard.training.trial import TrialFolder, run_trial

    torch.set_num_threads(1)
    workload, results, per_token = job(texts), [], []
    for variant in VARIANTS:
        spec = TrialSpec(workload=workload, variant=variant, seed=seed, device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            result = run_trial(spec, TrialFolder(Path(folder), None), lambda *_: None)
            results.append(result)
            if seed == first_seed:
                model, tokenizer = kept.load_trained(spec, str(result.provenance.model_dir))
                size: dict[str, Any] = {"block_size": workload.block_size, "at_most": SEQUENCES}
                found = data.evaluation_set(workload.validation, "validation", tokenizer, **size)
                per_token.append(token_losses(model, torch.stack(found.sequences)))
    deviation = float((per_token[1] - per_token[0]).std()) if per_token else float("nan")
    print(f"seed {seed}: {', '.join(result.measured.outcome for result in results)}", flush=True)
    return results[0], results[1], deviation


def token_losses(model: Any, sequences: Any) -> Any:
    """Return the loss of every predicted token."""
    import torch
    from torch.nn import functional

    losses = []
    with torch.no_grad():
        for batch in sequences.split(16):
            logits = model(input_ids=batch).logits[:, :-1].flatten(0, 1)
            losses.append(functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="none"))
    return torch.cat(losses)


def main(pairs: int, path: Path, first_seed: int) -> None:
    """Train the pairs and write the file."""
    sys.path.insert(0, str(QUICKSTART))
    import texts

    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        texts.write_texts(Path(name))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as executor:
            trained = list(
                executor.map(partial(train_pair, Path(name), first_seed), range(first_seed, first_seed + pairs))
            )
    full, lora = [pair[0] for pair in trained], [pair[1] for pair in trained]
    base = full[0].measured.base_validation
    assert base is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        full=losses(full),
        lora=losses(lora),
        base=np.array(base.nll, dtype=np.float32),
        tokens=np.array(base.tokens, dtype=np.int32),
        token_sd=np.array(trained[0][2]),
        curve_steps=np.array([point.step for point in full[0].measured.curve]),
        full_curves=curves(full),
        lora_curves=curves(lora),
    )
    print(f"{path}: {path.stat().st_size:,} bytes")


def losses(trials: list[Trial]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return the summed losses, shape (seeds, sequences)."""
    return np.array([trial.measured.validation.nll for trial in trials if trial.measured.validation], dtype=np.float32)


def curves(trials: list[Trial]) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """Return the summed losses along training, shape (seeds, points, sequences of the curve)."""
    return np.array([[point.nll for point in trial.measured.curve] for trial in trials], dtype=np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=int, nargs="?", default=PAIRS)
    parser.add_argument("path", type=Path, nargs="?", default=DATA)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    main(options.pairs, options.path, options.first_seed)
