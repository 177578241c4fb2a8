"""What a terminal shows at each verbosity of pytest."""

from __future__ import annotations

import pytest

from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import RecordedVerdict, Status, give
from pytest_ftguard.reporting.assembly import Remarks, plan_summary, run_summary
from pytest_ftguard.reporting.summary import Summary
from pytest_ftguard.reporting.terminal import terminal_lines
from pytest_ftguard.statistics import Interval
from tests.plain.builders import FULL, LORA, trained, trial

NLL = [20.0] * 64


def recorded(status: Status, name: str) -> RecordedVerdict:
    """A verdict on the loss gap, with a note."""
    verdict = give(
        "loss_gap",
        status,
        candidate=trained(LORA, trial(LORA, NLL)),
        baseline=trained(FULL, trial(FULL, NLL)),
        measured=Interval(0.02, 0.01, 0.03, 0.0, 0.0, 1),
        limit=Limit(0.1, NATS_PER_TOKEN, Origin("ini", "pytest.ini")),
        note="A caveat.",
    )
    return RecordedVerdict(f"test_it.py::{name}", verdict)


def summary(*statuses: Status, not_run: tuple[str, ...] = (), problems: tuple[str, ...] = ()) -> Summary:
    """A run of two trials with some verdicts."""
    verdicts = [recorded(status, f"test_{number}") for number, status in enumerate(statuses)]
    remarks = Remarks(problems=problems, notes=["note: something"])
    return run_summary([trial(FULL, NLL), trial(LORA, NLL)], verdicts, not_run, remarks)


def shown(found: Summary, verbosity: int) -> list[tuple[str, str]]:
    return [(" ".join(line.text.split()), line.tone) for line in terminal_lines(found, verbosity)]


def test_the_whole_summary_is_the_default() -> None:
    """Also if pytest is asked to say more."""
    found = summary("PASS")
    assert shown(found, 1) == shown(found, 0)
    text = "\n".join(line for line, _ in shown(found, 0))
    assert "val loss" in text
    assert "A caveat." in text
    assert "note: something" in text


def test_quiet_shows_the_gates_alone() -> None:
    """One -q: each gate with its test, and neither variants nor notes."""
    assert shown(summary("PASS", "FAIL"), -1) == [
        ("gate measured limit verdict", "neutral"),
        ("loss gap +0.020 [0.010, 0.030] <= 0.1 (ini) PASS", "good"),
        ("test_it.py::test_0", "neutral"),
        ("loss gap +0.020 [0.010, 0.030] <= 0.1 (ini) FAIL", "bad"),
        ("test_it.py::test_1", "neutral"),
    ]


def test_very_quiet_is_one_line() -> None:
    """Two of them: how many gates ended how."""
    assert shown(summary("PASS", "PASS", "INVALID"), -2) == [("gates: 2 PASS, 1 INVALID", "bad")]
    assert shown(summary("PASS", "ACCEPTED"), -3) == [("gates: 1 PASS, 1 ACCEPTED", "good")]
    assert shown(summary(), -2) == []


@pytest.mark.parametrize("verbosity", [-1, -2])
def test_what_makes_the_run_fail_is_always_shown(verbosity: int) -> None:
    """A problem fails the run although no test does, and a gate that was not asked is no green one."""
    lines = shown(summary(not_run=("no GPU",), problems=("ftguard: no file",)), verbosity)
    assert ("ftguard: no file", "bad") in lines
    assert any("1 test did not run" in line for line, _ in lines)


def test_a_plan_is_shown_whole() -> None:
    """It is what the run was for."""
    plan = plan_summary([trial(FULL, NLL, outcome="planned")], [])
    assert shown(plan, -2) == shown(plan, 0)
