"""A base model held in few bits, as bitsandbytes holds it, with the adapters to be trained on top of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_ftguard.errors import ConfigurationError

__all__ = ["is_quantized", "numel_of", "quantize", "told_to_peft"]

# The parameters of bitsandbytes, and what transformers sets for peft on a model that it has loaded with them.
_FLAGS: Final[Mapping[str, str]] = {"Params4bit": "is_loaded_in_4bit", "Int8Params": "is_loaded_in_8bit"}
# Where a model remembers how it was quantized.
_HOW: Final = "ftguard_quantization"


def quantize(model: PreTrainedModel, options: Mapping[str, Any], owner: str) -> None:
    """Replace the linear layers of a model by quantized ones, as transformers does while it loads a model.

    Output layers and tied weights stay as they are, unless the options say otherwise. What was quantized in the same
    way stays.

    Args:
        model: The model on its device, with its weights. It is changed.
        options: Arguments of `transformers.BitsAndBytesConfig`.
        owner: What messages call the setting.

    Raises:
        ConfigurationError: bitsandbytes is not installed, an option is unknown or refused, no layer fits, or the model
            is quantized in another way.
        NotImplementedError: The model has no weights.
    """
    if is_quantized(model):
        if getattr(model, _HOW, None) != dict(options):
            message = f"{owner} is {dict(options)!r}, but the base is quantized already, in another way: leave one out"
            raise ConfigurationError(message)
        return
    config = _config(options, owner)
    if model.device.type == "meta":
        message = "a model without its weights cannot be quantized"
        raise NotImplementedError(message)
    # They import bitsandbytes, which takes a second.
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    skipped = config.llm_int8_skip_modules or get_keys_to_not_convert(model)
    before = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    replace_with_bnb_linear(model, skipped, config)
    replaced = {name: module for name, module in model.named_modules() if module is not before.get(name, module)}
    if not replaced:
        message = f"{owner} finds no linear layer of {type(model).__name__} to quantize"
        raise ConfigurationError(message)
    for name, module in replaced.items():
        _fill(cast(Any, module), cast(Any, before.pop(name)))
    setattr(model, _HOW, dict(options))


def _config(options: Mapping[str, Any], owner: str) -> BitsAndBytesConfig:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        message = f"{owner} needs bitsandbytes ({error}): pip install 'pytest-ftguard[quantization]'"
        raise ConfigurationError(message) from error
    known = [name for name in inspect.signature(BitsAndBytesConfig).parameters if name != "kwargs"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        message = (
            f"{owner} has {', '.join(map(repr, unknown))}, which BitsAndBytesConfig does not know: {', '.join(known)}"
        )
        raise ConfigurationError(message)
    try:
        return BitsAndBytesConfig(**options)  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, AttributeError) as error:
        message = f"{owner} {dict(options)!r} was refused by BitsAndBytesConfig: {error}"
        raise ConfigurationError(message) from error


def _fill(new: Any, old: Any) -> None:
    """Put the weights of a layer, quantized, into the one that stands for it."""
    weight = old.weight.data
    if isinstance(old, Conv1D):
        weight = weight.T
    empty = new.weight
    # What the empty parameter was made with, such as the type of quantization, is what the full one is made with.
    made_with = {name: value for name, value in vars(empty).items() if name not in ("SCB", "module")}
    new.weight = type(empty)(weight.contiguous(), requires_grad=False, **made_with).to(weight.device)
    new.bias = None if old.bias is None else nn.Parameter(old.bias.data, requires_grad=False)
    new.train(old.training)
    # In evaluation it would pack the weights for another kernel of the processor's, which has no gradient: the layers
    # below would get none in the training that follows (bitsandbytes 0.50).
    new.support_avx512bf16_for_cpu = False
    old.weight = None  # the memory of a layer is free before the next one is quantized


def is_quantized(model: nn.Module) -> bool:
    """Return whether some of a model's weights are held in few bits."""
    return any(type(parameter).__name__ in _FLAGS for parameter in model.parameters())


@contextmanager
def told_to_peft(model: nn.Module) -> Iterator[None]:
    """Let peft see which layers are quantized, while it makes its own for them."""
    kinds = {type(parameter).__name__ for parameter in model.parameters()}
    flags = {flag for kind, flag in _FLAGS.items() if kind in kinds and not hasattr(model, flag)}
    for flag in flags:
        setattr(model, flag, True)
    try:
        yield
    finally:
        for flag in flags:
            delattr(model, flag)


def numel_of(parameter: nn.Parameter) -> int:
    """Return how many weights a parameter holds; one of 4 bits holds two in each byte."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return parameter.numel() if shape is None else int(torch.Size(shape).numel())
