"""Whether a text is enough to judge by: how much of it counts, and what forbids a conclusion."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.results import MINIMUM_UNITS, MOST_TRAINED_ON, SequenceLosses
from pytest_ftguard.specs import Workload

__all__ = ["count_units", "no_evidence", "unit_name"]


def count_units(losses: SequenceLosses | None) -> int:
    """Return the number of sequences, or of documents if several sequences were cut from one."""
    if losses is None:
        return 0
    return len(losses.nll) if losses.documents is None else len(set(losses.documents))


def unit_name(losses: SequenceLosses | None) -> str:
    """Return what `count_units` counts: "sequences" or "documents"."""
    return "sequences" if losses is None or losses.documents is None else "documents"


def no_evidence(losses: SequenceLosses, text: str, workload: Workload) -> Iterator[Problem]:
    """Yield why the losses say too little: they are of too few sequences, or of what the model was trained on."""
    if count_units(losses) < MINIMUM_UNITS:
        yield _too_few(losses, text, workload)
    if losses.trained_on > MOST_TRAINED_ON * len(losses.nll):
        yield Problem(
            f"{losses.trained_on} of {len(losses.nll)} {text} sequences are also in the training data",
            why="A model that memorized them would look good.",
            remedy="remove them from one of the two and train again",
        )


def _too_few(losses: SequenceLosses, text: str, workload: Workload) -> Problem:
    bound = workload.validation_sequences
    different, copies = "", ""
    if losses.repeated:
        different, copies = "different ", f" {losses.repeated} sequences repeat earlier ones and count once."
        remedy = f"give a longer {text} text that does not repeat itself"
    elif bound < MINIMUM_UNITS:
        remedy = f"validation_sequences, which is {bound}, allows no more: raise it"
    else:
        remedy = f"give a longer {text} text, or a smaller block_size"
    return Problem(
        f"{count_units(losses)} {different}{text} {unit_name(losses)} are too few",
        why=f"At least {MINIMUM_UNITS} are needed to tell noise from a gap.{copies}",
        remedy=remedy,
    )
