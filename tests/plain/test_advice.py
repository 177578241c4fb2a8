"""Notes next to the verdicts: too few steps, attention only, a rank that cannot hold the training text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_ftguard.reporting.notes import fairness_notes
from pytest_ftguard.results import Parameters, Timing, TrainedVariant
from pytest_ftguard.specs import LoRA
from tests.plain.builders import FULL, LORA, WORKLOAD, losses, summary_lines, trained, trial

NLL = (20.0,) * 64
LARGE = Parameters(10**9, 10**8)


def variant(spec: LoRA = LORA, parameters: Parameters = LARGE, **workload: Any) -> TrainedVariant:
    return trained(spec, trial(spec, NLL, workload=replace(WORKLOAD, **workload), parameters=parameters))


@pytest.mark.parametrize(("changes", "noted"), [({"steps": 99}, True), ({"steps": 100}, False)])
def test_fewer_than_100_steps_are_noted(changes: dict[str, Any], noted: bool) -> None:
    """Unless they are those of production."""
    assert any("steps are few" in note for note in fairness_notes([variant(**changes)])) is noted
    assert not fairness_notes([variant(**changes, final=True)])


EXPERTS = {"mlp.experts.gate_up_proj": 0.59, "mlp.experts.down_proj": 0.3}


@pytest.mark.parametrize(("share", "noted"), [(0.499, True), (0.5, False)])
def test_adapters_on_less_than_half_of_the_matrices_are_noted(share: float, noted: bool) -> None:
    """The note names what is adapted, its share, and what is left alone."""
    counts = Parameters(10**9, 10**8, adapted={"q_proj": share / 2, "v_proj": share / 2}, left_alone={"up": 1 - share})
    notes = [note for note in fairness_notes([variant(parameters=counts)]) if "matrix weights" in note]
    assert bool(notes) is noted
    assert all("adapts q_proj, v_proj, 50 % of the model's matrix weights; up have no adapter" in one for one in notes)


def test_what_was_asked_for_does_not_decide() -> None:
    """Adapters on all linear layers but the experts are noted; two targets that include the experts are not."""
    few = Parameters(10**9, 10**8, adapted={"q_proj": 0.06, "v_proj": 0.05}, left_alone=EXPERTS)
    assert any(
        "mlp.experts.gate_up_proj, mlp.experts.down_proj have no" in n for n in fairness_notes([variant(LORA, few)])
    )
    two = replace(LORA, target_modules=("q_proj", "v_proj"))
    most = Parameters(10**9, 10**8, adapted={"q_proj": 0.06, **EXPERTS}, left_alone={"k_proj": 0.05})
    assert not any("matrix weights" in note for note in fairness_notes([variant(two, most)]))


def test_results_that_did_not_measure_it_have_no_such_note() -> None:
    """Results with nothing to measure have none either."""
    two = replace(LORA, target_modules=("q_proj", "v_proj"))
    for counts in (LARGE, Parameters(10**9, 10**8, adapted={}, left_alone={})):
        assert not any("matrix weights" in note for note in fairness_notes([variant(two, counts)]))


@pytest.mark.parametrize(("trainable", "noted"), [(110_799, False), (110_798, True)])
def test_a_rank_that_cannot_hold_the_training_text_is_noted(trainable: int, noted: bool) -> None:
    """51,200 tokens of 3 nats are 221,598 bits, and a parameter holds two."""
    notes = fairness_notes([variant(parameters=Parameters(10**9, trainable))])
    assert any("51,200 training tokens" in note for note in notes) is noted


def test_full_fine_tuning_and_unmeasured_trials_have_no_notes() -> None:
    """Nothing is said of what is not known."""
    unknown = trained(LORA, trial(LORA, NLL, base_validation=None, parameters=None))
    assert not fairness_notes([trained(FULL, trial(FULL, NLL)), unknown])


def test_notes_stand_below_the_table_in_80_columns() -> None:
    """They are wrapped, and begin with a word that tells them from verdicts."""
    short = replace(WORKLOAD, steps=30)
    lines = summary_lines([trial(LORA, NLL, workload=short, parameters=LARGE)], [], [])
    notes = [line for line in lines if line.startswith(("note: ", "      "))]
    assert notes[0].startswith("note: 30 steps are few")
    assert len(notes) > 1
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(("seconds", "noted"), [(0.62, True), (0.64, False)])
def test_a_step_that_is_faster_than_its_arithmetic_is_pointed_out(seconds: float, noted: bool) -> None:
    """At 70 % of the operations, less than 63 % of the time is no merit of LoRA alone."""
    full = trained(FULL, trial(FULL, NLL, time=Timing(1.0, 97, 100.0, flop_per_step=1000)))
    lora = trained(LORA, trial(LORA, NLL, time=Timing(seconds, 97, 100.0, flop_per_step=700)))
    notes = [note for note in fairness_notes([full, lora]) if "arithmetic" in note]
    assert bool(notes) == noted


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ({}, False),
        ({"time": Timing(0.1, 97, 50.0, flop_per_step=10**9, run="earlier")}, True),
        ({"measured_elsewhere": "on another machine"}, True),
    ],
)
def test_seconds_of_different_runs_are_not_to_be_compared(changes: dict[str, Any], noted: bool) -> None:
    """Then nothing is concluded from their ratio either, however far below its arithmetic it lies."""
    full = trained(FULL, trial(FULL, NLL, time=Timing(1.0, 97, 50.0, flop_per_step=10**9, run="now")))
    ours = {"time": Timing(0.1, 97, 50.0, flop_per_step=10**9, run="now"), **changes}
    notes = fairness_notes([full, trained(LORA, trial(LORA, NLL, **ours))])
    assert any("do not compare them" in note for note in notes) is noted
    assert any("arithmetic" in note for note in notes) is not noted


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"repeated": 3}, "3 sequences of the validation text repeat earlier ones and were left out"),
        ({"trained_on": 1}, "1 of 64 validation sequences are also in the training text (an error above 10 %)"),
        ({"unknown": 0.02}, "the tokenizer does not know 2 % of the validation text"),
        ({"unknown": 0.005}, None),
        ({}, None),
    ],
)
def test_what_the_texts_hold_is_noted(found: dict[str, Any], words: str | None) -> None:
    """Once for all variants, with the count."""
    measured = losses(NLL, **found)
    sides = [trained(one, trial(one, NLL, validation=measured, parameters=LARGE)) for one in (LORA, FULL)]
    notes = fairness_notes(sides)
    assert [note for note in notes if "text" in note] == [note for note in notes if words and words in note]
    assert len([note for note in notes if words and words in note]) == (words is not None)


def test_a_sequence_in_a_hundred_is_no_news() -> None:
    """Two texts on one subject have a licence header or two in common."""
    measured = losses([20.0] * 101, trained_on=1)
    assert not [
        note for note in fairness_notes([trained(LORA, trial(LORA, NLL, validation=measured))]) if "stand in" in note
    ]
