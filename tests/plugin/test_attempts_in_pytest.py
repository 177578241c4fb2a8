"""If a test is tried several times, the last attempt counts, and what was trained is never lost."""

from __future__ import annotations

import json

import pytest

# What pytest-rerunfailures does: each attempt is reported once it is over, a failed one as "rerun".
RERUN = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    for attempt in range(2):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        repeats = attempt == 0 and any(report.failed for report in reports)
        for report in reports:
            if repeats and report.failed:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
        if not repeats:
            return True
    return True

def pytest_report_teststatus(report):
    if report.outcome == "rerun":
        return "rerun", "R", ("RERUN", {"yellow": True})
"""
# What the plugin flaky does: the report of a failed attempt is dropped.
DROP = """
import pytest
from _pytest import runner

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    failed = []

    def call_and_report(item, when, log=True, **kwds):
        report = earlier(item, when, False, **kwds)
        if when == "call" and report.failed and len(failed) < REPEATS:
            failed.append(report)
        else:
            item.ihook.pytest_runtest_logreport(report=report)
        return report

    earlier, runner.call_and_report = runner.call_and_report, call_and_report
    try:
        while True:
            before = len(failed)
            item._initrequest()
            runner.runtestprotocol(item, nextitem=nextitem)
            if len(failed) == before or ENDS:
                return True
    finally:
        runner.call_and_report = earlier
"""
TEST = """
from pytest_ftguard import LoRA, assert_loss_gap
tries = []

def test_it(ftguard, full_variant):
    tries.append(1)
    at_most = 0.3 if len(tries) > 1 else 0.05
    assert_loss_gap(ftguard.train(LoRA(r=2, learning_rate=0.004)), full_variant, at_most=at_most)

def test_plain(): pass
"""


def run(
    made_up: pytest.Pytester, plugin: str, *options: str, test: str = TEST
) -> tuple[pytest.RunResult, dict[str, list[dict[str, object]]]]:
    made_up.makepyfile(test_it=test)
    with (made_up.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(f"\n{plugin}")
    arguments = ("-p", "no:flaky", "-o", "ftguard_gain_factor=0", "--ftguard-json=r.json", "--junitxml=j.xml")
    result = made_up.runpytest_inprocess(*arguments, *options)
    report: dict[str, list[dict[str, object]]] = json.loads((made_up.path / "r.json").read_text())
    return result, report


@pytest.mark.parametrize("options", [[], ["-n", "2"]])
@pytest.mark.parametrize(
    "plugin", [RERUN, DROP.replace("REPEATS", "1").replace("ENDS", "False")], ids=["rerun", "drop"]
)
def test_the_last_attempt_counts(made_up: pytest.Pytester, plugin: str, options: list[str]) -> None:
    """A green run shows no FAIL, each verdict says how many attempts there were, and all trials are listed."""
    result, report = run(made_up, plugin, *options)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["loss gap*PASS", "    lora r=2 in test_it.py::test_it  (2 attempts)"])
    assert "FAIL" not in result.stdout.str()
    assert [(one["status"], one["attempts"]) for one in report["verdicts"]] == [("PASS", 2)]
    assert {(one["variant"], one["seed"]) for one in report["trials"]} == {
        (kind, seed) for kind in ("full", "lora") for seed in (0, 1, 2)
    }
    properties = (made_up.path / "j.xml").read_text()
    assert properties.count('"ftguard.loss_gap.status" value="PASS"') == 1
    assert properties.count('"ftguard.loss_gap.status"') == 1


@pytest.mark.parametrize("options", [[], ["-n", "2"]])
def test_what_a_dropped_report_carried_is_not_lost(made_up: pytest.Pytester, options: list[str]) -> None:
    """No later report of the test brings it: the end of the session does."""
    result, report = run(made_up, DROP.replace("REPEATS", "1").replace("ENDS", "True"), *options)
    result.stdout.fnmatch_lines(["lora r=2 *", "loss gap*FAIL", "    lora r=2 in test_it.py::test_it"])
    assert [one["status"] for one in report["verdicts"]] == ["FAIL"]
    assert len(report["trials"]) == 6


def test_an_attempt_without_a_verdict_takes_back_that_of_the_one_before(made_up: pytest.Pytester) -> None:
    """What counts is the last attempt, which here asks no gate."""
    result, report = run(
        made_up, RERUN, test=TEST.replace("    at_most =", "    if len(tries) > 1: return\n    at_most =")
    )
    assert result.ret == 0
    assert report["verdicts"] == []
    assert len(report["trials"]) == 6


def test_subtests_are_one_attempt(made_up: pytest.Pytester) -> None:
    """Both verdicts stay, whichever of the subtests failed."""
    pytest.importorskip("_pytest.subtests", reason="pytest 9 has subtests")
    made_up.makepyfile(
        test_it="""
        from pytest_ftguard import assert_loss_gap

        def test_it(subtests, full_variant, lora_variant):
            for at_most in (0.05, 0.3):
                with subtests.test(at_most=at_most):
                    assert_loss_gap(lora_variant, full_variant, at_most=at_most)
        """
    )
    result = made_up.runpytest_inprocess("-o", "ftguard_gain_factor=0", "--ftguard-json=r.json")
    assert result.ret == 1
    verdicts = json.loads((made_up.path / "r.json").read_text())["verdicts"]
    assert [(one["status"], one["attempts"]) for one in verdicts] == [("FAIL", 1), ("PASS", 1)]


def test_a_run_that_is_stopped_shows_what_was_trained(made_up: pytest.Pytester) -> None:
    """The test that stops it has no report."""
    stop = "    ftguard.train(LoRA(r=3, learning_rate=0.004))\n    pytest.exit('enough')\n"
    test = TEST.replace("    at_most =", f"{stop}    at_most =")
    result, report = run(made_up, "", test=f"import pytest\n{test}")
    result.stdout.fnmatch_lines(["lora r=3 *"])
    assert len(report["trials"]) == 6
