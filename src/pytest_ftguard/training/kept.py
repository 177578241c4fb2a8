"""Trained weights in a folder, and back: what is loaded is what was measured, whatever the method did to the base.

An adapter's own file holds what peft counts to the adapter. PiSSA, OLoRA, KaSA and others change weights of the base,
too, so those that are no longer what they were before are kept in a file of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import GenerationConfig, PreTrainedModel

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Workload
from pytest_ftguard.training import models
from pytest_ftguard.training.adapters import load_adapter

__all__ = ["Digests", "base_changes", "digests_of", "load_trained", "save_trained"]

_CHANGES: Final = "base_changes.safetensors"

Digests = WeakTensorKeyDictionary
"""The SHA-256 of each tensor of a model, which stays the same object when the model is wrapped."""


def digests_of(model: nn.Module) -> Digests:
    """Return the digests of a model's parameters and buffers."""
    digests = WeakTensorKeyDictionary()
    for _, tensor in _tensors(model):
        digests[tensor] = _digest(tensor)
    return digests


def base_changes(model: nn.Module, before: Digests) -> dict[str, Tensor]:
    """Return the tensors of a wrapped model that are neither the adapter's nor what they were before it was wrapped."""
    if not isinstance(model, PeftModel):
        return {}
    saved = {tensor.data_ptr() for tensor in get_peft_model_state_dict(model).values()}
    return {
        name: tensor.detach()
        for name, tensor in _tensors(model)
        if tensor.data_ptr() not in saved and (tensor not in before or before[tensor] != _digest(tensor))
    }


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content: Any = flat.view(torch.uint8).numpy()
    return hashlib.sha256(content).hexdigest()


def save_trained(model: nn.Module, tokenizer: Any, changes: Mapping[str, Tensor], folder: Path) -> None:
    """Write a trained model to a folder, with what has changed in its base."""
    cast(Any, model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if changes:
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in changes.items()}, folder / _CHANGES)


def load_trained(spec: TrialSpec, folder: str) -> tuple[nn.Module, Any]:
    """Return a trained model that `run_trial` kept, on the CPU in evaluation mode, with its tokenizer.

    The folder gives the weights alone. What they are put into comes from the spec, so that nothing in the folder, which
    others may have written, says which code runs.

    Args:
        spec: What was trained.
        folder: Where its weights are, as safetensors.

    Raises:
        FtguardError: The folder holds weights that the model does not have.
    """
    tokenizer = models.load_tokenizer(spec.workload)
    match spec.variant:
        case Full():
            made = _made_like_base(spec.workload)
            made.config.save_pretrained(folder)  # over what may be there: from_pretrained looks for one
            weights = {"config": made.config, "dtype": torch.float32, "use_safetensors": True}
            model: nn.Module = cast(Any, type(made)).from_pretrained(folder, **weights)
            # Not every model has one, and where a folder has no configuration either, transformers trips over that.
            with suppress(OSError, ValueError, TypeError):
                place = models.place_options(spec.workload)
                cast(Any, model).generation_config = GenerationConfig.from_pretrained(spec.workload.model, **place)
        case LoRA():
            model = load_adapter(models.load_base(spec.workload), spec.variant, folder)
            _put_back(model, Path(folder) / _CHANGES)
    return model.eval(), tokenizer


def _put_back(model: nn.Module, file: Path) -> None:
    if not file.is_file():
        return
    tensors = dict(_tensors(model))
    for name, value in load_file(file).items():
        if name not in tensors or tensors[name].shape != value.shape:
            message = f"the kept weights have {name!r} of shape {tuple(value.shape)}, which the model does not have"
            raise FtguardError(message)
        with torch.no_grad():
            tensors[name].copy_(value)


def _made_like_base(workload: Workload) -> PreTrainedModel:
    try:
        return models.build_without_weights(workload)
    except models.NeedsWeightsError:
        return models.load_base(workload)
