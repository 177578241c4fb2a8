"""A run of pytest as long as it does not use the plugin, and the step to its use.

Every pytest run loads this module. It imports inside functions what only a run needs that trains or judges.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pytest_ftguard.errors import ConfigurationError
    from pytest_ftguard.plugin.active_test import TestRecord
    from pytest_ftguard.plugin.session import Session
    from pytest_ftguard.plugin.xdist import SharedFolder
    from pytest_ftguard.settings.reading import Settings

__all__ = ["FIXTURES", "LEFT_OVER", "RUN", "CurrentTest", "Run", "forked"]

FIXTURES: Final = frozenset({"full_variant", "lora_variant", "ftguard"})
"""The fixtures that train."""
LEFT_OVER: Final = "ftguard_left_over"
"""What a worker of xdist hands its controller when it ends."""


class Forks:
    """Tells this process that a helper was called in one that it has forked: both see the same memory."""

    def __init__(self) -> None:
        self._test = mmap.mmap(-1, 8)

    def mark(self, test: int) -> None:
        """Note, in the forked process, for which test the helper was called; its number is at least 1."""
        self._test[:] = test.to_bytes(8, "little")

    def has(self, test: int | None = None) -> bool:
        """Return whether a helper was called so for a test, or for any."""
        marked = int.from_bytes(self._test[:], "little")
        return bool(marked) and test in (None, marked)

    def take(self, test: int | None = None) -> bool:
        """Return whether a helper was called so for a test, or for any, and forget it."""
        found = self.has(test)
        if found:
            self._test[:] = bytes(8)
        return found


class Run:
    """One run of pytest in this process. It begins to use the plugin when a setting, fixture or helper asks for it.

    Args:
        config: pytest's configuration.

    Attributes:
        session: What the plugin holds in this run; None as long as nothing has used it.
        test: The test that is running.
        tests_started: Number of tests that were started.
        collected: pytest's names of all tests, also of those that were then left out.
        forks: Tells of helpers in forked processes.
        lock: Held while the use begins: two threads may call a helper at once.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.session: Session | None = None
        self.test: CurrentTest | None = None
        self.tests_started = 0
        self.collected: Sequence[str] = ()
        self.forks = Forks()
        self._folder: SharedFolder | None = None
        self.lock = threading.RLock()

    def use(self, settings: Settings | None = None) -> Session:
        """Return what the plugin holds in this run, from now on if nothing has used it before.

        Args:
            settings: What command line, environment and ini file set; None if they set nothing.
        """
        with self.lock:
            if self.session is None:
                from pytest_ftguard.plugin.session import Session
                from pytest_ftguard.settings.reading import Settings

                self.session = Session(self, Settings({}) if settings is None else settings)
            return self.session

    @property
    def folder(self) -> SharedFolder:
        """The folder that all processes of this run share."""
        if self._folder is None:
            from pytest_ftguard.plugin.xdist import SharedFolder

            self._folder = SharedFolder(self.config)
        return self._folder

    def start(self, item: pytest.Item) -> CurrentTest:
        """Return what stands for a test that starts now."""
        self.tests_started += 1
        self.test = test = CurrentTest(item, self)
        if self.session is not None:
            test.opened()
        return test

    def add_problem(self, text: str) -> None:
        """Make the run fail although no test does."""
        self.use().outbox.problems.append(text)

    def close(self) -> None:
        """End what may still be running, and remove what was written for this run alone."""
        if self.session is not None:
            self.session.workshop.close()
        elif self._folder is not None:
            self._folder.remove()


class CurrentTest:
    """Stands for the test that is running, and hands on to its record, which is made as soon as it is asked for.

    So a thread, task or fork that a test starts is known to be this test's, although nothing has used the plugin yet.

    Args:
        item: The test.
        run: The run that it belongs to.

    Attributes:
        item: The test.
        number: Its number in this run.
        attempt: How many times it was started.
        process: The process in which the attempt was started.
        is_over: Whether it has ended, its teardown included.
        seen: What was reported of this attempt.
    """

    def __init__(self, item: pytest.Item, run: Run) -> None:
        self.item = item
        self.number = run.tests_started
        self.attempt = 0
        self.is_over = False
        self._run = run
        self._record: TestRecord | None = None
        self._begin()

    def _begin(self) -> None:
        self.process = os.getpid()
        self.seen = {"made": False, "logged": False, "repeated": False, "unpassed": False}
        self._run.forks.take(self.number)

    def __str__(self) -> str:
        """Return pytest's name of the test."""
        return self.item.nodeid

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.opened(), name)

    def opened(self) -> TestRecord:
        """Return the record of the test.

        Raises:
            ConfigurationError: There is none yet, and this process was forked by the test.
        """
        if self._record is None:
            self.refuse_forked_process()
            with self._run.lock:
                self._record = self._record or self._run.use().new_test(self)
        return self._record

    def refuse_forked_process(self) -> None:
        """Raise the error of a helper that is called in a process which the test has forked."""
        if os.getpid() != self.process:
            self._run.forks.mark(self.number)
            raise forked(self)

    def take_fork(self) -> bool:
        """Return whether a helper was called in a process which the test has forked, and forget it."""
        return self._run.forks.take(self.number)

    def start(self) -> None:
        """Forget an earlier attempt of the test."""
        self.attempt += 1
        self._begin()
        if self._record is not None:
            self._record.start()

    def note_made(self, report: pytest.TestReport) -> None:
        """Note that a report was made, which a plugin may still drop."""
        self.seen["made"] |= report.when == "call"
        self.seen["unpassed"] |= not report.passed
        if self._record is not None:
            self._record.note_made(report)

    def note_logged(self, report: pytest.TestReport) -> None:
        """Note that a report was not dropped."""
        self.seen["logged"] |= report.when == "call"
        self.seen["repeated"] |= report.outcome == "rerun"  # type: ignore[comparison-overlap]  # pytest-rerunfailures
        if self._record is not None:
            self._record.note_logged(report)

    def raise_unhandled(self) -> None:
        """Raise what ended a thread of the test, or a helper in a forked process, if the test has not failed yet."""
        if self._record is not None or self._run.forks.has(self.number):
            self.opened().raise_unhandled()


RUN: Final = pytest.StashKey[Run]()


def forked(test: object) -> ConfigurationError:
    """Return the error of a helper that was called in a process that a test has forked."""
    from pytest_ftguard.errors import ConfigurationError

    return ConfigurationError(
        f"a helper was called in a process that {test} has forked, from which no verdict comes back: call it in the "
        "test itself, or in a thread"
    )
