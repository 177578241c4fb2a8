"""A helper finds the test that it is called for, or says that it cannot be known."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

import pytest

from pytest_ftguard import current
from pytest_ftguard.current import RunningTests, active_test
from pytest_ftguard.errors import ConfigurationError


class Running:
    """Stands for a test."""

    def __init__(self, name: str, *, is_over: bool = False) -> None:
        self.name = name
        self.is_over = is_over
        self.notes: list[str] = []

    def __str__(self) -> str:
        return self.name

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def tests(monkeypatch: pytest.MonkeyPatch) -> RunningTests:
    """No test is running."""
    found = RunningTests()
    monkeypatch.setattr(current, "running", found)
    return found


def find_test() -> Any:
    return current.find_test()


def elsewhere(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_outside_of_pytest_there_is_none(tests: RunningTests) -> None:
    """A helper in a script judges by its arguments alone; in a run of pytest without a test that is an error."""
    assert Context().run(find_test) is None
    tests.open_session(print)
    with pytest.raises(ConfigurationError, match="while no test was running"):
        Context().run(find_test)
    tests.close_session()
    assert Context().run(find_test) is None


def test_the_context_says_it_best(tests: RunningTests) -> None:
    """Also against the thread; None there belongs to no test, and a test that is over is passed over."""
    ours, other, over = Running("ours"), Running("other"), Running("over", is_over=True)
    tests.enter(other)  # type: ignore[arg-type]
    for known, expected in ((ours, ours), (None, None), (over, other)):
        context = Context()
        context.run(active_test.set, known)  # type: ignore[arg-type]
        assert context.run(find_test) is expected
    assert Context().run(find_test) is other
    assert elsewhere(find_test) is other
    tests.leave()
    late = Context()
    late.run(active_test.set, over)  # type: ignore[arg-type]
    tests.open_session(print)
    assert late.run(find_test) is over  # nothing else is running, so the verdict goes where it belongs


def test_the_inner_one_of_two_runs_counts(tests: RunningTests) -> None:
    """A test may run pytest in its own process."""
    outer, inner = Running("outer"), Running("inner")
    tests.enter(outer)  # type: ignore[arg-type]
    tests.enter(inner)  # type: ignore[arg-type]
    assert elsewhere(find_test) is inner
    tests.leave()
    assert elsewhere(find_test) is outer


def test_several_tests_at_once_are_told_apart_by_the_context_only(tests: RunningTests) -> None:
    """Each thread that runs a test has its own; another thread must say which one it works for."""
    ours, other = Running("ours"), Running("other")
    tests.enter(ours)  # type: ignore[arg-type]

    def run_other() -> Any:
        tests.enter(other)  # type: ignore[arg-type]
        found = find_test()
        with pytest.raises(ConfigurationError, match="several tests are running"):
            elsewhere(find_test)
        context = copy_context()
        context.run(active_test.set, ours)  # type: ignore[arg-type]
        assert elsewhere(lambda: context.run(find_test)) is ours
        tests.leave()
        return found

    assert elsewhere(run_other) is other
    assert Context().run(find_test) is ours


def test_a_thread_that_is_older_than_the_test_is_named(tests: RunningTests) -> None:
    """An earlier test may have left it behind; a thread that the test started is not worth a word."""
    ours = Running("ours")
    with ThreadPoolExecutor(1, thread_name_prefix="old") as pool:
        pool.submit(threading.get_ident).result()
        tests.enter(ours)  # type: ignore[arg-type]
        assert elsewhere(find_test) is ours
        assert ours.notes == []
        assert pool.submit(find_test).result() is ours
        (note,) = ours.notes
        assert "the thread 'old_0', which is older than the test that was running (ours)" in note
