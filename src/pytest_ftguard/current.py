"""Which test is running, whichever thread or task asks.

Every pytest run imports this module, so the errors are imported where one is raised.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

__all__ = ["RunningTest", "RunningTests", "active_test", "find_test", "running"]


class RunningTest(Protocol):
    """A test, as far as it matters here."""

    @property
    def is_over(self) -> bool:
        """Whether the test has ended, its teardown included."""

    def note(self, text: str) -> None:
        """Have the summary say something, once."""

    def take_unhandled(self, error: BaseException) -> None:
        """Keep an error of ours that ended a thread: the thread's end alone does not fail the test."""


active_test: ContextVar[RunningTest | None] = ContextVar("ftguard_active_test")
"""The test of a context; None is a context that belongs to none. Most threads and some loops start without."""


class RunningTests:
    """The tests that this process runs: one at a time in each thread that runs tests."""

    def __init__(self) -> None:
        self._sessions: list[Callable[[str], None]] = []
        self._by_thread: dict[int, list[tuple[RunningTest, frozenset[int | None]]]] = {}
        self._earlier_hook: Callable[[Any], Any] | None = None

    def open_session(self, report_problem: Callable[[str], None]) -> None:
        """Start to watch a run of pytest, which may lie within another one.

        Args:
            report_problem: Told of an error that ended a thread while no test was running.
        """
        self._sessions.append(report_problem)

    def close_session(self) -> None:
        """Stop to watch the run that began last."""
        if self._sessions:
            self._sessions.pop()
        if not self._sessions and self._earlier_hook is not None:
            if threading.excepthook == self._on_thread_error:
                threading.excepthook = self._earlier_hook
            self._earlier_hook = None

    def enter(self, test: RunningTest) -> None:
        """Note that the calling thread starts a test."""
        if self._earlier_hook is None:  # pytest sets a hook of its own while it is configured
            self._earlier_hook = threading.excepthook
            threading.excepthook = self._on_thread_error
        older = frozenset(thread.ident for thread in threading.enumerate())
        self._by_thread.setdefault(threading.get_ident(), []).append((test, older))

    def leave(self) -> None:
        """Note that the test which the calling thread started last is over."""
        tests = self._by_thread[threading.get_ident()]
        tests.pop()
        if not tests:
            del self._by_thread[threading.get_ident()]

    def find(self) -> RunningTest | None:
        """Return the test that the calling thread works for; None outside of a run of pytest.

        Raises:
            ConfigurationError: No test is running, or it cannot be known which one called.
        """
        here = self._by_thread.get(threading.get_ident())
        if here:
            return here[-1][0]
        if len(self._by_thread) == 1:
            ((*_, (test, older)),) = self._by_thread.values()
            thread = threading.current_thread()
            if thread.ident in older:
                test.note(
                    f"a helper was called in the thread {thread.name!r}, which is older than the test that was running "
                    f"({test}): the verdict counts for that test; if an earlier test started the work, let it wait for "
                    "its threads"
                )
            return test
        if self._by_thread:
            from pytest_ftguard.errors import ConfigurationError

            message = (
                "several tests are running in this process, and the thread "
                f"{threading.current_thread().name!r} does not say which one it works for: start it with "
                "contextvars.copy_context().run"
            )
            raise ConfigurationError(message)
        return None

    def require_none(self) -> None:
        """Raise the error of a helper that is called in a run of pytest, but in no test of it."""
        if self._sessions:
            from pytest_ftguard.errors import ConfigurationError

            message = (
                "a helper was called while no test was running, so neither summary nor report would show its verdict: "
                "call it in a test, or in a fixture of one"
            )
            raise ConfigurationError(message)

    def _on_thread_error(self, args: Any) -> None:
        from pytest_ftguard.errors import FtguardError, GateFailure

        if isinstance(args.exc_value, FtguardError | GateFailure):
            test = find_known() or (self.find() if len(self._by_thread) == 1 else None)
            if test is not None and not test.is_over:
                test.take_unhandled(args.exc_value)
            elif self._sessions:
                name = args.thread.name if args.thread else "?"
                self._sessions[-1](f"ftguard: the thread {name!r} failed after its test was over: {args.exc_value}")
        if self._earlier_hook is not None:
            self._earlier_hook(args)


running = RunningTests()


def find_known() -> RunningTest | None:
    """Return the test of the present context, whether it is running or over; None if the context has none."""
    return active_test.get(None)


def find_test() -> RunningTest | None:
    """Return the test that a helper is called for; None outside of pytest.

    The context says it best. A context without a test, or with one that is over (a loop that several tests share keeps
    that of the first), leaves it to the thread, and then to the one test that this process is running.

    Raises:
        ConfigurationError: No test is running, or it cannot be known which one called.
    """
    try:
        known = active_test.get()
    except LookupError:
        known = None
    else:
        if known is None or not known.is_over:
            return known
    found = running.find() or known
    if found is None:
        running.require_none()
    return found
