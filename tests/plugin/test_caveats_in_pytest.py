"""What did not fail a test is not red and gives its reason, whatever became of the test."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.plugin.test_attempts_in_pytest import RERUN

TESTS = """
import threading
import pytest
from pytest_ftguard import LimitExceeded, assert_loss_gap

def gap(lora, full, at_most, **options):
    return assert_loss_gap(lora, full, at_most=at_most, **options)

def test_passed(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.3)

def test_warned(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.1, on_inconclusive="warn")

def test_failed(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.05)

def test_undecided(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.1)

@pytest.mark.xfail
def test_xfailed(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.05)

@pytest.mark.xfail(strict=True, raises=LimitExceeded)
def test_strict(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.05)

@pytest.mark.xfail
def test_xfailed_undecided(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.1)

@pytest.mark.xfail
def test_xpassed(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.3)

@pytest.mark.xfail(strict=True)
def test_strict_passed(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.3)

@pytest.mark.xfail(strict=True)
def test_strict_warned(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.1, on_inconclusive="warn")

def test_skipped(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.1, on_inconclusive="warn")
    pytest.skip("no more")

def test_warned_and_failed(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.1, on_inconclusive="warn")
    assert 1 == 2

@pytest.fixture
def before(full_variant, lora_variant):
    gap(lora_variant, full_variant, 0.05)

def test_setup(before): pass

@pytest.mark.xfail
def test_setup_xfailed(before): pass

@pytest.fixture
def after(full_variant, lora_variant):
    yield
    gap(lora_variant, full_variant, 0.1, on_inconclusive="warn")

def test_teardown(after): pass

@pytest.fixture
def fails_after(full_variant, lora_variant):
    yield
    assert 1 == 2

def test_teardown_failed(full_variant, lora_variant, fails_after):
    gap(lora_variant, full_variant, 0.1, on_inconclusive="warn")

def test_caught(full_variant, lora_variant):
    with pytest.raises(LimitExceeded):
        gap(lora_variant, full_variant, 0.05)
"""
OUTCOMES = {
    "test_passed": ("PASS", "passed"),
    "test_warned": ("INCONCLUSIVE", "passed"),
    "test_failed": ("FAIL", "failed"),
    "test_undecided": ("INCONCLUSIVE", "failed"),
    "test_xfailed": ("FAIL", "xfailed"),
    "test_strict": ("FAIL", "xfailed"),
    "test_xfailed_undecided": ("INCONCLUSIVE", "xfailed"),
    "test_xpassed": ("PASS", "xpassed"),
    "test_strict_passed": ("PASS", "failed"),
    "test_strict_warned": ("INCONCLUSIVE", "failed"),
    "test_skipped": ("INCONCLUSIVE", "skipped"),
    "test_warned_and_failed": ("INCONCLUSIVE", "failed"),
    "test_setup": ("FAIL", "failed"),
    "test_setup_xfailed": ("FAIL", "xfailed"),
    "test_teardown": ("INCONCLUSIVE", "passed"),
    "test_teardown_failed": ("INCONCLUSIVE", "failed"),
    "test_caught": ("FAIL", "passed"),
}
WARNED = "Only a warning: "
EXPECTED = "Expected to fail: "
REASONS = {
    "test_warned": WARNED,
    "test_strict_warned": WARNED,
    "test_skipped": WARNED,
    "test_warned_and_failed": WARNED,
    "test_teardown": WARNED,
    "test_teardown_failed": WARNED,
    "test_xfailed": EXPECTED,
    "test_strict": EXPECTED,
    "test_xfailed_undecided": EXPECTED,
    "test_setup_xfailed": EXPECTED,
    "test_caught": "The test went on: ",
}
YELLOW = {"test_warned", "test_skipped", "test_teardown", *(name for name in REASONS if REASONS[name] == EXPECTED)}


def verdicts(project: pytest.Pytester) -> dict[str, tuple[str, str | None]]:
    found: list[dict[str, Any]] = json.loads((project.path / "r.json").read_text())["verdicts"]
    return {one["nodeid"].partition("::")[2]: (one["status"], one["test_outcome"]) for one in found}


def rows(result: pytest.RunResult) -> dict[str, tuple[str, list[str]]]:
    """The row of each test in the table of gates, and the notes below it."""
    found: dict[str, tuple[str, list[str]]] = {}
    row, name = "", ""
    for line in result.stdout.str().partition("ftguard summary")[2].splitlines():
        if line.startswith(("loss gap ", "\x1b")) and "loss gap " in line:
            row, name = line, ""
        elif line.startswith("    ") and row:
            if not name:
                name = line.split("::")[-1]
                found[name] = row, []
            else:
                found[name][1].append(line.strip())
        else:
            row = ""
    return found


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one", "xdist"])
def test_each_verdict_is_shown_by_what_became_of_its_test(made_up: pytest.Pytester, options: list[str]) -> None:
    """Red failed a test or was lost, yellow did not fail one, and what pytest prints of no failure is below the row."""
    made_up.makepyfile(test_it=TESTS)
    result = made_up.runpytest_inprocess("--ftguard-json=r.json", "--color=yes", *options)
    assert verdicts(made_up) == OUTCOMES
    found = rows(result)
    assert found.keys() == OUTCOMES.keys()
    for name, (row, notes) in found.items():
        status, _ = OUTCOMES[name]
        colour = "32" if status == "PASS" else "33" if name in YELLOW else "31"
        assert row.startswith(f"\x1b[{colour}m"), (name, row)
        if name not in REASONS:
            assert notes == [], (name, notes)
        elif notes != ["(the note above holds here too)"]:
            assert notes[0].startswith(REASONS[name]), (name, notes)
            assert " What to do: " in " ".join(notes)


@pytest.mark.parametrize("quiet", ["-v", "-q", "-qq"])
def test_the_summary_of_a_green_run_has_no_red(made_up: pytest.Pytester, quiet: str) -> None:
    """A warning and an expected failure are yellow; a quiet run gives their reasons, and a line alone does not."""
    made_up.makepyfile(test_it=TESTS)
    chosen = [f"test_it.py::test_{name}" for name in ("warned", "xfailed", "strict", "xfailed_undecided", "skipped")]
    result = made_up.runpytest_inprocess("--color=yes", quiet, *chosen)
    assert result.ret == 0
    text = result.stdout.str()
    assert "\x1b[31m" not in text
    assert (EXPECTED in text) is (WARNED in text) is (quiet != "-qq")
    counts = "\x1b[33mgates: 2 INCONCLUSIVE (only warned), 2 FAIL (xfailed), 1 INCONCLUSIVE (xfailed)"
    assert (counts in text) is (quiet == "-qq")


def test_a_pass_with_a_note_shows_it_below_its_row(made_up: pytest.Pytester) -> None:
    """Also under -q: nobody reads the message of a test that passed."""
    made_up.makepyfile(test_it=TESTS)
    made_up.path.joinpath("gap.txt").write_text("-0.1")
    for quiet in ([], ["-q"]):
        result = made_up.runpytest_inprocess("-k", "test_passed", *quiet)
        result.stdout.fnmatch_lines(
            ["loss gap * PASS", "    lora r=16 in test_it.py::test_passed", "    lora r=16 is better than full*"]
        )


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one", "xdist"])
@pytest.mark.parametrize(("last", "expected"), [("0.1", ("INCONCLUSIVE", "passed")), ("0.05", ("FAIL", "failed"))])
def test_the_outcome_is_that_of_the_last_attempt(
    made_up: pytest.Pytester, options: list[str], last: str, expected: tuple[str, str]
) -> None:
    """A rerun begins again; what became of the attempt before is forgotten."""
    made_up.makepyfile(
        test_it=f"""
        from pytest_ftguard import assert_loss_gap
        tries = []

        def test_it(full_variant, lora_variant):
            tries.append(1)
            at_most = {last} if len(tries) > 1 else 0.05
            assert_loss_gap(lora_variant, full_variant, at_most=at_most, on_inconclusive="warn")
        """
    )
    with (made_up.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(f"\n{RERUN}")
    made_up.runpytest_inprocess("-p", "no:flaky", "--ftguard-json=r.json", *options)
    assert verdicts(made_up) == {"test_it": expected}


def test_a_verdict_that_came_after_its_test_has_no_outcome(made_up: pytest.Pytester) -> None:
    """It fails the run although its test passed, so it is red."""
    made_up.makepyfile(
        test_it="""
        import contextvars, threading
        from pytest_ftguard import assert_loss_gap
        STARTED = threading.Event()

        def test_it(full_variant, lora_variant):
            def later():
                STARTED.wait()
                assert_loss_gap(lora_variant, full_variant, at_most=0.1, on_inconclusive="warn")
            global THREAD
            THREAD = threading.Thread(target=contextvars.copy_context().run, args=(later,))
            THREAD.start()
        """
    )
    with (made_up.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(
            "\nimport pytest, sys\n"
            "@pytest.hookimpl(tryfirst=True)\n"
            "def pytest_sessionfinish():\n"
            "    sys.modules['test_it'].STARTED.set()\n"
            "    sys.modules['test_it'].THREAD.join()\n"
        )
    result = made_up.runpytest_subprocess("--ftguard-json=r.json", "--color=yes")
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    assert verdicts(made_up) == {"test_it": ("INCONCLUSIVE", None)}
    assert rows(result)["test_it"][0].startswith("\x1b[31m")


def test_the_markdown_puts_what_failed_a_test_first(made_up: pytest.Pytester) -> None:
    """What was expected is not bold, comes after what failed, and says so in its explanation and in the headline."""
    made_up.makepyfile(test_it=TESTS)
    made_up.runpytest_inprocess(
        "-k", "test_xfailed or test_undecided or (test_warned and not failed)", "--ftguard-markdown=r.md"
    )
    text = (made_up.path / "r.md").read_text()
    counts = "1 INCONCLUSIVE, 1 FAIL (xfailed), 1 INCONCLUSIVE (only warned), 1 INCONCLUSIVE (xfailed)"
    assert f"**4 verdicts: {counts}**" in text.replace("\\", "")
    table = [line for line in text.splitlines() if line.startswith("| loss gap ")]
    assert ["**INCONCLUSIVE**" in line for line in table] == [True, False, False, False]
    assert all(" | lora r=16 | " in line for line in table)
    assert "`test_it.py::test_xfailed`: loss gap FAIL (xfailed)" in text
    assert "`test_it.py::test_warned`: loss gap INCONCLUSIVE (only warned)" in text
