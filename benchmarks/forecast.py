"""The forecast of a training's peak memory against what live tensors then measure, on the CPU, and what it costs.

Each figure comes from a process of its own: shapes with random weights, 4 sequences of 128 tokens, fp32, with and
without gradient checkpointing. The shape of 8 billion parameters, with 1 sequence of 2,048 tokens, is forecast only.

    python benchmarks/forecast.py        # about 4 minutes on two cores
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from tabulate import tabulate

from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload

STEPS = 4
# The dropout of GPT-2's configuration, which trials remove by default.
DROPOUT = {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
SMALL_LORA = LoRA(r=8, target_modules=["c_attn"], learning_rate=5e-4)
ALL_LORA = LoRA(r=16, learning_rate=5e-4)


def llama(**shape: int) -> Any:
    """Return a configuration of a Llama-like shape."""
    from transformers import LlamaConfig

    return LlamaConfig(bos_token_id=1, eos_token_id=2, architectures=["LlamaForCausalLM"], **cast(Any, shape))


def configurations() -> dict[str, Any]:
    """Return the shapes by name."""
    from transformers import GPT2Config

    smollm2 = llama(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    llama_8b = llama(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
    )
    gpt2 = GPT2Config(bos_token_id=1, eos_token_id=1)
    return {"GPT-2 with dropout": gpt2, "SmolLM2-135M": smollm2, "Llama 8B": llama_8b}


def write(folder: Path) -> None:
    """Write the configurations, weights for all but the largest, and two texts."""
    import torch
    from transformers import AutoModelForCausalLM, ByT5Tokenizer

    for name, config in configurations().items():
        if name == "Llama 8B":
            config.save_pretrained(folder / name)
            continue
        torch.manual_seed(0)
        cast(Any, AutoModelForCausalLM).from_config(config).save_pretrained(folder / name)
        ByT5Tokenizer().save_pretrained(folder / name)
    source = inspect.getsource(inspect)
    (folder / "train.txt").write_text(source[:60_000], encoding="utf-8")
    (folder / "validation.txt").write_text(source[60_000:70_000], encoding="utf-8")


def one(what: str, folder: Path, name: str, kind: str, checkpointing: bool) -> dict[str, Any]:
    """Forecast or measure one training in this process."""
    started = time.perf_counter()
    variant: Variant = (
        Full(learning_rate=5e-5) if kind == "full" else SMALL_LORA if name.startswith("GPT-2") else ALL_LORA
    )
    large = name == "Llama 8B"
    workload = Workload(
        model=str(folder / name),
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        batch_size=1 if large else 4,
        block_size=2048 if large else 128,
        steps=STEPS,
        seeds=(0,),
        precision="fp32",
        validation_sequences=8,
        model_args=DROPOUT if name.startswith("GPT-2") else {},
        training_args={"gradient_checkpointing": True} if checkpointing else {},
    )
    spec = TrialSpec(workload=workload, variant=variant, seed=0, device="cpu")
    if what == "measure":
        from pytest_ftguard.training.trial import TrialFolder, run_trial

        with tempfile.TemporaryDirectory() as scratch:
            memory = run_trial(spec, TrialFolder(Path(scratch), 0), lambda *_: None).measured.memory
        return {"bytes": memory.peak_bytes if memory else None}
    from pytest_ftguard.training.forecast import forecast

    imported = time.perf_counter()
    foretold = forecast(spec).forecast_bytes
    ended = time.perf_counter()
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return {"bytes": foretold, "seconds": ended - imported, "all": ended - started, "resident": resident / 1024}


def in_own_process(what: str, folder: Path, name: str, kind: str, checkpointing: bool) -> dict[str, Any]:
    """Do the same in a fresh process."""
    command = [sys.executable, __file__, what, str(folder), name, kind, str(int(checkpointing))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print the table."""
    if len(sys.argv) > 1:
        what, place, shape, variant, word = sys.argv[1:]
        print(json.dumps(one(what, Path(place), shape, variant, word == "1")))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder)
        for name in configurations():
            for checkpointing in (False, True):
                for kind in ("full", "lora"):
                    foretold = in_own_process("forecast", folder, name, kind, checkpointing)
                    known = None if name == "Llama 8B" else in_own_process("measure", folder, name, kind, checkpointing)
                    error = f"{100 * (foretold['bytes'] / known['bytes'] - 1):+.3f}%" if known else ""
                    measured = f"{known['bytes'] / 1e6:,.1f}" if known else ""
                    sizes = [f"{foretold['bytes'] / 1e6:,.1f}", measured, error]
                    times = [f"{foretold['seconds']:.1f}", f"{foretold['all']:.1f}", f"{foretold['resident']:,.0f}"]
                    rows.append([name, kind, "yes" if checkpointing else "no", *sizes, *times])
    headers = (
        "shape",
        "",
        "checkpointing",
        "forecast MB",
        "measured MB",
        "error",
        "s",
        "s with imports",
        "MiB resident",
    )
    align = ("left", "left", "left", *["right"] * 6)
    print(tabulate(rows, headers, tablefmt="plain", disable_numparse=True, colalign=align))


if __name__ == "__main__":
    main()
