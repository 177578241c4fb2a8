"""A stored training on other evaluation examples: which may be had by an evaluation alone, and what it then holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pytest_ftguard.results import CurveText, Trial, evenly_spaced
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.specs.identity import EVALUATION_ARGUMENTS
from pytest_ftguard.store.fingerprint import Fingerprint
from pytest_ftguard.store.trainings import StoredTraining
from pytest_ftguard.tasks import path_of_own

__all__ = ["evaluated_again", "why_not_again"]


def why_not_again(spec: TrialSpec) -> str | None:
    """Return why stored weights cannot stand for a training on other evaluation examples; None if they can.

    Code of the user's that makes the training's data, or trains, is handed the whole workload, and may let the weights
    depend on anything in it.
    """
    workload = spec.workload
    if workload.purpose != "gates":
        return f"a {workload.purpose} keeps no weights"
    if workload.own_training is not None:
        return f"{workload.own_training} may train another way for other evaluation examples"
    if path_of_own(workload.task) is not None:
        return f"the task {workload.task} may train on other data for other evaluation examples"
    if found := sorted(EVALUATION_ARGUMENTS & set(workload.training_args)):
        return f"{', '.join(found)} changes how the trained model computes"
    return None


def evaluated_again(stored: StoredTraining, evaluated: Trial, now: Fingerprint) -> Trial:
    """Return what a training measured, with the losses that its weights came to on other examples.

    The curve stays the one of the training. Along with it goes what it was measured on, because the weights of those
    steps are gone.

    Args:
        stored: The stored result of the training.
        evaluated: The losses of its weights, and of the base, on the examples that are asked for now.
        now: What decides the one that is asked for.
    """
    ours = evaluated.measured
    result = replace(stored.result, spec=evaluated.spec).remeasured(
        validation=ours.validation,
        base_validation=ours.base_validation,
        reference=ours.reference,
        base_reference=ours.base_reference,
        curve_of=_curve_of(stored, evaluated, now),
        remarks=ours.remarks,
    )
    return result.come_by(cached=True, measured_again=True)


def _curve_of(stored: StoredTraining, evaluated: Trial, now: Fingerprint) -> CurveText | None:
    """Return what the curve was measured on; None if a training now would measure it on the same sequences."""
    trained, new = stored.result.measured, evaluated.measured.validation
    known, old = trained.curve_of, trained.validation
    assert old is not None  # every result that ended ok has them
    assert new is not None
    text = _text(now.parts)
    if known is None:
        chosen = evenly_spaced(len(old.tokens), len(trained.curve[0].nll) if trained.curve else 0)
        tokens = tuple(old.tokens[place] for place in chosen)
        documents = None if old.documents is None else tuple(old.documents[place] for place in chosen)
        known = CurveText(old.digest, tokens, documents, _text(stored.parts), is_validation=True)
    if (known.digest, known.text) == (new.digest, text):
        return None
    return replace(known, is_validation=known.text == text)


def _text(parts: Mapping[str, Any]) -> str:
    suffix, digest = parts["validation text"]
    return f"{digest}{suffix}"
