"""The display of a running trial, past pytest's capturing."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pytest_ftguard.results.progress import Progress

__all__ = ["ProgressDisplay"]

_HEARTBEAT_SECONDS: Final = 20.0
_REDRAW_SECONDS: Final = 0.2


class ProgressDisplay:
    """Shows a running trial past pytest's capturing: a line that is redrawn at a terminal, heartbeats elsewhere.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._last = 0.0
        self._width = 0

    def show(self, progress: Progress) -> None:
        """Show where a trial stands, if it is time to."""
        now = time.monotonic()
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        at_terminal = reporter is not None and reporter.isatty
        if progress.phase == "end":
            self._erase(reporter)
            return
        if progress.phase == "start" and now - self._last > _HEARTBEAT_SECONDS:
            self._last = now  # pytest itself was heard of until now
            return
        if now - self._last < (_REDRAW_SECONDS if at_terminal else _HEARTBEAT_SECONDS):
            return
        self._last = now
        from pytest_ftguard.reporting.progress import progress_line

        line = progress_line(progress).text
        if at_terminal:
            self._redraw(reporter, line)
        else:
            self._write_line(reporter, line)

    def _redraw(self, reporter: Any, line: str) -> None:
        line = line[: reporter._tw.fullwidth - 1]
        with self._uncaptured():
            if not self._width:
                reporter.ensure_newline()
            reporter.write("\r" + line.ljust(self._width), flush=True)
        self._width = len(line)

    def _erase(self, reporter: Any) -> None:
        if self._width:
            with self._uncaptured():
                reporter.write("\r" + " " * self._width + "\r", flush=True)
            self._width = 0

    def _write_line(self, reporter: Any, line: str) -> None:
        with self._uncaptured():
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(line, flush=True)
            else:  # an xdist worker: its standard error is the controller's
                print(line, file=sys.stderr, flush=True)

    def _uncaptured(self) -> Any:

        capture = self._config.pluginmanager.get_plugin("capturemanager")
        return capture.global_and_fixture_disabled() if capture else nullcontext()
