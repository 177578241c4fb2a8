"""A reason to conclude nothing: the fact, what it means, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pytest_ftguard.results import Trial
from pytest_ftguard.specs import Variant

__all__ = ["Problem", "failure_of", "first_of", "name_of"]


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
_MOST_NAMES: Final = 3


def name_of(trial: Trial) -> str:
    """Return what a sentence calls a trial."""
    return f"{trial.spec.variant.label}, seed {trial.spec.seed}"


def failure_of(trial: Trial) -> Problem | None:
    """Return why a trial shows nothing: it did not end `ok`, or did not train what it should; None if it shows it."""
    if trial.measured.outcome == "ok":
        return _trained_something_else(trial)
    again = "timed again, " if trial.spec.workload.purpose == "timing" else ""
    what = f"{name_of(trial)}, {again}{trial.ending}"
    error = trial.measured.error
    return Problem(
        what,
        why=error.message if error else "",
        log=(error.log_tail or "") if error else "",
        rate_of=trial.spec.variant if trial.measured.outcome in _HELPED_BY_RATE else None,
    )


def _trained_something_else(trial: Trial) -> Problem | None:
    """Return that a part was left out of the training, or that the frozen base was changed; None if neither is so."""
    updates = trial.measured.updates
    if updates is None:
        return None
    if updates.base_changed:
        count = len(updates.base_changed)
        return Problem(
            f"{name_of(trial)}: {count} frozen weights of the base model changed",
            why=f"They must be what they were before the training: {first_of(updates.base_changed)}.",
            remedy="find out what writes to them, such as a callback, a training function or an optimizer of your own",
        )
    if not updates.unmoved:
        return None
    total = updates.adapters + updates.weights
    return Problem(
        f"{name_of(trial)}: {len(updates.unmoved)} of {total} {updates.noun} never received a gradient",
        why=f"After the training they are what they were before it, to the last bit: {first_of(updates.unmoved)}.",
        remedy="look for requires_grad = False, a detached or frozen part of the model, or an optimizer without them",
    )


def first_of(names: Sequence[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
