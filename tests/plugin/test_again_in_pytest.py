"""Other evaluation examples cost no training: the stored weights are evaluated on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
