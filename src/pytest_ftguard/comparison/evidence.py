"""Whether a text is enough to judge by: how much of it counts, and what forbids a conclusion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from pytest_ftguard.comparison.changing import how_to_set
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.results import MINIMUM_UNITS, MOST_TRAINED_ON, SequenceLosses, TrainedVariant

__all__ = ["count_units", "more_text", "no_evidence", "unit_name"]

# The tasks that are evaluated on rows.
_OF_ROWS: Final = ("chat", "classification")


def count_units(losses: SequenceLosses | None) -> int:
    """Return the number of sequences, or of documents if several sequences were cut from one."""
    if losses is None:
        return 0
    return len(losses.nll) if losses.documents is None else len(set(losses.documents))


def unit_name(losses: SequenceLosses | None) -> str:
    """Return what `count_units` counts: "sequences", "documents" or "groups"."""
    if losses is not None and losses.about is not None and losses.about.group is not None:
        return "groups"
    return "sequences" if losses is None or losses.documents is None else "documents"


def no_evidence(losses: SequenceLosses, text: str, variant: TrainedVariant) -> Iterator[Problem]:
    """Yield why the losses say too little: they are of too few sequences, or of what the model was trained on.

    Args:
        losses: Losses on the text.
        text: Which text, "validation" or "reference".
        variant: A variant that it was measured of.
    """
    if count_units(losses) < MINIMUM_UNITS:
        yield _too_few(losses, text, variant)
    if losses.trained_on > MOST_TRAINED_ON * len(losses.nll):
        yield Problem(
            f"{losses.trained_on} of {len(losses.nll)} {text} sequences are also in the training data",
            why="A model that memorized them would look good.",
            remedy="remove them from one of the two and train again",
        )


def _too_few(losses: SequenceLosses, text: str, variant: TrainedVariant) -> Problem:
    different, copies = "", ""
    if losses.repeated:
        different, copies = "different ", f" {losses.repeated} sequences repeat earlier ones and count once."
    return Problem(
        f"{count_units(losses)} {different}{text} {unit_name(losses)} are too few",
        why=f"At least {MINIMUM_UNITS} are needed to tell noise from a gap.{copies}",
        remedy=_way_to_more(losses, text, variant),
    )


def _way_to_more(losses: SequenceLosses, text: str, variant: TrainedVariant) -> str:
    """Return how there are enough sequences or documents."""
    more = more_text(losses, text, variant, times=MINIMUM_UNITS / max(1, count_units(losses)))
    is_stream = (
        losses.documents is None and variant.workload.task == "causal-lm" and variant.workload_maker != "elsewhere"
    )
    size = len(losses.nll) * variant.workload.block_size // MINIMUM_UNITS
    if not (is_stream and len(losses.nll) < variant.workload.validation_sequences >= MINIMUM_UNITS and size > 1):
        return more
    shorter = f", or set {how_to_set(variant, block_size=size)}, which holds for training too"
    return more if losses.repeated else f"{more}{shorter}"


def more_text(losses: SequenceLosses, text: str, variant: TrainedVariant, *, times: float) -> str:
    """Return how more of a text is evaluated: by a larger bound, by a longer text, or by both.

    Args:
        losses: Losses on the text, as far as it is evaluated now.
        text: Which text, "validation" or "reference".
        variant: A variant that it was measured of.
        times: How many times as many sequences or documents are wanted.
    """
    used, wanted = len(losses.nll), math.ceil(len(losses.nll) * times)
    set_bound = f"set {how_to_set(variant, validation_sequences=wanted)}"
    if used >= variant.workload.validation_sequences:
        fewer = (
            "rows are fewer, give more" if variant.workload.task in _OF_ROWS else "text has fewer, give a longer one"
        )
        return f"{set_bound} and, if the {text} {fewer}"
    if variant.workload.task in _OF_ROWS:
        longer = f"give more {'different ' if losses.repeated else ''}{text} rows"
    else:
        longer = f"give a longer {text} text{' that does not repeat itself' if losses.repeated else ''}"
    return f"{longer}, and {set_bound}" if wanted > variant.workload.validation_sequences else longer
