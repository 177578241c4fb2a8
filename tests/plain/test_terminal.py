"""What a terminal shows at each verbosity of pytest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import RecordedVerdict, Status, TestOutcome, give, invalid
from pytest_ftguard.reporting.assembly import Remarks, plan_summary, run_summary
from pytest_ftguard.reporting.summary import Summary
from pytest_ftguard.reporting.terminal import terminal_lines
from pytest_ftguard.results import TrialError
from pytest_ftguard.specs import Full, LoRA, Peft, Variant
from pytest_ftguard.statistics import Interval
from tests.plain.builders import FULL, LORA, WORKLOAD, losses, trained, trial

NLL = [20.0] * 64
LIMIT = Limit(0.1, NATS_PER_TOKEN, Origin("ini", "pytest.ini"))


def recorded(
    status: Status,
    name: str = "test_it",
    outcome: TestOutcome | None = None,
    *,
    candidate: Variant = LORA,
    baseline: Variant = FULL,
    only_warned: bool = False,
    note: str | None = "A caveat.",
) -> RecordedVerdict:
    """A verdict on the loss gap, in a test that came to something."""
    verdict = give(
        "loss_gap",
        status,
        candidate=trained(candidate, trial(candidate, NLL)),
        baseline=trained(baseline, trial(baseline, NLL)),
        measured=Interval(0.02, 0.01, 0.03, 0.0, 0.0, 1),
        limit=LIMIT,
        why=["This is why.", "It rests on much."],
        what_to_do="train longer",
        note=note,
    )
    return RecordedVerdict(f"test_it.py::{name}", replace(verdict, only_warned=only_warned), outcome)


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
    """One -q: each gate with its variant, its test and its notes, and neither variants nor notes on the run."""
    assert shown(summary("PASS", "FAIL"), -1) == [
        ("gate measured limit verdict", "neutral"),
        ("loss gap +0.020 [0.010, 0.030] <= 0.1 (ini) PASS", "good"),
        ("lora r=16 in test_it.py::test_0", "neutral"),
        ("A caveat.", "neutral"),
        ("loss gap +0.020 [0.010, 0.030] <= 0.1 (ini) FAIL", "bad"),
        ("lora r=16 in test_it.py::test_1", "neutral"),
        ("(the note above holds here too)", "neutral"),
    ]


def test_very_quiet_is_one_line() -> None:
    """Two of them: how many gates ended how."""
    assert shown(summary("PASS", "PASS", "INVALID"), -2) == [("gates: 2 PASS, 1 INVALID", "bad")]
    assert shown(summary("PASS", "ACCEPTED"), -3) == [("gates: 1 PASS, 1 ACCEPTED", "good")]
    assert shown(summary(), -2) == []


def test_very_quiet_tells_what_failed_no_test() -> None:
    """A green run has no red line, and a FAIL that was expected is no other FAIL."""
    expected = recorded("FAIL", outcome="xfailed")
    warned = recorded("INCONCLUSIVE", outcome="passed", only_warned=True)
    found = run_summary([], [recorded("PASS", outcome="passed"), expected, warned])
    assert shown(found, -2) == [("gates: 1 PASS, 1 FAIL (xfailed), 1 INCONCLUSIVE (only warned)", "warn")]
    found = run_summary([], [expected, recorded("FAIL", outcome="failed")])
    assert shown(found, -2) == [("gates: 1 FAIL (xfailed), 1 FAIL", "bad")]


WHY = "This is why. What to do: train longer."


@pytest.mark.parametrize(
    ("status", "only_warned", "outcome", "tone", "reason"),
    [
        ("PASS", False, "passed", "good", None),
        ("PASS", False, "failed", "good", None),
        ("FAIL", False, "failed", "bad", None),
        ("FAIL", False, None, "bad", None),
        ("FAIL", False, "xfailed", "warn", f"Expected to fail: {WHY}"),
        ("INVALID", False, "xfailed", "warn", f"Expected to fail: {WHY}"),
        ("INCONCLUSIVE", False, "xfailed", "warn", f"Expected to fail: {WHY}"),
        ("INCONCLUSIVE", False, "failed", "bad", None),
        ("INCONCLUSIVE", True, "passed", "warn", f"Only a warning: {WHY}"),
        ("INCONCLUSIVE", True, "skipped", "warn", f"Only a warning: {WHY}"),
        ("INCONCLUSIVE", True, "xpassed", "warn", f"Only a warning: {WHY}"),
        ("INCONCLUSIVE", True, "failed", "bad", f"Only a warning: {WHY}"),
        ("INCONCLUSIVE", True, None, "bad", f"Only a warning: {WHY}"),
        ("FAIL", False, "passed", "bad", f"The test went on: {WHY}"),
    ],
)
def test_a_row_has_the_tone_of_its_test_and_the_reason_that_pytest_does_not_print(
    status: Status, only_warned: bool, outcome: TestOutcome | None, tone: str, reason: str | None
) -> None:
    """A verdict that failed no test is not red, unless its error was lost; a message that pytest prints is not said."""
    one = recorded(status, outcome=outcome, only_warned=only_warned, note=None)
    lines = shown(run_summary([], [one]), 0)
    assert lines == shown(run_summary([], [one]), -1)
    assert lines[1:] == [
        (f"loss gap +0.020 [0.010, 0.030] <= 0.1 (ini) {status}", tone),
        ("lora r=16 in test_it.py::test_it", "neutral"),
        *([(reason, "neutral")] if reason else []),
    ]


def test_the_reason_of_what_is_invalid_is_what_its_first_line_says() -> None:
    """Its problem, why that matters and the remedy of the first one; a log is left to the message."""
    problems = [Problem("it broke", "It had to.", "mend it", log="much"), Problem("so did this", remedy="mend that")]
    side = trained(LORA, trial(LORA, NLL))
    one = RecordedVerdict("test_it.py::test_it", invalid("loss_gap", side, None, LIMIT, problems), "xfailed")
    (reason,) = [line for line, _ in shown(run_summary([], [one]), 0) if "Expected" in line]
    assert reason == "Expected to fail: It broke. It had to. What to do: mend it."


def test_two_variants_of_one_test_are_told_apart() -> None:
    """Each row names its candidate, and its baseline too if the run has more than one."""
    other, reference = LoRA(r=4, learning_rate=1e-3), Full(learning_rate=2e-5)
    rows = [recorded("PASS", note=None), recorded("PASS", note=None, candidate=other)]
    text = [line for line, _ in shown(run_summary([], rows), 0)]
    assert [text[2], text[4]] == ["lora r=16 in test_it.py::test_it", "lora r=4 in test_it.py::test_it"]
    third = recorded("PASS", note=None, candidate=other, baseline=LORA)
    text = [line for line, _ in shown(run_summary([], [*rows, third]), 0)]
    assert [line.partition(" in ")[0] for line in text[2::2]] == [
        "lora r=16 against full",
        "lora r=4 against full",
        "lora r=4 against lora r=16",
    ]
    twins = recorded("PASS", note=None, baseline=reference)
    trials = [trial(one, NLL) for one in (FULL, reference, LORA)]
    text = [line for line, _ in shown(run_summary(trials, [rows[0], twins]), -1)]
    assert [line.partition(" in ")[0] for line in text[2::2]] == [
        "lora r=16 against full learning_rate=0.0001",
        "lora r=16 against full learning_rate=2e-05",
    ]


@pytest.mark.parametrize(("length", "lines"), [(51, 1), (52, 2)])
def test_a_variant_and_its_test_share_a_line_of_80_columns(length: int, lines: int) -> None:
    """If they do not fit, each has a line of its own; the name of a test is never broken."""
    name = "x" * length
    text = [line.text for line in terminal_lines(run_summary([], [recorded("PASS", name, note=None)]))][2:]
    assert len(text) == lines
    assert " ".join(line.strip() for line in text) == f"lora r=16 in test_it.py::{name}"
    assert (max(map(len, text)) <= 80) or lines == 2


def test_long_words_run_over_and_are_never_broken() -> None:
    """Names of tests, paths and labels stay whole; sentences and labels are broken between their words."""
    path = f"out/{'y' * 90}/r.json"
    long = LoRA(
        r=16, alpha=64, dropout=0.125, bias="lora_only", target_modules=("q_proj", "v_proj"), learning_rate=1e-3
    )
    named = replace(WORKLOAD, training_function="my.own.package.of.trainings:train_it")
    row = recorded("FAIL", "z" * 90 + "[a-b c]", candidate=long, note=f"See {path}.")
    trials = [trial(one, NLL, seed=seed, workload=named) for one in (FULL, long) for seed in (0, 1)]
    failed = trial(long, NLL, seed=2, workload=named).remeasured(outcome="crashed", error=TrialError("so it was " * 20))
    lines = [line.text for line in terminal_lines(run_summary([*trials, failed], [row], ["why " * 40]))]
    assert [line.strip() for line in lines if len(line) > 80] == [f"test_it.py::{'z' * 90}[a-b c]", f"{path}."]
    assert sum(long.label.split()[-1] in line for line in lines) > 2
    text = " ".join(word for line in lines for word in line.split())
    assert long.label in text


@pytest.mark.parametrize(("extra", "heading", "row"), [(0, 1, 1), (1, 2, 1), (8, 2, 1), (9, 2, 2)])
def test_a_table_that_is_too_wide_breaks_its_headings_and_then_its_labels(extra: int, heading: int, row: int) -> None:
    """80 columns are one line a row; the headings "peak memory" and "val loss" give 8 more; then the label breaks."""
    found = run_summary([trial(Peft("ia3", label="a b", learning_rate=1e-3), NLL)], [])
    width = max(len(line.text) for line in terminal_lines(found) if line.text.startswith(("variant", "a b")))
    label = f"a {'b' * (80 - width + len('base model') - 2 + extra)}"
    found = run_summary([trial(Peft("ia3", label=label, learning_rate=1e-3), NLL)], [])
    lines = [line.text for line in terminal_lines(found)]
    start = next(number for number, line in enumerate(lines) if line.startswith("variant"))
    base = next(number for number, line in enumerate(lines) if line.startswith("base model"))
    end = next(number for number, line in enumerate(lines) if line.startswith("note"))
    assert (base - start, end - base - 1) == (heading, row)
    assert [line.partition("  ")[0] for line in lines[base + 1 : end]] == ([label] if row == 1 else ["a", label[2:]])
    assert max(map(len, lines)) <= 80


def test_the_loss_on_the_reference_text_has_a_column_if_it_was_measured() -> None:
    """Next to the validation loss, as the mean of the seeds; a variant without it has none."""
    assert "ref loss" not in "".join(line for line, _ in shown(summary("PASS"), 0))
    parts: dict[str, Any] = {"reference": losses([25.0] * 64), "base_reference": losses([40.0] * 64)}
    more = {**parts, "reference": losses([27.0] * 64)}
    found = run_summary([trial(FULL, NLL, **parts), trial(FULL, NLL, seed=1, **more), trial(LORA, NLL)], [])
    text = [line for line, _ in shown(found, 0)]
    assert text[5:9] == [
        "variant trainable val loss ref loss ppl peak memory s/step",
        "base model 3.000 4.000 20.09",
        "full 1,000 100% 2.000 +-0.000 2.600 7.39 1.00 kB 0.5",
        "lora r=16 100 10% 2.000 - 7.39 600 B 0.5",
    ]


@pytest.mark.parametrize(
    ("come_by", "mark"),
    [
        ([{}, {}], ""),
        ([{"cached": True, "content": "x"}] * 2, " (cached)"),
        ([{"cached": True, "content": "x"}, {}], " (1 of 2 cached)"),
        ([{"cached": True}] * 2, " (read)"),
    ],
)
def test_a_variant_says_whether_it_was_trained_here(come_by: list[dict[str, Any]], mark: str) -> None:
    """Or taken from the store, or read from a report or a Trainer's runs."""
    trials = [trial(FULL, NLL, seed=seed, **values) for seed, values in enumerate(come_by)]
    (row,) = [line.text for line in terminal_lines(run_summary(trials, [])) if line.text.startswith("full")]
    assert row.partition("  ")[0] == f"full{mark}"


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
