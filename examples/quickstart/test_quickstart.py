"""A gate that passes, a gate that blocks the merge, and a memory budget."""

from __future__ import annotations

import pytest

from pytest_ftguard import TrainedVariant, assert_loss_gap, assert_memory_budget


def test_lora_is_within_a_generous_margin(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """A margin of 0.4 nats per byte is met."""
    assert_loss_gap(lora_variant, full_variant, at_most=0.4)


@pytest.mark.xfail(strict=True, reason="rank 4 on attention alone cannot follow full fine-tuning on a narrow domain")
def test_lora_keeps_up(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """A margin of 0.05 is not: without the xfail this is the gate that blocks a merge."""
    assert_loss_gap(lora_variant, full_variant, at_most=0.05)


@pytest.mark.ftguard(max_memory="90%")
def test_lora_saves_memory(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """What LoRA was chosen for, it does."""
    assert_memory_budget(lora_variant, of=full_variant)
