"""How far the loss gap moves if part of the validation text was trained on: why a tenth of it is the bound.

Half of 256 validation passages of 128 bytes are put into a small training text, each on a line of its own. The other
half is clean. The gap on both halves shows what one leaked passage changes; a share of leaked passages changes that
share of it.

python benchmarks/leak.py
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.tasks.causal_lm import texts as checked_texts
from pytest_ftguard.training.trial import TrialFolder, run_trial

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
BLOCK, PASSAGES = 128, 256
TRAINING_BYTES = 60_000
SEEDS = (0, 1, 2)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)
VARIANTS: tuple[Variant, ...] = (Full(learning_rate=5e-4), LoRA(r=8, learning_rate=5e-3))


def write_texts(folder: Path) -> NDArray[np.bool_]:
    """Write both texts, and return for each passage whether it was leaked."""
    sys.path.insert(0, str(QUICKSTART))
    import texts

    validation = texts.code("validation")[: PASSAGES * BLOCK].encode("ascii", "replace")
    leaked = np.zeros(PASSAGES, dtype=np.bool_)
    leaked[random.Random(0).sample(range(PASSAGES), PASSAGES // 2)] = True
    passages = [validation[number * BLOCK : (number + 1) * BLOCK] for number in np.flatnonzero(leaked)]
    training = texts.code("train")[:TRAINING_BYTES].encode("ascii", "replace")
    (folder / "train.txt").write_bytes(b"\n".join([training, *passages]))
    (folder / "validation.txt").write_bytes(validation)
    return leaked


def losses(folder: Path, variant: Variant, steps: int, seed: int) -> NDArray[np.float64]:
    """Return the loss of each passage in nats per token."""
    workload = Workload(
        model=str(QUICKSTART / "base_model"),
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        block_size=BLOCK,
        batch_size=8,
        steps=steps,
        seeds=SEEDS,
        precision="fp32",
    )
    spec = TrialSpec(workload=workload, variant=variant, seed=seed, device="cpu")
    with patch.object(checked_texts, "MOST_TRAINED_ON", 1.0):  # the check that this measures the reason of
        measured = run_trial(spec, TrialFolder(folder, 0), lambda *_: None).measured.validation
    assert measured is not None
    nll, tokens = (np.array(values, dtype=np.float64) for values in (measured.nll, measured.tokens))
    loss: NDArray[np.float64] = nll / tokens
    return loss


def report(folder: Path, leaked: NDArray[np.bool_], steps: int) -> None:
    """Print the gap on clean and on leaked passages, and what each share would change."""
    found = {one.kind: np.mean([losses(folder, one, steps, seed) for seed in SEEDS], axis=0) for one in VARIANTS}
    gap = found["lora"] - found["full"]
    clean, dirty = gap[~leaked].mean(), gap[leaked].mean()
    error = gap[~leaked].std(ddof=1) / np.sqrt(PASSAGES)
    size = (folder / "train.txt").stat().st_size
    epochs = steps * 8 * BLOCK / size
    print(f"{steps} steps of 8x{BLOCK} on {size:,} bytes, {epochs:.1f} epochs, {len(SEEDS)} seeds")
    for kind, each in found.items():
        print(f"  {kind}: loss {each[~leaked].mean():.3f} on clean passages, {each[leaked].mean():.3f} on leaked ones")
    print(f"  gap: {clean:+.4f} clean, {dirty:+.4f} leaked; standard error of {PASSAGES} passages {error:.4f}")
    for share in SHARES:
        shift = share * (dirty - clean)
        print(f"  {100 * share:2.0f} % leaked: the gap moves by {shift:+.4f}, {shift / error:+.2f} standard errors")


def main() -> None:
    """Report a short training and a long one."""
    with tempfile.TemporaryDirectory() as place:
        leaked = write_texts(Path(place))
        for steps in (100, 400):
            report(Path(place), leaked, steps)


if __name__ == "__main__":
    main()
