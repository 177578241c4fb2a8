"""Gates: limits on both sides, and nothing that may not be concluded is ever green."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.asking import check_pair
from pytest_ftguard.gates.limits import (
    NATS_PER_TOKEN,
    Limit,
    parse_memory_limit,
    parse_number_limit,
)
from pytest_ftguard.gates.memory import assess_memory
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin, Setting
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import CurvePoint, Memory, TrainedVariant, Trial, TrialError
from pytest_ftguard.specs import Full, LoRA, Peft, Variant
from tests.plain.builders import FULL, LORA, WORKLOAD, losses, trained, trial

ARGUMENT = Origin("argument", "the argument at_most")
N = 256
BASE = tuple(20.0 + 0.01 * i for i in range(N))


def shifted(gap: float, noise: float = 0.0, seed: int = 0) -> tuple[float, ...]:
    """Losses with a given gap per token to BASE, and with noise per sequence."""
    draw = np.random.default_rng(seed).normal(0, noise, N)
    return tuple(float(value + 10 * gap + 10 * e) for value, e in zip(BASE, draw - draw.mean(), strict=True))


def judge(candidate: TrainedVariant, baseline: TrainedVariant, at_most: object = 0.1, **options: Any) -> Verdict:
    limit = Limit.of(Setting(parse_number_limit(at_most, "loss gap", NATS_PER_TOKEN, ARGUMENT), ARGUMENT))
    return assess_loss_gap(candidate, baseline, limit, Rule(**options))


def pair(gap: float, **changes: Any) -> tuple[TrainedVariant, TrainedVariant]:
    return trained(LORA, trial(LORA, shifted(gap), **changes)), trained(FULL, trial(FULL, BASE))


@pytest.mark.parametrize(("gap", "status"), [(0.0999, "PASS"), (0.1001, "FAIL"), (-0.5, "PASS"), (0.5, "FAIL")])
def test_without_noise_the_gap_decides(gap: float, status: str) -> None:
    """Just below the margin passes, just above fails."""
    assert judge(*pair(gap)).status == status


@pytest.mark.parametrize(("gap", "status"), [(0.08, "PASS"), (0.1, "INCONCLUSIVE"), (0.12, "FAIL")])
def test_with_noise_the_bounds_decide(gap: float, status: str) -> None:
    """A gap at the margin is INCONCLUSIVE: the limit lies between the bounds."""
    verdict = judge(trained(LORA, trial(LORA, shifted(gap, 0.1))), trained(FULL, trial(FULL, BASE)))
    assert verdict.status == status
    assert verdict.interval is not None
    lower, upper = verdict.interval
    assert verdict.value == pytest.approx(gap)
    assert lower < gap < upper
    assert upper - gap == pytest.approx(1.651 * 0.1 / math.sqrt(N), rel=0.15)


def test_a_message_says_what_was_measured_allowed_and_where_it_was_set() -> None:
    """The reader needs the figures, the limit, its place, and what the verdict is about."""
    message = judge(*pair(0.3)).message
    for words in ("+0.3000", "limit 0.1 (the argument at_most)", "100 steps", "256 sequences", "two checkpoints"):
        assert words in message


def test_full_against_full_passes() -> None:
    """Two equal trainings have no gap, and their equal learning rate is no objection."""
    assert judge(trained(FULL, trial(FULL, BASE)), trained(FULL, trial(FULL, BASE)), at_most=0).status == "PASS"


def broken_loss(**changes: Any) -> Callable[[], tuple[TrainedVariant, TrainedVariant]]:
    return lambda: pair(0.0, **changes)


def other_workload(**changes: Any) -> Callable[[], tuple[TrainedVariant, TrainedVariant]]:
    return lambda: pair(0.0, workload=replace(WORKLOAD, **changes))


def seeds(ours: tuple[int, ...], theirs: tuple[int, ...]) -> Callable[[], tuple[TrainedVariant, TrainedVariant]]:
    return lambda: (
        trained(LORA, *(trial(LORA, BASE, seed=seed) for seed in ours)),
        trained(FULL, *(trial(FULL, BASE, seed=seed) for seed in theirs)),
    )


def sequences(count: int) -> tuple[TrainedVariant, TrainedVariant]:
    return trained(LORA, trial(LORA, BASE[:count])), trained(FULL, trial(FULL, BASE[:count]))


def one_run(variant: Variant) -> TrainedVariant:
    return trained(variant, *(trial(variant, BASE, seed=seed, data_order="one") for seed in (0, 1)))


INVALID: dict[str, tuple[Callable[[], tuple[TrainedVariant, TrainedVariant]], str]] = {
    "NaN": (broken_loss(validation=losses((math.nan, *BASE[1:]))), "not finite"),
    "infinity": (broken_loss(validation=losses((-math.inf, *BASE[1:]))), "not finite"),
    "unmeasured": (broken_loss(validation=None), "not measured"),
    "out of memory": (
        broken_loss(outcome="out_of_memory", error=TrialError("CUDA out of memory")),
        "CUDA out of memory",
    ),
    "diverged": (broken_loss(outcome="diverged"), "ended diverged"),
    "crashed": (broken_loss(outcome="crashed", error=TrialError("it died", "last words")), "last words"),
    "timed out": (broken_loss(outcome="timed_out"), "ended timed_out"),
    "no candidate": (lambda: (trained(LORA), trained(FULL, trial(FULL, BASE))), "no trial"),
    "no baseline": (lambda: (trained(LORA, trial(LORA, BASE)), trained(FULL)), "no trial"),
    "one sequence": (lambda: sequences(1), "At least 64"),
    "63 sequences": (lambda: sequences(63), "At least 64"),
    "few documents": (
        broken_loss(validation=losses(BASE, documents=(0, 1) * 128)),
        "same validation sequences|At least 64",
    ),
    "unpaired seeds": (seeds((0, 1), (0, 2)), "not paired"),
    "missing seed": (seeds((0, 1), (0,)), "not paired"),
    "repeated seed": (seeds((0, 0), (0, 0)), "occurs twice"),
    "other steps": (other_workload(steps=99), "steps is 99 for the candidate and 100 for the baseline"),
    "other batch": (other_workload(batch_size=8), "batch_size is 8"),
    "other text": (broken_loss(validation=losses(BASE, digest="other")), "not evaluated on the same"),
    "other order": (broken_loss(data_order="other"), "same batches in the same order"),
    "unknown order": (broken_loss(data_order=None), "not known which batches"),
    "no environment": (broken_loss(environment=None), "were not recorded"),
    "other documents": (
        lambda: (
            trained(LORA, trial(LORA, BASE, validation=losses(BASE, documents=tuple(range(N))))),
            trained(FULL, trial(FULL, BASE)),
        ),
        "not evaluated on the same validation sequences",
    ),
    "other curve": (broken_loss(curve=trial(LORA, BASE).measured.curve[:3]), "not measured at the same steps"),
    "NaN in the curve": (
        broken_loss(curve=(*trial(LORA, BASE).measured.curve[:3], CurvePoint(100, 2.0, (math.nan, 20.0)))),
        "not measured at the same steps of both, or is not finite",
    ),
    "one run repeated": (lambda: (one_run(LORA), one_run(FULL)), "seeds 0 and 1 of full saw the same batches"),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_may_not_be_concluded_is_invalid(name: str) -> None:
    """Each case is INVALID with its reason, although every margin would be met."""
    make, reason = INVALID[name]
    verdict = judge(*make(), at_most=99)
    assert verdict.status == "INVALID"
    assert verdict.value is None
    assert any(words in verdict.message for words in reason.split("|")), verdict.message


def test_64_sequences_are_enough() -> None:
    """The other side of the boundary of 63."""
    assert judge(*sequences(64)).status == "PASS"


def test_another_precision_or_device_is_not_the_same_work() -> None:
    """fp32 against bf16, or the CPU against a GPU, is INVALID."""
    environment = trial(LORA, BASE).measured.environment
    assert environment is not None
    for change in ({"precision": "bf16"}, {"device": "cuda"}):
        verdict = judge(*pair(0.0, environment=replace(environment, **change)), at_most=99)  # type: ignore[arg-type]
        assert verdict.status == "INVALID"
        assert next(iter(change)) in verdict.message


def test_the_same_learning_rate_in_full_and_lora_is_invalid_unless_it_is_meant() -> None:
    """LoRA at full's learning rate is held back, which a comparison must not hide."""
    lora = LoRA(learning_rate=1e-4)
    both = trained(lora, trial(lora, BASE)), trained(FULL, trial(FULL, BASE))
    assert judge(*both).status == "INVALID"
    assert "0.0001" in judge(*both).message
    assert judge(*both, same_learning_rate=True).status == "PASS"


def test_zero_variance_beyond_the_margin_fails() -> None:
    """Without any noise the interval is a point, and it still decides."""
    constant = tuple(value + 2 for value in BASE)
    verdict = judge(trained(LORA, trial(LORA, constant)), trained(FULL, trial(FULL, BASE)), at_most=0.19)
    assert verdict.status == "FAIL"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "", "0.1 nats", None, True])
def test_a_margin_that_is_no_number_is_refused(value: object) -> None:
    """The message names the value and where it came from."""
    with pytest.raises(ConfigurationError, match="the argument at_most"):
        parse_number_limit(value, "loss gap", NATS_PER_TOKEN, ARGUMENT)


def memory(at_most: str, candidate: TrainedVariant, of: TrainedVariant | None = None) -> Verdict:
    origin = Origin("ini", "ftguard_max_memory in pytest.ini")
    return assess_memory(candidate, Limit.of(Setting(parse_memory_limit(at_most, origin), origin)), of)


def with_peak(peak: Memory | None) -> Trial:
    return trial(LORA, BASE, memory=peak)


@pytest.mark.parametrize(("at_most", "status"), [("600 B", "PASS"), ("599 B", "FAIL"), ("601 B", "PASS")])
def test_a_budget_in_bytes_is_met_up_to_its_last_byte(at_most: str, status: str) -> None:
    """A peak of 600 bytes meets 600 and breaks 599."""
    verdict = memory(at_most, trained(LORA, trial(LORA, BASE)))
    assert (verdict.status, verdict.value, verdict.interval) == (status, 600, None)


@pytest.mark.parametrize(("at_most", "status"), [("60%", "PASS"), ("59.9%", "FAIL")])
def test_a_share_is_of_the_baselines_peak(at_most: str, status: str) -> None:
    """600 of 1000 bytes is 60 %."""
    verdict = memory(at_most, trained(LORA, trial(LORA, BASE)), trained(FULL, trial(FULL, BASE)))
    assert verdict.status == status
    assert "60.0% of full's" in verdict.message


def test_the_largest_peak_over_the_seeds_counts() -> None:
    """One seed beyond the budget breaks it."""
    seeds_ = trained(
        LORA, with_peak(Memory(10, "allocator")), trial(LORA, BASE, seed=1, memory=Memory(99, "allocator"))
    )
    assert memory("98 B", seeds_).status == "FAIL"


def test_a_share_without_a_baseline_is_refused() -> None:
    """The message says to pass of=full_variant, and where the limit was set."""
    with pytest.raises(ConfigurationError, match=r"ftguard_max_memory in pytest.ini.*of=full_variant"):
        memory("60%", trained(LORA, trial(LORA, BASE)))


@pytest.mark.parametrize("peak", [None, Memory(0, "allocator"), Memory(-1, "allocator")])
def test_memory_that_was_not_measured_is_invalid(peak: Memory | None) -> None:
    """None and 0 are no measurements, however generous the budget."""
    assert memory("99 TB", trained(LORA, with_peak(peak))).status == "INVALID"
    share = memory("99%", trained(FULL, trial(FULL, BASE)), trained(LORA, with_peak(peak)))
    assert share.status == "INVALID"


def test_memory_of_failed_or_differently_measured_trials_is_invalid() -> None:
    """An outcome that is not ok, and two methods, cannot be judged."""
    assert memory("99 TB", trained(LORA, trial(LORA, BASE, outcome="out_of_memory"))).status == "INVALID"
    assert memory("99 TB", trained(LORA)).status == "INVALID"
    other = memory("99%", trained(LORA, with_peak(Memory(1, "allocator"))), trained(FULL, trial(FULL, BASE)))
    assert other.status == "INVALID"
    assert "different ways" in other.message


def test_a_failed_trial_shows_the_end_of_its_log() -> None:
    """A test of the memory alone says as much about a failure as a test of the gap."""
    crashed = trial(LORA, BASE, outcome="crashed", error=TrialError("it died", "last words"))
    assert "last words" in memory("99 TB", trained(LORA, crashed)).message


def test_a_verdict_survives_json() -> None:
    """What xdist's workers send is what the controller shows."""
    for verdict in (judge(*pair(0.2)), memory("1 kB", trained(LORA, trial(LORA, BASE)))):
        assert Verdict.from_dict(verdict.to_dict()) == verdict


def test_the_baseline_may_not_be_of_another_kind_by_accident() -> None:
    """Full fine-tuning with other settings is another variant with the same label."""
    other = Full(learning_rate=2e-4)
    assert judge(trained(other, trial(other, shifted(0.2))), trained(FULL, trial(FULL, BASE))).status == "FAIL"


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (LORA, LoRA(learning_rate=1e-3), "lora r=16 as the candidate and as the baseline"),
        (LORA, replace(LORA, search_learning_rate=True), "lora r=16 as the candidate and as the baseline"),
        (
            Peft("ia3", learning_rate=1e-2, label="ours"),
            Peft("ia3", learning_rate=1e-2, label="theirs"),
            "ours and theirs, one training under two labels, as the candidate and as the baseline",
        ),
    ],
)
def test_one_training_is_no_pair_whatever_it_is_called(ours: Variant, theirs: Variant, words: str) -> None:
    """Its gap is always 0, so such a gate would always be green."""
    with pytest.raises(ConfigurationError, match=words):
        check_pair("assert_loss_gap", trained(ours, trial(ours, BASE)), trained(theirs, trial(theirs, BASE)))


@pytest.mark.parametrize("theirs", [Peft("ia3", learning_rate=2e-2), Peft("vera", learning_rate=1e-2), FULL])
def test_what_trains_otherwise_is_a_pair(theirs: Variant) -> None:
    """Another rate, method or kind makes another training, also under one label."""
    ours = Peft("ia3", learning_rate=1e-2, label=theirs.label)
    check_pair("assert_loss_gap", trained(ours, trial(ours, BASE)), trained(theirs, trial(theirs, BASE)))
