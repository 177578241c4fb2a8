"""The test that is running: its settings, its verdicts, and what it accepts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_ftguard.errors import ConfigurationError, GateFailure
from pytest_ftguard.files import write_all
from pytest_ftguard.plugin.given import GivenVerdicts
from pytest_ftguard.plugin.properties import without_ours
from pytest_ftguard.plugin.run import forked
from pytest_ftguard.plugin.xdist import name_of
from pytest_ftguard.settings.markers import limits_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_ftguard.accepting.files import AcceptedFiles
    from pytest_ftguard.comparison.problem import Problem
    from pytest_ftguard.gates.calibration import SeedNoise
    from pytest_ftguard.gates.setting import Setting
    from pytest_ftguard.gates.verdict import Verdict
    from pytest_ftguard.plugin.run import CurrentTest
    from pytest_ftguard.plugin.session import Session
    from pytest_ftguard.results import TrainedVariant
    from pytest_ftguard.settings.reading import Settings

__all__ = ["TestRecord"]

# What the environment variable CI holds if this is no CI.
_FALSE: Final = ("", "0", "false", "no", "off")


class TestRecord:
    """What the assertion helpers see of the test that is running.

    Args:
        test: What stands for the test, since its start.
        session: What this pytest process holds.
        name: What tells it from every other test of the run.

    Attributes:
        has_forgotten: Whether an earlier attempt gave verdicts.
    """

    def __init__(self, test: CurrentTest, session: Session, name: str) -> None:
        self.name = name
        self._test = test
        self._item = test.item
        self._session = session
        self._settings = session.settings
        self.planned: list[Verdict] = []
        self.has_forgotten = False
        self._accepted: AcceptedFiles | None = None
        self._forget()

    def __str__(self) -> str:
        """Return pytest's name of the test."""
        return self._item.nodeid

    @property
    def attempt(self) -> int:
        """How many times the test was started."""
        return self._test.attempt

    @property
    def is_over(self) -> bool:
        """Whether it has ended, its teardown included."""
        return self._test.is_over

    def start(self) -> None:
        """Forget an earlier attempt of the test: a rerun starts with its properties."""
        self.has_forgotten |= len(self._given) > 0
        self._forget()

    def _forget(self) -> None:
        self.call_is_over = False
        self._unhandled: list[BaseException] = []
        self._given = GivenVerdicts(self._item)
        self._has_failed = False
        if self._accepted is not None:
            self._accepted.start()

    @property
    def is_planned(self) -> bool:
        """Whether the variants are planned only, and not trained."""
        return self._session.is_planned

    @property
    def marker(self) -> Settings:
        """What the markers set as they are now: a test or a fixture may add some.

        Raises:
            ConfigurationError: A marker is wrong.
        """
        return limits_of(self._item)

    def setting(self, name: str) -> Setting | None:
        """Return a setting of the marker, or else of command line, environment or ini file."""
        self._test.refuse_forked_process()
        return self.marker.get(name) or self._settings.get(name)

    def seed_noise(self, candidate: TrainedVariant, baseline: TrainedVariant) -> SeedNoise | None:
        """Return the calibrated noise of seeds for two variants; None if there is none."""
        from pytest_ftguard.gates.calibration import find_seed_noise

        return find_seed_noise(self._session.calibrations, candidate, baseline)

    @property
    def accepted(self) -> AcceptedFiles:
        """The files of results that were accepted for this test."""
        if self._accepted is None:
            from pytest_ftguard.accepting.files import AcceptedFiles

            folder = Path(self._settings.value("baseline_dir", self._item.config.rootpath / "ftguard_baselines"))
            self._session.note_unused(folder, map(name_of, self._item.session.items))
            self._accepted = AcceptedFiles(name_of(self._item), folder, write_all, self._item.config.rootpath)
        return self._accepted

    def refusals(self) -> list[Problem]:
        """Return why nothing may be accepted here and now, whatever was measured."""
        from pytest_ftguard.comparison.problem import Problem

        why = "Nothing is accepted with a gate that did not pass."
        found = [Problem(what, why) for what in self._given.spoiled_by()]
        if self.call_is_over:
            found.append(Problem("the test is over", remedy="call the helper before the test ends"))
        ci = "" if self._settings.value("update_in_ci", False) else os.environ.get("CI", "").strip()
        if ci.lower() not in _FALSE:
            why = "Nobody reviews what such a run accepts."
            remedy = "accept on your own machine and commit the file, or add --ftguard-update-in-ci"
            found.append(Problem(f"the environment variable CI is {ci!r}", why, remedy))
        return found

    def settle(self, report: pytest.TestReport) -> None:
        """Decide, once the test has passed or failed by all that is known, what becomes of results that it accepts.

        Here alone a PENDING verdict becomes ACCEPTED, after its file was written, or INVALID.

        Raises:
            ConfigurationError: The files cannot be written.
            GateFailure: The test has passed, and one of its gates has not: it only warned.
        """
        # A subtest has a report of its own, before that of its test, which is not known yet to have failed with it.
        self._has_failed |= report.failed
        is_due = self.call_is_over if report.when == "call" else report.when == "teardown" or not report.passed
        self.call_is_over |= is_due
        if self._accepted is None or not is_due or not self._given.are_pending:
            return
        has_passed, error = report.passed and not self._has_failed, None
        why_not = self._why_not_accepted(report) if has_passed else "the test did not pass"
        if why_not is None:
            try:
                self._accepted.write()
            except ConfigurationError as failed:
                why_not, error = "its file cannot be written", failed
        else:
            self._accepted.drop()
        settled = self._given.settle(why_not)
        for verdict in settled if report.when == "teardown" else ():  # no report of the test is left to bring it
            self._session.outbox.add_late(self, verdict)
        if has_passed and why_not is not None:
            raise error or GateFailure(settled[0].message)

    def _why_not_accepted(self, report: pytest.TestReport) -> str | None:
        """Return why a test that has passed still accepts nothing; None if it does."""
        late = ["the test was over"] if report.when == "teardown" else []  # a thread was slower than its test
        return next(iter([*late, *self._given.spoiled_by()]), None)

    def record(self, verdict: Verdict, variants: Sequence[TrainedVariant]) -> None:
        """Keep a verdict and what it is about, and put it among the properties that JUnit XML shows."""
        from dataclasses import replace

        self._test.refuse_forked_process()
        self._session.show(variants)
        verdict = replace(verdict, attempts=max(1, self.attempt))
        if self.is_planned:
            self.planned += [verdict] if verdict.gate == "memory_budget" else []
            return
        self._given.add(verdict, is_late=self.is_over)
        if self.is_over:
            self._session.outbox.add_late(self, verdict)

    def note(self, text: str) -> None:
        """Have the summary say something, once."""
        self._session.outbox.note(text)

    def note_made(self, report: pytest.TestReport) -> None:
        """Say so if a test has passed although its gate has failed; to be called for each report that was made."""
        failed = [verdict for verdict in self._given if verdict.status == "FAIL"]
        if report.when == "teardown" and failed and not self._test.seen["unpassed"]:
            self.note(
                f"{self} passed although its gate {failed[0].title} ended FAIL: the error was caught or lost, for "
                "example by pytest.raises or in a task that nobody awaits: let it reach the test"
            )

    def note_logged(self, report: pytest.TestReport) -> None:
        """Leave the properties to the attempt that counts; to be called for each report that was not dropped."""
        seen = self._test.seen
        if report.when == "teardown" and (seen["repeated"] or (seen["made"] and not seen["logged"])):
            report.user_properties = without_ours(report.user_properties)

    def take_unhandled(self, error: BaseException) -> None:
        """Keep an error of ours that ended a thread: the thread's end alone does not fail the test."""
        self._unhandled.append(error)

    def raise_unhandled(self) -> None:
        """Raise what ended a thread of the test, or a helper in a forked process, if the test has not failed yet."""
        if self._unhandled:
            raise self._unhandled.pop(0)
        if self._test.take_fork() and not self._test.seen["unpassed"]:
            raise forked(self)

    def news(self) -> dict[str, Any]:
        """Return what the test came to since the last call, as values that travel between processes."""
        planned = [self.planned.pop(0) for _ in range(len(self.planned))]  # another thread may add to it
        written, unchanged = self._accepted.news() if self._accepted else ([], [])
        return {
            "verdicts": [verdict.to_dict() for verdict in self._given.news()],
            "planned": [verdict.to_dict() for verdict in planned],
            "accepted": written,
            "unchanged": unchanged,
        }
