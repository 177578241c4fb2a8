"""The base model and its tokenizer, loaded, or built without weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.base import NeedsWeightsError
from pytest_ftguard.tasks.causal_lm.folders import (
    PREDICTS_TOKENS,
    Wanted,
    check_folder,
    check_tokenizer_folder,
    has_vocabulary_file,
)
from pytest_ftguard.tasks.causal_lm.model_kinds import check_kind
from pytest_ftguard.tasks.out_of_memory import is_out_of_memory

__all__ = ["CAUSAL_LM", "ModelKind", "build_without_weights", "load_base", "load_config", "load_tokenizer"]

_LONGEST_REASON: Final = 600


def _unchanged(config: PretrainedConfig) -> None:
    """Leave a configuration as it is."""


@dataclass(frozen=True)
class ModelKind:
    """A kind of model that a task trains.

    Attributes:
        name: What messages call it.
        auto: The class of transformers that makes it.
        check: Raises a `ConfigurationError` if a configuration is of another kind. It is called with the beginning of
            a message, the configuration and the workload's `model_args`.
        configure: Changes a configuration before the model is made.
        is_new: Tells by its name whether a weight may be missing in the checkpoint, because the task adds it; None if
            none may.
        wanted: What files next to it are no hindrance, and what to give in its place.
    """

    name: str
    auto: Any
    check: Callable[[str, PretrainedConfig, Mapping[str, Any]], None]
    configure: Callable[[PretrainedConfig], None] = _unchanged
    is_new: Callable[[PreTrainedModel, str], bool] | None = None
    wanted: Wanted = PREDICTS_TOKENS


CAUSAL_LM: Final = ModelKind("causal language model", AutoModelForCausalLM, check_kind)


def load_tokenizer(workload: Workload, wanted: Wanted = PREDICTS_TOKENS) -> Any:
    """Return the workload's tokenizer.

    Args:
        workload: Names it, or the model that it is with.
        wanted: What the task needs of the model.

    Raises:
        ConfigurationError: There is none that can be loaded, or it has no vocabulary.
    """
    own = workload.tokenizer is not None
    name, field = workload.tokenizer or workload.model, "tokenizer" if own else "model"
    options = {} if own else workload.place_options
    if not own:
        check_folder(workload, options, wanted=wanted)
    folder = Path(name) / options.get("subfolder", "")
    check_tokenizer_folder(field, name, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:  # each tokenizer trips over a missing file in its own way
        if "gguf_file" not in options and folder.is_dir() and not has_vocabulary_file(folder):
            raise ConfigurationError(_no_vocabulary(field, name)) from error
        raise ConfigurationError(_cannot_load("tokenizer", field, name, error)) from error
    if not _has_vocabulary(tokenizer):
        raise ConfigurationError(_no_vocabulary(field, name))
    return tokenizer


def _has_vocabulary(tokenizer: Any) -> bool:
    """Return whether a tokenizer has tokens other than those that stand for no text.

    Without its files transformers makes one of the special tokens alone, and at most one for the space between words.
    """
    try:
        tokens = set(tokenizer.get_vocab())
        special = {*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())}
    except (AttributeError, NotImplementedError):
        return True  # one of its own making
    return len(tokens - special) > 1


def _no_vocabulary(field: str, name: str) -> str:
    return (
        f"Workload.{field} is {name!r}, but its tokenizer has no vocabulary: files such as tokenizer.json or "
        "tokenizer.model are missing or empty; copy them into the model's folder, or set tokenizer to one that has them"
    )


def load_base(workload: Workload, kind: ModelKind = CAUSAL_LM) -> PreTrainedModel:
    """Return the base model on the CPU, with fp32 weights and without dropout.

    Dropout is switched off because the adapters' would not be: both variants are compared without it. An option
    in `model_args` that names a configuration value (for example `attn_pdrop`) is set instead. Weights that the task
    adds are the same each time.

    Args:
        workload: Names the model.
        kind: What it is loaded as.

    Raises:
        ConfigurationError: The model cannot be loaded, or its context is shorter than a block.
    """
    place = workload.place_options
    config = load_config(workload, kind, needs_weights=True)
    rest = {
        name: value for name, value in workload.model_args.items() if name not in place and not hasattr(config, name)
    }
    options = {"config": config, "dtype": torch.float32, "output_loading_info": True, **place, **rest}
    if kind.is_new is not None:
        options["ignore_mismatched_sizes"] = True  # a head of another shape is replaced; all else is refused below
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for the weights that the task adds
            model, loading = kind.auto.from_pretrained(workload.model, **options)
    except Exception as error:  # any code may be in a model, and any value in model_args
        if is_out_of_memory(error):
            raise
        changed = [name for name in workload.model_args if name not in place]
        raise ConfigurationError(_cannot_load("model", "model", workload.model, error, changed)) from error
    _refuse_random_weights(workload.model, kind, model, loading)
    _refuse_cut_off_layers(workload, model, loading.get("unexpected_keys", ()))
    # A model read from GGUF was dequantized; these leftovers would forbid training and saving it.
    if "gguf_file" in place:
        model.hf_quantizer = None
        for name in ("quantization_config", "quantization_method", "is_quantized"):
            for owner in (model, model.config):
                if name in vars(owner):
                    delattr(owner, name)
    _check_context(model.config, workload)
    model.config.use_cache = False
    return cast(PreTrainedModel, model)


def build_without_weights(workload: Workload, kind: ModelKind = CAUSAL_LM) -> PreTrainedModel:
    """Return the base model as `load_base` would, on the meta device: its shapes, and nothing in them.

    Args:
        workload: Names the model.
        kind: What it is loaded as.

    Raises:
        ConfigurationError: There is no such model, or its context is shorter than a block.
        NeedsWeightsError: The model's code looks at values while it is made, so it cannot be made without any.
    """
    config = load_config(workload, kind, needs_weights=False)
    place = workload.place_options
    rest = [name for name in workload.model_args if name not in place and not hasattr(config, name)]
    unknown = [name for name in rest if name != "attn_implementation"]
    if unknown:
        message = f"model_args has {', '.join(unknown)}, which takes effect only when weights are loaded"
        raise NeedsWeightsError(message)
    try:
        code = {
            name: workload.model_args[name]
            for name in ("trust_remote_code", "attn_implementation")
            if name in workload.model_args
        }
        with torch.device("meta"):
            model = kind.auto.from_config(config, dtype=torch.float32, **code)
    except Exception as error:  # any code may be in a model; loading it with its weights will tell what is really wrong
        message = f"{workload.model!r} cannot be built without its weights: {type(error).__name__}: {error}"
        raise NeedsWeightsError(message) from error
    _check_context(model.config, workload)
    model.config.use_cache = False
    return cast(PreTrainedModel, model)


def load_config(workload: Workload, kind: ModelKind, *, needs_weights: bool) -> PretrainedConfig:
    """Return the model's configuration without dropout, and with what `model_args` names of it.

    Args:
        workload: Names the model.
        kind: What it must be.
        needs_weights: Whether a folder with a configuration alone is refused.

    Raises:
        ConfigurationError: There is no such model, or it is not whole, or of another kind.
    """
    place = workload.place_options
    check_folder(workload, place, needs_weights=needs_weights, wanted=kind.wanted)
    try:
        config = AutoConfig.from_pretrained(workload.model, **place)
    except Exception as error:  # any code may be in a configuration
        raise ConfigurationError(_cannot_load("model", "model", workload.model, error)) from error
    kind.check(f"Workload.model is {workload.model!r}", config, workload.model_args)
    chosen = {name: value for name, value in workload.model_args.items() if hasattr(config, name)}
    _remove_dropout(config)
    config.update(chosen)
    kind.configure(config)
    return cast(PretrainedConfig, config)


def _check_context(config: PretrainedConfig, workload: Workload) -> None:
    context = getattr(config, "max_position_embeddings", None)
    if isinstance(context, int) and workload.block_size > context:
        message = (
            f"Workload.block_size is {workload.block_size}, but the context of {workload.model!r} "
            f"has {context} positions: set block_size to {context} or less"
        )
        raise ConfigurationError(message)


def _remove_dropout(config: PretrainedConfig) -> None:
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):  # as the text part of a model with several modalities has
            _remove_dropout(value)
        elif "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _refuse_random_weights(name: str, kind: ModelKind, model: PreTrainedModel, loading: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that does not hold the whole model.

    What it lacks is drawn at random, the same in every process: both variants would be trained on noise alike, and no
    other check would notice.
    """
    incomplete = [one for one in absent(loading) if kind.is_new is None or not kind.is_new(model, one)]
    if incomplete:
        shown = ", ".join(incomplete[:5]) + (", ..." if len(incomplete) > 5 else "")
        message = (
            f"Workload.model is {name!r}, but its checkpoint lacks {len(incomplete)} of the weights of a {kind.name}, "
            f"or has them in another shape ({shown}), so they would be random: give a pretrained {kind.name}"
        )
        raise ConfigurationError(message)


def absent(loading: Mapping[str, Any]) -> list[str]:
    """Return the names of the weights that a checkpoint lacks, or has in another shape, by what was said of loading."""
    mismatched = (one if isinstance(one, str) else one[0] for one in loading.get("mismatched_keys", ()))
    return sorted({*map(str, loading.get("missing_keys", ())), *mismatched})


def _refuse_cut_off_layers(workload: Workload, model: PreTrainedModel, unexpected: Iterable[str]) -> None:
    """Refuse a configuration with fewer layers than the checkpoint: a part of the model would be trained as the whole.

    Other weights that the model has no use for are harmless (buffers, masks, heads for several tokens), and
    transformers names those that it knows. Whoever sets the number of layers in `model_args` means it.
    """
    config = model.config.get_text_config()
    names = {"num_hidden_layers", getattr(config, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")}
    if names & set(workload.model_args):
        return
    modules = dict(model.named_modules())
    cut_off: dict[str, None] = {}
    for key in map(str, unexpected):
        parts = key.split(".")
        for number in (number for number, part in enumerate(parts) if part.isdigit()):
            path = ".".join(parts[:number])
            layers = modules.get(path) or modules.get(f"{model.base_model_prefix}.{path}")
            # These layers predict further tokens; they follow the model's own, and transformers leaves them out.
            extra = getattr(config, "num_nextn_predict_layers", None) or 0
            if isinstance(layers, nn.ModuleList) and int(parts[number]) >= len(layers) + extra:
                cut_off[f"{path}.{parts[number]}"] = None
    if cut_off:
        paths = sorted(cut_off, key=lambda path: (len(path), path))
        shown = f"{', '.join(paths[:5])}{', ...' if len(paths) > 5 else ''}"
        message = (
            f"Workload.model is {workload.model!r}: its checkpoint holds {len(cut_off)} layers that its configuration "
            f"leaves out ({shown}), so only a part of the model would be trained: correct the number of layers in its "
            "config.json; if you want fewer, say so in model_args (num_hidden_layers=...)"
        )
        raise ConfigurationError(message)


def _cannot_load(what: str, field: str, name: str, error: Exception, options: list[str] | None = None) -> str:
    # transformers lists each of its classes after these words.
    reason = str(error).partition("Model type should be one of")[0].partition(", or contain one of")[0].strip()
    reason = f"{type(error).__name__}: {reason}" if isinstance(error, TypeError | KeyError | AttributeError) else reason
    if "ignore_mismatched_sizes" in reason:
        reason = "its weights have other shapes than its configuration says"
    reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} ..."
    if isinstance(error, ImportError):
        hint = "Install the package that it names."
    elif options:
        hint = f"Look at model_args ({', '.join(options)}), which change how it is made."
    elif Path(name).is_dir():
        hint = "The folder exists, but is not complete: give one that save_pretrained has written."
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        return f"Workload.{field} is {name!r}, but there is no such folder: give one that exists, or the id of a model."
    elif os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        hint = "HF_HUB_OFFLINE is set, so only models in the local cache are found: unset it, or give a folder."
    else:
        hint = "Give a folder that exists, or the id of a model on the hub that this machine can reach."
    return f"Workload.{field} is {name!r}, but its {what} cannot be loaded: {reason or type(error).__name__}\n{hint}"
