"""A verdict's message: its first line follows from its fields, then come reasons and what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.comparison.problem import Problem, failure_of
from pytest_ftguard.gates.limits import BYTES, GROWTH, NATS_PER_TOKEN, OF_GAIN, PERPLEXITY, SHARE, Limit
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import RecordedVerdict, Status, Verdict, give, invalid
from pytest_ftguard.reporting.json import json_report, read_report
from pytest_ftguard.results import TrialError
from pytest_ftguard.statistics import Interval
from tests.plain.builders import FULL, LORA, summary_lines, trained, trial

ARGUMENT = Origin("argument", "the argument at_most")
OURS, THEIRS = trained(LORA, trial(LORA, [1.0])), trained(FULL, trial(FULL, [1.0]))


def verdict(gate: str, measured: Interval | float | None, limit: float, unit: str, status: Status = "FAIL") -> Verdict:
    limits = Limit(limit, unit, ARGUMENT)
    return give(gate, status, candidate=OURS, baseline=THEIRS, measured=measured, limit=limits)


def between(value: float, lower: float, upper: float) -> Interval:
    return Interval(value, lower, upper, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("loss_gap", between(0.2118, 0.2026, 0.2211), 0.1, NATS_PER_TOKEN),
            "loss gap FAIL: +0.2118 [+0.2026, +0.2211] nats per token, limit 0.1 (the argument at_most): "
            "lora r=16 against full",
        ),
        (
            ("perplexity_gap", between(0.52, 0.50001, 0.54), 0.5, PERPLEXITY),
            "perplexity gap FAIL: +0.52000 [+0.50001, +0.54000] points of perplexity, limit 0.5 (the argument "
            "at_most): lora r=16 against full",
        ),
        (
            ("retention", between(0.884, 0.861, 0.8999), 0.9, OF_GAIN),
            "retention FAIL: 88.40% [86.10%, 89.99%] of full's gain, limit at least 90% (the argument at_most): "
            "lora r=16",
        ),
        (
            ("memory_budget", 1.2001e9, 1.2e9, BYTES),
            "peak memory FAIL: 1.2001 GB, limit 1.2000 GB (the argument at_most): lora r=16 against full",
        ),
        (
            ("memory_budget", 1.0003, 1.0005, SHARE, "PASS"),
            "peak memory PASS: 100.0% of full's, limit 100.05% (the argument at_most): lora r=16",
        ),
        (
            ("loss_gap", 0.12345675, 0.12345674, NATS_PER_TOKEN),
            "loss gap FAIL: +0.1235 nats per token, limit 0.12345674 (the argument at_most): lora r=16 against full",
        ),
        (
            ("memory_budget", 0.915, 0.6, SHARE),
            "peak memory FAIL: 91.5% of full's, limit 60% (the argument at_most): lora r=16",
        ),
        (
            ("regression", 0.052, 0.05, GROWTH),
            "regression FAIL: +5.2%, limit 5% (the argument at_most): lora r=16 against full",
        ),
        (
            ("regression", None, 0.05, GROWTH, "ACCEPTED"),
            "regression ACCEPTED, limit 5% (the argument at_most): lora r=16 against full",
        ),
        (
            ("of_another_process", 0.2, 0.1, "points"),
            "of_another_process FAIL: +0.2000 points, limit 0.1 (the argument at_most): lora r=16 against full",
        ),
    ],
)
def test_the_first_line_has_gate_answer_value_and_limit(arguments: Any, line: str) -> None:
    """In every unit, with enough digits to show on which side of the limit the value and its bounds lie."""
    assert verdict(*arguments).headline == line


@pytest.mark.parametrize(("unit", "what"), [(SHARE, "of baseline"), (OF_GAIN, "of the gain")])
def test_a_share_of_one_variant_alone_names_no_other(unit: str, what: str) -> None:
    """A gate of a user's own may judge a variant by itself, and None is nobody's name."""
    limit = Limit(0.6, unit, ARGUMENT)
    alone = give("memory_budget", "FAIL", candidate=OURS, baseline=None, measured=0.915, limit=limit)
    assert alone.headline == f"peak memory FAIL: 91.5% {what}, limit 60% (the argument at_most): lora r=16"


def test_the_first_line_is_a_line_whatever_a_label_holds() -> None:
    """JUnit, GitHub and GitLab show it alone."""
    odd = replace(verdict("loss_gap", 0.2, 0.1, NATS_PER_TOKEN), candidate="lora\nr=16")
    assert odd.headline.endswith(": lora r=16 against full")
    broken = replace(odd, value=None, reason="it\nbroke")
    assert broken.headline == "loss gap FAIL: it broke, limit 0.1 (the argument at_most)"


def test_reasons_come_before_what_to_do_and_a_log_comes_last() -> None:
    """The first problem is in the first line; each remedy is given once."""
    failed = trial(LORA, [1.0], outcome="crashed", error=TrialError("exit code 3", "line 1\nline 2"))
    crash = failure_of(failed)
    assert crash is not None
    others: list[Problem | str] = [
        Problem("a seed is missing", "It adds nothing.", "add it"),
        Problem("another", remedy="add it"),
        "a text",
    ]
    found = invalid("loss_gap", OURS, THEIRS, Limit(0.1, NATS_PER_TOKEN, ARGUMENT), [crash, *others], why=["Seen."])
    assert found.message.splitlines() == [
        "loss gap INVALID: lora r=16, seed 0, ended crashed, limit 0.1 (the argument at_most)",
        "exit code 3",
        "Also: a seed is missing. It adds nothing.",
        "Also: another.",
        "Also: a text.",
        "Seen.",
        "What to do: add it.",
        "The end of the log (lora r=16, seed 0, ended crashed):",
        "line 1",
        "line 2",
    ]


def test_a_problem_is_one_sentence_for_an_error_that_is_no_verdict() -> None:
    """Fact, meaning and remedy; what is missing leaves no mark."""
    assert str(Problem("it is so", "That is bad.", "change it")) == "it is so: That is bad: change it"
    assert str(Problem("it is so")) == "it is so"


@pytest.mark.parametrize(
    ("why_not", "status", "note"),
    [
        (None, "ACCEPTED", None),
        ("the test did not pass", "INVALID", "Not accepted, because the test did not pass."),
    ],
)
def test_a_pending_verdict_is_settled_once(why_not: str | None, status: str, note: str | None) -> None:
    """It is ACCEPTED or says why not; settling again, or another verdict, changes nothing."""
    pending = verdict("regression", None, 0.05, GROWTH, "PENDING")
    settled = pending.settled(why_not)
    assert pending.lets_pass
    assert (settled.status, settled.note) == (status, note)
    assert settled.lets_pass is (why_not is None)
    assert settled.headline.startswith(f"regression {status}")
    assert settled.settled("something else") == settled
    failed = verdict("loss_gap", 0.2, 0.1, NATS_PER_TOKEN)
    assert failed.settled(None) == failed


def test_a_verdict_travels_whole_and_is_reported_with_its_message() -> None:
    """Another process makes the same one of it; the report has the message, and not its parts."""
    one = replace(verdict("loss_gap", 0.2, 0.1, NATS_PER_TOKEN), details=("Why.", "What to do: this."), note="n")
    assert Verdict.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    (told,) = json.loads(json_report([], [RecordedVerdict("a::b", one)]))["verdicts"]
    assert told["message"] == one.message
    assert not {"reason", "details", "set_by"} & told.keys()


def test_what_was_accepted_is_green_and_has_no_value_in_the_summary() -> None:
    """The verdict's own word says that nothing was judged."""
    accepted = verdict("regression", None, 0.05, GROWTH, "ACCEPTED")
    lines = summary_lines([], [RecordedVerdict("t.py::test_it", accepted)])
    assert lines[1].split() == ["regression", "-", "<=", "5%", "(argument)", "ACCEPTED"]


def test_a_report_of_a_version_without_accepted_is_still_read(tmp_path: Path) -> None:
    """Its verdicts say PASS for what was accepted, and its trials are as good as before."""
    one = trial(FULL, [20.0] * 64)
    recorded = RecordedVerdict("a::b", verdict("regression", None, 0.05, GROWTH, "ACCEPTED"))
    report = json.loads(json_report([one], [recorded]))
    report["verdicts"][0] |= {"status": "PASS", "message": "regression PASS: the result is accepted"}
    place = tmp_path / "report.json"
    place.write_text(json.dumps(report), encoding="utf-8")
    (found,) = read_report(place)
    assert found.losses == trained(FULL, one).losses
