"""Train many pairs of full fine-tuning and LoRA, and keep their losses per sequence: real noise for `proof.py`.

The job is the quickstart's model and texts, 60 steps of 8x128, with more validation sequences than a gate would use, so
that gates can be given samples of them.

    python benchmarks/proof_pairs.py [PAIRS] [FILE]        # about 12 minutes for 32 pairs on two cores
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.running.lab import Lab, LabOptions, Progress
from pytest_ftguard.specs import Full, LoRA, Variant, Workload

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
DATA = Path(__file__).parent / "data" / "pairs.npz"
PAIRS = 32
SEQUENCES = 1024


def show(progress: Progress) -> None:
    """Print a line when a trial ends."""
    if progress.phase == "end":
        print(f"{progress.spec.variant.label}, seed {progress.spec.seed}: {progress.elapsed_seconds:.1f} s", flush=True)


def losses(trained: TrainedVariant) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return the summed losses, shape (seeds, sequences)."""
    return np.array([trial.validation.nll for trial in trained.trials if trial.validation], dtype=np.float32)


def curves(trained: TrainedVariant) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    """Return the summed losses along training, shape (seeds, points, sequences of the curve)."""
    return np.array([[point.nll for point in trial.curve] for trial in trained.trials], dtype=np.float32)


def main(pairs: int, path: Path) -> None:
    """Train the pairs and write the file."""
    sys.path.insert(0, str(QUICKSTART))
    import texts

    with tempfile.TemporaryDirectory() as name:
        texts.write_texts(Path(name))
        workload = Workload(
            model=str(QUICKSTART / "base_model"),
            train=str(Path(name) / "train.txt"),
            validation=str(Path(name) / "validation.txt"),
            block_size=128,
            batch_size=8,
            steps=60,
            seeds=tuple(range(pairs)),
            precision="fp32",
            validation_sequences=SEQUENCES,
        )
        lab = Lab(LabOptions(device="cpu", keep_at_most_bytes=0), show)
        variants: tuple[Variant, Variant] = (Full(learning_rate=5e-4), LoRA(r=8, learning_rate=5e-3))
        try:
            full, lora = (lab.train(workload, variant) for variant in variants)
        finally:
            lab.close()
    base = full.trials[0].base_validation
    assert base is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        full=losses(full),
        lora=losses(lora),
        base=np.array(base.nll, dtype=np.float32),
        tokens=np.array(base.tokens, dtype=np.int32),
        curve_steps=np.array([point.step for point in full.trials[0].curve]),
        full_curves=curves(full),
        lora_curves=curves(lora),
    )
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS, Path(sys.argv[2]) if len(sys.argv) > 2 else DATA)
