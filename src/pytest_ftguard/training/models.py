"""The base model and its tokenizer, and what a variant makes of them: all that differs between variants is here."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import Parameters
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload

__all__ = [
    "NeedsWeightsError",
    "apply_variant",
    "build_without_weights",
    "check_causality",
    "check_variant",
    "count_parameters",
    "load_base",
    "load_tokenizer",
    "load_trained",
]

# Those of from_pretrained's options that say where the files are, which the configuration and the tokenizer share.
_PLACE_OPTIONS: Final = ("gguf_file", "subfolder", "trust_remote_code", "local_files_only", "cache_dir")


class NeedsWeightsError(Exception):
    """A model cannot be built without its weights."""


def load_tokenizer(workload: Workload) -> Any:
    """Return the workload's tokenizer.

    Raises:
        ConfigurationError: There is none that can be loaded.
    """
    own = workload.tokenizer is not None
    name = workload.tokenizer or workload.model
    options = {} if own else _place_options(workload)
    try:
        return AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        field = "tokenizer" if own else "model"
        raise ConfigurationError(_cannot_load("tokenizer", field, name, error)) from error


def load_base(workload: Workload) -> PreTrainedModel:
    """Return the base model on the CPU, with fp32 weights and without dropout.

    Dropout is switched off because the adapters' would not be: both variants are compared without it. An option
    in `model_args` that names a configuration value (for example `attn_pdrop`) is set instead.

    Raises:
        ConfigurationError: The model cannot be loaded, or its context is shorter than a block.
    """
    place = _place_options(workload)
    try:
        config = _load_config(workload)
        rest = {
            name: value
            for name, value in workload.model_args.items()
            if name not in place and not hasattr(config, name)
        }
        options = {"config": config, "dtype": torch.float32, "output_loading_info": True, **place, **rest}
        model, loading = cast(Any, AutoModelForCausalLM).from_pretrained(workload.model, **options)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ConfigurationError(_cannot_load("model", "model", workload.model, error)) from error
    _refuse_random_weights(workload.model, loading)
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


def build_without_weights(workload: Workload) -> PreTrainedModel:
    """Return the base model as `load_base` would, on the meta device: its shapes, and nothing in them.

    Raises:
        ConfigurationError: There is no such model, or its context is shorter than a block.
        NeedsWeightsError: The model's code looks at values while it is made, so it cannot be made without any.
    """
    try:
        config = _load_config(workload)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ConfigurationError(_cannot_load("model", "model", workload.model, error)) from error
    place = _place_options(workload)
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
            model = cast(Any, AutoModelForCausalLM).from_config(config, dtype=torch.float32, **code)
    except Exception as error:  # any code may be in a model; loading it with its weights will tell what is really wrong
        message = f"{workload.model!r} cannot be built without its weights: {type(error).__name__}: {error}"
        raise NeedsWeightsError(message) from error
    _check_context(model.config, workload)
    model.config.use_cache = False
    return cast(PreTrainedModel, model)


def _load_config(workload: Workload) -> PretrainedConfig:
    """Return the model's configuration without dropout, and with what `model_args` names of it."""
    config = AutoConfig.from_pretrained(workload.model, **_place_options(workload))
    chosen = {name: value for name, value in workload.model_args.items() if hasattr(config, name)}
    _remove_dropout(config)
    config.update(chosen)
    return cast(PretrainedConfig, config)


def _check_context(config: PretrainedConfig, workload: Workload) -> None:
    context = getattr(config, "max_position_embeddings", None)
    if isinstance(context, int) and workload.block_size > context:
        message = (
            f"Workload.block_size is {workload.block_size}, but the context of {workload.model!r} "
            f"has {context} positions: set block_size to {context} or less"
        )
        raise ConfigurationError(message)


def _place_options(workload: Workload) -> dict[str, Any]:
    place = {name: workload.model_args[name] for name in _PLACE_OPTIONS if name in workload.model_args}
    return {**place, "revision": workload.revision} if workload.revision is not None else place


def _remove_dropout(config: PretrainedConfig) -> None:
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):  # as the text part of a model with several modalities has
            _remove_dropout(value)
        elif "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _refuse_random_weights(name: str, loading: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that does not hold the whole model.

    What it lacks is drawn at random, the same in every process: both variants would be trained on noise alike, and no
    other check would notice.
    """
    incomplete = sorted({*map(str, loading.get("missing_keys", ())), *map(str, loading.get("mismatched_keys", ()))})
    if incomplete:
        shown = ", ".join(incomplete[:5]) + (", ..." if len(incomplete) > 5 else "")
        message = (
            f"Workload.model is {name!r}, whose checkpoint lacks {len(incomplete)} of the weights of a causal language "
            f"model, or has them in another shape ({shown}), so they would be random: give a pretrained causal "
            "language model"
        )
        raise ConfigurationError(message)


def check_causality(model: PreTrainedModel) -> None:
    """Check that a model predicts each token from those before it.

    BERT and its like load as causal language models too, but see the token that they should predict, so both variants
    would reach a loss near 0.

    Raises:
        ConfigurationError: Another last token changes what the model says before it.
    """
    ids = torch.arange(8, device=model.device).repeat(2, 1) % model.config.get_text_config().vocab_size
    ids[1, -1] = 0
    was_training = model.training
    cast(nn.Module, model).eval()
    with torch.no_grad():
        # With a mask, for some of these tokens may be those that fill up, and transformers would warn of them.
        answer = cast(Any, model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        one, other = answer.logits[:, :-1]
    model.train(was_training)
    # A causal model says the same to the last bit, or to rounding; what is left beside the logits' own spread is sight.
    if not (one - other).abs().max() <= 1e-4 * one.std():
        message = (
            f"{type(model).__name__} is not causal: what it predicts depends on the tokens that come after; give a "
            "model that was pretrained to predict the next token"
        )
        raise ConfigurationError(message)


def _cannot_load(what: str, field: str, name: str, error: Exception) -> str:
    reason = str(error).strip() or type(error).__name__
    if Path(name).is_dir():
        hint = "The folder exists, but is not complete: give one that save_pretrained has written."
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        return f"Workload.{field} is {name!r}, but there is no such folder: give one that exists, or the id of a model."
    elif os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        hint = "HF_HUB_OFFLINE is set, so only models in the local cache are found: unset it, or give a folder."
    else:
        hint = "Give a folder that exists, or the id of a model on the hub that this machine can reach."
    return f"Workload.{field} is {name!r}, but its {what} cannot be loaded: {reason}\n{hint}"


def check_variant(model: nn.Module, variant: Variant) -> None:
    """Check that a variant fits the model before anything is trained.

    Raises:
        ConfigurationError: A target module is not found, a target matches nothing, or an option is unknown to peft.
    """
    if isinstance(variant, LoRA):
        _check_options(variant)
        _check_targets(model, variant)


def _check_options(variant: LoRA) -> None:
    known = {item.name for item in fields(LoraConfig)}
    unknown = sorted(set(variant.options) - known)
    if unknown:
        message = (
            f"LoRA.options has {', '.join(map(repr, unknown))}, which peft.LoraConfig does not know; "
            f"it knows {', '.join(sorted(known))}"
        )
        raise ConfigurationError(message)


def _check_targets(model: nn.Module, variant: LoRA) -> None:
    targets = variant.target_modules
    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    if isinstance(targets, str):
        try:
            missing = [] if any(re.fullmatch(targets, name) for name in names) else [targets]
        except re.error as error:
            message = f"LoRA.target_modules is {targets!r}, which is not a regular expression: {error}"
            raise ConfigurationError(message) from error
    else:
        missing = [target for target in targets if not any(_ends_with(name, target) for name in names)]
    if missing:
        message = (
            f"LoRA.target_modules names {', '.join(map(repr, missing))}, which {type(model).__name__} does not have; "
            f'its linear layers end in {", ".join(sorted(_linear_suffixes(model)))} (or set "all-linear")'
        )
        raise ConfigurationError(message)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _linear_suffixes(model: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def apply_variant(model: PreTrainedModel, variant: Variant) -> nn.Module:
    """Return the model as the variant trains it: itself with every weight trainable, or wrapped with adapters.

    Raises:
        ConfigurationError: The variant does not fit the model; see `check_variant`.
    """
    check_variant(model, variant)
    match variant:
        case Full():
            return model.requires_grad_(True)
        case LoRA():
            return _wrap(model, variant)


def _lora_config(variant: LoRA) -> LoraConfig:
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
        }
    )


def _wrap(model: PreTrainedModel, variant: LoRA) -> nn.Module:
    try:
        with _without_pefts_warnings():
            return cast(nn.Module, get_peft_model(model, _lora_config(variant)))
    except (ValueError, TypeError) as error:
        message = f"peft cannot apply {variant!r} to {type(model).__name__}: {error}"
        raise ConfigurationError(message) from error


@contextmanager
def _without_pefts_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # peft sets fan_in_fan_out for Conv1D layers (GPT-2) by itself, layer by layer, and warns that it did.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        # peft 0.21 asks transformers 5.23 for an attribute by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def count_parameters(model: nn.Module) -> Parameters:
    """Return the counts of all and of trainable parameters; shared parameters count once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in _parameters(model)]
    return Parameters(sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable))


def _parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    return model.parameters()  # torch's own iterator leaves repeated parameters out


def load_trained(spec: TrialSpec, folder: str) -> tuple[nn.Module, Any]:
    """Return a trained model that `run_trial` kept, on the CPU in evaluation mode, with its tokenizer.

    The folder gives the weights alone. What they are put into comes from the spec, so that nothing in the folder, which
    others may have written, says which code runs.

    Args:
        spec: What was trained.
        folder: Where its weights are, as safetensors.
    """
    tokenizer = load_tokenizer(spec.workload)
    match spec.variant:
        case Full():
            made = _made_like_base(spec.workload)
            made.config.save_pretrained(folder)  # over what may be there: from_pretrained looks for one
            weights = {"config": made.config, "dtype": torch.float32, "use_safetensors": True}
            model: nn.Module = cast(Any, type(made)).from_pretrained(folder, **weights)
            # Not every model has one, and where a folder has no configuration either, transformers trips over that.
            with suppress(OSError, ValueError, TypeError):
                place = _place_options(spec.workload)
                cast(Any, model).generation_config = GenerationConfig.from_pretrained(spec.workload.model, **place)
        case LoRA():
            with _without_pefts_warnings():
                config = _lora_config(spec.variant)
                model = PeftModel.from_pretrained(load_base(spec.workload), folder, config=config)
    return model.eval(), tokenizer


def _made_like_base(workload: Workload) -> PreTrainedModel:
    try:
        return build_without_weights(workload)
    except NeedsWeightsError:
        return load_base(workload)
