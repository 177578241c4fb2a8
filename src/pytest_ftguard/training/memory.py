"""Peak memory of training steps: the allocator's on accelerators, the peak of live tensors on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_ftguard.results import Breakdown, Memory

__all__ = ["COUNTED_STEPS", "AllocatorMeter", "LiveTensorMeter", "PhasePeaks", "StepMeter", "largest", "meter_for"]

# AdamW's state appears at the end of the first step, so that misses the peak; besides, its arithmetic is counted then,
# which keeps some tensors longer. So the peak is that of the steps after it.
COUNTED_STEPS: Final = 3
# The granularity of CUDA's caching allocator, so that both methods count small tensors alike.
_GRANULE_BYTES: Final = 512
_STATUS: Final = Path("/proc/self/status")
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")


def largest(one: Memory | None, other: Memory | None) -> Memory | None:
    """Return the memory of a training that two processes did in turn: the larger peak, with what belongs to it."""
    if one is None or other is None:
        return one or other
    larger = max(one, other, key=lambda memory: memory.peak_bytes or 0)
    retries = [memory.allocator_retries for memory in (one, other) if memory.allocator_retries is not None]
    reserved = [memory.reserved_bytes for memory in (one, other) if memory.reserved_bytes is not None]
    others = [memory.others_bytes for memory in (one, other) if memory.others_bytes is not None]
    return replace(
        larger,
        allocator_retries=sum(retries) if retries else None,
        reserved_bytes=max(reserved, default=None),
        others_bytes=max(others, default=None),
    )


class StepMeter(Protocol):
    """Something that measures the peak memory of optimizer steps."""

    def begin_step(self, step: int) -> None:
        """Start measuring; `step` is the number of steps done before."""

    def end_stage(self, stage: str) -> None:
        """Note that a part of the step, "forward" or "backward", has ended; the rest is the optimizer's."""

    def end_step(self, step: int) -> None:
        """Stop measuring; what happens until the next step, such as an evaluation, does not count."""

    def result(self) -> Memory | None:
        """Return the peak of the steps so far; None if it was not measured."""


class _Stages:
    """What takes the memory of a step, pieced together from what is there at the ends of its parts.

    Args:
        model: Its parameters and buffers are the weights, its parameters have the gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        self._weights = _distinct_bytes([*self._parameters, *model.buffers()])
        self._peaks: dict[str, int] = {}
        self._gradients = self._optimizer = self._activations = 0

    def end(self, stage: str, present: int, peak: int) -> None:
        """Note what is present at the end of a stage, and the peak since the end of the one before, in bytes."""
        self._peaks[stage] = max(peak, self._peaks.get(stage, 0))
        gradients = _distinct_bytes([one.grad for one in self._parameters if one.grad is not None])
        if stage == "forward":
            self._activations = max(0, present - self._weights - self._optimizer - gradients)
        elif stage == "backward":
            self._gradients = gradients
        else:
            self._optimizer = max(0, present - self._weights - gradients)

    def forget_peaks(self) -> None:
        """Start again, with what is known of the optimizer."""
        self._peaks.clear()

    def breakdown(self) -> Breakdown | None:
        """Return the breakdown; None if the parts of the step were not seen."""
        if {"forward", "backward"} - self._peaks.keys():
            return None
        stage = max(self._peaks, key=self._peaks.__getitem__)
        return Breakdown(self._weights, self._gradients, self._optimizer, self._activations, stage)


def _distinct_bytes(tensors: Iterable[Tensor]) -> int:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(map(_rounded, storages.values()))


def _rounded(size: int) -> int:
    return -(-size // _GRANULE_BYTES) * _GRANULE_BYTES


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
        self._stages = _Stages(model)
        self._counts = False
        self._steps = 0

    def begin_step(self, step: int) -> None:
        """Start counting if this is one of the first steps."""
        self._counts = step < COUNTED_STEPS
        if step == 1:
            self._counter.peak_bytes = self._counter.live_bytes
            self._stages.forget_peaks()
        if self._counts:
            self._counter.start_window()
            self._counter.__enter__()  # type: ignore[no-untyped-call]

    def end_stage(self, stage: str) -> None:
        """Note the peak of a part of the step."""
        if self._counts:
            self._stages.end(stage, self._counter.live_bytes, self._counter.start_window())

    def end_step(self, step: int) -> None:
        """Stop counting."""
        if self._counts:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.end_stage("optimizer")
            self._counts = False
            self._steps += 1

    def result(self) -> Memory | None:
        """Return the peak; None after fewer than `COUNTED_STEPS`: their peak would mislead."""
        return self.so_far("live tensors") if self._steps >= COUNTED_STEPS else None

    def follow_state(self, values: Iterable[Any]) -> None:
        """Count the tensors of an optimizer's state that is there already; what is no tensor is passed over."""
        self._counter.follow(_tensors(values))
        self._stages.end("optimizer", self._counter.live_bytes, 0)

    def so_far(self, method: str) -> Memory:
        """Return the peak of the steps so far, under the name of a method."""
        return Memory(self._counter.peak_bytes, method, breakdown=self._stages.breakdown())


class _LiveTensorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation below autograd, in the forward and the backward pass and in the optimizer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self.live_bytes = 0
        self._window_bytes = 0
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
                size = _rounded(storage.nbytes())
                self._references[key] = weakref.ref(storage, self._forgetter(key, size))
                self.live_bytes += size
        self._window_bytes = max(self._window_bytes, self.live_bytes)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def start_window(self) -> int:
        """Return the peak since the last call, and start again from what is alive now."""
        peak, self._window_bytes = self._window_bytes, self.live_bytes
        return peak

    def _forgetter(self, key: int, size: int) -> Callable[[object], None]:
        def forget(_: object) -> None:
            del self._references[key]
            self.live_bytes -= size

        return forget


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    # An operation's arguments nest in lists and tuples only; torch's walk of any tree takes several times as long.
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


class AllocatorMeter:
    """Reads the peak of the device's caching allocator, part by part of each step.

    Args:
        module: torch's module for the device, for example `torch.cuda`.
        device: The device that the model is on.
        model: What is trained.
    """

    def __init__(self, module: Any, device: torch.device, model: nn.Module) -> None:
        self._module = module
        self._device = device
        self._stages = _Stages(model)
        self._detailed = False
        self._peak_bytes = 0
        self._reserved_bytes = 0
        self._steps = 0
        self._retries: int | None = None
        self._retries_before: int | None = None

    def _read_retries(self) -> int | None:
        if not hasattr(self._module, "memory_stats"):
            return None
        return int(self._module.memory_stats(self._device).get("num_alloc_retries", 0))

    def _read_others(self) -> int | None:
        if not hasattr(self._module, "mem_get_info") or not hasattr(self._module, "memory_reserved"):
            return None
        try:
            free, total = self._module.mem_get_info(self._device)
        except RuntimeError:
            return None  # not every driver tells
        return max(0, int(total - free - self._module.memory_reserved(self._device)))

    def begin_step(self, step: int) -> None:
        """Forget what happened between the steps."""
        if step <= 1:
            # What the evaluation and the counting of the first step left in the cache is not reserved by the training.
            self._module.empty_cache()
            self._peak_bytes = self._reserved_bytes = 0
            self._stages.forget_peaks()
        self._module.reset_peak_memory_stats(self._device)
        self._detailed = step < COUNTED_STEPS  # looking at every gradient takes a while
        self._retries_before = self._read_retries()

    def end_stage(self, stage: str) -> None:
        """Take the peak of a part of the step into account, and start again."""
        if self._detailed:
            self._stages.end(stage, int(self._module.memory_allocated(self._device)), self._take_peak())
            self._module.reset_peak_memory_stats(self._device)

    def _take_peak(self) -> int:
        # The processor keeps these counts, so no kernel need have finished.
        peak = int(self._module.max_memory_allocated(self._device))
        self._peak_bytes = max(self._peak_bytes, peak)
        self._reserved_bytes = max(self._reserved_bytes, self._module.max_memory_reserved(self._device))
        return peak

    def end_step(self, step: int) -> None:
        """Take the rest of the step into account."""
        if self._detailed:
            self.end_stage("optimizer")
        else:
            self._take_peak()
        self._detailed = False
        self._steps += 1
        now = self._read_retries()
        if now is not None and self._retries_before is not None:
            self._retries = (self._retries or 0) + now - self._retries_before

    def result(self) -> Memory | None:
        """Return the peak; None after fewer than `COUNTED_STEPS`, or if the allocator reported nothing."""
        if self._peak_bytes <= 0 or self._steps < COUNTED_STEPS:
            return None
        return Memory(
            self._peak_bytes,
            "allocator",
            reserved_bytes=self._reserved_bytes,
            allocator_retries=self._retries,
            others_bytes=self._read_others(),
            breakdown=self._stages.breakdown(),
        )


class _NoMeter:
    """For devices with an allocator that reports no peak."""

    def begin_step(self, step: int) -> None:
        """Do nothing."""

    def end_stage(self, stage: str) -> None:
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
    return AllocatorMeter(module, device, model) if hasattr(module, "max_memory_allocated") else _NoMeter()


class PhasePeaks:
    """The peak of each phase of a trial: the allocator's on accelerators, the growth of the process on the CPU.

    The growth is that of the process's high-water mark since before the model was loaded. It counts what libraries take
    meanwhile, so it gates nothing. If the operating system keeps no such mark, or does not let it be reset, there are
    no peaks.

    Args:
        device: Where the trial runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module = None if device.type == "cpu" else torch.get_device_module(device)
        self._peaks: dict[str, int] = {}
        self._can_reset = True
        self._reset()
        self._before = (self._read() or 0) if self._module is None else 0

    def end(self, phase: str) -> None:
        """Note the peak since the end of the phase before; one that comes twice keeps the larger."""
        peak = self._read()
        if peak is not None:
            self._peaks[phase] = max(peak - self._before, self._peaks.get(phase, 0))
        self._reset()

    def with_training(self, memory: Memory | None) -> Memory | None:
        """Return the memory of the training with the peaks of all phases."""
        if memory is None or not self._peaks:
            return memory
        # The meter resets the allocator's peak at every step, so it alone knows that of the training.
        train = {} if self._module is None or memory.peak_bytes is None else {"train": memory.peak_bytes}
        return replace(memory, phases={**self._peaks, **train})

    def _reset(self) -> None:
        if self._module is not None and hasattr(self._module, "reset_peak_memory_stats"):
            self._module.reset_peak_memory_stats(self._device)
        elif self._module is None:
            try:
                _CLEAR_REFS.write_text("5", encoding="utf-8")  # resets the high-water mark, see proc(5)
            except OSError:
                self._can_reset = False

    def _read(self) -> int | None:
        if self._module is not None:
            found = hasattr(self._module, "max_memory_allocated")
            return int(self._module.max_memory_allocated(self._device)) if found else None
        if not self._can_reset:
            return None
        try:
            lines = _STATUS.read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
