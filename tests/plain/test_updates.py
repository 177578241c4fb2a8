"""A training that left a part out, or changed its frozen base, decides nothing; one that did neither is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_ftguard.comparison.pairs import text_problems
from pytest_ftguard.gates.limits import BYTES, NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.memory import assess_memory
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant, Updates
from tests.plain.builders import FULL, LORA, trained, trial

HERE = Origin("argument", "the test")
NAMES = tuple(f"model.layers.{number}.q_proj" for number in range(12))
SOUND = Updates(adapters=96, weights=0, unused=("experts.7",))


def variants(updates: Updates | None) -> tuple[TrainedVariant, TrainedVariant]:
    sides = []
    for variant in (LORA, FULL):
        trials = []
        for seed in range(3):
            ours = updates if variant is LORA and seed == 1 else None
            nll = [20.0 + 0.01 * place for place in range(80)]
            trials.append(trial(variant, nll, seed=seed, data_order=f"order {seed}", updates=ours))
        sides.append(trained(variant, *trials))
    return sides[0], sides[1]


def loss(candidate: TrainedVariant, baseline: TrainedVariant) -> Verdict:
    return assess_loss_gap(candidate, baseline, Limit(0.5, NATS_PER_TOKEN, HERE), Rule())


def memory(candidate: TrainedVariant, _: TrainedVariant) -> Verdict:
    return assess_memory(candidate, Limit(1e15, BYTES, HERE))


@pytest.mark.parametrize("gate", [loss, memory])
@pytest.mark.parametrize(
    ("updates", "words", "why"),
    [
        (replace(SOUND, unmoved=NAMES), "12 of 96 adapters never received a gradient", "q_proj and 9 more."),
        (replace(SOUND, base_changed=("wte.weight",)), "1 frozen weights of the base model changed", "wte.weight."),
    ],
)
def test_what_was_not_trained_as_it_should_be_decides_nothing(
    gate: Callable[..., Any], updates: Updates, words: str, why: str
) -> None:
    """One seed is enough; the first line says so. After what is advised, it is no problem any more."""
    verdict = gate(*variants(updates))
    assert verdict.status == "INVALID"
    assert words in str(verdict.message).splitlines()[0]
    assert why in str(verdict.message)
    assert text_problems(variants(updates), "validation")
    assert words not in str(gate(*variants(SOUND)).message)
    assert text_problems([variants(SOUND)[0]], "validation") == text_problems([variants(None)[0]], "validation")
