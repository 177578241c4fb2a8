"""What the options of a method of peft name: peft passes over what it does not find without a word."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast

from peft import LoraConfig, PeftConfig
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.refused import REFUSED_INITIALISATIONS, REFUSED_METHODS

__all__ = ["Named", "check_names", "check_options", "check_targets", "defaults_of", "one_line"]


@dataclass(frozen=True)
class Named:
    """The options of a variant that uses peft, as its messages name them.

    Attributes:
        owner: Name of the variant's class.
        options: The options, as peft takes them.
    """

    owner: str
    options: Mapping[str, Any]


def one_line(words: Any) -> str:
    """Return names in order, separated by commas."""
    return ", ".join(sorted(words))


def defaults_of(kind: type[PeftConfig]) -> dict[str, Any]:
    """Return what each option of a configuration class is by default: a file that peft wrote names all of them."""
    return {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(cast(Any, kind))
    }


def check_options(variant: Named, kind: type[PeftConfig]) -> None:
    """Check that a configuration class of peft knows the options, and that peft applies them in full.

    Raises:
        ConfigurationError: It does not.
    """
    owner, options = f"{variant.owner}.options", variant.options
    known = {item.name for item in fields(cast(Any, kind))}
    unknown = sorted(set(options) - known)
    if unknown:
        message = (
            f"{owner} has {', '.join(map(repr, unknown))}, which peft.{kind.__name__} does not know; "
            f"it knows {one_line(known)}"
        )
        raise ConfigurationError(message)
    if not issubclass(kind, LoraConfig):
        return
    usual = defaults_of(LoraConfig)
    for option in sorted(set(options) & set(REFUSED_METHODS)):
        if options[option] not in (None, False, usual.get(option)):
            message = f"{owner} may not set {option!r}: it {REFUSED_METHODS[option]}"
            raise ConfigurationError(message)
    init = str(options.get("init_lora_weights")).lower()
    for name, reason in REFUSED_INITIALISATIONS.items():
        if init.startswith(name):
            message = f"{owner} may not set init_lora_weights={init!r}: it {reason}"
            raise ConfigurationError(message)


def check_targets(model: nn.Module, owner: str, targets: Any) -> None:
    """Check that each module that is to be adapted is there.

    Args:
        model: The model.
        owner: What messages call the option.
        targets: "all-linear", a regular expression, or suffixes.

    Raises:
        ConfigurationError: One is not.
    """
    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    if isinstance(targets, str):
        missing = [] if any(map(_expression(owner, targets).fullmatch, names)) else [targets]
    else:
        missing = [target for target in targets if not any(_ends_with(name, target) for name in names)]
    if missing:
        message = (
            f"{owner} names {', '.join(map(repr, missing))}, which {type(model).__name__} does not have; "
            f'its linear layers end in {", ".join(sorted(_linear_suffixes(model)))} (or set "all-linear")'
        )
        raise ConfigurationError(message)


def _expression(owner: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        message = f"{owner} is {text!r}, which is not a regular expression: {error}"
        raise ConfigurationError(message) from error


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _linear_suffixes(model: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def check_names(model: nn.Module, variant: Named) -> None:
    """Check the other options that name something.

    Raises:
        ConfigurationError: The model does not have it.
    """
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters()]

    def pattern(name: str, wanted: str) -> bool:
        return re.match(rf"(.*\.)?({wanted})$", name) is not None

    for option in ("modules_to_save", "target_parameters"):
        value = variant.options.get(option)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            message = f"{variant.owner}.options[{option!r}] must be a list of names, got {value!r}"
            raise ConfigurationError(message)
    places: Mapping[str, tuple[str, list[str], Callable[[str, str], bool]]] = {
        "modules_to_save": ("modules", modules, str.endswith),
        "exclude_modules": ("modules", modules, _ends_with),
        "target_parameters": ("parameters", parameters, lambda name, one: _ends_with(name, one) or pattern(name, one)),
        "rank_pattern": ("modules or parameters", modules + parameters, pattern),
        "alpha_pattern": ("modules or parameters", modules + parameters, pattern),
    }
    for option, (what, names, matches) in places.items():
        value = variant.options.get(option) or ()
        owner = f"{variant.owner}.options[{option!r}]"
        if isinstance(value, str):
            found = any(map(_expression(owner, value).fullmatch, names))
            missing = [] if found else [value]
        else:
            for one in value:
                _expression(owner, one) if matches is not _ends_with and matches is not str.endswith else None
            missing = [one for one in value if not any(matches(name, one) for name in names)]
        if missing:
            message = (
                f"{owner} names {', '.join(map(repr, missing))}, but {type(model).__name__} has no such {what}; "
                f"their names are like {', '.join(_examples(names))}"
            )
            raise ConfigurationError(message)
    _check_numbers(model, variant, modules)


def _examples(names: list[str]) -> list[str]:
    """Return a few names, each suffix once, those of the layers first."""
    shown = {re.sub(r"^.*\.\d+\.", "", name): name for name in reversed(names)}
    return sorted(shown, key=lambda suffix: (suffix == shown[suffix], suffix))[:12]


def _check_numbers(model: nn.Module, variant: Named, modules: list[str]) -> None:
    """Check the options that count layers or tokens."""
    _check_whole_numbers(variant)
    layers = variant.options.get("layers_to_transform")
    if layers is not None:
        present = {int(number) for name in modules for number in re.findall(r"\.(\d+)\.", name)}
        missing = sorted({layers} - present if isinstance(layers, int) else set(layers) - present)
        if missing:
            message = (
                f"{variant.owner}.options['layers_to_transform'] names layer {', '.join(map(str, missing))}, but "
                f"{type(model).__name__} has layers 0 to {max(present, default=0)}"
            )
            raise ConfigurationError(message)
    tokens = variant.options.get("trainable_token_indices")
    rows = getattr(cast(PreTrainedModel, model).get_input_embeddings(), "num_embeddings", None) if tokens else None
    chosen = [one for part in tokens.values() for one in part] if isinstance(tokens, Mapping) else tokens or []
    beyond = [one for one in chosen if rows is not None and not 0 <= one < rows]
    if beyond:
        message = (
            f"{variant.owner}.options['trainable_token_indices'] has {beyond[0]}, but the embedding of "
            f"{type(model).__name__} has the tokens 0 to {rows - 1 if rows else 0}"
        )
        raise ConfigurationError(message)


def _check_whole_numbers(variant: Named) -> None:
    tokens, layers = (variant.options.get(name) for name in ("trainable_token_indices", "layers_to_transform"))
    lists = {
        "trainable_token_indices": list(tokens.values()) if isinstance(tokens, Mapping) else [tokens],
        "layers_to_transform": [[layers] if isinstance(layers, int) else layers],
    }
    for option, parts in lists.items():
        for part in parts:
            if part is not None and not (isinstance(part, list) and all(type(one) is int for one in part)):
                owner = f"{variant.owner}.options[{option!r}]"
                message = f"{owner} must be a list of whole numbers, got {variant.options[option]!r}"
                raise ConfigurationError(message)
