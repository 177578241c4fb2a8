"""Steps that a message advises are enough for a trend."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.plain.builders import FULL, LORA, WORKLOAD, trained, trial

from pytest_ftguard.gates.convergence import assess_convergence
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import CurvePoint, TrainedVariant
from pytest_ftguard.specs import Variant
from pytest_ftguard.training.recorder import curve_steps

LIMIT = Limit(0.1, NATS_PER_TOKEN, Origin("argument", "the argument at_most"))


def side(variant: Variant, steps: int) -> TrainedVariant:
    curve = [CurvePoint(step, 2.0 if step else 3.0, (20.0 if step else 30.0,) * 64) for step in curve_steps(steps)]
    work = replace(WORKLOAD, steps=steps)
    return trained(variant, trial(variant, [20.0] * 64, workload=work, curve=tuple(curve)))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_steps_that_are_advised_have_a_trend(steps: int) -> None:
    """With the points that a training of so many steps measures, the gates give an answer."""
    judges: tuple[Callable[[int], Verdict], ...] = (
        lambda steps: assess_loss_gap(side(LORA, steps), side(FULL, steps), LIMIT, Rule()),
        lambda steps: assess_convergence(side(LORA, steps), LIMIT, Rule()),
    )
    for judge in judges:
        few = judge(steps)
        found = re.search(r"train for at least (\d+) steps", few.message)
        assert found is not None, few.message
        assert judge(int(found[1])).status == "PASS"
