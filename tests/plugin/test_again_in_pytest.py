"""Other evaluation examples cost no training: the stored weights are evaluated on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.plain.builders import unwrapped

pytestmark = pytest.mark.torch

GATES = """
from pytest_ftguard import assert_forgetting, assert_loss_gap, assert_memory_budget

def test_loss(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=3)

def test_memory(full_variant, lora_variant):
    assert_memory_budget(lora_variant, at_most="99%", of=full_variant)
"""
LOSSES = ("validation", "base_validation", "reference", "base_reference")
MANY, FEW = "--ftguard-validation-sequences=256", "--ftguard-validation-sequences=128"
REFERENCE, JSON = "--ftguard-reference=general.txt", "--ftguard-json=r.json"


@pytest.fixture
def gates(project: pytest.Pytester, texts: Path) -> pytest.Pytester:
    """The project, with gates and a general text."""
    project.makepyfile(GATES)
    text = (texts / "validation.txt").read_text(encoding="utf-8")
    (project.path / "general.txt").write_text(text[::-1], encoding="utf-8")
    return project


def report(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "r.json").read_text())["trials"]
    return found


def losses(trials: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {trial["label"]: {name: trial[name] for name in LOSSES} for trial in trials}


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_fewer_sequences_and_a_reference_train_nothing(gates: pytest.Pytester, workers: list[str]) -> None:
    """The losses are those of a training with these examples, digit by digit; a third run evaluates nothing."""
    gates.runpytest_inprocess(MANY, *workers).assert_outcomes(passed=2)
    again = gates.runpytest_inprocess(FEW, REFERENCE, JSON, *workers)
    again.assert_outcomes(passed=2)
    again.stdout.fnmatch_lines(["full (measured again) *", "lora r=4 (measured again) *"])
    found = report(gates.path)
    assert [trial["measured_again"] for trial in found] == [True, True]
    assert [trial["cached"] for trial in found] == [True, True]
    third = gates.runpytest_inprocess(FEW, REFERENCE, JSON, *workers)
    third.stdout.fnmatch_lines(["full (cached) *", "lora r=4 (cached) *"])
    assert [trial["measured_again"] for trial in report(gates.path)] == [False, False]
    gates.runpytest_inprocess(FEW, REFERENCE, JSON, "--ftguard-no-cache", *workers).assert_outcomes(passed=2)
    fresh = report(gates.path)
    assert [trial["cached"] for trial in fresh] == [False, False]
    assert all(trial["reference"] for trial in fresh)
    assert losses(found) == losses(fresh)


def trained(folder: Path) -> dict[str, bool]:
    """Whether each variant was trained in the run, which has each of them once."""
    found = report(folder)
    assert len({trial["label"] for trial in found}) == len(found)
    return {trial["label"]: not trial["cached"] for trial in found}


def test_a_plan_says_that_nothing_would_be_trained(gates: pytest.Pytester) -> None:
    """Of fewer sequences; of another training text it says that both would be."""
    gates.runpytest_inprocess(MANY)
    plan = gates.runpytest_inprocess(FEW, "--ftguard-plan")
    plan.stdout.fnmatch_lines(["plan: 0 trials to train, 2 to measure again, 0 cached; nothing was trained"])
    plan.stdout.fnmatch_lines(["full (measured again) *"])
    with (gates.path / "train.txt").open("a") as text:
        text.write("and a little more " * 5)
    other = gates.runpytest_inprocess(FEW, "--ftguard-plan")
    other.stdout.fnmatch_lines(["plan: 2 trials to train, 0 cached; nothing was trained"])


@pytest.mark.parametrize("change", ["text", "no weights"])
def test_what_has_no_weights_that_are_believed_is_trained(gates: pytest.Pytester, change: str) -> None:
    """Another training has other weights, and a store that is not read has none."""
    gates.runpytest_inprocess(MANY)
    if change == "text":
        with (gates.path / "train.txt").open("a") as text:
            text.write("and a little more " * 5)
    if change == "no weights":
        shutil.rmtree(gates.path / ".ftguard_cache" / "weights")
    result = gates.runpytest_inprocess(FEW, JSON)
    result.assert_outcomes(passed=2)
    assert trained(gates.path) == {"full": True, "lora r=4": True}
    said = ["*validation_sequences (256 -> 128); the store has no weights of it that could be evaluated"]
    unwrapped(result).fnmatch_lines(said if change == "no weights" else [])


def test_damaged_weights_are_named_and_trained_again(gates: pytest.Pytester) -> None:
    """Those of the other variant are still evaluated, and the verdicts stand."""
    gates.runpytest_inprocess(MANY)
    (file,) = (gates.path / ".ftguard_cache" / "weights").rglob("adapter_model.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:-4] + bytes(4))
    result = gates.runpytest_inprocess(FEW, JSON)
    result.assert_outcomes(passed=2)
    assert trained(gates.path) == {"full": False, "lora r=4": True}
    unwrapped(result).fnmatch_lines(["note: the stored weights * are not used, and trained again: a file is not what*"])


def test_a_text_that_was_trained_on_is_refused_as_before_a_training(gates: pytest.Pytester) -> None:
    """The new validation text goes through the same checks."""
    gates.runpytest_inprocess(MANY)
    text = (gates.path / "train.txt").read_text()
    (gates.path / "leak.txt").write_text(text[: len(text) // 2])
    result = gates.runpytest_inprocess(FEW, "--ftguard-validation=leak.txt")
    result.assert_outcomes(errors=2)
    unwrapped(result).fnmatch_lines(["*sequences of * are also in the training text*"])


LOAD = """
from pytest_ftguard import assert_loss_gap

def test_loss(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=3)
    import torch
    for variant in (full_variant, lora_variant):
        model, _ = variant.load()
        ids = torch.arange(20)[None] + 5
        with open("logits.txt", "a") as file:
            file.write(f"{float(model(input_ids=ids, labels=ids).loss):.9f}\\n")
"""


def test_the_loaded_model_is_the_one_that_was_trained(gates: pytest.Pytester) -> None:
    """In the run that evaluates it again and in the one after, whose result has the weights as well."""
    gates.makepyfile(LOAD)
    for options in ([MANY], [FEW], [FEW]):
        gates.runpytest_inprocess(*options).assert_outcomes(passed=1)
    lines = (gates.path / "logits.txt").read_text().split()
    assert lines[:2] == lines[2:4] == lines[4:]
    folders = list((gates.path / ".ftguard_cache" / "weights").iterdir())
    assert len(folders) == 4
    assert {file.stat().st_nlink for folder in folders for file in folder.glob("*.safetensors")} == {2}


TREND = """
from pytest_ftguard import assert_loss_gap

def test_loss(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=3)
"""


def test_a_gate_that_needs_the_losses_along_training_has_them(gates: pytest.Pytester) -> None:
    """Of the same text, those of the training serve; of another one both are trained, unless they fail the gate."""
    gates.makepyfile(TREND)
    options = ["-oftguard_final=false", JSON]
    gates.runpytest_inprocess(MANY, *options).assert_outcomes(passed=1)
    gates.runpytest_inprocess(FEW, *options).assert_outcomes(passed=1)
    assert trained(gates.path) == {"full": False, "lora r=4": False}
    text = (gates.path / "general.txt").read_text()
    (gates.path / "other.txt").write_text(text)
    other = [FEW, "--ftguard-validation=other.txt", *options]
    result = gates.runpytest_inprocess(*other)
    result.assert_outcomes(passed=1)
    assert trained(gates.path) == {"full": True, "lora r=4": True}
    unwrapped(result).fnmatch_lines(["trained, not taken from the store: *losses along training, which a gate needs"])
    gates.runpytest_inprocess(*other).assert_outcomes(passed=1)
    assert trained(gates.path) == {"full": False, "lora r=4": False}


def test_a_side_that_had_to_be_trained_is_compared_with_a_curve_of_its_own_sequences(gates: pytest.Pytester) -> None:
    """The other side was evaluated again, on sequences that its curve was not measured on, so it is trained too."""
    gates.makepyfile(TREND)
    options = ["-oftguard_final=false", JSON]
    gates.runpytest_inprocess(MANY, *options)
    (folder,) = (file.parent for file in (gates.path / ".ftguard_cache" / "weights").rglob("model.safetensors"))
    shutil.rmtree(folder)
    result = gates.runpytest_inprocess("--ftguard-validation-sequences=250", *options)
    result.assert_outcomes(passed=1)
    assert trained(gates.path) == {"full": True, "lora r=4": True}
