"""How well LoRA answers: three seeds, each model writing its own answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_ftguard import Ftguard, Full, GateFailure, LoRA, TrainedVariant, Workload, assert_score, assert_score_gap


@pytest.fixture(scope="session")
def answering(ftguard_workload: Workload) -> Workload:
    """The same training with three seeds, and a score: the models answer each validation prompt."""
    return replace(ftguard_workload, seeds=(0, 1, 2), score="answers:agreement")


@pytest.fixture
def lora(ftguard: Ftguard, ftguard_lora: LoRA, answering: Workload) -> TrainedVariant:
    """LoRA with three seeds."""
    return ftguard.train(ftguard_lora, answering)


def test_lora_has_learned_to_answer(lora: TrainedVariant) -> None:
    """In F1 of words; the base model reaches 0.107."""
    assert_score(lora, score="token_f1", at_least=0.12)


@pytest.mark.xfail(strict=True, raises=GateFailure, reason="40 steps gain too little F1 to judge a gap by")
def test_lora_answers_as_well(ftguard: Ftguard, lora: TrainedVariant, ftguard_full: Full, answering: Workload) -> None:
    """The gate is INVALID: full gains 9 points, and to see a fall of 5 it would have to gain 15."""
    assert_score_gap(lora, ftguard.train(ftguard_full, answering), score="token_f1", at_most="5 pp")
