"""Trained weights in a folder, and back: what is loaded is what was measured, whatever the method did to the base.

An adapter's own file holds what peft counts to the adapter. PiSSA, OLoRA, KaSA and others change weights of the base,
too, so those that are no longer what they were before are kept in a file of their own.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.tasks import find_task
from pytest_ftguard.training.adapters import Adapter, find_adapter
from pytest_ftguard.training.changed import checksum
from pytest_ftguard.training.parameters import count_parameters
from pytest_ftguard.units import format_bytes

__all__ = ["Digests", "Kept", "base_changes", "digests_of", "keep", "load_trained", "no_room", "save_trained"]

_CHANGES: Final = "base_changes.safetensors"
_ADAPTER: Final = "adapter_model.safetensors"

Digests = WeakTensorKeyDictionary
"""The checksum of each tensor of a model, which stays the same object when the model is wrapped."""


def digests_of(model: nn.Module) -> Digests:
    """Return the digests of a model's parameters and buffers."""
    digests = WeakTensorKeyDictionary()
    for _, tensor in _tensors(model):
        digests[tensor] = checksum(tensor)
    return digests


def base_changes(
    model: nn.Module, before: Digests, after: Mapping[str, int], saved: Collection[int]
) -> dict[str, Tensor]:
    """Return the tensors of a trained model that are neither saved otherwise nor what they were in the base.

    Args:
        model: The model as it was trained.
        before: The digests of the base model.
        after: The `checksums_of` the trained model.
        saved: Addresses of the tensors that the adapter saves itself.
    """
    return {
        name: tensor.detach()
        for name, tensor in _tensors(model)
        if tensor.data_ptr() not in saved and (tensor not in before or before[tensor] != after[name])
    }


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


class Kept(NamedTuple):
    """What became of trained weights: their folder, or why there is none."""

    folder: str | None
    problem: str | None


def no_room(
    adapter: Adapter, model: nn.Module, changes: Mapping[str, Tensor], folder: Path, at_most_bytes: int | None
) -> str | None:
    """Return why the weights of a trained model cannot be kept; None if they can.

    Args:
        adapter: How the model was adapted.
        model: The model.
        changes: What has changed in its base.
        folder: The folder that would hold them, made now if it is not there.
        at_most_bytes: Their largest size; None is no bound.
    """
    of_base = sum(tensor.nbytes for tensor in changes.values())
    size = (4 * count_parameters(model).trainable if adapter.saves else 0) + of_base
    also = ", with the weights of the base that the method has changed" if of_base and adapter.saves else ""
    try:
        folder.mkdir(parents=True, exist_ok=True)  # a cleaner of temporary files may have been there
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"their folder cannot be written ({error.strerror or error})"
    # A model that fills the disk would take the results of the other trials with it.
    if size > free / 2:
        return f"they take {format_bytes(size)} of the {format_bytes(free)} that the disk has left{also}"
    if at_most_bytes is not None and size > at_most_bytes:
        return (
            f"they take {format_bytes(size)}{also}, more than keep_models allows: set ftguard_keep_models = yes in "
            "the ini file, or pass --ftguard-keep-models=yes, and run again"
        )
    return None


def keep(adapter: Adapter, model: nn.Module, tokenizer: Any, changes: Mapping[str, Tensor], folder: Path) -> Kept:
    """Write a trained model to a folder; one that cannot be saved has still been measured, which is what was asked."""
    try:
        save_trained(adapter, model, tokenizer, changes, folder)
    except Exception as error:  # any code may be in a model
        traceback.print_exc()
        return Kept(None, f"saving them failed with {type(error).__name__}: {error}")
    return Kept(str(folder), None)


def save_trained(
    adapter: Adapter, model: nn.Module, tokenizer: Any, changes: Mapping[str, Tensor], folder: Path
) -> None:
    """Write a trained model to a folder, with what has changed in its base."""
    folder.mkdir(parents=True, exist_ok=True)
    adapter.save(model, folder)
    tokenizer.save_pretrained(folder)
    if changes:
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in changes.items()}
        save_file(tensors, folder / _file_of_changes(adapter))


def _file_of_changes(adapter: Adapter) -> str:
    """Return where changes are kept: if the adapter saves nothing itself, they are its weights."""
    return _CHANGES if adapter.saves else _ADAPTER


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
    tokenizer = find_task(spec.workload.task).load_tokenizer(spec.workload)
    adapter = find_adapter(spec.variant)
    model = adapter.load(spec.workload, spec.variant, folder)
    if adapter.changes_base:
        _put_back(model, Path(folder) / _file_of_changes(adapter))
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
