"""What LoRA costs in the answers themselves: three seeds, each model writing its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_ftguard import Ftguard, Full, LoRA, Workload, assert_score_gap


@pytest.fixture(scope="session")
def answering(ftguard_workload: Workload) -> Workload:
    """The same training with three seeds, and a score: the models answer each validation prompt."""
    return replace(ftguard_workload, seeds=(0, 1, 2), score="answers:agreement")


def test_lora_answers_as_well(ftguard: Ftguard, answering: Workload, ftguard_full: Full, ftguard_lora: LoRA) -> None:
    """In F1 of words, paired by conversation and by seed."""
    full, lora = (ftguard.train(variant, answering) for variant in (ftguard_full, ftguard_lora))
    assert_score_gap(lora, full, score="token_f1", at_most="5 pp")
