"""What was measured decides whether two variants did the same work, not the paths of their files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.forgetting import assess_forgetting
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.memory import assess_memory
from pytest_ftguard.gates.quality import assert_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.step_time import assess_time
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import Memory, Timing, TrainedVariant, TrialError
from pytest_ftguard.specs import Workload, fields_of, places_of
from tests.plain.builders import ENVIRONMENT, FULL, LORA, WORKLOAD, changed, losses, trained, trial

NLL = (20.0,) * 64
LIMIT = Limit(0.7, "of baseline", Origin("argument", "the argument at_most"))
ELSEWHERE: dict[str, Any] = {
    "model": "/mnt/model",
    "revision": "main",
    "tokenizer": "/mnt/tokenizer",
    "train": "/mnt/train.txt",
    "validation": "/mnt/validation.txt",
    "reference": "/mnt/reference.txt",
}


# Another value of each other field of a workload than the builders have.
SETTINGS: dict[str, Any] = {
    "task": "mine:Task",
    "block_size": 64,
    "batch_size": 2,
    "steps": 7,
    "final": True,
    "validation_sequences": 80,
    "model_args": {"attn_implementation": "eager"},
    "training_args": {"weight_decay": 0.1},
    "training_function": "mine:train",
    "trainer": "mine:Mine",
    "purpose": "search",
    "chat_template": "{{ messages }}",
    "completion_only_loss": True,
    "assistant_only_loss": True,
    "packing": True,
    "score": "mine:exact_match",
    "slices": ("language",),
    "group": "movie",
}


def pair(**changes: Any) -> tuple[TrainedVariant, TrainedVariant]:
    """A changed LoRA, and full; three seeds and a reference text each."""
    ours = {"reference": losses(NLL), **changes}
    return (
        trained(LORA, *(trial(LORA, NLL, seed=seed, **ours) for seed in range(3))),
        trained(FULL, *(trial(FULL, NLL, seed=seed, reference=losses(NLL)) for seed in range(3))),
    )


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_same_content_in_another_place_is_the_same_work(name: str) -> None:
    """A path that differs is no objection if batches, sequences and the base model's losses agree."""
    work = replace(WORKLOAD, **{name: ELSEWHERE[name]})
    comparison = compare(*pair(workload=work))
    assert not comparison.different_work
    assert not comparison.loss_problems


def test_every_field_that_belongs_to_the_work_is_tested_here() -> None:
    """A new one stands in one of the lists, and "auto" is compared as it was resolved."""
    assert {*SETTINGS, *ELSEWHERE} == set(fields_of(Workload, "trial", resolved=False))
    assert set(ELSEWHERE) == set(places_of(Workload, "model", "revision", "text"))


@pytest.mark.parametrize("name", SETTINGS)
def test_another_setting_is_other_work(name: str) -> None:
    """It is named, with both values, whatever was measured."""
    work = replace(WORKLOAD, **{name: SETTINGS[name]})
    (problem,) = compare(*pair(workload=work)).different_work
    assert problem.what == f"the two variants did not do the same work ({name})"
    assert problem.why.startswith(f"{name} is ")


def test_more_seeds_and_a_precision_by_name_are_the_same_work() -> None:
    """They belong to no single trial, and the environment says which precision it was."""
    work = replace(WORKLOAD, seeds=(0, 1, 2, 3), most_seeds=8, precision="fp32")
    assert not compare(*pair(workload=work)).different_work


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("model", {"base_validation": losses([*NLL[1:], 30.1])}),
        ("model", {"base_validation": None}),
        ("revision", {"base_validation": losses([30.01] * 64)}),
        ("train", {"data_order": "other"}),
        ("train", {"data_order": None}),
        ("tokenizer", {"data_order": "other"}),
        ("tokenizer", {"validation": losses(NLL, digest="other")}),
        ("validation", {"validation": losses(NLL, digest="other")}),
        ("validation", {"validation": losses(NLL, tokens=(11,) * 64)}),
        ("reference", {"reference": losses(NLL, digest="other")}),
        ("reference", {"reference": None}),
    ],
)
def test_another_content_in_another_place_is_other_work(name: str, other: dict[str, Any]) -> None:
    """So is another place if nothing was measured that shows its content."""
    comparison = compare(*pair(workload=replace(WORKLOAD, **{name: ELSEWHERE[name]}), **other))
    (problem,) = [one for one in comparison.different_work if one.why.startswith(f"{name} is ")]
    assert "their contents differ" in problem.why or "but the contents differ" in problem.why
    assert "/" not in str(problem)  # the folder of another machine tells nobody anything


def test_a_file_that_an_argument_names_may_lie_elsewhere() -> None:
    """Only its name is compared, and shown; another name is another setting."""

    def work(path: str) -> Workload:
        return replace(WORKLOAD, training_args={"accelerator_config": path, "warmup_steps": 3})

    for path in ("/home/one/acc.json", "C:\\work\\acc.json"):
        ours, theirs = pair(workload=work(path))
        theirs = replace(theirs, workload=work("/srv/two/acc.json"))
        assert not compare(ours, theirs).different_work
    ours, theirs = pair(workload=work("/home/one/other.json"))
    (problem,) = compare(ours, replace(theirs, workload=work("/srv/two/acc.json"))).different_work
    words = "training_args is {'accelerator_config': 'other.json'} for the candidate and {'accelerator_config'"
    assert words in problem.why


def test_another_base_model_in_the_same_place_is_noticed() -> None:
    """A checkpoint that was replaced between two runs differs in single sequences, even if its mean does not."""
    swapped = losses([30.5, 29.5, *(30.0,) * 62])
    comparison = compare(*pair(base_validation=swapped))
    assert any("same base model" in problem.what for problem in comparison.loss_problems)
    rounded = losses([30.0 * (1 + 5e-5), 30.0 * (1 - 5e-5)] * 32)
    assert not compare(*pair(base_validation=rounded)).loss_problems


def test_a_base_model_that_is_a_little_better_everywhere_is_another_one() -> None:
    """Rounding has no direction: what lies within the tolerance of single sequences may not shift their mean."""
    shifted = losses([30.0 * (1 - 5e-5)] * 64)
    assert any("same base model" in problem.what for problem in compare(*pair(base_validation=shifted)).loss_problems)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data_order": "other"}, "not trained on the same batches"),
        ({"data_order": None}, "not known which batches"),
        ({"base_validation": losses([30.1] * 64)}, "same base model"),
        ({"base_validation": None}, "the loss of the base model was not measured"),
    ],
)
def test_a_share_of_memory_or_time_needs_the_same_work_too(change: dict[str, Any], words: str) -> None:
    """Shorter sequences or a smaller model would save memory without any merit of the adapter."""
    ours, theirs = pair(**change)
    for verdict in (assess_memory(ours, LIMIT, theirs), assess_time(ours, LIMIT, theirs, 0.95)):
        assert verdict.status == "INVALID"
        assert words in verdict.message


def test_a_loss_of_another_number_of_tokens_is_other_work() -> None:
    """Both numbers are named; if one is not known, the batches tell."""
    ours, theirs = pair(supervised_tokens=70)
    assert not compare(ours, theirs).loss_problems
    counted = trained(FULL, *(changed(one, supervised_tokens=90) for one in theirs.trials))
    (problem, *_) = compare(ours, counted).loss_problems
    assert problem.what == "seed 0: the loss was taken of a different number of tokens for each variant"
    assert problem.why == "It was taken of 70 tokens for the candidate and of 90 for the baseline."


def test_variants_without_a_common_seed_are_not_shown_to_have_done_the_same() -> None:
    """Their peaks could be those of anything."""
    ours = trained(LORA, trial(LORA, NLL, seed=7))
    verdict = assess_memory(ours, LIMIT, pair()[1])
    assert verdict.status == "INVALID"
    assert "no seed in common" in verdict.message


def test_seconds_of_two_runs_are_not_compared() -> None:
    """Seeds of one run cannot show how much busier the machine was in another."""
    ours, theirs = pair(time=Timing(0.1, 97, 10.0, run="last night"))
    verdict = assess_time(ours, LIMIT, theirs, 0.95)
    assert verdict.status == "INVALID"
    assert "different runs" in verdict.message
    assert assess_memory(ours, LIMIT, theirs).status == "PASS"


def test_forgetting_is_judged_on_one_reference_text() -> None:
    """Two variants with different reference texts are not subtracted from one another."""
    ours, theirs = pair()
    limit = Limit(0.05, "nats per token", Origin("argument", "the argument at_most"))

    def forgetting(candidate: TrainedVariant, baseline: TrainedVariant) -> Verdict:
        return assess_forgetting(candidate, limit, Rule(), baseline)

    assert forgetting(*with_base_reference(ours, theirs)).status == "PASS"
    other = losses(NLL, digest="other")
    changed = pair(reference=other, base_reference=other)[0]
    ours, theirs = with_base_reference(changed, theirs)
    verdict = forgetting(ours, theirs)
    assert verdict.status == "INVALID"
    assert "same reference sequences" in verdict.message


def with_base_reference(ours: TrainedVariant, theirs: TrainedVariant) -> tuple[TrainedVariant, TrainedVariant]:
    return tuple(  # type: ignore[return-value]
        replace(side, trials=tuple(one.remeasured(base_reference=one.measured.reference) for one in side.trials))
        for side in (ours, theirs)
    )


def test_a_helper_refuses_a_variant_beside_its_own_copy_from_a_report() -> None:
    """Such a gate cannot fail, whether or not one side is marked as cached."""
    _, full = pair()
    copy = replace(full, trials=tuple(one.come_by(cached=True) for one in full.trials))
    with pytest.raises(ConfigurationError, match="cannot fail"):
        assert_loss_gap(copy, full, at_most=0.1)


def test_only_the_options_that_differ_are_named() -> None:
    """Two long lists of training arguments do not bury the one that differs."""
    work = replace(WORKLOAD, training_args={"weight_decay": 0.1})
    ours, theirs = pair(workload=replace(work, training_args={"weight_decay": 0.1, "optim": "sgd"}))
    theirs = TrainedVariant(work, FULL, tuple(trial(FULL, NLL, seed=seed, workload=work) for seed in range(3)))
    (problem,) = compare(ours, theirs).different_work
    assert "training_args is {'optim': 'sgd'} for the candidate and {'optim': None} for the baseline" in problem.why
    assert "weight_decay" not in str(problem)


@pytest.mark.parametrize(
    "change",
    [
        {"device_name": "another"},
        {"platform": "Darwin"},
        {"versions": {"python": "3.11", "torch": "2.12"}},
    ],
)
def test_bytes_and_seconds_belong_to_their_environment_and_losses_do_not(change: dict[str, Any]) -> None:
    """Another machine or version makes memory and time INVALID, and leaves the loss gap alone."""
    ours, theirs = pair(environment=replace(ENVIRONMENT, **change))
    assert not compare(ours, theirs).loss_problems
    for verdict in (assess_memory(ours, LIMIT, theirs), assess_time(ours, LIMIT, theirs, 0.95)):
        assert verdict.status == "INVALID"
        assert next(iter(change)) in verdict.message
    ours, theirs = pair()
    assert assess_memory(ours, LIMIT, theirs).status == "PASS"
    assert assess_time(ours, LIMIT, theirs, 0.95).status == "FAIL"


def test_another_number_of_threads_changes_seconds_and_not_bytes() -> None:
    """The time gate is INVALID, the memory gate is not."""
    ours, theirs = pair(environment=replace(ENVIRONMENT, threads=4))
    assert assess_memory(ours, LIMIT, theirs).status == "PASS"
    verdict = assess_time(ours, LIMIT, theirs, 0.95)
    assert verdict.status == "INVALID"
    assert "threads is 4 for the candidate and 2 for the baseline" in verdict.message


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (Memory(600, "allocator", allocator_retries=2), "ran out of room 2 times"),
        (Memory(600, "allocator", others_bytes=5 * 1000**3), "other processes had 5.00 GB"),
    ],
)
def test_a_disturbed_accelerator_gives_no_times(memory: Memory, words: str) -> None:
    """A variant is not called slow if its steps waited for room, or for another process."""
    ours, theirs = pair(memory=memory)
    verdict = assess_time(ours, LIMIT, theirs, 0.95)
    assert verdict.status == "INVALID"
    assert words in verdict.message
    calm = pair(memory=Memory(600, "allocator", allocator_retries=0, others_bytes=1000**3))
    assert assess_time(*(calm[0], LIMIT, calm[1]), 0.95).status == "FAIL"


def test_the_time_gate_names_the_arithmetic() -> None:
    """What a step computes is the floor of what it can take."""
    ours, _ = pair(time=Timing(0.4, 97, 50.0, flop_per_step=7 * 10**9, machine_flop_per_second=1e11))
    theirs = replace(
        pair()[1],
        trials=tuple(
            one.remeasured(time=Timing(0.5, 97, 50.0, flop_per_step=10**10, machine_flop_per_second=1e11))
            for one in pair()[1].trials
        ),
    )
    message = assess_time(ours, LIMIT, theirs, 0.95).message
    assert "takes 7 GFLOP, 70 % of full's 10; they reach 18 % and 20 % of what this machine can do" in message


def test_a_failure_is_told_before_what_it_has_prevented() -> None:
    """The crash of the baseline comes first, then the candidate that was not trained because of it."""
    spared = trial(LORA, [1.0], outcome="not_trained", error=TrialError("its partner full crashed"))
    crashed = trial(FULL, [1.0], outcome="crashed", error=TrialError("it ended by SIGKILL"))
    sides = (TrainedVariant(WORKLOAD, one.spec.variant, (one,)) for one in (spared, crashed))
    first, second = compare(*sides).loss_problems
    assert "ended by SIGKILL" in first.why
    assert "its partner" in second.why
