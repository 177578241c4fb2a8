"""Peak memory of training steps: the allocator's on accelerators, the peak of live tensors on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_ftguard.results import Memory

__all__ = ["COUNTED_STEPS", "AllocatorMeter", "LiveTensorMeter", "StepMeter", "meter_for"]

# AdamW's state appears at the end of the first step, so the first step alone misses the peak.
COUNTED_STEPS: Final = 3
# The granularity of CUDA's caching allocator, so that both methods count small tensors alike.
_GRANULE_BYTES: Final = 512


class StepMeter(Protocol):
    """Something that measures the peak memory of optimizer steps."""

    def begin_step(self, step: int) -> None:
        """Start measuring; `step` is the number of steps done before."""

    def end_step(self, step: int) -> None:
        """Stop measuring; what happens until the next step, such as an evaluation, does not count."""

    def result(self) -> Memory | None:
        """Return the peak of the steps so far; None where it was not measured."""


class LiveTensorMeter:
    """Counts live tensor storage while the first steps run.

    Every storage that an operation returns is followed through a weak reference until it dies, so the count is
    that of the tensors themselves: no interpreter, no libraries, no unused part of the allocator's arenas.
    Slower than a bare step, which is why it stops after `COUNTED_STEPS`.

    Args:
        model: Its parameters and buffers are alive from the start.
    """

    def __init__(self, model: nn.Module) -> None:
        self._counter = _LiveTensorCounter()
        self._counter.follow([*model.parameters(), *model.buffers()])
        self._steps = 0

    def begin_step(self, step: int) -> None:
        """Start counting if this is one of the first steps."""
        if step < COUNTED_STEPS:
            self._counter.__enter__()  # type: ignore[no-untyped-call]

    def end_step(self, step: int) -> None:
        """Stop counting."""
        if step < COUNTED_STEPS:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._steps += 1

    def result(self) -> Memory | None:
        """Return the peak; None after fewer than `COUNTED_STEPS`, whose peak would mislead."""
        return self.so_far("live tensors") if self._steps >= COUNTED_STEPS else None

    def follow(self, values: Iterable[Any]) -> None:
        """Count tensors that were made before, such as an optimizer's state; what is no tensor is passed over."""
        self._counter.follow(_tensors(values))

    def so_far(self, method: str) -> Memory:
        """Return the peak of the steps so far, under the name of a method."""
        return Memory(self._counter.peak_bytes, method)


class _LiveTensorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd, in the forward and the backward pass and in the optimizer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._live_bytes = 0
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # The arguments too: a batch, for one, was made outside of any operation that is seen here.
        self.follow(_tensors((args, *kwargs.values(), result) if kwargs else (args, result)))
        return result

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Count the tensors' storages until they die; one that is counted already is left alone."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata  # the address of the storage, unique while it lives
            if key not in self._references:
                size = -(-storage.nbytes() // _GRANULE_BYTES) * _GRANULE_BYTES
                self._references[key] = weakref.ref(storage, self._forgetter(key, size))
                self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)

    def _forgetter(self, key: int, size: int) -> Callable[[object], None]:
        def forget(_: object) -> None:
            del self._references[key]
            self._live_bytes -= size

        return forget


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    # An operation's arguments nest in lists and tuples only; torch's walk of any tree takes several times as long.
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


class AllocatorMeter:
    """Reads the peak of the device's caching allocator, step by step.

    Args:
        module: torch's module for the device, for example `torch.cuda`.
        device: The device that the model is on.
    """

    def __init__(self, module: Any, device: torch.device) -> None:
        self._module = module
        self._device = device
        self._peak_bytes = 0
        self._reserved_bytes = 0
        self._steps = 0

    def begin_step(self, step: int) -> None:
        """Forget what happened between the steps."""
        if step == 0:
            self._module.empty_cache()  # what the evaluation left in the cache is not reserved by the training
        self._module.reset_peak_memory_stats(self._device)

    def end_step(self, step: int) -> None:
        """Take the step's peak into account."""
        self._peak_bytes = max(self._peak_bytes, self._module.max_memory_allocated(self._device))
        self._reserved_bytes = max(self._reserved_bytes, self._module.max_memory_reserved(self._device))
        self._steps += 1

    def result(self) -> Memory | None:
        """Return the peak; None after fewer than `COUNTED_STEPS`, or where the allocator reported nothing."""
        if self._peak_bytes <= 0 or self._steps < COUNTED_STEPS:
            return None
        return Memory(self._peak_bytes, "allocator", reserved_bytes=self._reserved_bytes)


class _NoMeter:
    """For devices whose allocator reports no peak."""

    def begin_step(self, step: int) -> None:
        """Do nothing."""

    def end_step(self, step: int) -> None:
        """Do nothing."""

    def result(self) -> Memory | None:
        """Return None: it was not measured."""
        return None


def meter_for(model: nn.Module, device: torch.device) -> StepMeter:
    """Return the meter for a model on a device."""
    if device.type == "cpu":
        return LiveTensorMeter(model)
    module = torch.get_device_module(device)
    return AllocatorMeter(module, device) if hasattr(module, "max_memory_allocated") else _NoMeter()
