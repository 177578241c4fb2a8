"""The noise of seeds, calibrated once, is found again for the same work and for no other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_ftguard.current import active_test
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.calibration import (
    Calibration,
    SeedNoise,
    calibrate,
    find_seed_noise,
    read_calibrations,
    write_calibrations,
)
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.scores import assert_accuracy_gap
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import About, TrainedVariant
from pytest_ftguard.specs import LoRA, Peft, Variant, Workload, fields_of
from tests.plain.builders import FULL, LORA, WORKLOAD, losses, trained, trial
from tests.plain.test_score_gates import classified, scored, validation_of

N = 64
NLL = np.full(N, 20.0)


def pair(gaps: list[float], variant: Variant = LORA, **workload: Any) -> tuple[TrainedVariant, TrainedVariant]:
    """Pairs of trials with given gaps per token, on sequences of ten tokens."""
    work = replace(WORKLOAD, seeds=tuple(range(len(gaps))), **workload)
    ours = [trial(variant, tuple(NLL + 10 * gap), seed=seed, workload=work) for seed, gap in enumerate(gaps)]
    theirs = [trial(FULL, tuple(NLL), seed=seed, workload=work) for seed in range(len(gaps))]
    return trained(variant, *ours), trained(FULL, *theirs)


GAPS = [0.01 * number for number in range(10)]


def test_tau_is_the_standard_deviation_of_the_gap_over_seeds() -> None:
    """Ten seeds have nine degrees of freedom."""
    found = calibrate(*pair(GAPS))
    assert found.tau == pytest.approx(np.std(GAPS, ddof=1))
    assert found.degrees_of_freedom == 9


def test_nine_seeds_are_too_few() -> None:
    """The other side of the boundary of ten, and trials that cannot be compared, are errors."""
    with pytest.raises(ConfigurationError, match="at least 10 seeds, lora r=16 has 9"):
        calibrate(*pair(GAPS[:9]))
    candidate, baseline = pair(GAPS)
    with pytest.raises(ConfigurationError, match="not paired"):
        calibrate(candidate, replace(baseline, trials=baseline.trials[:9]))


def test_a_calibration_serves_the_same_work_with_fewer_seeds() -> None:
    """It survives the file, and the verdict of one seed says what its bounds count."""
    text = write_calibrations([calibrate(*pair(GAPS))])
    candidate, baseline = pair([0.03])
    noise = find_seed_noise(read_calibrations(text, "the file"), candidate, baseline)
    assert noise is not None
    assert noise.tau == pytest.approx(np.std(GAPS, ddof=1))
    limit = Limit(0.05, NATS_PER_TOKEN, Origin("argument", "the test"))
    message = assess_loss_gap(candidate, baseline, limit, Rule(seed_noise=noise)).message
    assert "the noise of seeds that was calibrated on 10 of them" in message
    assert "two checkpoints" not in message


def test_a_method_of_peft_has_a_noise_of_its_own() -> None:
    """It is found again by method, options and rate, and serves no other method, options or rate."""
    vera = Peft("vera", r=8, learning_rate=1e-2)
    text = write_calibrations([calibrate(*pair(GAPS, vera)), calibrate(*pair([2 * gap for gap in GAPS]))])
    known = read_calibrations(text, "the file")
    noise = find_seed_noise(known, *pair([0.03], Peft("vera", options={"r": 8}, learning_rate=1e-2)))
    assert noise is not None
    assert noise.tau == pytest.approx(np.std(GAPS, ddof=1))
    for other in (
        Peft("vera", r=4, learning_rate=1e-2),
        Peft("vera", r=8, learning_rate=2e-2),
        Peft("ia3", learning_rate=1e-2),
    ):
        assert find_seed_noise(known, *pair([0.03], other)) is None


def other_text(side: TrainedVariant) -> TrainedVariant:
    changed = [one.remeasured(validation=losses(tuple(NLL), digest="other")) for one in side.trials]
    return replace(side, trials=tuple(changed))


def other_batches(side: TrainedVariant) -> TrainedVariant:
    return replace(side, trials=tuple(one.remeasured(data_order="other") for one in side.trials))


def test_other_work_finds_no_calibration() -> None:
    """Other steps, texts, batches, variants or seeds that were not calibrated have a noise of their own."""
    known = [calibrate(*pair(GAPS))]
    candidate, baseline = pair([0.03])
    other = LoRA(r=4, learning_rate=1e-3)
    for ours, theirs in (
        pair([0.03], steps=99),
        (other_text(candidate), other_text(baseline)),
        (other_batches(candidate), other_batches(baseline)),
        (trained(other, trial(other, tuple(NLL))), baseline),
        (candidate, trained(FULL, trial(FULL, tuple(NLL), seed=77))),
    ):
        assert find_seed_noise(known, ours, theirs) is None
    assert find_seed_noise(known, candidate, baseline) is not None


OTHER: dict[str, Any] = {
    "task": "mine:Task",
    "block_size": 64,
    "batch_size": 2,
    "steps": 7,
    "precision": "bf16",
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
}
BESIDES: dict[str, Any] = {"score": "mine:exact_match", "slices": ("language",), "group": "movie"}
"""What is measured besides the losses."""


@pytest.mark.parametrize("name", [name for name in fields_of(Workload, "result", places=False) if name not in BESIDES])
def test_each_setting_that_decides_a_result_has_a_noise_of_its_own(name: str) -> None:
    """Another value of it finds no calibration; a new field must be put on the list of this test."""
    known = [calibrate(*pair(GAPS))]
    candidate, baseline = pair([0.03])
    other = replace(baseline.workload, **{name: OTHER[name]})
    assert find_seed_noise(known, candidate, replace(baseline, workload=other)) is None


@pytest.mark.parametrize("name", BESIDES)
def test_what_is_measured_besides_the_losses_leaves_their_noise(name: str) -> None:
    """A calibration from before there was a score still serves the loss."""
    known = [calibrate(*pair(GAPS))]
    noise = find_seed_noise(known, *pair([0.03], **{name: BESIDES[name]}))
    assert noise is not None
    assert noise.of_score("exact_match") is None


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        ({"model": "/there/model", "train": "/there/train.txt", "validation": "/there/validation.txt"}, True),
        ({"seeds": (0, 1), "most_seeds": 8, "final": True}, True),
        ({"model": "/there/other"}, False),
        ({"revision": "v2"}, False),
    ],
)
def test_a_calibration_serves_in_other_folders(changes: dict[str, Any], is_found: bool) -> None:
    """Nor do labels matter; the model counts by its name and revision."""
    known = [calibrate(*pair(GAPS))]
    candidate, baseline = pair([0.03])
    other = replace(baseline, workload=replace(baseline.workload, **changes))
    assert (find_seed_noise(known, candidate, other) is not None) is is_found


def test_calibrations_of_earlier_versions_are_found() -> None:
    """The key that an earlier version wrote; files of calibrations are committed."""
    lora = replace(LORA, search_learning_rate=True)
    candidate = trained(lora, *(trial(lora, [20 + seed / 3] * N, seed=seed) for seed in range(10)))
    baseline = trained(FULL, *(trial(FULL, NLL.tolist(), seed=seed) for seed in range(10)))
    assert calibrate(candidate, baseline).key == "d95636882a48012b79d12a5af3215392f71ae44b2208f9540fd2ddd54c2d498d"


def test_a_new_calibration_replaces_the_old_one() -> None:
    """The last one of the same work counts."""
    old, new = calibrate(*pair(GAPS)), calibrate(*pair([2 * gap for gap in GAPS]))
    assert read_calibrations(write_calibrations([old, new]), "the file") == (new,)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 2, "calibrations": []}', '{"schema": 1, "calibrations": [{"tau": 1}]}']
)
def test_a_file_that_is_none_is_named(text: str) -> None:
    """A damaged file, or one of another version, is an error that says what to do."""
    with pytest.raises(ConfigurationError, match=r"the file.*calibrate again"):
        read_calibrations(text, "the file")


@pytest.mark.parametrize("tau", [-0.1, float("nan")])
def test_a_noise_that_is_none_is_refused(tau: float) -> None:
    """NaN would make every later interval NaN."""
    text = write_calibrations([replace(calibrate(*pair(GAPS)), tau=0.5)]).replace("0.5", str(tau).replace("nan", "NaN"))
    with pytest.raises(ConfigurationError, match="calibrate again"):
        read_calibrations(text, "the file")


def test_calibrations_are_plain_data() -> None:
    """What is written is what is read."""
    one = calibrate(*pair(GAPS))
    assert isinstance(one, Calibration)
    assert read_calibrations(write_calibrations([one]), "the file") == (one,)


# --- scores


def classifiers(count: int, **options: Any) -> tuple[TrainedVariant, TrainedVariant]:
    """LoRA and full with an accuracy each for so many seeds."""
    shares = [0.74 + 0.02 * (seed % 4) for seed in range(count)]
    return classified(LORA, shares, base=0.2, **options), classified(FULL, [0.8] * count, base=0.2, **options)


def gaps_of(sides: tuple[TrainedVariant, TrainedVariant]) -> list[float]:
    """The accuracy gap of each seed."""
    found = []
    for ours, theirs in zip(sides[0].trials, sides[1].trials, strict=True):
        answers = validation_of(ours).answers, validation_of(theirs).answers
        assert answers[0] is not None
        assert answers[1] is not None
        found.append(answers[0].accuracy - answers[1].accuracy)
    return found


def answered(sides: tuple[TrainedVariant, TrainedVariant], known: Sequence[Calibration], **options: Any) -> Verdict:
    """The verdict on the accuracy gap in a run that has read calibrations."""

    class Running:
        is_planned = is_over = False

        def seed_noise(self, *pair: TrainedVariant) -> Any:
            return find_seed_noise(known, *pair)

        def setting(self, _: str) -> None:
            return None

        def record(self, *_: Any) -> None:
            pass

    def run() -> Verdict:
        active_test.set(Running())  # type: ignore[arg-type]
        return assert_accuracy_gap(*sides, at_most="15 pp", **options)

    return copy_context().run(run)


def test_a_calibration_holds_the_noise_of_every_score() -> None:
    """One seed is then judged with the noise of all that were calibrated, after a way through the file."""
    many = classifiers(12)
    text = write_calibrations([calibrate(*many)])
    (known,) = read_calibrations(text, "the file")
    assert known.taus == {"accuracy": pytest.approx(np.std(gaps_of(many), ddof=1))}
    one = classifiers(1)
    plain, calibrated = answered(one, []), answered(one, [known])
    assert "two checkpoints" in plain.message
    assert "the noise of seeds that was calibrated on 12 of them" in calibrated.message
    assert plain.interval is not None
    assert calibrated.interval is not None
    assert calibrated.interval[0] < plain.interval[0]
    assert calibrated.value == plain.value


def test_the_noise_of_all_examples_is_not_that_of_a_slice() -> None:
    """Of fewer examples the gap moves more from seed to seed."""
    about = About(tuple(map(str, range(400))), {"language": tuple("de" if i % 2 else "en" for i in range(400))})
    known = [calibrate(*classifiers(12, about=about))]
    one = classifiers(1, about=about)
    assert "calibrated" in answered(one, known).message
    assert "calibrated" not in answered(one, known, slice="language=de").message


def test_a_score_of_another_source_has_a_noise_of_its_own() -> None:
    """Its name may be the same; a score that is no number is not calibrated, and the loss is."""
    values = [[float(place % 20 not in {seed, 3}) for place in range(200)] for seed in range(10)]
    ours, theirs = scored(LORA, values), scored(FULL, [values[0]] * 10)
    found = calibrate(ours, theirs)
    assert found.taus["exact_match"] > 0
    assert (found.function, found.code) == ("mine:exact_match", None)
    noise = find_seed_noise([found], ours, theirs)
    assert noise is not None
    assert noise.of_score("exact_match") == SeedNoise(found.taus["exact_match"], 9, found.taus)
    for other in (replace(found, code="other"), replace(found, function="mine:other")):
        noise = find_seed_noise([other], ours, theirs)
        assert noise is not None
        assert noise.of_score("exact_match") is None
    odd = [[math.nan, *row[1:]] for row in values]
    assert calibrate(scored(LORA, odd), theirs).taus == {}


@pytest.mark.parametrize("tau", ["-0.5", "NaN"])
def test_a_noise_of_a_score_that_is_none_is_refused(tau: str) -> None:
    """As for the loss."""
    text = write_calibrations([replace(calibrate(*pair(GAPS)), taus={"accuracy": 0.5})])
    assert read_calibrations(text, "the file")[0].taus == {"accuracy": 0.5}
    with pytest.raises(ConfigurationError, match="calibrate again"):
        read_calibrations(text.replace("0.5", tau), "the file")


def test_a_file_without_scores_is_read() -> None:
    """An earlier version wrote it."""
    content = json.loads(write_calibrations([calibrate(*pair(GAPS))]))
    for name in ("taus", "function", "code"):
        del content["calibrations"][0][name]
    assert read_calibrations(json.dumps(content), "the file") == (calibrate(*pair(GAPS)),)
