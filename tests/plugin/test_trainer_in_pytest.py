"""A Trainer class of a project's own is found by the trials' processes, that of docs/how-to/training-function.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

RECIPE = (Path(__file__).parents[2] / "docs/how-to/training-function.md").read_text(encoding="utf-8")
(TRAINER,) = re.findall(r"^```python\n(# mine.py, with a class.*?)^```$", RECIPE, re.MULTILINE | re.DOTALL)
TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=3)
    assert full_variant.workload.trainer == "mine:Smoothed"
    assert full_variant.seconds_per_step > 0
"""


@pytest.fixture
def with_trainer(project: pytest.Pytester) -> pytest.Pytester:
    """A project that trains with the class of the page."""
    ini = (project.path / "tox.ini").read_text()
    (project.path / "tox.ini").write_text(f"{ini}\nftguard_trainer = mine:Smoothed\n")
    project.makepyfile(mine=TRAINER, test_it=TEST)
    return project


@pytest.mark.parametrize("workers", [0, 2])
def test_a_class_beside_conftest_trains_and_is_found_again(with_trainer: pytest.Pytester, workers: int) -> None:
    """Without and with xdist; if its source changes, its trials are planned and trained again."""
    options = ["--ftguard-json=report.json", *(["-n", str(workers)] if workers else [])]
    for cached in (False, True):
        result = with_trainer.runpytest_inprocess(*options)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["*mine:Smoothed*"])
        trials = json.loads(Path("report.json").read_text())["trials"]
        assert [trial["cached"] for trial in trials] == [cached] * len(trials)
    (with_trainer.path / "mine.py").write_text(f"{TRAINER}\n# another version\n")
    result = with_trainer.runpytest_inprocess(*options, "--ftguard-plan")
    trials = json.loads(Path("report.json").read_text())["trials"]
    assert {(trial["outcome"], trial["cached"]) for trial in trials} == {("planned", False)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mines:Smoothed", "*mines:Smoothed*cannot be imported*next to conftest.py*"),
        ("mine:Smoothing", "*mine:Smoothing*cannot be imported*"),
        ("mine", "*must be \"module:Class\"*got 'mine'*--ftguard-trainer*"),
    ],
)
def test_a_wrong_name_is_one_clear_message(with_trainer: pytest.Pytester, name: str, words: str) -> None:
    """Its form is checked before anything runs, the module when the trial starts."""
    result = with_trainer.runpytest_inprocess(f"--ftguard-trainer={name}")
    assert result.ret != 0
    assert "Traceback" not in result.stdout.str()
    (result.stdout if ":" in name else result.stderr).fnmatch_lines([words])
