"""One gate at 30 steps and at 400: first it is too early to tell, then it blocks the merge. And a memory budget."""

from __future__ import annotations

import pytest

from pytest_ftguard import (
    Ftguard,
    Full,
    LimitExceeded,
    LoRA,
    TrainedVariant,
    Workload,
    assert_loss_gap,
    assert_memory_budget,
)

AT_MOST = 0.1  # nats per token; a token is a byte here


def test_30_steps_are_too_early_to_tell(
    ftguard: Ftguard, short_workload: Workload, ftguard_full: Full, ftguard_lora: LoRA
) -> None:
    """After 30 steps LoRA looks as good as full fine-tuning, but the gap is widening: not a PASS, here a warning."""
    full = ftguard.train(ftguard_full, short_workload)
    lora = ftguard.train(ftguard_lora, short_workload)
    assert assert_loss_gap(lora, full, at_most=AT_MOST, on_inconclusive="warn").status == "INCONCLUSIVE"


@pytest.mark.xfail(
    strict=True, raises=LimitExceeded, reason="a small adapter cannot hold what 400 steps on a narrow domain teach"
)
def test_lora_keeps_up(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """After 400 steps it does not: without the xfail this is the gate that blocks a merge."""
    assert_loss_gap(lora_variant, full_variant, at_most=AT_MOST)


@pytest.mark.ftguard(max_memory="95%")
def test_lora_saves_memory(full_variant: TrainedVariant, lora_variant: TrainedVariant) -> None:
    """What LoRA was chosen for, it does."""
    assert_memory_budget(lora_variant, of=full_variant)
