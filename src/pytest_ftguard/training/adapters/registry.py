"""The adapters by the kind of variant: those of this package, and those that a variant's class names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from torch import nn
from transformers import PreTrainedModel

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Variant
from pytest_ftguard.specs.importing import imported
from pytest_ftguard.training.adapters.base import Adapter
from pytest_ftguard.training.adapters.head import check_head

__all__ = ["apply_variant", "check_variant", "find_adapter", "prepare_base"]

_HERE: Final = "pytest_ftguard.training.adapters"
_OURS: Final[Mapping[str, str]] = {
    "full": f"{_HERE}.full:FullAdapter",
    "lora": f"{_HERE}.lora:LoraAdapter",
    "peft": f"{_HERE}.peft:PeftAdapter",
}


def find_adapter(variant: Variant) -> Adapter:
    """Return the adapter of a variant.

    Raises:
        ConfigurationError: Its class names none, or one that cannot be imported.
    """
    path = _OURS.get(variant.kind, variant.adapter)
    if not path:
        message = (
            f'the variant class {type(variant).__qualname__} names no adapter: set adapter = "module:Class", a class '
            "derived from pytest_ftguard.training.adapters.Adapter"
        )
        raise ConfigurationError(message)
    return _adapter(path)


@cache
def _adapter(path: str) -> Adapter:
    try:
        made = imported(path)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        message = f"the adapter {path!r} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    if not isinstance(made, Adapter):
        message = f"the adapter {path!r} must be a class derived from pytest_ftguard.training.adapters.Adapter"
        raise ConfigurationError(message)
    return made


def check_variant(model: nn.Module, variant: Variant) -> None:
    """Check that a variant fits the model before anything is trained.

    Raises:
        ConfigurationError: A module or parameter that it names is not found, or an option is unknown.
    """
    find_adapter(variant).check(model, variant)


def prepare_base(model: PreTrainedModel, variant: Variant) -> bool:
    """Hold a base model as the variant does, and return whether that changes what it computes.

    Raises:
        ConfigurationError: It cannot be held so.
    """
    return find_adapter(variant).prepare(model, variant)


def apply_variant(model: PreTrainedModel, variant: Variant) -> nn.Module:
    """Return the model as the variant trains it: itself with every weight trainable, or with adapters.

    Raises:
        ConfigurationError: The variant does not fit the model, or cannot be applied.
        NotImplementedError: The model is on the meta device, and its values are needed.
    """
    adapter = find_adapter(variant)
    adapter.check(model, variant)
    adapter.prepare(model, variant)
    made = adapter.apply(model, variant)
    if not any(parameter.requires_grad for parameter in made.parameters()):
        message = f"{variant!r} would train no parameter of {type(model).__name__}"
        raise ConfigurationError(message)
    check_head(made, model, variant.label)
    return made
