"""The curves of trials: what each was measured on, and whether those of several trials may be put together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pytest_ftguard.results import TrainedVariant, Trial, evenly_spaced

__all__ = ["CurveBasis", "basis_of", "has_own_curves", "share_curves"]


class CurveBasis(NamedTuple):
    """The sequences that a curve was measured on.

    Attributes:
        digest: SHA-256 of the sequences of which it uses an evenly spaced part.
        tokens: Predicted tokens of each sequence of that part.
        documents: Number of the document that each was cut from; None if the text is one document.
    """

    digest: str
    tokens: tuple[int, ...]
    documents: tuple[int, ...] | None


def basis_of(trial: Trial) -> CurveBasis | None:
    """Return what a trial's curve was measured on; None if there is none, or if it says nothing of the validation text.

    A trial that was evaluated on other sequences later keeps the curve of its training. If they are of the same text,
    it shows how the loss on that text moves; if they are of another one, it does not.
    """
    measured = trial.measured
    if measured.validation is None or not measured.curve:
        return None
    if measured.curve_of is not None:
        known = measured.curve_of
        return CurveBasis(known.digest, known.tokens, known.documents) if known.is_validation else None
    text = measured.validation
    chosen = evenly_spaced(len(text.tokens), len(measured.curve[0].nll)) if measured.curve[0].nll else []
    documents = None if text.documents is None else tuple(text.documents[place] for place in chosen)
    return CurveBasis(text.digest, tuple(text.tokens[place] for place in chosen), documents)


def share_curves(trials: Iterable[Trial]) -> bool:
    """Return whether the curves of trials are of the same sequences, and of the validation text."""
    found = {basis_of(trial) for trial in trials}
    return len(found) == 1 and None not in found


def has_own_curves(*variants: TrainedVariant) -> bool:
    """Return whether each curve of variants is one that belongs to their evaluation, or may stand for it.

    It is not if a trial was evaluated on another text than its curve was measured on, or one trial on sequences that
    others have no curve of.
    """
    trials = [trial for variant in variants for trial in variant.trials]
    again = any(trial.measured.curve_of is not None for trial in trials)
    return not again or share_curves(trials)
