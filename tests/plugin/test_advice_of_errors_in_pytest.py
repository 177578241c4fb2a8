"""Whoever follows the advice of an error or a note of a run sees the next run without it."""

from __future__ import annotations

import re
from textwrap import dedent

import pytest
from tests.conftest import WITHIN
from tests.plain.builders import unwrapped
from tests.plugin.test_first_use import PAIR, ROOT

BAD = "from pair import judge\n\ndef test_it():\n    judge(0.05)\n"
GOOD = "from pair import judge\n\ndef test_it():\n    judge(0.3)\n"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a module that makes a pair of variants, without a training."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}:{pytester.path}")
    monkeypatch.setenv("PYTEST_ADDOPTS", WITHIN)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    pytester.makepyfile(pair=PAIR)
    return pytester


def test_a_failure_that_was_caught_reaches_the_test_as_advised(project: pytest.Pytester) -> None:
    """Without pytest.raises the test fails, as its gate did."""
    project.makepyfile(
        test_it="import pytest\nfrom pair import judge\n\ndef test_it():\n"
        "    with pytest.raises(AssertionError):\n        judge(0.05)\n"
    )
    caught = project.runpytest_inprocess()
    caught.assert_outcomes(passed=1)
    unwrapped(caught).fnmatch_lines(["*passed although its gate loss gap ended FAIL: *let it reach the test*"])
    project.makepyfile(test_it=BAD)
    reached = project.runpytest_inprocess()
    reached.assert_outcomes(failed=1)
    assert "passed although" not in reached.stdout.str()


FORKED = """
import os
from pair import judge

def test_it():
    child = os.fork()
    if not child:
        try:
            judge(0.3)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""
THREAD = """
import threading
from pair import judge

def test_it():
    thread = threading.Thread(target=judge, args=(0.3,))
    thread.start()
    thread.join()
"""


def test_a_helper_in_a_forked_process_is_called_in_the_test_as_advised(project: pytest.Pytester) -> None:
    """Or in a thread that the test waits for."""
    project.makepyfile(test_it=FORKED)
    forked = project.runpytest_subprocess("-W", "ignore")
    forked.assert_outcomes(failed=1)
    assert "call it in the test itself, or in a thread" in " ".join(forked.stdout.str().split())
    for source in (GOOD, dedent(THREAD)):
        project.makepyfile(test_it=source)
        project.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_each_report_has_a_file_of_its_own_as_advised(project: pytest.Pytester) -> None:
    """The run that was refused goes on."""
    project.makepyfile(test_it=GOOD)
    refused = project.runpytest_inprocess("--ftguard-json=a.md", "--ftguard-markdown=a.md")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "give each a file of its own" in refused.stderr.str()
    followed = project.runpytest_inprocess("--ftguard-json=a.json", "--ftguard-markdown=a.md")
    followed.assert_outcomes(passed=1)
    assert (project.path / "a.json").is_file()
    assert (project.path / "a.md").is_file()


def test_the_summary_for_github_is_switched_off_as_advised(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the line that the note shows."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "no" / "folder"))
    project.makepyfile(test_it=GOOD)
    text = " ".join(project.runpytest_inprocess().stdout.str().split())
    line = re.search(r"nothing was appended .* To switch it off, set (ftguard_github = \w+)\.", text)
    assert line is not None, text
    project.makeini(f"[pytest]\n{line[1]}\n")
    followed = project.runpytest_inprocess()
    followed.assert_outcomes(passed=1)
    assert "nothing was appended" not in followed.stdout.str()


def test_a_calibration_has_a_file_as_advised(project: pytest.Pytester) -> None:
    """The key that the message names is enough."""
    refused = project.runpytest_inprocess("--ftguard-calibrate=10")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    key = re.search(r"set (ftguard_calibration)", refused.stderr.str())
    assert key is not None
    project.makeini(f"[pytest]\n{key[1]} = noise.json\n")
    assert project.runpytest_inprocess("--ftguard-calibrate=10").ret == pytest.ExitCode.NO_TESTS_COLLECTED
