"""What another run trained, or the user's own, goes through the same helpers and stands in the same summary."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

NIGHTLY = """
def test_train(full_variant):
    assert full_variant.ok
"""
GATE = """
import pytest
from pytest_ftguard import assert_loss_gap, assert_memory_budget, read_report

@pytest.fixture(scope="session")
def full_variant(pytestconfig):
    (full,) = read_report(pytestconfig.rootpath / "nightly.json")
    return full

def test_it(full_variant, lora_variant):
    assert full_variant.cached
    verdict = assert_loss_gap(lora_variant, full_variant, at_most=3)
    assert verdict.value == pytest.approx(lora_variant.loss - full_variant.loss)
    assert_memory_budget(lora_variant, "99%", of=full_variant)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_full_of_another_run_is_the_baseline_of_this_one(project: pytest.Pytester, workers: int) -> None:
    """The gates judge LoRA, trained now in another folder, beside what the report holds; only LoRA is trained."""
    project.makepyfile(test_it=NIGHTLY)
    nightly = project.mkdir("nightly")
    for name in ("test_it.py", "tox.ini", "train.txt", "validation.txt"):
        shutil.copy(project.path / name, nightly)
    project.runpytest_inprocess("--rootdir=nightly", "-c", "nightly/tox.ini", "nightly", "--ftguard-json=nightly.json")
    trials = json.loads((project.path / "nightly.json").read_text())["trials"]
    assert [trial["label"] for trial in trials] == ["full"]
    assert trials[0]["workload"]["train"] == "train.txt"
    project.makepyfile(test_it=GATE)
    shutil.rmtree(nightly)
    options = ["-n", str(workers)] if workers else []
    result = project.runpytest_inprocess("--ftguard-json=now.json", *options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["full (read)*", "lora r=4 *", "*loss gap*PASS", "*peak memory*PASS"])
    assert result.stdout.str().count("tiny-gpt2 on train") == 1
    now = json.loads((project.path / "now.json").read_text())["trials"]
    assert [(trial["label"], trial["cached"]) for trial in now] == [("lora r=4", False), ("full", True)]


def test_another_text_is_noticed(project: pytest.Pytester) -> None:
    """A training text that was changed since makes the loss gap INVALID, whatever its path is."""
    project.makepyfile(test_it=NIGHTLY)
    project.runpytest_inprocess("--ftguard-json=nightly.json")
    text = (project.path / "train.txt").read_text()
    (project.path / "train.txt").write_text(text[1000:])
    project.makepyfile(test_it=GATE)
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*not trained on the same batches in the same order*"])


TRAIN = """
import sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from pytest_ftguard import FtguardCallback

model_dir = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(model_dir)
ids = torch.tensor(tokenizer(open("train.txt").read()[:8000])["input_ids"][:8000]).view(-1, 32)
for name in ("full", "lora"):
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    if name == "lora":
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=name, max_steps=12, learning_rate=1e-2 if name == "lora" else 1e-3, use_cpu=True,
            save_strategy="no",
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        processing_class=tokenizer,
        callbacks=[FtguardCallback("validation.txt", block_size=32, validation_sequences=80, train="our texts")],
    )
    trainer.train()
    trainer.save_state()
"""
OWN = """
import pytest
from pytest_ftguard import assert_loss_gap, assert_memory_budget, assert_retention, read_trainer_runs

@pytest.fixture(scope="session")
def full_variant():
    return read_trainer_runs("full")

@pytest.fixture(scope="session")
def lora_variant():
    return read_trainer_runs("lora")

def test_it(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=3)
    assert_memory_budget(lora_variant, "99%", of=full_variant)

@pytest.mark.xfail(strict=True)
def test_retention(full_variant, lora_variant):
    assert_retention(lora_variant, full_variant, at_least="100%")
"""


def test_trainer_runs_of_the_users_own_are_judged(project: pytest.Pytester, tiny_model: Path) -> None:
    """A training script with the callback, and then a pytest run that trains nothing."""
    project.makepyfile(train=TRAIN, test_it=OWN)
    project.run(sys.executable, "train.py", str(tiny_model))
    result = project.runpytest_inprocess("-p", "no:cacheprovider", "-o", "ftguard_final=false")
    result.assert_outcomes(passed=1, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "tiny-gpt2 on our texts | 12 steps of 8x32 x 1 seed*",
            "full (read)*",
            "lora r=4 alpha=8*",
            "loss gap*PASS",
            "peak memory*PASS",
            "retention*FAIL",
        ]
    )
