"""Seconds a step, tokens a second, peak memory and its forecast: the plugin, a plain Trainer script and a bare loop.

The job is the article's (GPT-2's size, 4 sequences of 128 tokens) and a larger one of about a billion parameters, both
from configurations with random weights, so that no hub is needed. Each figure comes from a process of its own.

    python benchmarks/gpu_table.py [--device cuda] [--steps 30] [--shapes gpt2 llama-1b]

On a CPU, `--shapes gpt2 --steps 8` takes a few minutes. Memory is the allocator's on an accelerator; on a CPU only the
plugin measures it, by live tensors.
"""

from __future__ import annotations

import inspect
import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any, cast

from tabulate import tabulate

from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"batch_size": 4, "block_size": 128, "lora": LoRA(r=8, target_modules=["c_attn"], learning_rate=5e-4)},
    "llama-1b": {"batch_size": 4, "block_size": 512, "lora": LoRA(r=16, learning_rate=5e-4)},
}
CONTENDERS = ("plugin", "Trainer", "bare loop")
WARM_UP_STEPS = 3


def write_model(shape: str, folder: Path) -> None:
    """Write a model of a shape with random weights, its tokenizer and two texts."""
    import torch
    from transformers import AutoModelForCausalLM, ByT5Tokenizer, GPT2Config, LlamaConfig, PretrainedConfig

    config: PretrainedConfig
    if shape == "gpt2":
        config = GPT2Config(bos_token_id=1, eos_token_id=1)
    else:
        config = LlamaConfig(
            vocab_size=32_000,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
            bos_token_id=1,
            eos_token_id=1,
        )
    torch.manual_seed(0)
    cast(Any, AutoModelForCausalLM).from_config(config).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    source = inspect.getsource(inspect) + inspect.getsource(sys.modules["argparse"])
    (folder / "train.txt").write_text(source[:150_000], encoding="utf-8")
    (folder / "validation.txt").write_text(source[-40_000:], encoding="utf-8")


def job(shape: str, kind: str, folder: Path, options: Namespace) -> TrialSpec:
    """Return what each contender trains."""
    size = SHAPES[shape]
    workload = Workload(
        model=str(folder),
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        batch_size=size["batch_size"],
        block_size=size["block_size"],
        steps=options.steps,
        seeds=(0,),
        precision=options.precision,
        validation_sequences=64,
    )
    variant: Variant = Full(learning_rate=5e-5) if kind == "full" else size["lora"]
    return TrialSpec(workload=workload, variant=variant, seed=0, device=options.device)


def measure(contender: str, spec: TrialSpec, folder: Path) -> dict[str, Any]:
    """Return the seconds of a step, and the peak memory if it is known."""
    if contender == "forecast":
        from pytest_ftguard.training.forecast import forecast

        return {"bytes": forecast(spec).forecast_bytes}
    if contender == "plugin":
        from pytest_ftguard.training.trial import TrialFolder, run_trial

        result = run_trial(spec, TrialFolder(folder, 0), lambda *_: None)
        if result.measured.memory is None or result.measured.time is None:
            raise SystemExit(f"{spec.variant.label} ended {result.measured.outcome}: {result.measured.error}")
        shares = {
            "share": result.measured.time.share_of_machine,
            "gflop": (result.measured.time.flop_per_step or 0) / 1e9,
        }
        return {"seconds": result.measured.time.seconds_per_step, "bytes": result.measured.memory.peak_bytes, **shares}
    return without_plugin(contender, spec, folder)


def without_plugin(contender: str, spec: TrialSpec, folder: Path) -> dict[str, Any]:
    """Train by a plain Trainer script, or by a loop of a few lines."""
    import torch
    from transformers import Trainer, TrainerCallback

    from pytest_ftguard.tasks.causal_lm import data, models
    from pytest_ftguard.training import adapters, machine
    from pytest_ftguard.training.arguments import training_arguments

    work = spec.workload
    device = machine.resolve_device(spec.device)
    bf16 = machine.resolve_precision(work.precision, device) == "bf16"
    model: Any = adapters.apply_variant(models.load_base(work), spec.variant).to(device)
    tokenizer = models.load_tokenizer(work)
    blocks = data.training_blocks(work.train, tokenizer, block_size=work.block_size, batch_size=work.batch_size)
    module = None if device.type == "cpu" else torch.get_device_module(device)
    if module is not None:
        module.reset_peak_memory_stats(device)
    seconds: list[float] = []
    if contender == "Trainer":

        class Clock(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                machine.synchronize(device)
                self.start = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                machine.synchronize(device)
                seconds.append(time.perf_counter() - self.start)

        arguments = training_arguments(spec, folder, device, bf16=bf16)
        Trainer(model=model, args=arguments, train_dataset=blocks, callbacks=[Clock()]).train()
    else:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=float(spec.variant.learning_rate or 0), weight_decay=0.0, fused=True)
        loader = torch.utils.data.DataLoader(blocks, work.batch_size, shuffle=True, drop_last=True)
        batches = iter(loader)
        model.train()
        for _ in range(work.steps):
            batch = {name: tensor.to(device) for name, tensor in next(batches).items()}
            machine.synchronize(device)
            start = time.perf_counter()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            machine.synchronize(device)
            seconds.append(time.perf_counter() - start)
    peak = None if module is None else module.max_memory_allocated(device)
    return {"seconds": statistics.median(seconds[WARM_UP_STEPS:]), "bytes": peak}


def in_own_process(contender: str, shape: str, kind: str, folder: Path, options: Namespace) -> dict[str, Any]:
    """Measure one contender in a fresh process, with glibc's settings that the plugin's processes have."""
    import os

    from pytest_ftguard.running.local.environment import KEEP_FREED_MEMORY

    command = [sys.executable, __file__, "--one", contender, shape, kind, str(folder)]
    command += ["--device", options.device, "--steps", str(options.steps), "--precision", options.precision]
    environment = {**KEEP_FREED_MEMORY, **os.environ}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def rows(shape: str, folder: Path, options: Namespace) -> list[list[str]]:
    """Return the table's rows of one shape."""
    tokens = SHAPES[shape]["batch_size"] * SHAPES[shape]["block_size"]
    table = []
    for kind in ("full", "lora"):
        foretold = in_own_process("forecast", shape, kind, folder, options)["bytes"]
        for contender in CONTENDERS:
            found = in_own_process(contender, shape, kind, folder, options)
            error = f"{100 * (foretold / found['bytes'] - 1):+.1f}%" if found["bytes"] else ""
            table.append(
                [
                    f"{shape} {kind}",
                    contender,
                    f"{found['seconds']:.4f}",
                    f"{tokens / found['seconds']:,.0f}",
                    f"{found['bytes'] / 1e6:,.0f}" if found["bytes"] else "",
                    f"{foretold / 1e6:,.0f}",
                    error,
                    f"{100 * found['share']:.0f}%" if found.get("share") else "",
                ]
            )
            print(*table[-1], sep="  ", file=sys.stderr, flush=True)
    return table


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--one", nargs=4, help="measure one contender in this process")
    options = parser.parse_args()
    if options.one:
        contender, shape, kind, name = options.one
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(measure(contender, job(shape, kind, Path(name), options), Path(scratch))))
        return
    from pytest_ftguard.training import machine

    device = machine.resolve_device(options.device)
    precision = machine.resolve_precision(options.precision, device)
    environment = machine.describe(device, precision=precision)
    table = []
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as name:
            write_model(shape, Path(name))
            table += rows(shape, Path(name), options)
    print(f"{environment.device_name}, {precision}, {options.steps} steps, torch {environment.versions['torch']}\n")
    headers = ("job", "by", "s/step", "tokens/s", "peak MB", "forecast MB", "error", "of machine")
    print(tabulate(table, headers, tablefmt="plain", disable_numparse=True, colalign=("left", "left", *["right"] * 6)))


if __name__ == "__main__":
    main()
