"""One variant across commits: its own loss against the accepted one, so that what makes all variants worse is seen."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_ftguard.accepting import gate
from pytest_ftguard.accepting.asked import Asked
from pytest_ftguard.accepting.files import AcceptedFiles
from pytest_ftguard.accepting.helper import assert_no_regression
from pytest_ftguard.accepting.history import AcceptedFile, History, read_history, write_history
from pytest_ftguard.accepting.record import PairRecord, record_one, record_pair
from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.files import write_all
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import Full, Variant
from tests.plain.builders import ENVIRONMENT, FULL, LORA, WORKLOAD, losses, trained, trial

N = 64
SEEDS = (0, 1, 2)
BASE = tuple(30.0 + 0.01 * i for i in range(N))
PLACE = Path("accepted.json")
TEST = "t.py::test"
HERE = replace(ENVIRONMENT, precision="bf16")
ELSEWHERE = replace(HERE, device_name="another processor", versions={"torch": "9.9"})


def one(
    loss: float = 2.0,
    *,
    variant: Variant = FULL,
    seeds: tuple[int, ...] = SEEDS,
    seed_noise: tuple[float, ...] = (0.0,) * 9,
    base: tuple[float, ...] = BASE,
    text: str = "text",
    **changes: Any,
) -> TrainedVariant:
    """A variant with a loss in nats per token, which differs by seed as a test says."""
    workload = replace(WORKLOAD, seeds=seeds)
    trials = []
    for seed in seeds:
        nll = (10 * (loss + seed_noise[seed]) + np.linspace(0, 1, N) - 0.5).tolist()
        content = {"validation": losses(nll, digest=text), "base_validation": losses(base, digest=text)}
        trials.append(trial(variant, nll, seed=seed, workload=workload, **{**content, **changes}))
    return trained(variant, *trials)


def held(*records: PairRecord) -> AcceptedFile:
    return AcceptedFile(PLACE, TEST, History(TEST, records[-1], records[0]) if records else None)


def asked(now: TrainedVariant, then: AcceptedFile, at_most: float = 0.01, **rule: Any) -> Asked:
    limit = Limit(at_most, NATS_PER_TOKEN, Origin("ini", "ftguard_max_regression in pytest.ini"))
    return Asked(candidate=now, baseline=None, limit=limit, rule=Rule(**rule), metric="loss", file=then)


def judge(now: TrainedVariant, then: TrainedVariant, at_most: float = 0.01, **rule: Any) -> Verdict:
    return gate.assess_regression(asked(now, held(record_one(then)), at_most, **rule))


@pytest.mark.parametrize(("at_most", "status"), [(0.011, "PASS"), (0.009, "FAIL"), (0.0, "FAIL")])
def test_a_grown_loss_is_judged_on_both_sides_of_the_limit(at_most: float, status: str) -> None:
    """A loss of 2.01 that was 2.00."""
    found = judge(one(2.01), one(2.0), at_most)
    assert found.status == status, found.message
    assert found.value == pytest.approx(0.01, abs=1e-4)
    assert found.baseline is None
    assert (
        "The loss of full is 2.0100 nats per token, and was 2.0000 when it was accepted: it is higher." in found.message
    )


def test_a_lower_loss_passes_and_asks_to_be_accepted() -> None:
    """Both directions are told: what has become better can be lost again unseen."""
    found = judge(one(1.95), one(2.0))
    assert found.status == "PASS"
    assert found.value == pytest.approx(-0.05, abs=1e-4)
    assert "it is lower." in found.message
    assert "It has become better by more than the limit: accept it with --ftguard-update" in found.message
    assert found.note is not None


def test_what_makes_both_variants_worse_fails_here_and_passes_as_a_pair() -> None:
    """The difference cancels, the loss does not."""
    then, now = (one(2.0), one(2.1, variant=LORA)), (one(2.5), one(2.6, variant=LORA))
    alone = asked(now[1], held(record_pair(then[1], then[0])), gain_factor=0)
    pair = gate.assess_regression(replace(alone, baseline=now[0], metric="loss_gap"))
    assert pair.status == "PASS", pair.message
    for variant, before in zip(now, then, strict=True):
        assert judge(variant, before).status == "FAIL"


@pytest.mark.parametrize("noise", [(0.0,) * 3, (0.3, -0.2, 0.1)])
def test_the_same_training_again_is_exactly_the_same(noise: tuple[float, ...]) -> None:
    """Seeds are paired, so their noise is none."""
    found = judge(one(seed_noise=noise), one(seed_noise=noise), 0)
    assert (found.status, found.value, found.interval) == ("PASS", 0.0, (0.0, 0.0))
    assert "the same to the last digit" in found.message


def test_seeds_that_moved_apart_are_noise() -> None:
    """Each is paired with itself: what a machine does to one and not to another makes the growth unsure."""
    found = judge(one(2.005, seed_noise=(0.02, -0.02, 0.0)), one(2.0))
    assert found.status == "INCONCLUSIVE"
    assert "3 seeds, each paired with the same one then" in found.message


def test_the_anchor_holds_against_many_small_losses() -> None:
    """Each step is within the limit, their sum is not."""
    found = gate.assess_regression(asked(one(2.018), held(record_one(one(2.0)), record_one(one(2.009)))))
    assert found.status == "FAIL"
    assert "against the anchor" in found.message


@pytest.mark.parametrize("status", ["PASS", "FAIL"])
def test_other_surroundings_are_told_with_the_noise_that_they_make(status: str) -> None:
    """The base model is not trained, so what it moved by is the measuring alone."""
    noisy = tuple(value + (0.002 if i % 2 else -0.001) for i, value in enumerate(BASE))
    loss = {"PASS": 2.001, "FAIL": 2.5}[status]
    found = judge(one(loss, base=noisy, environment=ELSEWHERE), one(2.0, environment=HERE))
    assert found.status == status, found.message
    assert (
        "Another environment than when it was accepted: device_name a processor -> another processor;" in found.message
    )
    assert "torch None -> 9.9" in found.message
    assert "moved by +0.0001 nats per token with these, and by up to 0.0002 on one example" in found.message
    grown = ", ".join([f"{loss - 2:+.4f}"] * 3)
    assert f"The loss moved by {grown}, seed by seed." in found.message
    assert ("Another environment" in (found.note or "")) is (status == "PASS")


def test_the_same_surroundings_are_not_mentioned() -> None:
    """There is no noise between them to speak of."""
    assert "environment" not in judge(one(2.001), one(2.0)).message


def test_another_precision_is_other_work_and_the_noise_is_told() -> None:
    """It is another training; how far apart the measuring is stands below."""
    found = judge(one(environment=replace(ENVIRONMENT, precision="bf16")), one())
    assert found.status == "INVALID"
    assert "precision is 'bf16' now, and was 'fp32'" in found.message
    assert "moved by +0.0000 nats per token with these" in found.message


INVALID = {
    "other examples": (one(text="other"), "the validation sequences are not the same"),
    "a base model that is measured otherwise": (
        one(base=tuple(value + 1 for value in BASE)),
        "as its losses on the same sequences show, or losses are measured in another way",
    ),
    "other batches": (one(data_order="other"), "saw the same batches"),
    "no seed in common": (one(seeds=(3, 4, 5)), "there is no seed in common"),
    "a failed seed": (one(outcome="diverged"), "full, seed 0, ended diverged"),
    "a loss that is no number": (one(validation=losses([math.nan] * N, digest="text")), "is not finite"),
    "nothing learned": (one(3.1), "is not better than the base model"),
}


@pytest.mark.parametrize("name", INVALID)
def test_nothing_is_concluded_about_what_is_not_the_same(name: str) -> None:
    """Whatever the loss is."""
    variant, reason = INVALID[name]
    found = judge(variant, one())
    assert found.status == "INVALID"
    assert reason in found.message


def test_a_variant_that_gained_little_cannot_be_held_to_its_loss() -> None:
    """Three limits are the least, as for every gate on losses."""
    assert judge(one(2.9), one(2.9), 0.04).status == "PASS"
    found = judge(one(2.9), one(2.9), 0.05)
    assert found.status == "INVALID"
    assert "this test has no power: full gained only" in found.headline


def test_settings_may_change_and_are_named() -> None:
    """They are what is judged."""
    found = judge(one(variant=Full(learning_rate=2e-4)), one())
    assert found.status == "PASS"
    assert "learning_rate 0.0001 -> 0.0002" in found.message


def test_a_pair_and_one_variant_are_two_questions() -> None:
    """Neither is judged by the file of the other."""
    variant = one(2.1, variant=LORA)
    found = gate.assess_regression(asked(variant, held(record_pair(variant, one()))))
    assert found.status == "INVALID"
    assert "lora r=16 by itself is judged now, and lora r=16 against full was accepted" in found.message
    limit = asked(variant, held()).limit
    pair = Asked(
        candidate=variant,
        baseline=one(),
        limit=limit,
        rule=Rule(gain_factor=0),
        metric="loss_gap",
        file=held(record_one(variant)),
    )
    assert "lora r=16 against full is judged now, and lora r=16 by itself was accepted" in (
        gate.assess_regression(pair).message
    )


def test_what_is_written_is_what_is_read_and_is_small() -> None:
    """The losses of each example and seed are known to a ten-thousandth of a nat."""
    record = record_one(one(2.0, seed_noise=(0.1, 0.2, 0.3)))
    text = write_history(History(TEST, record, record))
    again = read_history(text, PLACE)
    assert again.accepted == record
    assert len(text) < 12_000
    headline = json.loads(text)["headline"]
    assert headline["losses"] == "full 2.2000, base model 3.0315"
    assert set(headline) == {"accepted", "losses", "candidate", "training", "measured on"}
    moved = History(TEST, record, record).accept(record_one(one(1.5)))
    assert "loss 2.2000" in json.loads(write_history(moved))["headline"]["first accepted"]


def test_losses_that_are_not_those_of_the_examples_are_no_record() -> None:
    """A hand that loosens the gate in one place of the file is noticed by the other; so is a baseline that is gone."""
    values = record_one(one()).to_dict()
    with pytest.raises(FtguardError, match="nats per token with losses of"):
        PairRecord.from_dict(
            {**values, "differences": [[value + 10 for value in row] for row in values["differences"]]}
        )
    pair = record_pair(one(2.1, variant=LORA), one()).to_dict()
    with pytest.raises(FtguardError, match="nats per token with losses of"):
        PairRecord.from_dict({**pair, "baseline": None})


def test_accepting_and_refusing() -> None:
    """With three seeds; a result beyond the anchor is refused."""
    verdict, history = gate.accept(asked(one(), held()), refusals=[])
    assert verdict.status == "PENDING"
    assert history == History(TEST, record_one(one()), record_one(one()))
    refused, nothing = gate.accept(asked(one(2.5), held(record_one(one()))), refusals=[])
    assert (refused.status, nothing) == ("INVALID", None)
    assert "it is worse than the anchor by more than the limit" in refused.message
    few, nothing = gate.accept(asked(one(seeds=(0, 1)), held()), refusals=[])
    assert (few.status, nothing) == ("INVALID", None)


def test_a_missing_result_is_invalid() -> None:
    """As of a pair."""
    found = gate.assess_regression(asked(one(), held()))
    assert found.status == "INVALID"
    assert "there is no accepted result of this test" in found.headline


def test_the_files_of_one_variant_and_of_a_pair_are_told_apart(tmp_path: Path) -> None:
    """By the order of the calls; another order is an error that names both files."""
    full, lora = one(), one(2.1, variant=LORA)
    files = AcceptedFiles(TEST, tmp_path, write_all)
    first = files.find(full, None)
    second = files.find(lora, full)
    assert first.place != second.place
    assert files.find(full, None).place == first.place
    files.queue(first, History(TEST, record_one(full), record_one(full)))
    files.queue(second, History(TEST, record_pair(lora, full), record_pair(lora, full)))
    files.write()
    again = AcceptedFiles(TEST, tmp_path, write_all)
    with pytest.raises(ConfigurationError, match="call the helpers in the same order"):
        again.find(lora, full)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((one(),), {"metric": "memory"}, r"'memory' as a share of a baseline's: give one"),
        ((one(),), {"metric": "time"}, r"'time' as a share of a baseline's: give one"),
        ((one(variant=LORA), one()), {"metric": "loss"}, "of one variant by itself: leave out the baseline"),
        ((None,), {}, "takes trained variants"),
        ((one(),), {"metric": "tokens"}, "takes the metric 'loss_gap', 'memory', 'time', got 'tokens'"),
        ((one(),), {"at_most": "5%"}, "a limit for the metric 'loss' is a number"),
    ],
)
def test_what_cannot_be_judged_is_an_error(arguments: Any, options: dict[str, Any], message: str) -> None:
    """The message says what to pass."""
    with pytest.raises(ConfigurationError, match=message):
        assert_no_regression(*arguments, **{"at_most": 0.01, **options})
