"""What LoRA costs a classifier in percentage points of accuracy, next to the memory that it saves."""

from __future__ import annotations

from pytest_ftguard import TrainedVariant, assert_accuracy_gap, assert_memory_budget, assert_score


def test_lora_is_as_accurate(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """In percentage points, paired by review and by seed."""
    assert_accuracy_gap(lora_variant, full_variant, at_most="6 pp")


def test_lora_is_better_than_guessing(lora_variant: TrainedVariant) -> None:
    """The accuracy by itself, with its interval."""
    assert_score(lora_variant, score="accuracy", at_least="70%")


def test_lora_saves_memory(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """What LoRA was chosen for."""
    assert_memory_budget(lora_variant, at_most="60%", of=full_variant)
