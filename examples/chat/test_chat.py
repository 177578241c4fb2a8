"""What LoRA and QLoRA cost a chat model, and whether the merged model still answers as the trained one."""

from __future__ import annotations

from pytest_ftguard import TrainedVariant, assert_loss_gap, assert_memory_budget, assert_merge_drift


def test_lora_keeps_up(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """In nats per token of the answers."""
    assert_loss_gap(lora_variant, full_variant, at_most=0.1)


def test_qlora_keeps_up(full_variant: TrainedVariant, qlora: TrainedVariant) -> None:
    """Against full fine-tuning of the base that is not quantized: what 4 bits cost is in the gap."""
    assert_loss_gap(qlora, full_variant, at_most=0.25)


def test_lora_saves_memory(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """What LoRA was chosen for."""
    assert_memory_budget(lora_variant, at_most="80%", of=full_variant)


def test_the_merged_model_is_the_trained_one(lora_variant: TrainedVariant) -> None:
    """Saved and reloaded, merged in fp32, and merged in bf16."""
    assert_merge_drift(lora_variant, at_most=0.02)
