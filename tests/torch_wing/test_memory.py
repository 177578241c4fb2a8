"""The peak of live tensors is that of the tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_ftguard.training.memory import COUNTED_STEPS, AllocatorMeter, LiveTensorMeter, StepMeter, meter_for


def peak(model: nn.Module, step: object) -> int:
    """The peak over the counted steps of a function."""
    meter = LiveTensorMeter(model)
    for number in range(COUNTED_STEPS):
        meter.begin_step(number)
        step()  # type: ignore[operator]
        meter.end_step(number)
    memory = meter.result()
    assert memory is not None
    assert memory.peak_bytes is not None
    return memory.peak_bytes


def test_what_is_freed_before_the_next_allocation_does_not_add_up() -> None:
    """Ten tensors of a megabyte, one after the other, have a peak of one; held together, of ten."""
    model = nn.Linear(1, 1)
    base = peak(model, lambda: None)
    mebibyte = 1 << 20

    def one_after_the_other() -> None:
        for _ in range(10):
            torch.empty(mebibyte, dtype=torch.uint8)

    def together() -> None:
        _ = [torch.empty(mebibyte, dtype=torch.uint8) for _ in range(10)]

    assert peak(model, one_after_the_other) == base + mebibyte
    assert peak(model, together) == base + 10 * mebibyte


def test_views_share_their_storage() -> None:
    """A view costs nothing; a copy costs its size."""
    model = nn.Linear(1, 1)
    weights = torch.zeros(1 << 20, dtype=torch.uint8)
    base = peak(model, lambda: weights.add_(1))

    def view() -> None:
        weights.view(1024, 1024)[5:].t()

    def copy() -> None:
        weights.clone()

    assert peak(model, view) == base
    assert peak(model, copy) == base + (1 << 20)


def test_adamw_holds_four_times_the_weights_after_its_first_step() -> None:
    """Weights, gradients and two moments: 16 bytes a parameter in fp32, seen only because several steps are counted."""
    model = nn.Linear(1024, 1024, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batch = torch.ones(1, 1024)

    def step() -> None:
        model(batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    assert 16 <= peak(model, step) / 1024**2 <= 16.1


class FakeAllocator:
    """Stands for torch's module of an accelerator, whose peak since the last reset is as told."""

    def __init__(self, peaks: list[int]) -> None:
        self.peaks = iter(peaks)
        self.calls: list[str] = []

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")

    def reset_peak_memory_stats(self, device: object) -> None:
        self.calls.append("reset")

    def max_memory_allocated(self, device: object) -> int:
        return next(self.peaks)

    def memory_allocated(self, device: object) -> int:
        return 0

    def max_memory_reserved(self, device: object) -> int:
        return 1000


def run_steps(meter: StepMeter, count: int) -> StepMeter:
    for number in range(count):
        meter.begin_step(number)
        meter.end_step(number)
    return meter


def test_an_allocators_peak_is_the_largest_of_the_steps_after_the_first() -> None:
    """Every step starts from a reset and ends with one, and the first two start from an empty cache."""
    allocator = FakeAllocator([99, 5, 9])
    memory = run_steps(AllocatorMeter(allocator, torch.device("cuda"), nn.Linear(1, 1)), 3).result()
    assert memory is not None
    assert (memory.peak_bytes, memory.reserved_bytes, memory.method) == (9, 1000, "allocator")
    assert allocator.calls == ["empty_cache", "reset", "reset", "empty_cache", *["reset"] * 4]


def test_an_allocator_that_reports_nothing_is_no_measurement() -> None:
    """0 bytes are what torch reports where there is no such allocator."""
    assert (
        run_steps(AllocatorMeter(FakeAllocator([0, 0, 0]), torch.device("cuda"), nn.Linear(1, 1)), 3).result() is None
    )


@pytest.mark.parametrize(
    "meter",
    [
        meter_for(nn.Linear(1, 1), torch.device("cpu")),
        AllocatorMeter(FakeAllocator([1] * COUNTED_STEPS), torch.device("cuda"), nn.Linear(1, 1)),
    ],
)
def test_too_few_steps_are_not_a_measurement(meter: StepMeter) -> None:
    """One step less than needed gives None, for the optimizer's state appears after the first."""
    assert run_steps(meter, COUNTED_STEPS - 1).result() is None
    meter.begin_step(COUNTED_STEPS - 1)
    meter.end_step(COUNTED_STEPS - 1)
    assert meter.result() is not None
