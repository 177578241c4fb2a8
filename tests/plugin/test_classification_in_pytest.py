"""The task classification in a run of pytest: trained, judged, stored, found again, and shared under xdist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.classified import rows_of, save_model, write_rows
from tests.plain.builders import unwrapped

pytestmark = pytest.mark.torch

INI = """
[pytest]
ftguard_task = classification
ftguard_model = model
ftguard_train = train.jsonl
ftguard_validation = validation.jsonl
ftguard_block_size = 32
ftguard_batch_size = 8
ftguard_steps = 24
ftguard_seeds = 0
ftguard_precision = fp32
ftguard_validation_sequences = 80
ftguard_full_learning_rate = 3e-3
ftguard_lora_learning_rate = 1e-2
ftguard_lora_r = 4
ftguard_final = true
ftguard_gain_factor = 0
"""
TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert assert_loss_gap(lora_variant, full_variant, at_most=3).status == "PASS"
"""


@pytest.fixture
def texts_with_labels(project: pytest.Pytester) -> pytest.Pytester:
    """A project that trains a classifier."""
    write_rows(project.path / "train.jsonl", rows_of(200))
    write_rows(project.path / "validation.jsonl", rows_of(90, seed=1))
    save_model(project.path / "model", "llama")
    project.makeini(INI)
    project.makepyfile(test_it=TEST)
    return project


def trials() -> list[dict[str, Any]]:
    """Return the trials of the last report."""
    found: list[dict[str, Any]] = json.loads(Path("report.json").read_text())["trials"]
    return found


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_a_classifier_is_trained_judged_and_found_again(texts_with_labels: pytest.Pytester, workers: list[str]) -> None:
    """A plan forecasts its memory; the summary shows what it gets right, also of stored results."""
    project, options = texts_with_labels, ["--ftguard-json=report.json", *workers]
    plan = project.runpytest_inprocess("--ftguard-plan", *workers)
    plan.stdout.fnmatch_lines(["plan: 2 trials to train, 0 cached*"])
    assert "no forecast" not in unwrapped(plan).str()
    for cached in (False, True):
        result = project.runpytest_inprocess(*options)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["variant * accuracy * macro F1 *", "base model * 5?.?% *", "loss gap *PASS*"])
        assert [trial["cached"] for trial in trials()] == [cached] * 2
        assert all(trial["validation"]["sequences"] == 80 for trial in trials())
        assert all(trial["validation"]["accuracy"] > 0.5 for trial in trials())
    write_rows(project.path / "validation.jsonl", rows_of(85, seed=2))
    project.runpytest_inprocess(*options).assert_outcomes(passed=1)
    assert [trial["measured_again"] for trial in trials()] == [True] * 2


def test_other_labels_are_another_training(texts_with_labels: pytest.Pytester) -> None:
    """The same texts with other classes are no other examples of the same work."""
    texts_with_labels.runpytest_inprocess("--ftguard-json=report.json").assert_outcomes(passed=1)
    rows = [{**row, "label": f"is {row['label']}"} for row in rows_of(200)]
    write_rows(texts_with_labels.path / "train.jsonl", rows)
    result = texts_with_labels.runpytest_inprocess("--ftguard-json=report.json")
    result.assert_outcomes(errors=1)
    unwrapped(result).fnmatch_lines(["*have a label that no training row has ('neg', 'pos'; rows *"])
