"""Gates on a real model."""

from __future__ import annotations

from pytest_ftguard import TrainedVariant, assert_loss_gap, assert_memory_budget


def test_lora_keeps_up(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """30 steps and one seed are the article's, not what a team should decide on, so a gap that widens only warns."""
    assert_loss_gap(lora_variant, full_variant, at_most=0.05, on_inconclusive="warn")


def test_lora_saves_memory(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """What LoRA was chosen for."""
    assert_memory_budget(lora_variant, at_most="80%", of=full_variant)
