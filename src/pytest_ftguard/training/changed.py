"""What a training has changed: every adapter must have moved, and the frozen base must be what it was.

A training that leaves an adapter out, or trains a part of the base along, still has losses, and they look plausible.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from pytest_ftguard.results import Updates

__all__ = ["Watch", "checksum", "checksums_of"]

_WORDS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Numbers that are summed up at once: few on the CPU, because they are copied as int64, and more for an accelerator.
_AT_ONCE: Final = {"cpu": 1 << 18}
_MOST_AT_ONCE: Final = 1 << 24
_FACTOR: Final = 1_000_003
_BITS: Final = 1 << 64
# LoRA starts with B = 0, so A alone changes nothing, and weight decay moves it without any gradient. Of
# embeddings it is A that starts with 0.
_WITHOUT_EFFECT: Final = ("lora_A", "lora_embedding_B")


def checksum(tensor: Tensor) -> int:
    """Return a sum over the bits of a tensor, each number with a weight of its place, on the tensor's own device.

    A change of one number always changes it. It is half as dear as SHA-256, and nothing is copied from the device.
    """
    flat = tensor.detach().contiguous().reshape(-1)
    if not len(flat):
        return 0
    words = flat.view(_WORDS.get(flat.element_size(), torch.uint8))
    size = _AT_ONCE.get(flat.device.type, _MOST_AT_ONCE)
    weights = torch.arange(1, 2 * min(size, len(words)), 2, dtype=torch.int64, device=flat.device)
    total = len(words)
    for part in torch.split(words, size):
        total = (total * _FACTOR + int((part * weights[: len(part)]).sum())) % _BITS
    return total


def checksums_of(model: nn.Module) -> dict[str, int]:
    """Return the checksum of each parameter and buffer of a model, by its name."""
    return {name: checksum(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}


class _Unit(NamedTuple):
    """What must move as one: an adapter, or a weight that is trained itself.

    Attributes:
        owner: The module that it belongs to.
        parameters: Names of the parameters, one of which must change.
        is_adapter: Whether it is an adapter.
    """

    owner: nn.Module
    parameters: tuple[str, ...]
    is_adapter: bool


class Watch:
    """Remembers a model before its training, and tells afterwards what has changed.

    Buffers are left out: a forward pass may change them (batch norm).

    Args:
        model: What is trained, before its first step: what requires a gradient now is what must move, and the head that
            a task has put on it (`trained_whole`) always.
        hooks: Whether to follow which adapters take part in the training. Without it all are taken to do so.
    """

    def __init__(self, model: nn.Module, *, hooks: bool = True) -> None:
        self._model = model
        self.before = checksums_of(model)
        head = set(_head(model))
        trained = [name for name, one in model.named_parameters() if one.requires_grad or name in head]
        self._frozen = [name for name, one in model.named_parameters() if not one.requires_grad]
        self._is_full = not self._frozen
        self._units = dict(_units(model, trained, whole=self._is_full))
        # What was frozen before is no weight of the base if it is an adapter's.
        ours = {name for unit in self._units.values() for name in unit.parameters}
        self._frozen = [name for name in self._frozen if name not in ours]
        self._used: set[str] = set() if hooks or self._is_full else set(self._units)
        self._hooks: dict[str, Any] = {}
        for name, unit in self._units.items():
            if self._is_full:
                self._follow_gradient(name, model.get_parameter(unit.parameters[0]))
            elif hooks:
                self._follow_pass(name, unit.owner)

    def _follow_pass(self, name: str, module: nn.Module) -> None:
        def note(module: nn.Module, _: Any) -> None:
            # Some train in evaluation mode, to go without dropout; our own evaluations compute no gradients.
            if module.training or torch.is_grad_enabled():
                self._note(name)

        self._hooks[name] = module.register_forward_pre_hook(note)

    def _follow_gradient(self, name: str, parameter: nn.Parameter) -> None:
        follow = cast(Any, parameter).register_post_accumulate_grad_hook
        self._hooks[name] = follow(lambda _: self._note(name))

    def _note(self, name: str) -> None:
        """Note that a unit takes part; its hook goes, so that it costs nothing from the second step on."""
        self._used.add(name)
        if name in self._hooks:
            self._hooks.pop(name).remove()

    def close(self) -> None:
        """Take the remaining hooks away."""
        while self._hooks:
            self._hooks.popitem()[1].remove()

    def result(self, after: Mapping[str, int]) -> Updates:
        """Return what has changed.

        Args:
            after: The `checksums_of` the model now.
        """
        self.close()
        now = dict(self._model.named_parameters())
        still = [name for name, unit in self._units.items() if not _has_moved(unit, self.before, after)]
        # What the model never used cannot move: experts without a token, a head without a loss.
        used = [name for name in still if name in self._used or not _is_trainable(self._units[name], now)]
        guilty = still if len(still) == len(self._units) else used
        adapters = sum(unit.is_adapter for unit in self._units.values())
        return Updates(
            adapters=adapters,
            weights=len(self._units) - adapters,
            unmoved=tuple(guilty),
            unused=tuple(name for name in still if name not in guilty),
            base_changed=tuple(_short(name) for name in self._frozen if self.before[name] != after.get(name)),
        )


def _units(model: nn.Module, trained: Collection[str], *, whole: bool) -> Iterator[tuple[str, _Unit]]:
    """Yield what must move, by its name."""
    left = dict.fromkeys(trained)
    names = {id(one): name for name, one in model.named_parameters()}  # tied layers may share an adapter
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, BaseTunerLayer):
            own = _own(cast(Any, module), names)
            for one in own:
                left.pop(one, None)
            if own:
                yield _short(name), _Unit(cast(nn.Module, module), _effective(own, trained), is_adapter=True)
    owners: dict[str, list[str]] = {}
    for name in left:
        owners.setdefault(name if whole else name.rpartition(".")[0], []).append(name)
    for name, parameters in owners.items():
        owner = model.get_submodule(parameters[0].rpartition(".")[0])
        yield _short(name), _Unit(owner, tuple(parameters), is_adapter=False)


def _head(model: nn.Module) -> Iterator[str]:
    """Yield the parameters of the head that every variant trains whole, without the copy that peft keeps of it."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    names = {id(one): name for name, one in model.named_parameters()}
    parts = tuple(f".{part}" for part in getattr(base, "trained_whole", ()))
    for path, module in base.named_modules():
        if f".{path}".endswith(parts):  # by their last names, as peft finds them
            for name, one in module.named_parameters():
                if "original_module" not in name.split("."):
                    yield names[id(one)]


def _own(layer: Any, names: Mapping[int, str]) -> tuple[str, ...]:
    """Return the parameters of the active adapter in a layer."""
    return tuple(
        names[id(parameter)]
        for name, parameter in layer.named_parameters()
        if not name.startswith("base_layer.") and set(layer.active_adapters) & set(name.split("."))
    )


def _effective(own: tuple[str, ...], trained: Collection[str]) -> tuple[str, ...]:
    """Return those parameters of an adapter of which one must change: trained ones, and never those without effect."""
    effective = tuple(one for one in own if not set(_WITHOUT_EFFECT) & set(one.split(".")))
    # If B is frozen, weight decay moves A, and the adapter still changes nothing; of embeddings the other way round.
    return tuple(one for one in effective if one in trained) or effective or own


def _has_moved(unit: _Unit, before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    return any(before.get(name) != after.get(name) for name in unit.parameters)


def _is_trainable(unit: _Unit, now: Mapping[str, nn.Parameter]) -> bool:
    return all(name in now and now[name].requires_grad for name in unit.parameters)


def _short(name: str) -> str:
    """Return the name of a module or parameter in the model without adapters."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "") or "the model"
