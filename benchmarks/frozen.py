"""What it saves to hold frozen weights in bf16, next to autocast over fp32 weights, in processes that alternate.

SmolLM2-135M's shape with random weights, 4 sequences of 128 tokens, full fine-tuning and LoRA on all linear layers. The
shape of 8 billion parameters, with 1 sequence of 2,048 tokens, is forecast only.

    python benchmarks/frozen.py          # about 5 minutes on two cores
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from forecast import ALL_LORA, write
from tabulate import tabulate

from pytest_ftguard.specs import Full, TrialSpec, Workload

STEPS, ROUNDS = 14, 3
SMALL, LARGE = "SmolLM2-135M", "Llama 8B"
HELD, NOT_HELD = "bf16", "fp32"


def spec_of(folder: Path, name: str, kind: str, checkpointing: bool = False) -> TrialSpec:
    """Return what is trained, or forecast."""
    workload = Workload(
        model=str(folder / name),
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        batch_size=1 if name == LARGE else 4,
        block_size=2048 if name == LARGE else 128,
        steps=STEPS,
        seeds=(0,),
        precision="bf16",
        validation_sequences=8,
        training_args={"gradient_checkpointing": True} if checkpointing else {},
    )
    variant = Full(learning_rate=5e-5) if kind == "full" else ALL_LORA
    return TrialSpec(workload=workload, variant=variant, seed=0, device="cpu")


def one(what: str, frozen: str, spec: TrialSpec) -> dict[str, Any]:
    """Forecast or train in this process."""
    from pytest_ftguard.training import forecast, trial

    module: Any = forecast if what == "forecast" else trial
    as_before = patch.object(module, "hold_frozen", lambda *_: None) if frozen == NOT_HELD else nullcontext()
    with as_before, tempfile.TemporaryDirectory() as scratch:
        if what == "forecast":
            return {"peak": forecast.forecast(spec).forecast_bytes}
        measured = trial.run_trial(spec, trial.TrialFolder(Path(scratch), 0), lambda *_: None).measured
    assert measured.memory is not None
    assert measured.memory.breakdown is not None
    assert measured.time is not None
    assert measured.validation is not None
    return {
        "peak": measured.memory.peak_bytes,
        "weights": measured.memory.breakdown.weights_bytes,
        "seconds": measured.time.seconds_per_step,
        "losses": [measured.validation.nll, [point.nll for point in measured.curve]],
    }


def in_own_process(what: str, frozen: str, folder: Path, *case: str) -> dict[str, Any]:
    """Do the same in a fresh process."""
    command = [sys.executable, __file__, what, frozen, str(folder), *case]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print the tables."""
    if len(sys.argv) > 1:
        what, frozen, place, name, kind, *word = sys.argv[1:]
        print(json.dumps(one(what, frozen, spec_of(Path(place), name, kind, bool(word)))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder)
        rows = [row for kind in ("full", "lora") for row in side_by_side(folder, kind)]
        headers = ("", "frozen in", "weights MB", "peak MB", "forecast MB", "error", "s/step", "losses")
        print(f"{SMALL}, bf16, median of {ROUNDS} rounds of {STEPS} steps\n\n{table(rows, *headers)}")
        rows = []
        for kind in ("full", "lora"):
            for more in ([], ["checkpointing"]):
                ways = (NOT_HELD, HELD)
                found = [in_own_process("forecast", way, folder, LARGE, kind, *more)["peak"] for way in ways]
                rows.append([kind, "yes" if more else "no", *(f"{size / 1e6:,.1f}" for size in found)])
        print(f"\n{LARGE}, bf16, forecast\n\n{table(rows, '', 'checkpointing', 'fp32: MB', 'bf16: MB')}")


def table(rows: list[list[str]], *headers: str) -> str:
    """Return a table with words to the left and numbers to the right."""
    align = ("left", "left", *["right"] * (len(headers) - 2))
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True, colalign=align)


def side_by_side(folder: Path, kind: str) -> list[list[str]]:
    """Return the rows of a variant: fp32 and bf16 by turns."""
    ways = (NOT_HELD, HELD)
    rounds = [{way: in_own_process("train", way, folder, SMALL, kind) for way in ways} for _ in range(ROUNDS)]
    equal = all(one["losses"] == rounds[0][NOT_HELD]["losses"] for both in rounds for one in both.values())
    rows = []
    for way in ways:
        foretold = in_own_process("forecast", way, folder, SMALL, kind)["peak"]
        peak, weights = rounds[0][way]["peak"], rounds[0][way]["weights"]
        seconds = statistics.median(both[way]["seconds"] for both in rounds)
        sizes = [f"{one / 1e6:,.1f}" for one in (weights, peak, foretold)]
        error = f"{100 * (foretold / peak - 1):+.2f}%"
        rows.append([kind, way, *sizes, error, f"{seconds:.3f}", "equal" if equal else "DIFFERENT"])
    return rows


if __name__ == "__main__":
    main()
