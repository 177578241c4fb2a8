"""How many parameters a model has and trains, and which of its matrices an adapter reaches."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pytest_ftguard.results import Parameters
from pytest_ftguard.training.adapters.quantization import numel_of

__all__ = ["count_parameters"]

# The experts of a mixture are one parameter with a dimension for the expert.
_FUSED: Final = 3


def count_parameters(model: nn.Module) -> Parameters:
    """Return the counts of all and of trainable parameters, and what share of the matrices is adapted.

    Shared parameters count once.
    """
    sizes = [(numel_of(parameter), parameter.requires_grad) for parameter in model.parameters()]
    total, trainable = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
    if total == trainable:
        return Parameters(total, trainable)
    found = list(_base_weights(_base(model), "", frozenset()))
    adapted, left_alone = _matrices(model, found)
    under_adapters, skipped = _shares(found)
    return Parameters(
        total,
        trainable,
        adapted=adapted,
        left_alone=left_alone,
        under_adapters=under_adapters,
        skipped_experts=skipped,
    )


class _Weight(NamedTuple):
    """A parameter that was there before an adapter.

    Attributes:
        name: Its name in the model without adapters.
        parameter: The parameter.
        is_adapted: Whether it has an adapter, or is trained itself.
        is_matrix: Whether it is one of those that linear layers multiply by: no embedding, no convolution.
    """

    name: str
    parameter: nn.Parameter
    is_adapted: bool
    is_matrix: bool


def _base(model: nn.Module) -> nn.Module:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _matrices(model: nn.Module, weights: Sequence[_Weight]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the shares of a model's matrix weights that are adapted or trained, and those that are not, by suffix."""
    sizes: tuple[dict[str, int], dict[str, int]] = (defaultdict(int), defaultdict(int))
    head, seen = _head(model), set()
    for weight in weights:
        parameter = weight.parameter
        is_one = weight.is_matrix and parameter.ndim >= 2 and id(parameter) not in seen
        if is_one and not any(parameter is one for one in head):
            seen.add(id(parameter))
            sizes[not weight.is_adapted][_suffix(weight.name)] += numel_of(parameter)
    total = sum(sum(part.values()) for part in sizes)
    adapted, left_alone = ({name: size / total for name, size in part.items()} for part in sizes)
    return adapted, left_alone


def _shares(weights: Sequence[_Weight]) -> tuple[float | None, dict[str, float]]:
    """Return the share of the base's parameters that is adapted, and that of each kind of experts that is not."""
    sizes = {id(weight.parameter): numel_of(weight.parameter) for weight in weights}
    adapted = {id(weight.parameter) for weight in weights if weight.is_adapted}
    total = sum(sizes.values())
    skipped: dict[str, float] = defaultdict(float)
    for weight in weights:
        if weight.is_matrix and weight.parameter.ndim == _FUSED and id(weight.parameter) not in adapted:
            skipped[re.sub(r"\.\d+(?=\.)", ".*", weight.name.rpartition(".")[0])] += numel_of(weight.parameter) / total
    return (sum(sizes[one] for one in adapted) / total if total else None), dict(skipped)


def _base_weights(module: nn.Module, prefix: str, adapted: frozenset[str]) -> Iterator[_Weight]:
    """Yield what was there before an adapter; all that an adapter has brought is left out.

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
    else:
        is_matrix = not isinstance(module, nn.Embedding | _ConvNd)
        for name, parameter in module.named_parameters(recurse=False):
            yield _Weight(prefix + name, parameter, name in adapted or parameter.requires_grad, is_matrix)
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
