"""The gate across commits: the difference of differences, what may be compared, and what may be accepted."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ftguard.accepting import gate
from pytest_ftguard.accepting.asked import Asked, Metric
from pytest_ftguard.accepting.helper import assert_no_regression
from pytest_ftguard.accepting.history import AcceptedFile, History, read_history, write_history
from pytest_ftguard.accepting.record import PairRecord, record_pair
from pytest_ftguard.accepting.since import differing_work, gap_change, paired_seeds, settings_since
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.current import active_test
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.limits import GROWTH, NATS_PER_TOKEN, Limit, parse_regression_limit
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin, Setting
from pytest_ftguard.gates.verdict import Verdict, decide
from pytest_ftguard.results import Memory, Timing, TrainedVariant
from pytest_ftguard.specs import Full, LoRA, Peft, Variant, Workload
from pytest_ftguard.statistics import change_of_gap, effort_to_settle
from tests.plain.builders import ENVIRONMENT, FULL, LORA, WORKLOAD, losses, trained, trial

N = 64
SEEDS = (0, 1, 2)
LAZY = Rule(gain_factor=0)
SMALLER = LoRA(r=8, learning_rate=1e-3)
Pair = tuple[TrainedVariant, TrainedVariant]


def pair(
    gap: float = 0.1,
    *,
    seeds: tuple[int, ...] = SEEDS,
    noise: float = 0.0,
    lora: Variant = LORA,
    full: Full = FULL,
    level: float = 2.0,
    work: Workload = WORKLOAD,
    text: str = "text",
    batches: str = "order",
    both: dict[str, Any] | None = None,
    ours: dict[str, Any] | None = None,
) -> Pair:
    """LoRA and full with a given gap in nats per token, and noise of each seed and sequence on top."""
    workload = replace(work, seeds=seeds)
    random = np.random.default_rng(7)
    sides = []
    for variant, loss, changes in ((lora, level + gap, ours or {}), (full, level, {})):
        trials = []
        for seed in seeds:
            nll = 10 * (loss + (noise if variant is lora else 0) * random.normal(0, 1, N)) + np.linspace(0, 1, N)
            content = {
                "validation": losses(nll.tolist(), digest=text),
                "base_validation": losses([30.0] * N, digest=text),
                "data_order": f"{batches} {seed}",
            }
            values = {**content, **(both or {}), **changes}
            trials.append(trial(variant, nll.tolist(), seed=seed, workload=workload, **values))
        sides.append(trained(variant, *trials))
    return sides[0], sides[1]


def limit(value: float | str) -> Limit:
    origin = Origin("ini", "ftguard_max_regression in pytest.ini")
    return Limit.of(Setting(parse_regression_limit(value, origin), origin))


def file(*records: PairRecord) -> AcceptedFile:
    """A file with the first record as its anchor and the last one as what was accepted last; empty without records."""
    history = History("t.py::test", records[-1], records[0]) if records else None
    return AcceptedFile(Path("accepted.json"), "t.py::test", history)


def judge(
    now: Pair, then: AcceptedFile | Pair, at_most: float | str, metric: Metric = "loss_gap", rule: Rule = LAZY
) -> Verdict:
    held = then if isinstance(then, AcceptedFile) else file(record_pair(*then))
    return gate.assess_regression(asked(now, limit(at_most), rule, metric, held))


def asked(now: Pair, at_most: Limit, rule: Rule, metric: Metric, held: AcceptedFile) -> Asked:
    return Asked(candidate=now[0], baseline=now[1], limit=at_most, rule=rule, metric=metric, file=held)


def accept(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    limit: Limit,
    rule: Rule,
    *,
    metric: Metric,
    file: AcceptedFile,
    refusals: Sequence[Problem] = (),
) -> tuple[Verdict, History | None]:
    return gate.accept(asked((candidate, baseline), limit, rule, metric, file), refusals)


@pytest.mark.parametrize(("at_most", "status"), [(0.011, "PASS"), (0.009, "FAIL"), (0.0, "FAIL")])
def test_a_planted_regression_is_judged_on_both_sides_of_the_limit(at_most: float, status: str) -> None:
    """A gap of 0.11 that was 0.10."""
    verdict = judge(pair(0.11), pair(0.10), at_most)
    assert verdict.status == status
    assert verdict.value == pytest.approx(0.01)
    assert "is +0.1100 nats per token, and was +0.1000 when it was accepted" in verdict.message


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_same_training_again_is_exactly_the_same(noise: float) -> None:
    """However noisy seeds and sequences are: 0 within [0, 0], which even a limit of 0 allows."""
    verdict = judge(pair(noise=noise), pair(noise=noise), 0)
    assert (verdict.status, verdict.value, verdict.interval) == ("PASS", 0.0, (0.0, 0.0))
    assert "the same to the last digit" in verdict.message


def in_doubt(now: Pair, then: Pair, beyond: float) -> Verdict:
    """The verdict under a limit so far beyond the estimate."""
    value = judge(now, then, 9).value
    assert value is not None
    verdict = judge(now, then, value + beyond)
    assert verdict.status == "INCONCLUSIVE"
    assert "The interval contains the limit" in verdict.message
    return verdict


def test_doubt_is_no_pass_and_says_what_would_settle_it() -> None:
    """So many seeds or sequences at both commits, since those of one alone are not paired."""
    now, then = pair(0.3, noise=0.3), pair(0.1)
    verdict = in_doubt(now, then, 0.032)
    growth = gap_change(record_pair(*now), record_pair(*then), 0.95)
    effort = effort_to_settle(growth, verdict.limit.value, (3, N), 0.95)
    assert effort.seeds is not None
    assert effort.seeds > 3
    words = f"about {effort.seeds} seeds instead of 3 or about {effort.sequences} validation sequences instead of 64"
    assert f"What to do: in both results, {words} would settle it" in verdict.message
    alone = "More of them now alone would not, because each is paired with the same one of the accepted result: "
    assert f"{alone}delete 'accepted.json' and accept again with --ftguard-update, on the commit" in verdict.message
    assert "Choose another limit" in in_doubt(now, then, 1e-5).message


def test_where_more_seeds_were_accepted_they_settle_a_doubt_without_accepting_again() -> None:
    """As many of them as it takes, if they are enough."""
    then = pair(0.1, seeds=tuple(range(8)))
    few = in_doubt(pair(0.3, noise=0.3), then, 0.033).message
    assert "What to do: about 5 of the 8 accepted seeds, instead of 3, would settle it" in few
    assert "accept again" not in few
    many = in_doubt(pair(0.3, noise=0.3), then, 0.032).message
    assert "of the 8 accepted seeds" not in many
    assert "accept again" in many


@pytest.mark.parametrize("seeds", [(2, 3, 4), (2,)])
def test_a_doubt_with_no_two_pairs_of_seeds_asks_for_those_that_were_accepted(seeds: tuple[int, ...]) -> None:
    """No number of others can be named, since the noise of those then stays."""
    verdict = in_doubt(pair(0.3, noise=0.3, seeds=seeds), pair(0.1, noise=0.2), 0.01)
    assert "train with the seeds of the accepted result (ftguard_seeds = 0, 1, 2)" in verdict.message
    assert "would settle" not in verdict.message


def test_what_happens_to_both_variants_alike_is_absorbed() -> None:
    """Another machine moves full and LoRA by 0.5: no regression, and a note says that full itself has moved."""
    verdict = judge(pair(0.1, level=2.5), pair(0.1), 0.01)
    assert verdict.status == "PASS"
    assert "The loss of full itself has moved by +0.5000" in verdict.message
    assert verdict.note is not None
    assert verdict.note in verdict.message
    assert "itself has moved" not in judge(pair(0.1, level=2.005), pair(0.1), 0.01).message


def test_an_improvement_beyond_the_limit_asks_to_be_accepted() -> None:
    """It passes; a smaller one passes without a word."""
    better = judge(pair(0.05), pair(0.1), 0.02)
    assert better.status == "PASS"
    assert better.note is not None
    assert "accept it with --ftguard-update, so that" in better.note
    assert better.note in better.message
    less = judge(pair(0.09), pair(0.1), 0.02)
    assert less.note is None
    assert "accept it" not in less.message
    few = judge(pair(0.05, seeds=(0, 1)), pair(0.1), 0.02)
    assert few.note is not None
    assert "with --ftguard-update, trained with at least 3 seeds (ftguard_seeds = 0, 1, 2), so that" in few.note


def test_the_advice_is_what_accepting_would_do() -> None:
    """The file must be deleted only if the anchor forbids to accept the result."""
    arguments: dict[str, Any] = {"metric": "loss_gap", "refusals": []}
    one, better, worse, worst = (record_pair(*pair(gap)) for gap in (0.2, 0.1, 0.24, 0.31))
    cases = {
        "the last is the anchor": (file(one), 0.26, "FAIL", False),
        "the last is better than the anchor": (file(one, better), 0.2, "FAIL", True),
        "worse than both": (file(one, better), 0.26, "FAIL", False),
        "worse than the anchor alone": (file(one, worse), 0.26, "FAIL", False),
        "another base": (file(replace(one, base=replace(one.base, digest="other"))), 0.2, "INVALID", False),
        "another base then, not at first": (
            file(one, replace(worst, base=replace(one.base, digest="other"))),
            0.2,
            "INVALID",
            True,
        ),
    }
    for name, (held, gap, status, accepted) in cases.items():
        verdict = judge(pair(gap), held, 0.05)
        assert verdict.status == status, name
        assert ("if it is intended, accept it with --ftguard-update" in verdict.message) is accepted, name
        again = "if it is intended, delete 'accepted.json' and accept again with --ftguard-update"
        assert (again in verdict.message) is not accepted, name
        assert (accept(*pair(gap), limit(0.05), LAZY, file=held, **arguments)[1] is not None) is accepted, name
    assert (
        "accept again with --ftguard-update, trained with at least 3 seeds"
        in judge(pair(0.26, seeds=(0, 1)), file(one), 0.05).message
    )


def test_what_stands_in_the_sentence_is_what_has_grown() -> None:
    """Of five seeds then and three of them now, or with one in common for a time, the others are of no account."""
    five, three = pair(0.1, seeds=(0, 1, 2, 3, 4)), pair(0.13)
    then = record_pair(*five)
    rows = (*then.differences[:3], *(tuple(one + 10 for one in row) for row in then.differences[3:]))
    verdict = judge(three, file(replace(then, differences=rows)), 0.05)
    assert verdict.value == pytest.approx(0.03)
    assert "over the seeds in common, is +0.1300 nats per token, and was +0.1000 when" in verdict.message
    unpaired = judge(pair(0.13, seeds=(2, 3, 4)), pair(0.1), 0.05)
    assert "against full is +0.1300 nats per token, and was +0.1000" in unpaired.message
    one = judge(pair(0.13, seeds=(1,)), pair(0.1), 0.05)
    assert "over the seed in common, is +0.1300" in one.message
    seconds = judge(timed((0.9, 0.8, 0.7)), timed((0.8, 0.7, 0.1), seeds=(0, 1, 3)), "99%", "time")
    assert (
        "The time of a step of lora r=16, over the seeds in common, is 84.9% of full's, and was 74.8%"
        in seconds.message
    )
    assert seconds.value == pytest.approx((0.9 * 0.8 / (0.8 * 0.7)) ** 0.5 - 1)
    assert seconds.value == pytest.approx(0.849 / 0.748 - 1, abs=0.002)


def test_settings_of_the_candidate_may_change_and_are_named() -> None:
    """A smaller rank is what is on trial."""
    verdict = judge(pair(0.2, lora=SMALLER), pair(0.1), 0.05)
    assert verdict.status == "FAIL"
    assert "Changed since then: r 16 -> 8" in verdict.message
    assert "(lora r=16) when it was accepted" in verdict.message


def test_a_method_of_peft_is_held_to_its_accepted_result() -> None:
    """Read back from its file it is the same method; a label changes nothing, and other options are named."""
    vera = Peft("vera", r=8, learning_rate=1e-2)
    text = write_history(History("t.py::test", *[record_pair(*pair(0.1, lora=vera))] * 2))
    held = AcceptedFile(Path("accepted.json"), "t.py::test", read_history(text, Path("accepted.json")))
    renamed = Peft("vera", r=8, learning_rate=1e-2, label="ours")
    for variant in (vera, renamed):
        verdict = judge(pair(0.109, lora=variant), held, 0.01)
        assert (verdict.status, verdict.note) == ("PASS", None)
    assert judge(pair(0.111, lora=vera), held, 0.01).status == "FAIL"
    smaller = Peft("vera", r=4, learning_rate=1e-2)
    note = judge(pair(0.1, lora=smaller), held, 0.01).note
    assert note is not None
    assert note.startswith("Settings changed since it was accepted: options ")


def test_a_changed_training_function_is_named() -> None:
    """It trains both variants, and only its code shows that it has changed since the result was accepted."""
    work = replace(WORKLOAD, training_function="mine:train")
    now, then = (pair(gap, work=work, both={"code": code}) for gap, code in ((0.2, "b"), (0.1, "a")))
    assert "Changed since then: the code of mine:train." in judge(now, then, 0.05).message
    assert "the code of" not in judge(now, pair(0.1, work=work, both={"code": "b"}), 0.05).message
    assert judge(now, then, 0.2).note == "Settings changed since it was accepted: the code of mine:train."


def test_the_folders_of_another_machine_are_neither_compared_nor_shown() -> None:
    """An argument may name a file; earlier versions wrote its folder into the accepted file."""

    def at(path: str) -> Pair:
        return pair(
            work=replace(WORKLOAD, model=f"{path}/model", training_args={"accelerator_config": f"{path}/a.json"})
        )

    then = record_pair(*at("/home/somebody"))
    assert "somebody" not in json.dumps(then.to_dict())
    assert then.model == "model"
    earlier = replace(then, work={**then.work, "training_args": {"accelerator_config": "/home/somebody/a.json"}})
    for held in (then, earlier):
        assert judge(at("/srv/ci"), file(held), 0.05).status == "PASS"
    other = pair(work=replace(WORKLOAD, training_args={"accelerator_config": "/srv/ci/b.json"}))
    message = judge(other, file(earlier), 0.05).message
    assert "training_args is {'accelerator_config': 'b.json'} now, and was {'accelerator_config': 'a.json'}" in message


def test_a_training_function_whose_code_was_not_accepted_is_not_called_changed() -> None:
    """Files that were accepted before the code was recorded say nothing about it."""
    work = replace(WORKLOAD, training_function="mine:train")
    now, then = (pair(0.1, work=work, both={"code": code}) for code in ("b", None))
    verdict = judge(now, then, 0.05)
    assert "the code of" not in verdict.message
    assert verdict.note is None


def test_a_pass_with_other_settings_than_were_accepted_says_so() -> None:
    """In the note too, since nobody reads the message of a test that passes; those of the anchor are of no account."""
    verdict = judge(pair(0.1, lora=SMALLER), pair(0.1), 0.05)
    assert verdict.status == "PASS"
    assert verdict.note == "Settings changed since it was accepted: r 16 -> 8."
    assert verdict.note in verdict.message
    followed = file(record_pair(*pair(0.1)), record_pair(*pair(0.11, lora=SMALLER)))
    assert judge(pair(0.1, lora=SMALLER), followed, 0.05).note is None


def test_slow_decay_is_caught_by_the_anchor() -> None:
    """Each step of 0.04 is within the limit of 0.05, and the second one is beyond it since the first result."""
    first, second, third = (pair(gap) for gap in (0.1, 0.14, 0.18))
    assert judge(second, first, 0.05).status == "PASS"
    held = file(record_pair(*first), record_pair(*second))
    verdict = judge(third, held, 0.05)
    assert verdict.status == "FAIL"
    assert verdict.value == pytest.approx(0.08)
    assert "It has grown by +0.0400 [+0.0400, +0.0400] against the accepted result and +0.0800 [" in verdict.message
    assert "delete 'accepted.json' and accept again" in verdict.message


def test_after_an_improvement_was_accepted_it_is_what_counts() -> None:
    """A return to the anchor is a regression."""
    verdict = judge(pair(0.2), file(record_pair(*pair(0.2)), record_pair(*pair(0.1))), 0.05)
    assert verdict.status == "FAIL"
    assert verdict.value == pytest.approx(0.1)


def test_the_work_that_a_file_holds_is_what_files_of_earlier_versions_hold() -> None:
    """In their order, so that accepting the same again changes no line."""
    assert list(record_pair(*pair()).work) == [
        "task",
        "block_size",
        "batch_size",
        "steps",
        "model_args",
        "training_args",
        "training_function",
    ]


def longer(**changes: Any) -> Pair:
    return pair(work=replace(WORKLOAD, **changes))


OTHER_BASE = {"base_validation": losses([31.0] * N)}
NOT_THE_SAME: dict[str, tuple[Pair, str]] = {
    "steps": (longer(steps=200), "steps is 200 now, and was 100"),
    "batch": (longer(batch_size=8), "batch_size is 8 now"),
    "block": (longer(block_size=64), "block_size is 64 now"),
    "model arguments": (longer(model_args={"resid_pdrop": 0.1}), "model_args is {'resid_pdrop': 0.1} now"),
    "training function": (longer(training_function="mine:train"), "training_function is 'mine:train' now"),
    "training arguments": (longer(training_args={"max_grad_norm": 2}), "training_args is"),
    "precision": (pair(both={"environment": replace(ENVIRONMENT, precision="bf16")}), "precision is 'bf16' now"),
    "validation text": (pair(text="other"), "the validation sequences are not the same"),
    "base model": (pair(both=OTHER_BASE), "the base model is another one"),
    "training text": (pair(batches="other"), "the training batches of seed 0"),
    "full": (pair(full=Full(learning_rate=2e-4)), "the learning_rate of full, the reference, is 0.0002 now"),
    "seeds": (pair(seeds=(3, 4, 5)), "there is no seed in common"),
}


def test_how_a_rate_was_found_and_how_far_seeds_may_grow_are_no_other_work() -> None:
    """The reference was trained at the same rate, and a label such as final changes nothing of it."""
    now = pair(
        full=Full(learning_rate=1e-4, search_learning_rate=True), work=replace(WORKLOAD, most_seeds=8, final=True)
    )
    then = pair(full=Full(learning_rate=1e-4))
    assert not differing_work(record_pair(*now), record_pair(*then))
    assert not settings_since(record_pair(*now), record_pair(*then))


@pytest.mark.parametrize("name", NOT_THE_SAME)
def test_what_is_not_the_same_work_is_invalid(name: str) -> None:
    """The message names what differs; such a result cannot follow in the same file either."""
    now, words = NOT_THE_SAME[name]
    verdict = judge(now, pair(), 99)
    assert verdict.status == "INVALID"
    assert verdict.value is None
    assert words in verdict.message
    assert "delete 'accepted.json' and accept again" in verdict.message
    held = file(record_pair(*pair()))
    refused, updated = accept(*now, limit(99), LAZY, metric="loss_gap", file=held, refusals=[])
    assert (refused.status, updated) == ("INVALID", None)
    assert words in refused.message
    assert "delete 'accepted.json' and accept again" in refused.message


def test_beside_a_full_that_learns_nothing_either_nothing_is_concluded() -> None:
    """Both trainings broken: a gap that has not grown, and no PASS; nor can that be accepted."""
    broken = pair(0.0, level=3.0)
    for verdict in (
        judge(broken, pair(), 0.05, rule=Rule()),
        accept(*broken, limit(0.05), Rule(), metric="loss_gap", file=file(), refusals=[])[0],
    ):
        assert verdict.status == "INVALID"
        assert "lora r=16 is not better than the base model" in verdict.message
        assert "full is not better than the base model" in verdict.message


def test_without_an_accepted_result_nothing_is_concluded() -> None:
    """The message names the file and how to make it."""
    verdict = judge(pair(), file(), 99)
    assert verdict.status == "INVALID"
    assert "'accepted.json' does not exist" in verdict.message
    assert "--ftguard-update" in verdict.message
    assert "or set ftguard_on_missing = warn" in verdict.message
    warns = Setting("warn", Origin("marker", "the marker"))
    warned = gate.assess_regression(asked(pair(), limit(99), LAZY, "loss_gap", file()), on_missing=warns)
    assert "--ftguard-update" in warned.message
    assert "on_missing" not in warned.message  # it is what gave this warning


def test_a_missing_result_says_how_to_keep_that_of_an_earlier_name() -> None:
    """The name of the file that the test looks for, and what to write into it."""
    place = file().place.name
    wanted = f'if the test was renamed, rename its old file to {place} and write "test": "t.py::test" into it'
    assert wanted in judge(pair(), file(), 99).message


def test_some_seeds_in_common_pair_where_one_side_has_no_others() -> None:
    """Three of five are paired; if each side has others, the means are compared with the noise of both."""
    three, five, others = (record_pair(*pair(seeds=seeds)) for seeds in ((0, 1, 2), (0, 1, 2, 3, 4), (2, 3, 4)))
    assert paired_seeds(three, five) == paired_seeds(five, three) == (0, 1, 2)
    assert paired_seeds(three, others) == ()
    noisy = judge(pair(noise=0.3, seeds=(2, 3, 4)), pair(noise=0.3), 0.01)
    assert noisy.status == "INCONCLUSIVE"
    assert "3 seeds now and 3 others then" in noisy.message
    one = judge(pair(seeds=(1,)), pair(), 0.01)
    assert one.status == "PASS"
    assert "the one seed in common, which says nothing of other seeds" in one.message


def test_documents_are_the_unit_where_sequences_were_cut_from_them() -> None:
    """Sequences of one document that go up and down together are one observation."""
    documents = tuple(i // 2 for i in range(2 * N))

    def side(variant: Any, level: float, noise: float) -> TrainedVariant:
        per_document = np.random.default_rng(3).normal(0, noise, N).repeat(2)
        nll = tuple((10 * (level + per_document)).tolist())
        work = replace(WORKLOAD, seeds=SEEDS)
        texts = {
            name: losses(values, documents=documents)
            for name, values in (("validation", nll), ("base_validation", [30.0] * 2 * N))
        }
        return trained(variant, *(trial(variant, nll, seed=seed, workload=work, **texts) for seed in SEEDS))

    now, then = (side(LORA, 2.1, 0.2), side(FULL, 2.0, 0)), (side(LORA, 2.1, 0), side(FULL, 2.0, 0))
    change = gap_change(record_pair(*now), record_pair(*then), 0.95)
    assert change.degrees_of_freedom == N - 1
    assert "64 documents" in judge(now, then, 0.01).message
    assert "validation documents instead of 64 would settle it" in in_doubt(now, then, 0.03).message


# --- memory and time


def memory(candidate: int, baseline: int = 1000, **both: Any) -> Pair:
    one, other = pair(
        ours={"memory": Memory(candidate, "live tensors")}, both={"memory": Memory(baseline, "live tensors"), **both}
    )
    return one, other


@pytest.mark.parametrize(("peak", "status"), [(630, "PASS"), (631, "FAIL"), (500, "PASS")])
def test_memory_may_grow_by_its_share(peak: int, status: str) -> None:
    """600 of 1000 may become 630 at 5 %; less asks to be accepted."""
    verdict = judge(memory(peak), memory(600), "5%", "memory")
    assert verdict.status == status
    assert verdict.value == pytest.approx(peak / 600 - 1)
    assert verdict.limit.unit == GROWTH
    assert ("It has become better" in verdict.message) == (peak == 500)


def test_bytes_are_compared_on_the_same_machine_only() -> None:
    """Both variants take 10 % more: a regression here, and on another machine a matter of the machine."""
    assert judge(memory(660, 1100), memory(600), "5%", "memory").status == "FAIL"
    elsewhere = memory(660, 1100, environment=replace(ENVIRONMENT, device_name="another processor"))
    verdict = judge(elsewhere, memory(600), "5%", "memory")
    assert verdict.status == "PASS"
    assert "Bytes are not compared" in verdict.message
    threads = memory(660, 1100, environment=replace(ENVIRONMENT, threads=7))
    assert judge(threads, memory(600), "5%", "memory").status == "FAIL"


def test_peaks_that_were_measured_in_another_way_are_not_compared() -> None:
    """Live tensors on the CPU and an allocator's peak are different things."""
    allocator = pair(both={"memory": Memory(600, "allocator")})
    assert judge(allocator, memory(600), "5%", "memory").status == "INVALID"


def timed(shares: tuple[float, ...], **both: Any) -> Pair:
    one, other = pair(**both)
    ours = [t.remeasured(time=Timing(0.5 * share, 97, 1.0)) for t, share in zip(one.trials, shares, strict=True)]
    return replace(one, trials=tuple(ours)), other


def test_time_is_judged_by_the_share_of_the_baselines_step() -> None:
    """0.8 that becomes 0.88 has grown by 10 %; how long a step takes on this machine is of no account."""
    now, then = timed((0.88, 0.88, 0.88)), timed((0.8, 0.8, 0.8))
    assert judge(now, then, "9%", "time").status == "FAIL"
    verdict = judge(now, then, "11%", "time")
    assert verdict.status == "PASS"
    assert verdict.value == pytest.approx(0.1)
    assert judge(timed((0.7, 0.88, 1.1)), then, "11%", "time").status == "INCONCLUSIVE"
    assert judge(timed((0.88,), seeds=(0,)), then, "99%", "time").status == "INVALID"


def test_what_the_accepted_result_does_not_hold_is_invalid() -> None:
    """Time or memory that was not measured then is neither 0 nor equal."""
    then = record_pair(*pair())
    metrics: tuple[Metric, ...] = ("memory", "time")
    for metric in metrics:
        bare = replace(
            then, memory_method=None, candidate=replace(then.candidate, peak_bytes=None, seconds_per_step=None)
        )
        verdict = judge(pair(), file(bare), "99%", metric)
        assert verdict.status == "INVALID", metric


# --- accepting


def test_accepting_starts_a_history_and_goes_on_with_it() -> None:
    """The first result is the anchor; the second one replaces the last, and its note compares the two."""
    arguments: dict[str, Any] = {"metric": "loss_gap", "refusals": []}
    verdict, first = accept(*pair(0.1), limit(0.05), LAZY, file=file(), **arguments)
    assert first is not None
    assert verdict.status == "PENDING"
    assert verdict.value is None
    held = AcceptedFile(Path("accepted.json"), "t.py::test", first)
    verdict, second = accept(*pair(0.13), limit(0.05), LAZY, file=held, **arguments)
    assert second is not None
    assert second.anchor == first.accepted == record_pair(*pair(0.1))
    assert second.accepted == record_pair(*pair(0.13))
    assert "is +0.1300 nats per token, and was +0.1000 when it was accepted" in verdict.message
    verdict, third = accept(*pair(0.1), limit(0.05), LAZY, file=held, **arguments)
    assert third == first
    assert "This very result was accepted before" in verdict.message


@pytest.mark.parametrize(("gap", "worse"), [(0.149, False), (0.151, True)])
def test_what_takes_the_place_of_a_better_result_says_so(gap: float, worse: bool) -> None:
    """The anchor allows it, and nothing else would show that the last result was better by more than the limit."""
    held = file(record_pair(*pair(0.2)), record_pair(*pair(0.1)))
    verdict, updated = accept(*pair(gap), limit(0.05), LAZY, file=held, metric="loss_gap", refusals=[])
    assert updated is not None
    assert verdict.note is not None
    standing = f"The loss gap of lora r=16 against full is +{gap:.4f} nats per token, and was +0.1000 when"
    assert verdict.note.startswith(standing)
    assert ("It is worse than the accepted result by more than 0.05: commit it only" in verdict.note) is worse


def test_what_every_later_run_would_fail_is_not_accepted() -> None:
    """It is beyond the limit from the anchor, which never moves: the message says how to begin again."""
    _, first = accept(*pair(0.1), limit(0.05), LAZY, file=file(), metric="loss_gap", refusals=[])
    held = AcceptedFile(Path("accepted.json"), "t.py::test", first)
    for gap, status in ((0.149, "PENDING"), (0.151, "INVALID")):
        verdict, updated = accept(*pair(gap), limit(0.05), LAZY, file=held, metric="loss_gap", refusals=[])
        assert verdict.status == status, verdict.message
        assert (updated is None) is (status == "INVALID")
    assert "INVALID: not accepted, because it is worse than the anchor by more than the limit," in verdict.headline
    assert "it stays, so every later run would fail" in verdict.message
    assert "to begin again, delete 'accepted.json' and accept again" in verdict.message


def test_what_is_in_doubt_beside_the_anchor_is_accepted_with_a_note() -> None:
    """Later runs will be INCONCLUSIVE as well, and the note says so."""
    now, held = pair(0.2, noise=0.3), file(record_pair(*pair(0.1)))
    at_most = limit(gap_change(record_pair(*now), record_pair(*pair(0.1)), 0.95).value + 0.01)
    arguments: dict[str, Any] = {"metric": "loss_gap", "refusals": []}
    verdict, updated = accept(*now, at_most, LAZY, file=held, **arguments)
    assert verdict.status == "PENDING"
    assert verdict.note is not None
    assert "Compared with the anchor, which was accepted first, this result is INCONCLUSIVE: it may be" in verdict.note
    assert "later runs like it will be INCONCLUSIVE too." in verdict.note
    assert "delete 'accepted.json' and accept again, which makes this result the anchor" in verdict.note
    later = gate.assess_regression(asked(now, at_most, LAZY, "loss_gap", replace(held, history=updated)))
    assert later.status == "INCONCLUSIVE"
    assert "INCONCLUSIVE" not in str(accept(*pair(0.11), limit(0.05), LAZY, file=held, **arguments)[0].note)


def test_what_the_anchor_does_not_hold_cannot_be_accepted_beside_it() -> None:
    """A metric that the anchor does not have would be INVALID in every later run."""
    now = record_pair(*pair())
    bare = replace(now, memory_method=None, candidate=replace(now.candidate, peak_bytes=None))
    arguments: dict[str, Any] = {"rule": LAZY, "file": file(bare), "refusals": []}
    verdict, updated = accept(*pair(), limit=limit("5%"), metric="memory", **arguments)
    assert (verdict.status, updated) == ("INVALID", None)
    assert "The peaks of memory were not measured in both, or not in the same way. The anchor is" in verdict.message
    assert accept(*pair(), limit=limit(0.05), metric="loss_gap", **arguments)[1] is not None


@pytest.mark.parametrize(
    ("now", "metric", "words"),
    [
        (pair(seeds=(0, 1)), "loss_gap", "not accepted, because lora r=16 was trained with 2 seeds"),
        (pair(ours={"outcome": "diverged"}), "loss_gap", "ended diverged"),
        (pair(ours={"memory": None}), "memory", "peak memory of lora r=16, seed 0, was not measured"),
        (pair(ours={"time": None}), "time", "time of a step of lora r=16, seed 0, was not measured"),
    ],
)
def test_what_is_not_sound_is_not_accepted(now: Pair, metric: Metric, words: str) -> None:
    """Too few seeds, a trial that failed, or a value that was not measured."""
    at_most = limit(0.05) if metric == "loss_gap" else limit("5%")
    verdict, updated = accept(*now, at_most, LAZY, metric=metric, file=file(), refusals=[])
    assert (verdict.status, updated) == ("INVALID", None)
    assert words in verdict.message


def test_a_refusal_from_outside_holds_whatever_was_measured() -> None:
    """CI, or a gate that did not pass."""
    refusals = [Problem("CI is set", remedy="do it elsewhere")]
    verdict, updated = accept(*pair(), limit(0.05), LAZY, metric="loss_gap", file=file(), refusals=refusals)
    assert (verdict.status, updated) == ("INVALID", None)
    assert "not accepted, because CI is set, limit 0.05 (" in verdict.headline


def test_without_a_running_test_there_is_no_file() -> None:
    """A script that calls the helper gets an error that says so, and nothing is green."""

    def ask() -> None:
        active_test.set(None)
        assert_no_regression(*pair(), at_most=0.01)

    with pytest.raises(ConfigurationError, match="call it in a test"):
        copy_context().run(ask)


# --- laws

GAPS = st.floats(-1, 1)


@given(GAPS, GAPS, st.floats(-0.5, 0.5), st.floats(0, 0.3))
def test_a_constant_on_both_sides_changes_nothing(now: float, then: float, constant: float, noise: float) -> None:
    """But for the digits that the records leave out."""
    held = record_pair(*pair(then, noise=noise))
    plain, moved = (record_pair(*pair(now, noise=noise, level=2 + one)) for one in (0.0, constant))
    one, other = gap_change(plain, held, 0.95), gap_change(moved, held, 0.95)
    assert other.value == pytest.approx(one.value, abs=2e-5)
    assert other.upper == pytest.approx(one.upper, abs=2e-4)


@given(GAPS, GAPS, st.floats(0, 0.3), st.sampled_from([SEEDS, (0, 1, 2, 3, 4), (2, 3, 4)]))
def test_swapping_now_and_then_turns_the_sign(now: float, then: float, noise: float, seeds: tuple[int, ...]) -> None:
    """Of the estimate, and of the bounds, which change places; whether seeds are paired or not."""
    one, other = record_pair(*pair(now, noise=noise)), record_pair(*pair(then, noise=2 * noise, seeds=seeds))
    there, back = gap_change(one, other, 0.95), gap_change(other, one, 0.95)
    assert (back.value, back.lower, back.upper) == pytest.approx((-there.value, -there.upper, -there.lower), abs=1e-12)


@given(st.floats(0.01, 0.5), st.floats(0, 0.3))
def test_a_regression_is_measured_at_its_size(planted: float, noise: float) -> None:
    """The estimate is the planted growth, and with the same noise on both sides there is nothing to be unsure of."""
    change = gap_change(record_pair(*pair(0.1 + planted, noise=noise)), record_pair(*pair(0.1, noise=noise)), 0.95)
    assert change.value == pytest.approx(planted, abs=2e-5)
    assert change.upper - change.lower < 1e-4


@pytest.mark.parametrize("paired", [True, False])
def test_at_the_limit_it_errs_as_rarely_as_promised(paired: bool) -> None:
    """Three seeds, a regression of exactly the limit, and noise of seeds, of sequences, and of both: 5 % each way."""
    random, draws, margin = np.random.default_rng(1), 2000, 0.05
    tokens, counts = np.full(N, 127.0), Counter[str]()
    for _ in range(draws):
        items = random.normal(0, 0.058, (2, 1, N))
        seeds = random.normal(0, 0.006, (2, 3, 1)) + random.normal(0, 0.03, (2, 3, N))
        now, then = 127 * (items + seeds + np.array([margin, 0]).reshape(2, 1, 1))
        counts[decide("regression", change_of_gap(now, then, tokens, 0.95, paired=paired), margin)] += 1
    assert counts["INVALID"] == 0
    assert counts["PASS"] / draws <= 0.07
    assert counts["FAIL"] / draws <= 0.07


def test_without_pairs_one_seed_shows_no_noise() -> None:
    """And so is refused instead of being taken for no noise at all."""
    with pytest.raises(ValueError, match="at least two seeds, got 1 and 3"):
        change_of_gap(np.zeros((1, N)), np.zeros((3, N)), np.ones(N), 0.95, paired=False)


# --- the limit


@pytest.mark.parametrize(
    ("value", "number", "unit"),
    [
        (0.01, 0.01, NATS_PER_TOKEN),
        ("0.01", 0.01, NATS_PER_TOKEN),
        (0, 0, NATS_PER_TOKEN),
        ("5%", 0.05, GROWTH),
        (" 0 % ", 0, GROWTH),
    ],
)
def test_a_limit_is_a_number_or_a_share(value: Any, number: float, unit: str) -> None:
    """Nats per token of the loss gap, or growth of memory and time; 0 is a limit too."""
    found = limit(value)
    assert found.value == pytest.approx(number)
    assert found.unit == unit


@pytest.mark.parametrize("value", [-0.01, "-5%", "nan", "nan%", "inf", math.nan, math.inf, True, "five", "", "%", None])
def test_what_is_no_limit_is_refused(value: Any) -> None:
    """Below 0 the same result would fail; the rest is no number."""
    with pytest.raises(Exception, match=r"limit of the regression must be.*ftguard_max_regression in pytest.ini"):
        limit(value)


def test_seconds_and_bytes_that_judge_nothing_are_not_recorded() -> None:
    """Accepted for the loss, a disturbed time or another machine's peak would make later regressions look good."""
    disturbed = pair(ours={"time": Timing(0.9, 97, 50.0, disturbance="xdist")})
    elsewhere = pair(ours={"memory": Memory(900, "allocator"), "measured_elsewhere": "another GPU"})
    for now, missing in ((disturbed, "seconds_per_step"), (elsewhere, "peak_bytes")):
        verdict, history = accept(*now, limit(0.1), LAZY, metric="loss_gap", file=file(), refusals=[])
        assert verdict.status == "PENDING", verdict.message
        assert history is not None
        assert getattr(history.accepted.candidate, missing) is None
        assert getattr(history.accepted.baseline, missing) is None
    quiet, _ = accept(*pair(), limit(0.1), LAZY, metric="loss_gap", file=file(), refusals=[])
    assert quiet.status == "PENDING"
