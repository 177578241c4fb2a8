"""What peft makes of a model: the adapters of a variant, checked before anything is trained."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Full, LoRA, Variant
from pytest_ftguard.specs.refused import REFUSED_INITIALISATIONS, REFUSED_METHODS
from pytest_ftguard.training.machine import is_out_of_memory

__all__ = ["apply_variant", "check_variant", "load_adapter"]

_LONGEST_REASON: Final = 400
_META: Final = torch.device("meta")


def check_variant(model: nn.Module, variant: Variant) -> None:
    """Check that a variant fits the model before anything is trained.

    Raises:
        ConfigurationError: A module or parameter that it names is not found, or an option is unknown to peft.
    """
    if isinstance(variant, LoRA):
        _check_options(variant)
        _check_targets(model, variant)
        _check_names(model, variant)


def _check_options(variant: LoRA) -> None:
    known = {item.name for item in fields(LoraConfig)}
    unknown = sorted(set(variant.options) - known)
    if unknown:
        message = (
            f"LoRA.options has {', '.join(map(repr, unknown))}, which peft.LoraConfig does not know; "
            f"it knows {', '.join(sorted(known))}"
        )
        raise ConfigurationError(message)
    for option in sorted(set(variant.options) & set(REFUSED_METHODS)):
        if variant.options[option] not in (None, False):
            message = f"LoRA.options may not set {option!r}: it {REFUSED_METHODS[option]}"
            raise ConfigurationError(message)
    init = str(variant.options.get("init_lora_weights")).lower()
    for name, reason in REFUSED_INITIALISATIONS.items():
        if init.startswith(name):
            message = f"LoRA.options may not set init_lora_weights={init!r}: it {reason}"
            raise ConfigurationError(message)


def _check_targets(model: nn.Module, variant: LoRA) -> None:
    targets = variant.target_modules
    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    if isinstance(targets, str):
        missing = [] if any(map(_expression("LoRA.target_modules", targets).fullmatch, names)) else [targets]
    else:
        missing = [target for target in targets if not any(_ends_with(name, target) for name in names)]
    if missing:
        message = (
            f"LoRA.target_modules names {', '.join(map(repr, missing))}, which {type(model).__name__} does not have; "
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


def _check_names(model: nn.Module, variant: LoRA) -> None:
    """Check the other options that name something: peft passes over what it does not find without a word."""
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters()]

    def pattern(name: str, wanted: str) -> bool:
        return re.match(rf"(.*\.)?({wanted})$", name) is not None

    for option in ("modules_to_save", "target_parameters"):
        value = variant.options.get(option)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            message = f"LoRA.options[{option!r}] must be a list of names, got {value!r}"
            raise ConfigurationError(message)
    places: Mapping[str, tuple[str, list[str], Callable[[str, str], bool]]] = {
        "modules_to_save": ("modules", modules, str.endswith),
        "exclude_modules": ("modules", modules, _ends_with),
        "target_parameters": ("parameters", parameters, lambda name, one: _ends_with(name, one) or pattern(name, one)),
        "rank_pattern": ("modules or parameters", modules + parameters, pattern),
        "alpha_pattern": ("modules or parameters", modules + parameters, pattern),
    }
    for option, (what, names, matches) in places.items():
        value = variant.peft_options.get(option) or ()
        owner = f"LoRA.options[{option!r}]"
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


def _check_numbers(model: nn.Module, variant: LoRA, modules: list[str]) -> None:
    """Check the options that count layers or tokens."""
    _check_whole_numbers(variant)
    layers = variant.options.get("layers_to_transform")
    if layers is not None:
        present = {int(number) for name in modules for number in re.findall(r"\.(\d+)\.", name)}
        missing = sorted({layers} - present if isinstance(layers, int) else set(layers) - present)
        if missing:
            message = (
                f"LoRA.options['layers_to_transform'] names layer {', '.join(map(str, missing))}, but "
                f"{type(model).__name__} has layers 0 to {max(present, default=0)}"
            )
            raise ConfigurationError(message)
    tokens = variant.options.get("trainable_token_indices")
    rows = getattr(cast(PreTrainedModel, model).get_input_embeddings(), "num_embeddings", None) if tokens else None
    chosen = [one for part in tokens.values() for one in part] if isinstance(tokens, Mapping) else tokens or []
    beyond = [one for one in chosen if rows is not None and not 0 <= one < rows]
    if beyond:
        message = (
            f"LoRA.options['trainable_token_indices'] has {beyond[0]}, but the embedding of {type(model).__name__} has "
            f"the tokens 0 to {rows - 1 if rows else 0}"
        )
        raise ConfigurationError(message)


def _check_whole_numbers(variant: LoRA) -> None:
    tokens, layers = (variant.options.get(name) for name in ("trainable_token_indices", "layers_to_transform"))
    lists = {
        "trainable_token_indices": list(tokens.values()) if isinstance(tokens, Mapping) else [tokens],
        "layers_to_transform": [[layers] if isinstance(layers, int) else layers],
    }
    for option, parts in lists.items():
        for part in parts:
            if part is not None and not (isinstance(part, list) and all(type(one) is int for one in part)):
                message = f"LoRA.options[{option!r}] must be a list of whole numbers, got {variant.options[option]!r}"
                raise ConfigurationError(message)


def apply_variant(model: PreTrainedModel, variant: Variant) -> nn.Module:
    """Return the model as the variant trains it: itself with every weight trainable, or wrapped with adapters.

    Raises:
        ConfigurationError: The variant does not fit the model, or peft cannot apply it.
        NotImplementedError: The model is on the meta device, and peft needs its values.
    """
    check_variant(model, variant)
    match variant:
        case Full():
            return model.requires_grad_(True)
        case LoRA():
            return _wrap(model, variant)


def _lora_config(variant: LoRA, **changes: Any) -> LoraConfig:
    targets = variant.target_modules
    return LoraConfig(
        **{
            "task_type": "CAUSAL_LM",
            "r": variant.r,
            "lora_alpha": variant.alpha,
            "target_modules": targets if isinstance(targets, str) else list(targets),
            "lora_dropout": variant.dropout,
            "bias": variant.bias,
            **variant.peft_options,
            **changes,
        }
    )


def _wrap(model: PreTrainedModel, variant: LoRA) -> nn.Module:
    is_meta = model.device == _META
    could_run = is_meta or _fails(model) is None
    try:
        with _without_pefts_warnings():
            wrapped = cast(nn.Module, get_peft_model(model, _lora_config(variant)))
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


def _cannot_apply(model: PreTrainedModel, variant: LoRA, reason: str) -> str:
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


def load_adapter(base: PreTrainedModel, variant: LoRA, folder: str) -> nn.Module:
    """Return the base wrapped as for training, with the adapter's weights from a folder.

    The initialisation is switched off: it would cost time, and change the base once more.
    """
    init = variant.options.get("init_lora_weights")
    field = next(item for item in fields(LoraConfig) if item.name == "init_lora_weights")
    # A few of them are methods of their own, not only a way to begin.
    off = {"init_lora_weights": False} if isinstance(init, str) and init not in _methods(field.metadata) else {}
    with _without_pefts_warnings():
        config = _lora_config(variant, **off)
        return cast(nn.Module, PeftModel.from_pretrained(base, folder, config=config))


def _methods(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(metadata.get("lora_variants", ()))


@contextmanager
def _without_pefts_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # peft sets fan_in_fan_out for Conv1D layers (GPT-2) by itself, layer by layer, and warns that it did.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        # peft 0.21 asks transformers 5.23 for an attribute by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield
