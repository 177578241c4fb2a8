"""Runs of TRL's SFTTrainer are measured by the callback as those of a Trainer are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pytest_ftguard import FtguardCallback, read_trainer_runs
from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import TrainedVariant

pytestmark = [
    # TRL 1.16 calls transformers 5.24 and peft by older names, and the byte tokenizer has its own end of a text.
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:This sequence already has </s>:UserWarning"),
]
LORA = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=32, target_modules="all-linear", fan_in_fan_out=True)


def options(folder: Path, peft: LoraConfig | None) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2 if peft else 1e-3,
        "max_length": 32,
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 7,
    }


@pytest.fixture
def run(tiny_model: Path, texts: Path, tmp_path: Path) -> Any:
    """Trains as a user of TRL would, and reads the run."""

    def train(name: str, peft: LoraConfig | None = None, **arguments: Any) -> TrainedVariant:
        text = (texts / "train.txt").read_text(encoding="utf-8")
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.pad_token = tokenizer.eos_token
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
            args=SFTConfig(**{**options(tmp_path / name, peft), **arguments}),
            train_dataset=Dataset.from_list([{"text": text[start : start + 90]} for start in range(0, 8000, 90)]),
            processing_class=tokenizer,
            peft_config=peft,
            callbacks=[FtguardCallback(texts / "validation.txt", block_size=32, validation_sequences=80)],
        )
        trainer.train()
        trainer.save_state()
        return read_trainer_runs(tmp_path / name)

    return train


@pytest.mark.parametrize("packing", [False, True])
def test_two_runs_of_its_trainer_can_be_compared(run: Any, packing: bool) -> None:
    """Losses, base, curve, order, memory, time and settings are measured, padded and packed."""
    full, lora = run("full", packing=packing), run("lora", LORA, packing=packing)
    comparison = compare(lora, full)
    assert not comparison.loss_problems
    assert not comparison.different_environment
    assert comparison.losses.gain(0.95).lower > 0.05
    assert lora.variant.learning_rate == 1e-2
    assert lora.variant.r == 4
    for side in (full, lora):
        assert [point.step for point in side.trials[0].measured.curve] == [0, 1, 3, 6, 12]
        assert side.peak_memory_bytes is not None
        assert side.seconds_per_step is not None
        assert side.trials[0].measured.data_order is not None


@pytest.mark.parametrize("other", [{"max_length": 16}, {"packing": True}, {"learning_rate": 1e-2, "seed": 8}])
def test_runs_on_other_batches_are_not_compared(run: Any, other: dict[str, Any]) -> None:
    """Whatever made the batches differ is told as a problem of the pair."""
    assert compare(run("lora", LORA, **other), run("full")).loss_problems


PAIRS = [{"prompt": f"{one} plus {two} is", "completion": f" {one + two}."} for one in range(40) for two in range(8)]


@pytest.fixture
def run_on_rows(tiny_model: Path, tmp_path: Path) -> Any:
    """Trains on prompts with completions, and evaluates on the rows that the trainer has made."""

    def train(name: str, peft: LoraConfig | None = None, change: Any = None, **arguments: Any) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.pad_token = tokenizer.eos_token
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
            args=SFTConfig(**{**options(tmp_path / name, peft), **arguments}),
            train_dataset=Dataset.from_list(PAIRS[:240]),
            eval_dataset=Dataset.from_list(PAIRS[236:]),
            processing_class=tokenizer,
            peft_config=peft,
        )
        rows: Any = trainer.eval_dataset if change is None else change(trainer.eval_dataset)
        trainer.add_callback(FtguardCallback(rows))
        trainer.train()
        trainer.save_state()
        return read_trainer_runs(tmp_path / name), trainer

    return train


@pytest.mark.parametrize("packing", [False, True])
def test_rows_that_its_trainer_has_made_are_evaluated_by_their_labels(run_on_rows: Any, packing: bool) -> None:
    """The loss is that of the trainer's own evaluation of the completions; rows that it trains on are counted."""
    full, trainer = run_on_rows("full", packing=packing, eval_packing=False)
    lora, _ = run_on_rows("lora", LORA, packing=packing, eval_packing=False)
    assert not compare(lora, full).loss_problems
    measured = full.trials[0].measured.validation
    assert len(measured.nll) == 84
    assert sum(measured.tokens) == sum(label != -100 for row in trainer.eval_dataset for label in row["labels"][1:])
    batches = [trainer.evaluate(trainer.eval_dataset.select([number]))["eval_loss"] for number in range(3)]
    ours = [nll / tokens for nll, tokens in zip(measured.nll[:3], measured.tokens[:3], strict=True)]
    assert batches == pytest.approx(ours, rel=1e-4)
    assert full.workload.task == "chat"


def test_rows_that_are_trained_on_are_counted(run_on_rows: Any) -> None:
    """Each by its tokens: padded, packed, or packed without positions, where blocks cut some of them in two."""
    packings: tuple[dict[str, Any], ...] = ({}, {"packing": True}, {"packing": True, "packing_strategy": "wrapped"})
    for name, packing in zip(("padded", "packed", "wrapped"), packings, strict=True):
        full, _ = run_on_rows(
            name, change=lambda rows: rows.select(range(60)), eval_packing=False, num_train_epochs=1, max_steps=-1,
            **packing,
        )  # fmt: skip
        assert full.trials[0].measured.validation.trained_on == 4


def test_rows_that_are_packed_for_its_evaluation_are_taken_apart(run_on_rows: Any) -> None:
    """TRL packs the rows of the evaluation too: each is judged alone, and found again if it was trained on."""
    sizes = {"packing": True, "max_length": 64, "num_train_epochs": 1, "max_steps": -1}
    apart, _ = run_on_rows("apart", eval_packing=False, **sizes)
    packed, trainer = run_on_rows("packed", **sizes)
    assert max(map(len, trainer.eval_dataset["seq_lengths"])) > 1
    one, other = (side.trials[0].measured.validation for side in (apart, packed))
    assert (len(other.nll), sorted(other.tokens), other.trained_on) == (len(one.nll), sorted(one.tokens), 4)
    assert sorted(other.nll) == pytest.approx(sorted(one.nll), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.remove_columns("labels"), "row 1 of the validation data has no labels"),
        (
            lambda rows: [{**rows[0], "labels": [-100] * len(rows[0]["labels"])}],
            "the loss is taken of no token of row 1",
        ),
        (lambda rows: [{**rows[0], "labels": [1]}], "token ids and 1 labels: each token needs a label"),
    ],
)
def test_rows_that_cannot_be_evaluated_are_named(run_on_rows: Any, change: Any, words: str) -> None:
    """Before the first step, and never as a loss of 0."""
    with pytest.raises(ConfigurationError, match=words):
        run_on_rows("full", change=change)
