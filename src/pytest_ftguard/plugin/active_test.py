"""The test that is running: its settings, its verdicts, and what it accepts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_ftguard.errors import ConfigurationError, GateFailure
from pytest_ftguard.files import write_all
from pytest_ftguard.plugin.properties import Properties, without_ours
from pytest_ftguard.plugin.run import forked
from pytest_ftguard.plugin.xdist import name_of
from pytest_ftguard.settings.markers import limits_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_ftguard.accepting.files import AcceptedFiles
    from pytest_ftguard.gates.verdict import Verdict
    from pytest_ftguard.keys import Setting
    from pytest_ftguard.plugin.run import CurrentTest
    from pytest_ftguard.plugin.session import Session
    from pytest_ftguard.results import TrainedVariant
    from pytest_ftguard.settings.reading import Settings
    from pytest_ftguard.statistics import SeedNoise

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
        self.verdicts: list[Verdict] = []
        self.planned: list[Verdict] = []
        self.has_forgotten = False
        self._properties = Properties(test.item)
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
        self.has_forgotten |= not self._properties.is_empty
        self._forget()

    def _forget(self) -> None:
        self.call_is_over = False
        self._unhandled: list[BaseException] = []
        self._not_passed: list[Verdict] = []
        self._has_failed = False
        self._is_dropped = False
        if self._accepted is not None:
            self._accepted.start()
        self._properties.forget()

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

    def refusals(self) -> list[str]:
        """Return why nothing may be accepted here and now, whatever was measured."""
        found = self._refused_by()
        if self.call_is_over:
            found.append("the test is over, and a result is accepted only with a test that passes: ask before it ends")
        return found + ([] if self._settings.value("update_in_ci", False) else _refused_in_ci())

    def _refused_by(self) -> list[str]:
        return [
            f"the gate {verdict.gate} of this test ended {verdict.status}, and only what is good is accepted"
            for verdict in self._not_passed
        ]

    def settle(self, report: pytest.TestReport) -> None:
        """Write what the test has accepted if it has passed by all that is known; forget it if it has not.

        Raises:
            ConfigurationError: It cannot be written.
            GateFailure: The test has passed, and one of its gates has not: it only warned.
        """
        # A subtest has a report of its own, before that of its test, which is not known yet to have failed with it.
        self._has_failed |= report.failed
        if self._accepted is None or not (self.call_is_over if report.when == "call" else not report.passed):
            return
        self.call_is_over = True
        has_passed = report.passed and not self._has_failed
        if has_passed and not self._not_passed:
            try:
                self._accepted.write()
            except ConfigurationError:
                self._is_dropped = True
                self._properties.tell_not_accepted()
                raise
            return
        self._is_dropped |= self._accepted.is_queued
        self._accepted.drop()
        self._properties.tell_not_accepted()
        if has_passed and self._is_dropped:
            raise GateFailure("\n".join(["the result was not accepted.", *(f"- {one}" for one in self._refused_by())]))

    def _new_accepted(self) -> dict[str, Any]:
        """Return what became, since the last call, of the results that the test accepted."""
        if self._accepted is None:
            return {}
        (written, unchanged), dropped = self._accepted.news(), self._is_dropped
        self._is_dropped = False
        return {"accepted": written, "unchanged": unchanged, "not_accepted": dropped}

    def record(self, verdict: Verdict, variants: Sequence[TrainedVariant]) -> None:
        """Keep a verdict and what it is about, and put it among the properties that JUnit XML shows."""
        from dataclasses import replace

        self._test.refuse_forked_process()
        self._session.show(variants)
        verdict = replace(verdict, attempts=max(1, self.attempt))
        if self.is_planned:
            self.planned += [verdict] if verdict.gate == "memory_budget" else []
            return
        self.verdicts.append(verdict)
        if self.is_over:
            self._session.outbox.add_late(self, verdict)
            return
        self._not_passed += [verdict] if verdict.status != "PASS" else []
        self._properties.add(verdict)

    def note(self, text: str) -> None:
        """Have the summary say something, once."""
        self._session.outbox.note(text)

    def note_made(self, report: pytest.TestReport) -> None:
        """Say so if a test has passed although its gate has failed; to be called for each report that was made."""
        failed = [verdict for verdict in self._not_passed if verdict.status == "FAIL"]
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
        verdicts, planned = ([verdict.to_dict() for verdict in _emptied(one)] for one in (self.verdicts, self.planned))
        return {"verdicts": verdicts, "planned": planned, **self._new_accepted()}


def _refused_in_ci() -> list[str]:
    ci = os.environ.get("CI", "").strip()
    if ci.lower() in _FALSE:
        return []
    return [
        f"the environment variable CI is {ci!r}, and nobody reviews what such a run accepts: accept on a machine of "
        "yours and commit the file, or add --ftguard-update-in-ci"
    ]


def _emptied(verdicts: list[Verdict]) -> list[Verdict]:
    """Return what a list holds and take it out, while another thread may add to it."""
    return [verdicts.pop(0) for _ in range(len(verdicts))]
