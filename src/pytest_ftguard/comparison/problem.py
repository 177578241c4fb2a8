"""A reason to conclude nothing: the fact, what it means, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_ftguard.results import Trial

__all__ = ["Problem", "failure_of", "name_of"]


@dataclass(frozen=True)
class Problem:
    """Why nothing may be concluded.

    Attributes:
        what: The fact in a few words: the first line of a verdict's message shows it.
        why: What it means, in whole sentences; "" if the fact says it.
        remedy: What to do, as the rest of a sentence; "" if that is plain.
        log: The end of the log of a trial that failed; "" if there is none.
    """

    what: str
    why: str = ""
    remedy: str = ""
    log: str = ""

    def __str__(self) -> str:
        """Return fact, meaning and remedy in one text, for an error that is no verdict."""
        return ": ".join(filter(None, (self.what, self.why.rstrip("."), self.remedy)))


def name_of(trial: Trial) -> str:
    """Return what a sentence calls a trial."""
    return f"{trial.spec.variant.label}, seed {trial.spec.seed}"


def failure_of(trial: Trial) -> Problem | None:
    """Return what happened to a trial that did not end `ok`, with the end of its log; None if it did."""
    if trial.measured.outcome == "ok":
        return None
    again = "timed again, " if trial.spec.workload.purpose == "timing" else ""
    what = f"{name_of(trial)}, {again}{trial.ending}"
    return (
        Problem(what, why=trial.measured.error.message, log=trial.measured.error.log_tail or "")
        if trial.measured.error
        else Problem(what)
    )
