"""What a run leaves behind: its summary at the terminal and its files, from the process that has all results."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.files import write_whole
from pytest_ftguard.plugin.calibrating import calibrate_seeds
from pytest_ftguard.reporting.registry import RENDERERS, find_renderer

if TYPE_CHECKING:
    import pytest

    from pytest_ftguard.plugin.session import Session
    from pytest_ftguard.reporting.summary import Summary

__all__ = ["check_outputs", "print_summary", "write_outputs"]

_STEP_SUMMARY: Final = "GITHUB_STEP_SUMMARY"
_COLOURS: Final = {"good": "green", "bad": "red", "warn": "yellow"}


class _Output(NamedTuple):
    """A file that is to be written.

    Attributes:
        renderer: The name of its renderer, or "module:function".
        path: Where it goes.
        place: Where that was set.
    """

    renderer: str
    path: str
    place: str


def _outputs(ours: Session) -> Iterator[_Output]:
    for name in RENDERERS:
        setting = ours.settings.get(name)
        if setting is not None:
            yield _Output(name, setting.value, setting.origin.name)
    setting = ours.settings.get("reports")
    if setting is not None:
        yield from (_Output(renderer, path, setting.origin.name) for renderer, path in setting.value)


def check_outputs(ours: Session) -> None:
    """Look for every renderer before anything is trained.

    Raises:
        ConfigurationError: There is no such renderer, or two of them would write one file.
    """
    taken: dict[str, _Output] = {}
    for output in _outputs(ours):
        if output.renderer not in RENDERERS:
            try:
                find_renderer(output.renderer)
            except ConfigurationError as error:
                message = f"{error} (set by {output.place})"
                raise ConfigurationError(message) from None
        other = taken.setdefault(os.path.realpath(output.path), output)
        if other is not output:
            message = (
                f"{other.renderer} (set by {other.place}) and {output.renderer} (set by {output.place}) would both "
                f"write {output.path}: give each a file of its own"
            )
            raise ConfigurationError(message)


def summary_of(ours: Session) -> Summary:
    """Return what the run has come to until now."""
    from dataclasses import replace

    from pytest_ftguard.reporting.assembly import Remarks, plan_summary, run_summary
    from pytest_ftguard.reporting.summary import Summary

    found = ours.received
    if found.is_empty:
        return Summary()
    remarks = Remarks(
        reasons=found.reasons,
        retimings=found.retimings,
        notes=found.notes,
        unused=ours.unused_settings(),
        accepted=found.accepted,
        unchanged=found.unchanged,
        problems=found.problems,
    )
    if ours.is_planned:
        summary = plan_summary(found.reported, found.planned, remarks)
    else:
        summary = run_summary(found.reported, found.concluded, found.not_run, remarks)
    return replace(summary, root=ours.config.rootpath)


def print_summary(ours: Session, reporter: pytest.TerminalReporter) -> None:
    """Print the summary, a shorter one under `-q`; nothing at all if nothing was trained."""
    summary = summary_of(ours)
    if summary.is_empty:
        return
    from pytest_ftguard.reporting.terminal import terminal_lines

    lines = list(terminal_lines(summary, reporter.verbosity))
    if lines and reporter.verbosity > -2:
        reporter.section("ftguard summary")
    for line in lines:
        reporter.write_line(line.text, **{_COLOURS[line.tone]: True} if line.tone in _COLOURS else {})


def write_outputs(ours: Session) -> None:
    """Write every file that was asked for; what cannot be written is a problem, which makes the run fail.

    The verdicts are still shown, and the run is not green: somebody relies on the file.
    """
    setting = ours.settings.get("calibration")
    _try(ours, partial(calibrate_seeds, ours), setting.value if setting else "", setting.origin.name if setting else "")
    for output in _outputs(ours):
        _try(ours, partial(_write, ours, output), output.path, output.place)
    _append_for_github(ours)


def _try(ours: Session, write: Callable[[], None], path: str, place: str) -> None:
    try:
        write()
    except Exception as error:  # a renderer of the user's may raise anything, and the summary is still to be shown
        reason = error.strerror if isinstance(error, OSError) else _reason(error)
        ours.received.problems.append(f"ftguard: the file {path} (set by {place}) was not written: {reason}")


def _reason(error: Exception) -> str:
    """Return what happened and, unless the message is ours, in which line of code."""
    if isinstance(error, ConfigurationError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    line = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{line}"


def _write(ours: Session, output: _Output) -> None:
    summary, path = summary_of(ours), Path(output.path)
    row = RENDERERS.get(output.renderer)
    if summary.is_empty and not (row and row.writes_empty):
        # What an earlier run has left would be taken for this run's.
        if path.is_file():
            path.unlink()
        return
    text: object = find_renderer(output.renderer)(summary)
    if not isinstance(text, str):
        message = f"the renderer {output.renderer!r} must return a text, and returned {type(text).__name__}"
        raise ConfigurationError(message)
    write_whole(path, text)


def _append_for_github(ours: Session) -> None:
    """Append the summary to that of the step of GitHub Actions; if this fails, it is a note only: nobody asked."""
    path = os.environ.get(_STEP_SUMMARY, "")
    if not path or ours.settings.value("github", "auto") == "off" or ours.received.is_empty:
        return
    if os.path.realpath(path) in {os.path.realpath(output.path) for output in _outputs(ours)}:
        return  # it has the summary already
    from pytest_ftguard.reporting.github import append_summary

    problem = append_summary(Path(path), summary_of(ours))
    if problem:
        ours.received.notes.append(
            f"note: nothing was appended to {_STEP_SUMMARY} ({path}): {problem}. To switch it off, set "
            "ftguard_github = off."
        )
