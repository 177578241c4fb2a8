"""Writes the noise of seeds of what a run has trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.files import write_whole

if TYPE_CHECKING:
    from pytest_ftguard.plugin.session import Session

__all__ = ["calibrate_seeds"]


def calibrate_seeds(ours: Session) -> None:
    """Write the noise of seeds of all that was trained, if that was asked for, and say so in the summary.

    Raises:
        OSError: The file cannot be written.
    """
    if not ours.settings.value("calibrate", 0) or ours.is_planned:
        return
    from pytest_ftguard.comparison.grouping import by_baseline
    from pytest_ftguard.gates.calibration import calibrate, write_calibrations

    path = Path(ours.settings.value("calibration", None))
    found = []
    for baseline, candidates in by_baseline(ours.received.reported):
        for candidate in candidates:
            try:
                found.append(calibrate(candidate, baseline))
            except ConfigurationError as error:
                ours.received.problems.append(f"ftguard: {error}")
                continue
            scores = "".join(f", {tau:.4f} of {name}" for name, tau in found[-1].taus.items())
            noise = f"{found[-1].tau:.4f} nats per token{scores} over {found[-1].degrees_of_freedom + 1} seeds"
            ours.received.notes.append(
                f"calibrated {candidate.label} against {baseline.label}: {noise}, written to {path}"
            )
    if found:
        write_whole(path, write_calibrations([*ours.calibrations, *found]))
