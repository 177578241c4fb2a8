"""Where a trial stands, as a line."""

from __future__ import annotations

from typing import Final

from pytest_ftguard.reporting.summary import Line
from pytest_ftguard.results.progress import Progress
from pytest_ftguard.units import format_duration

__all__ = ["progress_line"]

_PHASES: Final = {
    "wait": "waiting for another training",
    "start": "starting",
    "load": "loading",
    "evaluate": "evaluating",
    "save": "saving",
}


def progress_line(progress: Progress) -> Line:
    """Return one line that says where a trial stands."""
    spec = progress.spec
    what = {"search": f"learning rate {spec.variant.learning_rate:g}?", "timing": f"timing, seed {spec.seed}"}
    parts = [f"ftguard: {spec.variant.label}", what.get(spec.workload.purpose, f"seed {spec.seed}")]
    if progress.phase == "train":
        resumed = f", resumed at {progress.resumed_at}" if progress.resumed_at else ""
        parts.append(f"step {progress.step}/{spec.workload.steps}{resumed}")
    else:
        parts.append(_PHASES[progress.phase])
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.seconds_left is not None:
        parts.append(f"{format_duration(progress.seconds_left)} left")
    else:
        parts.append(f"{format_duration(progress.elapsed_seconds)} so far")
    return Line("  ".join(parts))
