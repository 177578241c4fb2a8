"""How many parameters a model has and trains, and which of its matrices an adapter reaches."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pytest_ftguard.results import Parameters
from pytest_ftguard.training.adapters.quantization import numel_of

__all__ = ["count_parameters"]


def count_parameters(model: nn.Module) -> Parameters:
    """Return the counts of all and of trainable parameters, and what share of the matrices is adapted.

    Shared parameters count once.
    """
    sizes = [(numel_of(parameter), parameter.requires_grad) for parameter in model.parameters()]
    total, trainable = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
    if total == trainable:
        return Parameters(total, trainable)
    adapted, left_alone = _matrices(model)
    return Parameters(total, trainable, adapted=adapted, left_alone=left_alone)


def _matrices(model: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
    """Return the shares of a model's matrix weights that are adapted or trained, and those that are not, by suffix."""
    sizes: tuple[dict[str, int], dict[str, int]] = (defaultdict(int), defaultdict(int))
    head, seen = _head(model), set()
    for name, parameter, is_adapted in _base_weights(model, "", frozenset()):
        if parameter.ndim < 2 or id(parameter) in seen or any(parameter is one for one in head):
            continue
        seen.add(id(parameter))
        sizes[not (is_adapted or parameter.requires_grad)][_suffix(name)] += numel_of(parameter)
    total = sum(sum(part.values()) for part in sizes)
    adapted, left_alone = ({name: size / total for name, size in part.items()} for part in sizes)
    return adapted, left_alone


def _base_weights(module: nn.Module, prefix: str, adapted: frozenset[str]) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Yield name and parameter of what was there before an adapter, and whether it is adapted.

    Embeddings, convolutions and all that an adapter has brought are left out.

    Args:
        module: Where to look.
        prefix: Its name in the model without adapters, with a dot at its end.
        adapted: Names of the parameters in it that a wrapper around it adapts.
    """
    if isinstance(module, BaseTunerLayer):
        layer = cast(Any, module)
        own = getattr(layer, "parameter_name", None)  # of a wrapper that adapts one parameter of its layer
        yield from _base_weights(layer.base_layer, prefix, adapted | {own or "weight"})
    elif isinstance(module, AuxiliaryTrainingWrapper):
        original = cast(Any, module).original_module
        copied = isinstance(module, ModulesToSaveWrapper)  # the others train rows of an embedding
        yield from _base_weights(original, prefix, frozenset(dict(original.named_parameters())) if copied else adapted)
    elif not isinstance(module, nn.Embedding | _ConvNd):
        for name, parameter in module.named_parameters(recurse=False):
            yield prefix + name, parameter, name in adapted
        for name, child in module.named_children():
            inner = frozenset(one.removeprefix(f"{name}.") for one in adapted if one.startswith(f"{name}."))
            yield from _base_weights(child, f"{prefix}{name}.", inner)


def _head(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights of the output layer, which may be wrapped."""
    try:
        found = cast(Any, model).get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return []
    return list(found.parameters()) if isinstance(found, nn.Module) else []


def _suffix(name: str) -> str:
    """Return what a weight is called in every layer, as `target_modules` and `target_parameters` name it."""
    return re.sub(r"^.*\.\d+\.", "", name).removesuffix(".weight")
