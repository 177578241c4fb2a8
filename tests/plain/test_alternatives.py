"""What would have fit where a training did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import Measured, Memory, Trial, TrialError
from pytest_ftguard.running.alternatives import alternatives, with_advice
from pytest_ftguard.running.executor import Answer, Failure
from pytest_ftguard.specs import LoRA, TrialSpec
from tests.plain.builders import FULL, LORA, WORKLOAD, changed, trial

NLL = (20.0,) * 64


def planned(specs: Sequence[TrialSpec]) -> list[Trial]:
    """Forecasts of 4, 2, 3, 4 GB; none for the third."""
    memories = [Memory(None, "forecast", forecast_bytes=1000**3 * size) for size in (4, 2, 3, 4)[: len(specs)]]
    return [
        Trial(spec, Measured(outcome="planned", memory=None if number == 2 else memory))
        for number, (spec, memory) in enumerate(zip(specs, memories, strict=True))
    ]


def lost(**changes: object) -> Trial:
    return changed(trial(FULL, NLL, outcome="out_of_memory", error=TrialError("no room")), **changes)


def test_each_alternative_does_the_same_work_with_less_memory() -> None:
    """Half the batch twice, checkpointing, and for full fine-tuning LoRA; the sequences of a step stay as many."""
    full = alternatives(TrialSpec(workload=WORKLOAD, variant=FULL, seed=0))
    as_it_is, half, checkpointed, lora = full.values()
    assert as_it_is.workload == WORKLOAD
    assert half.workload.batch_size * half.workload.training_args["gradient_accumulation_steps"] == WORKLOAD.batch_size
    assert checkpointed.workload.training_args == {"gradient_checkpointing": True}
    assert isinstance(lora.variant, LoRA)
    assert len(alternatives(TrialSpec(workload=WORKLOAD, variant=LORA, seed=0))) == 3
    odd = replace(WORKLOAD, batch_size=3, training_args={"gradient_checkpointing": True})
    assert len(alternatives(TrialSpec(workload=odd, variant=LORA, seed=0))) == 1


def test_the_advice_names_what_is_known() -> None:
    """A way without a forecast is left out, and so is one that takes no less."""
    error = with_advice(lost(), planned).measured.error
    assert error is not None
    assert error.message == (
        "no room. Forecast of the peak memory: as it is: 4.00 GB; batch_size = 2 with gradient_accumulation_steps=2: "
        "2.00 GB"
    )


def test_a_forecast_that_fails_changes_nothing() -> None:
    """The user must see why the trial ended, not why its advice could not be had."""

    def fail(specs: Sequence[TrialSpec]) -> list[Trial]:
        raise ConfigurationError("no such model")

    assert with_advice(lost(), fail) == lost()
    assert with_advice(lost(), lambda specs: [one.remeasured(memory=None) for one in planned(specs)]) == lost()
    function = replace(WORKLOAD, training_function="a:b")
    own = replace(lost(), spec=TrialSpec(workload=function, variant=FULL, seed=0))
    assert with_advice(own, fail) == own


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(result=lost()), True),
        (Answer(failure=Failure(kind="out_of_memory", message="by the kernel", phase="start")), True),
        (Answer(failure=Failure(kind="killed", message="by someone", phase="load")), True),
        (Answer(failure=Failure(kind="killed", message="by someone", phase="start")), False),
        (Answer(failure=Failure(kind="crashed", message="SIGSEGV, not SIGKILL", phase="train")), False),
        (Answer(failure=Failure(kind="timed_out", message="too slow", phase="train")), False),
        (Answer(result=lost(outcome="diverged")), False),
        (Answer(), False),
    ],
)
def test_a_kill_counts_as_a_lack_of_memory(answer: Answer, expected: bool) -> None:
    """The kernel ends with SIGKILL what takes too much, and says so to nobody."""
    assert answer.lacks_memory is expected
