"""The task chat in a run of pytest: trained, judged, stored, found again, and shared under xdist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.chat_models import TEMPLATE, rows_of, write_rows

pytestmark = pytest.mark.torch

INI = """
[pytest]
ftguard_task = chat
ftguard_model = {model}
ftguard_train = train.jsonl
ftguard_validation = validation.jsonl
ftguard_block_size = 48
ftguard_steps = 12
ftguard_seeds = 0
ftguard_precision = fp32
ftguard_validation_sequences = 80
ftguard_full_learning_rate = 1e-3
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
def chats(project: pytest.Pytester, chat_model: Path) -> pytest.Pytester:
    """A project that trains on conversations."""
    write_rows(project.path / "train.jsonl", rows_of("messages", 60))
    write_rows(project.path / "validation.jsonl", rows_of("messages", 80, start=1000))
    project.makeini(INI.format(model=chat_model))
    project.makepyfile(test_it=TEST)
    return project


def trials() -> list[dict[str, Any]]:
    """Return the trials of the last report."""
    found: list[dict[str, Any]] = json.loads(Path("report.json").read_text())["trials"]
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_conversations_are_trained_judged_and_found_again(chats: pytest.Pytester, workers: int) -> None:
    """Without and with xdist; the summary says what was cut, also of stored results, and other settings are new."""
    options = ["--ftguard-json=report.json", *(["-n", str(workers)] if workers else [])]
    result = chats.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["note: * % of the training tokens were cut: * of 60 rows are longer than"])
    result.stdout.fnmatch_lines(["loss gap *PASS*"])
    first = trials()
    assert [trial["cached"] for trial in first] == [False, False]
    assert all(trial["validation"]["sequences"] == 80 for trial in first)
    result = chats.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["note: * % of the training tokens were cut: * of 60 rows are longer than"])
    assert [trial["cached"] for trial in trials()] == [True, True]
    if workers:
        return
    (chats.path / "mine.jinja").write_text(TEMPLATE.replace("<|user|>", "<|system|>"))
    for option in ("--ftguard-assistant-only-loss", "--ftguard-packing", "--ftguard-chat-template=mine.jinja"):
        result = chats.runpytest_subprocess("--ftguard-plan", option)
        result.stdout.fnmatch_lines(["plan: 2 trials to train, 0 cached*"])
    result = chats.runpytest_subprocess("--ftguard-plan", "--ftguard-packing=no")
    assert result.ret == pytest.ExitCode.USAGE_ERROR  # a flag, which the ini file may switch off


def test_other_validation_rows_need_no_other_training(chats: pytest.Pytester) -> None:
    """The stored weights are evaluated on them."""
    chats.runpytest_subprocess("--ftguard-json=report.json").assert_outcomes(passed=1)
    write_rows(chats.path / "validation.jsonl", rows_of("messages", 90, start=2000))
    chats.runpytest_subprocess("--ftguard-json=report.json").assert_outcomes(passed=1)
    assert [trial["measured_again"] for trial in trials()] == [True, True]


def test_rows_of_a_function_are_trained_and_never_stored(chats: pytest.Pytester) -> None:
    """What it returns is known only when it is called; the message says what would be stored."""
    chats.makepyfile(
        my_rows="""
import json
from pathlib import Path

def rows():
    return [json.loads(line) for line in (Path(__file__).parent / "train.jsonl").read_text().splitlines()]
"""
    )
    ini = (chats.path / "tox.ini").read_text().replace("train.jsonl", "my_rows:rows")
    (chats.path / "tox.ini").write_text(f"{ini}\npythonpath = .\n")
    for _ in range(2):
        result = chats.runpytest_subprocess("--ftguard-json=report.json")
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["note: full was not looked up in the store: which rows 'my_rows:rows' returns is"])
        assert [trial["cached"] for trial in trials()] == [False, False]


def test_leaked_rows_end_the_test_with_their_numbers(chats: pytest.Pytester) -> None:
    """A fifth of the validation rows in the training data is no result."""
    leaked = [*rows_of("messages", 16), *rows_of("messages", 64, start=1000)]
    write_rows(chats.path / "validation.jsonl", leaked)
    result = chats.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*16 of 80 rows of the validation data * are also in the training data (rows 1, 2, *"])


def test_a_key_without_the_task_is_a_clear_error(chats: pytest.Pytester) -> None:
    """The built-in task on plain texts says which task reads conversations."""
    result = chats.runpytest_subprocess("--ftguard-task=causal-lm")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*set ftguard_task = chat*"])
    result = chats.runpytest_subprocess("--ftguard-chat-template=nothing.jinja")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*chat_template is 'nothing.jinja' * cannot be read (No such file or directory)*"])


def test_an_accepted_result_is_found_again_and_another_loss_is_other_work(
    chats: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file does not name had its default when it was accepted."""
    monkeypatch.delenv("CI", raising=False)
    chats.makepyfile(
        test_it="""
from pytest_ftguard import assert_no_regression

def test_it(full_variant, lora_variant):
    assert_no_regression(lora_variant, full_variant, at_most=0.1)
"""
    )
    text = (chats.path / "tox.ini").read_text().replace("ftguard_seeds = 0\n", "ftguard_seeds = 0, 1, 2\n")
    (chats.path / "tox.ini").write_text(text)
    chats.runpytest_subprocess("--ftguard-update").assert_outcomes(passed=1)
    (file,) = (chats.path / "ftguard_baselines").rglob("*.json")
    assert "packing" not in file.read_text()
    chats.runpytest_subprocess().assert_outcomes(passed=1)
    result = chats.runpytest_subprocess("--ftguard-assistant-only-loss")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assistant_only_loss is True now, and was None*"])
