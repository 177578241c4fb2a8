"""Frozen weights in the precision that the training computes in: half the memory, and no cast in any step.

Under bf16 autocast a linear layer multiplies by its weight rounded to bf16. A weight that no step changes comes to the
same number each time, so it may as well be held so: losses and gradients are equal bit for bit, which the tests show
for each method. What is not only multiplied by stays in fp32: embeddings, and so a tied output layer, norms,
convolutions, the experts of a mixture, and what a method takes apart itself (DoRA's norms of a weight).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from pytest_ftguard.training.changed import checksum
from pytest_ftguard.training.kept import Digests

__all__ = ["SAME_NUMBERS", "hold_frozen"]

# Methods of peft whose layers only multiply by the weight under them; of the others it stays in fp32.
SAME_NUMBERS: Final = frozenset({"boft", "delora", "hra", "ia3", "loha", "lokr", "lora", "oft", "randlora", "vera"})
# The layers themselves: classes derived from them may use a weight in other ways.
_LINEAR: Final = (nn.Linear, Conv1D)


def hold_frozen(model: nn.Module, digests: Digests | None = None) -> None:
    """Hold the frozen weights and biases of linear layers in bf16, for a training under bf16 autocast.

    Args:
        model: What is trained, with its adapters, before its first step; it may be without weights.
        digests: Checksums of the base model's tensors, which are made to follow. A tensor that is no longer what they
            say was changed by the method; it stays in fp32, because it is kept with the trained weights.
    """
    for parameter in _multiplied_by(model):
        if parameter.requires_grad or parameter.dtype != torch.float32:
            continue
        if digests is not None and (parameter not in digests or digests[parameter] != checksum(parameter)):
            continue
        parameter.data = parameter.data.to(torch.bfloat16)
        if digests is not None:
            digests[parameter] = checksum(parameter)


def _multiplied_by(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the base that nothing but linear layers uses, each of them once."""
    kept = _kept_in_fp32(model)
    linear = {
        id(layer)
        for name, layer in _linear_layers(model, "")
        if not any(f".{one}." in f".{name}.weight.{name}.bias." for one in kept)
    }
    owners: dict[nn.Parameter, list[nn.Module]] = defaultdict(list)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[parameter].append(module)
    return [one for one, modules in owners.items() if all(id(module) in linear for module in modules)]


def _kept_in_fp32(model: nn.Module) -> set[str]:
    """Return the names of what the model's own code keeps in fp32, such as the router of a mixture."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    names = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    return {one for name in names for one in getattr(base, name, None) or ()}


def _linear_layers(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers that were there before an adapter, by their names in the model without adapters."""
    if type(module) in _LINEAR:
        yield name, module
    elif isinstance(module, BaseTunerLayer):
        if _only_multiplies(module):
            yield from _linear_layers(cast(Any, module).base_layer, name)
    elif isinstance(module, AuxiliaryTrainingWrapper):
        yield from _linear_layers(cast(Any, module).original_module, name)
    else:
        for child, one in module.named_children():
            yield from _linear_layers(one, f"{name}.{child}" if name else child)


def _only_multiplies(layer: BaseTunerLayer) -> bool:
    """Return whether an adapter's layer uses the weight under it in nothing but its product."""
    package = type(layer).__module__.removeprefix("peft.tuners.").partition(".")[0]
    # DoRA and others change what a layer of LoRA does, and are noted in it; one for a parameter adds to the weight.
    is_plain = not getattr(layer, "lora_variant", None) and not hasattr(layer, "parameter_name")
    return package in SAME_NUMBERS and is_plain
