"""A reason to conclude nothing: the fact, what it means, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pytest_ftguard.results import Trial
from pytest_ftguard.specs import Variant

__all__ = ["Problem", "failure_of", "name_of"]


@dataclass(frozen=True)
class Problem:
    """Why nothing may be concluded.

    Attributes:
        what: The fact in a few words: the first line of a verdict's message shows it.
        why: What it means, in whole sentences; "" if the fact says it.
        remedy: What to do, as the rest of a sentence; "" if that is plain.
        log: The end of the log of a trial that failed; "" if there is none.
        rate_of: The variant that another learning rate may help out of it; None if none would.
    """

    what: str
    why: str = ""
    remedy: str = ""
    log: str = ""
    rate_of: Variant | None = None

    def __str__(self) -> str:
        """Return fact, meaning and remedy in one text, for an error that is no verdict."""
        return ": ".join(filter(None, (self.what, self.why.rstrip("."), self.remedy)))


# What was not trained, because something else had failed, is trained if that is helped.
_HELPED_BY_RATE: Final = ("diverged", "not_trained")


def name_of(trial: Trial) -> str:
    """Return what a sentence calls a trial."""
    return f"{trial.spec.variant.label}, seed {trial.spec.seed}"


def failure_of(trial: Trial) -> Problem | None:
    """Return what happened to a trial that did not end `ok`, with the end of its log; None if it did."""
    if trial.measured.outcome == "ok":
        return None
    again = "timed again, " if trial.spec.workload.purpose == "timing" else ""
    what = f"{name_of(trial)}, {again}{trial.ending}"
    error = trial.measured.error
    return Problem(
        what,
        why=error.message if error else "",
        log=(error.log_tail or "") if error else "",
        rate_of=trial.spec.variant if trial.measured.outcome in _HELPED_BY_RATE else None,
    )
