"""LoRA, by peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, cast

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from pytest_ftguard.specs import LoRA, Workload
from pytest_ftguard.specs.methods.quantization import quantization_options
from pytest_ftguard.tasks import find_task
from pytest_ftguard.training.adapters.base import Adapter
from pytest_ftguard.training.adapters.checks import Named, check_names, check_options, check_targets
from pytest_ftguard.training.adapters.head import with_head
from pytest_ftguard.training.adapters.quantization import quantize, told_to_peft
from pytest_ftguard.training.adapters.wrapping import without_pefts_warnings, wrap

__all__ = ["LoraAdapter", "WrappedByPeft", "without_initialisation"]


class WrappedByPeft(Adapter):
    """What adapters that use peft share; each says how a variant is configured."""

    saves: ClassVar[bool] = True

    def configure(self, variant: Any, *, loading: bool = False) -> PeftConfig:
        """Return peft's configuration of a variant.

        Args:
            variant: The variant.
            loading: Whether trained weights are loaded afterwards, so that no time need be spent on the first ones.
        """
        raise NotImplementedError(f"{type(self).__name__}.configure")

    def prepare(self, model: PreTrainedModel, variant: Any) -> bool:
        """Quantize the base if the variant says so."""
        options = quantization_options(getattr(variant, "quantization", None))
        if options is None:
            return False
        quantize(model, options, f"{type(variant).__name__}.quantization")
        return True

    def apply(self, model: PreTrainedModel, variant: Any) -> nn.Module:
        """Return the model wrapped with new adapters."""
        with told_to_peft(model):
            return wrap(model, variant, lambda: with_head(self.configure(variant), model))

    def disabled(self, model: nn.Module) -> AbstractContextManager[Any] | None:
        """Return the context in which peft switches the adapter off."""
        wrapped = cast(PeftModel, model)
        if wrapped.active_peft_config.is_prompt_learning and hasattr(wrapped.get_base_model(), "trained_whole"):
            return _without_prompt(wrapped)  # peft's own context fails if a model generates nothing
        return cast(AbstractContextManager[Any], wrapped.disable_adapter())

    def saved(self, model: nn.Module) -> set[int]:
        """Return the addresses of the tensors that peft counts to the adapter."""
        # Of the part that makes a prompt peft saves the prompt alone, which is all that an evaluation needs.
        prompts = getattr(model, "prompt_encoder", None)
        made = [*prompts.parameters(), *prompts.buffers()] if isinstance(prompts, nn.Module) else []
        return {tensor.data_ptr() for tensor in (*get_peft_model_state_dict(model).values(), *made)}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the adapter."""
        cast(Any, model).save_pretrained(folder)

    def load(self, workload: Workload, variant: Any, folder: str) -> nn.Module:
        """Return the base wrapped as for training, with the adapter's weights."""
        with without_pefts_warnings():
            config = self.configure(variant, loading=True)
            base = find_task(workload.task).load_model(workload)
            self.prepare(base, variant)
            with told_to_peft(base):
                loaded = PeftModel.from_pretrained(base, folder, config=with_head(config, base))
        # Whoever saves it again must say how it began: where it is loaded, the base is changed in the same way.
        if isinstance(config, LoraConfig):
            config.init_lora_weights = cast(LoraConfig, self.configure(variant)).init_lora_weights
        return cast(nn.Module, loaded)


@contextmanager
def _without_prompt(model: PeftModel) -> Iterator[None]:
    """Let a model answer without the virtual tokens before each sequence."""
    module: Any = model
    module.forward = module.get_base_model().forward
    try:
        yield
    finally:
        del module.forward


def without_initialisation(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of LoRA for loading: its initialisation would cost time, and change the base once more."""
    init = options.get("init_lora_weights")
    field = next(item for item in fields(LoraConfig) if item.name == "init_lora_weights")
    # A few of them are methods of their own, not only a way to begin.
    methods = tuple(field.metadata.get("lora_variants", ()))
    return {**options, "init_lora_weights": False} if isinstance(init, str) and init not in methods else options


class LoraAdapter(WrappedByPeft):
    """The adapter of `LoRA`."""

    def check(self, model: nn.Module, variant: LoRA) -> None:
        """Check the options and what they name."""
        named = Named("LoRA", variant.peft_options)
        check_options(named, LoraConfig)
        check_targets(model, "LoRA.target_modules", variant.target_modules)
        check_names(model, named)

    def configure(self, variant: LoRA, *, loading: bool = False) -> LoraConfig:
        """Return the configuration."""
        targets = variant.target_modules
        options = variant.peft_options
        return LoraConfig(
            **{
                "task_type": "CAUSAL_LM",
                "r": variant.r,
                "lora_alpha": variant.alpha,
                "target_modules": targets if isinstance(targets, str) else list(targets),
                "lora_dropout": variant.dropout,
                "bias": variant.bias,
                **(without_initialisation(options) if loading else options),
            }
        )
