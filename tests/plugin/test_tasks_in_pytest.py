"""A task of a project's own, those of docs/how-to/write-a-task.md, works like the built-in one."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "docs/how-to/write-a-task.md").read_text(encoding="utf-8")
# Derived from the built-in task, so that only the files are others; and made from nothing but the protocol.
(ROWS, HALVES) = re.findall(r"^```python\n(.*?)^```$", RECIPE, re.MULTILINE | re.DOTALL)
NAMES = {ROWS: "Reviews", HALVES: "Halves"}
TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert assert_loss_gap(lora_variant, full_variant, at_most=3).status == "PASS"
"""


@pytest.fixture
def with_task(project: pytest.Pytester, request: pytest.FixtureRequest) -> pytest.Pytester:
    """A project with a task of its own; for the one on rows, its texts are tables with semicolons."""
    source = getattr(request, "param", ROWS)
    if source == ROWS:
        for name in ("train.txt", "validation.txt"):
            text = (project.path / name).read_text()
            with (project.path / name).open("w", newline="") as file:
                table = csv.writer(file, delimiter=";")
                table.writerow(["stars", "review"])
                table.writerows([place % 5, text[place : place + 100]] for place in range(0, len(text), 100))
    ini = (project.path / "tox.ini").read_text()
    (project.path / "tox.ini").write_text(f"{ini}\nftguard_task = ours.task:{NAMES[source]}\n")
    project.makepyfile(**{"ours/__init__": "", "ours/task": source, "test_it": TEST})
    project.makeconftest("")
    return project


def trials() -> list[dict[str, object]]:
    """Return the trials of the last report."""
    found: list[dict[str, object]] = json.loads(Path("report.json").read_text())["trials"]
    return found


@pytest.mark.parametrize(
    ("with_task", "workers"),
    [(ROWS, 0), (ROWS, 2), (HALVES, 0)],
    ids=["rows", "rows-xdist", "halves"],
    indirect=["with_task"],
)
def test_a_task_of_a_projects_own_is_trained_judged_and_found_again(with_task: pytest.Pytester, workers: int) -> None:
    """Without and with xdist; if its source changes, its trials are planned and trained again."""
    source = (with_task.path / "ours" / "task.py").read_text()
    options = ["--ftguard-json=report.json", *(["-n", str(workers)] if workers else [])]
    result = with_task.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["loss gap *PASS*"])
    first = trials()
    assert [trial["cached"] for trial in first] == [False, False]
    with_task.runpytest_subprocess(*options).assert_outcomes(passed=1)
    assert [trial["cached"] for trial in trials()] == [True, True]
    if workers:
        return
    with_task.makepyfile(**{"ours/task": f"{source}\nANOTHER = 1\n"})
    result = with_task.runpytest_subprocess("--ftguard-plan")
    result.stdout.fnmatch_lines(["plan: 2 trials to train, 0 cached*"])
    with_task.runpytest_subprocess(*options).assert_outcomes(passed=1)
    again = trials()
    assert [trial["cached"] for trial in again] == [False, False]
    assert [trial["validation"] for trial in again] == [trial["validation"] for trial in first]


def test_what_a_task_reads_is_what_is_trained_and_judged(with_task: pytest.Pytester) -> None:
    """The rows are its documents: the built-in task takes the same file for one text, with other losses."""
    with_task.makepyfile(test_it="def test_it(full_variant): assert full_variant.load()[0].num_parameters() > 0")
    with_task.runpytest_subprocess("--ftguard-json=report.json").assert_outcomes(passed=1)
    (ours,) = trials()
    with_task.runpytest_subprocess("--ftguard-json=report.json", "--ftguard-task=causal-lm").assert_outcomes(passed=1)
    (theirs,) = trials()
    assert ours["validation"] != theirs["validation"]
    assert ours["data_order"] != theirs["data_order"]


def test_an_unknown_task_is_a_usage_error(with_task: pytest.Pytester) -> None:
    """A misspelt name ends the run before anything is imported or trained."""
    result = with_task.runpytest_subprocess("--ftguard-task=classifcation")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*ftguard_task is 'classifcation' (set by the option --ftguard-task), which is not a task: use one of "
            "causal-lm, chat, classification, or module:Class*"
        ]
    )
    result = with_task.runpytest_subprocess("--ftguard-task=no task")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*Workload.task must be*got 'no task' (set by the option --ftguard-task)*"])


def test_a_path_that_leads_to_no_task_fails_each_test_that_trains(with_task: pytest.Pytester) -> None:
    """The message says what was set where; a workload of a fixture is named as such."""
    result = with_task.runpytest_subprocess("--ftguard-task=ours.task:Text")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*ftguard_task is 'ours.task:Text' (set by the option --ftguard-task), which is <class*: name a class that *"]
    )
    with_task.makepyfile(
        test_it="""
from dataclasses import replace

def test_it(ftguard, ftguard_workload, ftguard_full):
    ftguard.train(ftguard_full, replace(ftguard_workload, task="ours.nothing:Rows"))
"""
    )
    result = with_task.runpytest_subprocess("--ftguard-plan")
    result.stdout.fnmatch_lines(
        ["*ftguard: Workload.task is 'ours.nothing:Rows', which cannot be imported: ModuleNotFoundError*"]
    )
