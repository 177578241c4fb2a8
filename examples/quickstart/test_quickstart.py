"""Two adapters and one limit: the one that saves more memory costs more quality than the team allows."""

from __future__ import annotations

import pytest

from pytest_ftguard import (
    Ftguard,
    LimitExceeded,
    LoRA,
    TrainedVariant,
    assert_loss_gap,
    assert_memory_budget,
)

AT_MOST = 0.2  # nats per token; a token is a byte here


@pytest.mark.xfail(strict=True, raises=LimitExceeded, reason="most of the model has no adapter")
def test_lora_on_attention_alone_keeps_up(ftguard: Ftguard, attention_only: LoRA, full_variant: TrainedVariant) -> None:
    """It does not: without the xfail this is the gate that blocks a merge."""
    assert_loss_gap(ftguard.train(attention_only), full_variant, at_most=AT_MOST)


def test_lora_on_all_layers_keeps_up(lora_variant: TrainedVariant, full_variant: TrainedVariant) -> None:
    """It costs half as much quality, which is within the limit."""
    assert_loss_gap(lora_variant, full_variant, at_most=AT_MOST)


@pytest.mark.ftguard(max_memory="95%")
def test_lora_on_all_layers_saves_memory(lora_variant: TrainedVariant, full_variant: TrainedVariant) -> None:
    """What LoRA was chosen for, it still does."""
    assert_memory_budget(lora_variant, of=full_variant)
