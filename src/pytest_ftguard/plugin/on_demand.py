"""Hooks that are registered for the runs that need them."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_ftguard.errors import ConfigurationError, GateFailure
from pytest_ftguard.plugin.run import FIXTURES
from pytest_ftguard.settings.markers import find_problem

if TYPE_CHECKING:
    from pytest_ftguard.plugin.session import Session

__all__ = ["Accepting", "Plan"]


class Plan:
    """Lets tests name what they would train, and skips them. Registered under a plan only."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip a test that trains nothing, unless its marker is wrong."""
        if FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) and not find_problem(item):
            pytest.skip("ftguard plan: no test is run")

    @pytest.hookimpl(wrapper=True, specname="pytest_runtest_setup")
    def pytest_fixtures_setup(self) -> Generator[None, object, object]:
        """Skip a test if its fixtures need what was not trained."""
        return (yield from _skip_on_error())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Let a test name its gates, and take whatever comes of it for a skip."""
        yield from _skip_on_error()
        pytest.skip("ftguard plan: nothing was trained")


class Accepting:
    """Writes what a test accepts once it has passed. Registered under --ftguard-update only."""

    def __init__(self, ours: Session) -> None:
        self._session = ours

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Tell the report of a test from those of its subtests, which come before the call is over."""
        try:
            return (yield)
        finally:
            if self._session.test is not None:
                self._session.test.call_is_over = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # after whatever else may still let the test fail
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Settle what a test accepts when its report says whether it has passed; fail it if nothing can be written.

        Some failures are known to the report alone: that of a method of unittest, or of an xfail that is strict. The
        report of the teardown brings the summary what became of it.
        """
        report = yield
        if self._session.test is not None:
            try:
                self._session.test.settle(report)
            except (ConfigurationError, GateFailure) as error:
                report.outcome, report.longrepr = "failed", f"ftguard: {error}"
        return report


def _skip_on_error() -> Generator[None, object, object]:
    """Run the rest of a hook; an error skips the test, unless it is one of ours, which tells a mistake.

    A mistake in a test, such as a helper without a limit, would fail the run as well, after the training.
    """
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as error:
        is_ours = isinstance(error, pytest.fail.Exception) and str(error).startswith("ftguard:")
        if is_ours or isinstance(error, ConfigurationError):
            raise
        reason = f"ftguard plan: nothing was trained, so it stopped at {type(error).__name__}: {error}"
    pytest.skip(reason)
