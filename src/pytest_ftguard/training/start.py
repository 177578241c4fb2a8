"""Where a training starts, next to the base model: a difference is measured once more without the adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar, cast

from peft import PeftModel
from torch import nn
from transformers import set_seed

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import SequenceLosses, Start
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.training.adapters import find_adapter
from pytest_ftguard.training.recorder import Recorder

__all__ = ["BaseAsHeld", "as_base", "base_of_wrapped", "measure_start", "start_of"]

# In nats per token: two ways of measuring the same model differ by less.
_SAME: Final = 1e-3

Measured = TypeVar("Measured")


class BaseAsHeld(NamedTuple):
    """The base model as a variant holds it, before it is wrapped.

    Attributes:
        losses: Its losses on the validation text, if it is not what it was; otherwise None.
        curve: Its losses on the sequences of the curve, in the same batches: in others bf16 rounds in other ways, which
            of an example with few tokens is much. None if the variant begins as the base does.
    """

    losses: SequenceLosses | None = None
    curve: tuple[float, ...] | None = None


def measure_start(
    spec: TrialSpec, model: nn.Module, recorder: Recorder, base: SequenceLosses, held: BaseAsHeld
) -> Start | None:
    """Compare the start of a trial with the base model, and, if it differs, once more with the adapter switched off.

    Nothing that was drawn or that is trained changes by it.

    Args:
        spec: What is trained.
        model: What is trained, before its first step.
        recorder: Has measured the start.
        base: Losses of the base model on the validation text.
        held: The base as the variant holds it.

    Returns:
        None if a loss is not finite.
    """
    start = start_of(recorder, base)
    expected = held.curve or tuple(base.nll[place] for place in recorder.chosen)
    if start is None:
        return None
    if held.losses is not None:
        start = replace(start, quantized_gap=held.losses.loss - base.loss)
    found = recorder.start
    if not (spec.variant.starts_at_base or found == expected):
        context = find_adapter(spec.variant).disabled(model)
        if context is None:
            return start
        found = _without_adapter(model, context, recorder.start_again)
        set_seed(spec.seed)
    elif held.losses is None:
        return start
    tokens = [base.tokens[place] for place in recorder.chosen]
    distances = [abs(a - b) / count for a, b, count in zip(found, expected, tokens, strict=True)]
    # The largest of numbers with a NaN among them may be any of them.
    return replace(start, disabled_gap=max(distances)) if all(map(math.isfinite, distances)) else None


def start_of(recorder: Recorder, base: SequenceLosses, disabled_gap: float | None = None) -> Start | None:
    """Return how far from the base model a training starts; None if a loss is not finite."""
    gaps = [nll - base.nll[place] for nll, place in zip(recorder.start, recorder.chosen, strict=True)]
    gap = math.fsum(gaps) / sum(base.tokens[place] for place in recorder.chosen)
    return Start(gap, disabled_gap) if math.isfinite(gap) else None


def _without_adapter(
    model: nn.Module, context: AbstractContextManager[Any], measure: Callable[[], Measured]
) -> Measured:
    trained = [parameter.requires_grad for parameter in model.parameters()]
    with context:
        measured = measure()
    for parameter, is_trained in zip(model.parameters(), trained, strict=True):
        parameter.requires_grad_(is_trained)
    return measured


def as_base(model: nn.Module, measure: Callable[[], Measured]) -> Measured:
    """Return what is measured of the base model: with the adapter switched off, if peft has wrapped it."""
    if not isinstance(model, PeftModel):
        return measure()
    return _without_adapter(model, cast(Any, model.disable_adapter()), measure)


def base_of_wrapped(
    model: nn.Module, label: str, measure: Callable[[], dict[str, SequenceLosses]]
) -> dict[str, SequenceLosses]:
    """Return the losses of the base model inside of one that peft has wrapped, of which nothing else is known.

    A prompt changes no weight, so without it the model is the base model. Another method may have changed weights of
    the base (PiSSA), or start elsewhere: with the adapter and without it, the losses must agree.

    Args:
        model: The wrapped model before its first step.
        label: What messages call its variant.
        measure: Returns the losses of the model as it is, by the text's role.

    Raises:
        ConfigurationError: They do not agree.
    """
    wrapped = cast(PeftModel, model)
    config: Any = wrapped.peft_config[wrapped.active_adapter]
    enabled = measure()
    disabled = _without_adapter(model, cast(Any, wrapped.disable_adapter()), measure)
    distance = _distance(enabled, disabled)
    if config.is_prompt_learning or distance <= _SAME:
        return disabled
    message = (
        f"FtguardCallback cannot determine the base model of {label}: before training the loss of a sequence is up to "
        f"{distance:.4f} nats per token from that with the adapter switched off. Train it as a variant of "
        "pytest-ftguard: ftguard.train(Peft(...))"
    )
    raise ConfigurationError(message)


def _distance(ours: Mapping[str, SequenceLosses], theirs: Mapping[str, SequenceLosses]) -> float:
    return max(
        abs(one - other) / count
        for role, text in ours.items()
        for one, other, count in zip(text.nll, theirs[role].nll, text.tokens, strict=True)
    )
