"""A model wrapped by peft, and the one clear error if peft cannot do it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.out_of_memory import is_out_of_memory

__all__ = ["without_pefts_warnings", "wrap"]

_LONGEST_REASON: Final = 400
_META: Final = torch.device("meta")


def wrap(model: PreTrainedModel, variant: Any, configure: Callable[[], PeftConfig]) -> nn.Module:
    """Return the model wrapped by peft, after a first pass of a few tokens through it.

    Args:
        model: The base model.
        variant: What is trained, with its `options`, for messages.
        configure: Makes the configuration.

    Raises:
        ConfigurationError: peft cannot apply it, it trains nothing, or the wrapped model cannot be run.
        NotImplementedError: The model is on the meta device, and peft needs its values.
    """
    is_meta = model.device == _META
    could_run = is_meta or _fails(model) is None
    try:
        with without_pefts_warnings():
            wrapped = cast(nn.Module, get_peft_model(model, configure()))
    except Exception as error:  # each initialisation fails in its own way
        _pass_on(error, model)
        raise ConfigurationError(_cannot_apply(model, variant, f"{type(error).__name__}: {error}")) from error
    if not any(parameter.requires_grad for parameter in wrapped.parameters()):
        raise ConfigurationError(_cannot_apply(model, variant, "it would train no parameter"))
    if could_run and (fault := _layer_fails(wrapped) if is_meta else _fails(wrapped)) is not None:
        _pass_on(fault, model)
        reason = f"its forward pass fails with {type(fault).__name__}: {fault}"
        raise ConfigurationError(_cannot_apply(model, variant, reason)) from fault
    return wrapped


def _pass_on(error: Exception, model: PreTrainedModel) -> None:
    """Raise what is no fault of the variant: memory that ran out, and values that the meta device does not have."""
    if is_out_of_memory(error) or isinstance(error, Warning):
        raise error
    if model.device == _META and (isinstance(error, NotImplementedError) or "meta" in str(error)):
        message = f"peft needs the values of the weights: {type(error).__name__}: {error}"
        raise NotImplementedError(message) from error


def _cannot_apply(model: PreTrainedModel, variant: Any, reason: str) -> str:
    options = ", ".join(variant.options)
    reason = " ".join(reason.split())  # some of them hold a drawing of the whole module
    reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} ..."
    advice = f"\nChange target_modules, or remove the option that does not fit ({options})." if options else ""
    return f"peft cannot apply {variant!r} to {type(model).__name__}: {reason}{advice}"


def _fails(model: nn.Module) -> Exception | None:
    """Return what a forward pass of a few tokens raises, if it does."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids = torch.zeros((1, 4), dtype=torch.int64, device=next(model.parameters()).device)
            model(input_ids=ids, use_cache=False)
    except Exception as error:  # any code may be in a model
        return error
    finally:
        model.train(was_training)
    return None


def _layer_fails(model: nn.Module) -> Exception | None:
    """Return what the first adapted layer raises that does; on the meta device most models cannot run as a whole."""
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer) and isinstance(layer.get_base_layer(), nn.Linear | Conv1D):
            try:
                with torch.no_grad():
                    cast(Any, layer)(torch.empty((1, cast(Any, layer).in_features), device=_META))
            except Exception as error:  # any code may be in a layer
                return error
    return None


@contextmanager
def without_pefts_warnings() -> Iterator[None]:
    """Silence what peft says of its own doings."""
    with warnings.catch_warnings():
        # peft sets fan_in_fan_out for Conv1D layers (GPT-2) by itself, layer by layer, and warns that it did.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        # peft 0.21 asks transformers 5.23 for an attribute by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield
