"""Any method of the installed peft."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn
from transformers import PreTrainedModel

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Peft
from pytest_ftguard.specs.refused import REFUSED_PEFT_OPTIONS
from pytest_ftguard.training.adapters.checks import (
    Named,
    check_names,
    check_options,
    check_targets,
    defaults_of,
    one_line,
)
from pytest_ftguard.training.adapters.lora import WrappedByPeft, without_initialisation

__all__ = ["PeftAdapter"]

_TOKENS = 8


class PeftAdapter(WrappedByPeft):
    """The adapter of `Peft`."""

    def check(self, model: nn.Module, variant: Peft) -> None:
        """Check that peft knows the method and its options, and that the model has what they name."""
        kind = _config_class(variant)
        named = Named("Peft", variant.peft_options)
        check_options(named, kind)
        usual = defaults_of(kind)
        for option in sorted(set(variant.options) & set(REFUSED_PEFT_OPTIONS)):
            if variant.options[option] not in (None, usual[option]):
                message = f"Peft.options may not set {option!r}: it {REFUSED_PEFT_OPTIONS[option]}"
                raise ConfigurationError(message)
        tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(variant.method.upper()))
        if hasattr(tuner, "update_and_allocate") and variant.options.get("use_asa", usual.get("use_asa", True)):
            message = (
                f"Peft cannot train {variant.method!r}: peft must be called after each step (update_and_allocate), "
                "which no Trainer does, so only a part of the method would be applied; choose another method"
            )
            raise ConfigurationError(message)
        targets = variant.options.get("target_modules")
        if isinstance(targets, list):  # of a text peft itself says that nothing matches
            check_targets(model, "Peft.options['target_modules']", targets)
        check_names(model, named)

    def configure(self, variant: Peft, *, loading: bool = False) -> PeftConfig:
        """Return the configuration."""
        kind = _config_class(variant)
        options = variant.peft_options
        if loading and issubclass(kind, LoraConfig):
            options = without_initialisation(options)
        return kind(task_type="CAUSAL_LM", **options)

    def apply(self, model: PreTrainedModel, variant: Any) -> nn.Module:
        """Return the model wrapped with new adapters."""
        wrapped = super().apply(model, variant)
        tokens = getattr(wrapped, "prompt_tokens", None)
        if model.device.type == "meta" and isinstance(tokens, dict):
            # They are indices that are neither parameters nor buffers: a forecast needs their values.
            tokens.update({name: torch.arange(len(one), device="cpu") for name, one in tokens.items()})
        elif model.device.type != "meta":
            _check_own_loss(wrapped, variant, has_head=hasattr(model, "trained_whole"))
        return wrapped

    def positions(self, variant: Peft) -> int:
        """Return the number of virtual tokens that stand before each sequence."""
        try:
            config: Any = self.configure(variant)
        except Exception:  # each method checks its options in its own way; applying it tells what is wrong
            return 0
        return int(config.num_virtual_tokens or 0) if config.is_prompt_learning else 0


def _check_own_loss(model: nn.Module, variant: Peft, *, has_head: bool) -> None:
    """Check that the loss that a method trains on, which may be one of its own, is a number."""
    ids = torch.arange(_TOKENS, device=next(model.parameters()).device)[None]
    labels = torch.zeros_like(ids[:, 0]) if has_head else ids
    with torch.no_grad():
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    if loss is None or not bool(torch.isfinite(loss).all()):
        message = (
            f"Peft cannot train {variant.method!r} here: before any step the loss that peft computes for it is "
            f"{'missing' if loss is None else float(loss)}, with the options {dict(variant.options)!r}"
        )
        raise ConfigurationError(message)


def _config_class(variant: Peft) -> type[PeftConfig]:
    known = {str(kind.value).lower(): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if variant.method not in known:
        message = (
            f"the installed peft has no method {variant.method!r}; it has {one_line(known)}. A folder or file is "
            'written with a path separator, as in Peft("./adapter")'
        )
        raise ConfigurationError(message)
    return known[variant.method]
