"""What a Trainer run of the user's own trained, in the words of a workload and a variant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, cast

from peft import LoraConfig, PeftModel
from torch import nn
from transformers import TrainingArguments
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Full, LoRA, Peft, Variant
from pytest_ftguard.training.parameters import count_parameters
from pytest_ftguard.training.scoring import load_score

__all__ = [
    "Scored",
    "check_kind",
    "check_score",
    "dropout_of",
    "model_name",
    "precision_of",
    "settings_of",
    "variant_of",
]

# Of a LoraConfig, what a LoRA variant has a field for, or what changes nothing that is learnt.
_OTHER_OPTIONS: Final = frozenset(
    {"r", "lora_alpha", "target_modules", "lora_dropout", "bias", "base_model_name_or_path", "task_type", "peft_type"}
    | {"inference_mode", "revision", "auto_mapping", "fan_in_fan_out", "peft_version", "runtime_config"}
)
_CLASSIFIERS: Final = frozenset(
    (*MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values(), *MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES.values())
)
# The arguments of a Trainer that decide what is learnt, except those that a workload and a variant name themselves.
_DECISIVE: Final = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "label_smoothing_factor",
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "max_grad_norm",
    "neftune_noise_alpha",
    "optim",
    "optim_args",
    "torch_compile",
    "warmup_steps",
    "weight_decay",
)


@dataclass(frozen=True)
class Scored:
    """What a run is scored by.

    Attributes:
        score: "module:function" of the user's own; None if there is none.
        tokenizer: The Trainer's; None if it has none.
    """

    score: str | None
    tokenizer: Any


def check_score(score: str | None, tokenizer: Any) -> Scored:
    """Return what a run is scored by.

    Raises:
        ConfigurationError: There is no such function, or no tokenizer that it could be handed.
    """
    if score is None:
        return Scored(None, tokenizer)
    load_score(score)
    if tokenizer is None:
        message = (
            f"FtguardCallback was given the score {score!r}, but the Trainer has no tokenizer: pass it as "
            "processing_class"
        )
        raise ConfigurationError(message)
    return Scored(score, tokenizer)


def check_kind(model: nn.Module) -> None:
    """Check that a model predicts tokens.

    Raises:
        ConfigurationError: It predicts classes.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if type(base).__name__ in _CLASSIFIERS:
        message = (
            f"FtguardCallback measures causal language models, and {type(base).__name__} predicts classes: train it as "
            "variants of pytest-ftguard, with ftguard_task = classification"
        )
        raise ConfigurationError(message)


def variant_of(model: nn.Module, args: TrainingArguments) -> Variant:
    """Return the variant that a Trainer trains.

    Raises:
        ConfigurationError: It is neither full fine-tuning nor a method of peft.
    """
    if not isinstance(model, PeftModel):
        counts = count_parameters(model)
        if counts.trainable != counts.total:
            message = (
                f"FtguardCallback measures full fine-tuning and methods of peft, but this model trains "
                f"{counts.trainable:,} of its {counts.total:,} parameters in another way"
            )
            raise ConfigurationError(message)
        return Full(learning_rate=args.learning_rate, search_learning_rate="no")
    config = model.peft_config[model.active_adapter]
    if not isinstance(config, LoraConfig):
        return Peft(config, learning_rate=args.learning_rate, search_learning_rate="no")
    targets = config.target_modules
    return LoRA(
        r=config.r,
        alpha=config.lora_alpha,
        target_modules=targets if isinstance(targets, str) else sorted(targets or ()),
        dropout=config.lora_dropout,
        bias=config.bias,
        learning_rate=args.learning_rate,
        search_learning_rate="no",
        options=_lora_options(config),
    )


def _lora_options(config: LoraConfig) -> dict[str, Any]:
    """Return what else was set, so that two ways of adapting are not taken for one."""
    ours, default = (one.to_dict() for one in (cast(Any, config), cast(Any, LoraConfig())))
    options = {name: value for name, value in ours.items() if value != default.get(name)}
    return {name: _plain(value) for name, value in options.items() if name not in _OTHER_OPTIONS}


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it: sets in order, and what it has no word for as text."""
    value = sorted(value) if isinstance(value, set | frozenset) else value
    return json.loads(json.dumps(value, default=str))


def precision_of(args: TrainingArguments, model: nn.Module) -> str:
    """Return the arithmetic and, if some are not fp32, the weights' types.

    Both matter: at the usual rates weights of bf16 hardly change at all, and in LoRA only the frozen ones are bf16.
    """
    arithmetic = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    types = {
        word: {str(one.dtype).removeprefix("torch.") for one in model.parameters() if one.requires_grad is trained}
        for word, trained in (("trained", True), ("frozen", False))
    }
    odd = [f"{word} weights {', '.join(sorted(found))}" for word, found in types.items() if found - {"float32"}]
    return ", ".join([arithmetic, *odd])


def dropout_of(model: nn.Module) -> dict[str, Any]:
    """Return the base model's dropout, of its modules and of its configuration."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    config = {name: value for name, value in vars(cast(Any, base).config).items() if "drop" in name and value}
    found = {one.p for name, one in base.named_modules() if isinstance(one, nn.Dropout) and "lora_dropout" not in name}
    modules = sorted(found - {0.0})
    return {**_plain(config), **({"dropout_modules": modules} if modules else {})}


def model_name(model: nn.Module) -> str:
    """Return the name of the base model, or of its class."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return str(getattr(cast(Any, base).config, "_name_or_path", "")) or type(base).__name__


def settings_of(args: TrainingArguments, steps: int) -> dict[str, Any]:
    """Return the arguments that decide what is learnt, and for how many steps they were planned."""
    values = {name: getattr(args, name, None) for name in _DECISIVE}
    # What a Trainer was not told is not named. The schedule's horizon may lie beyond the last step.
    named = {name: _plain(value) for name, value in values.items() if value is not None}
    return {**named, "planned_steps": steps}
