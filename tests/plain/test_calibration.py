"""The noise of seeds, calibrated once, is found again for the same work and for no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.calibration import (
    Calibration,
    calibrate,
    find_seed_noise,
    read_calibrations,
    write_calibrations,
)
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import LoRA, Peft, Variant, Workload, fields_of
from tests.plain.builders import FULL, LORA, WORKLOAD, losses, trained, trial

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
    "score": "mine:exact_match",
    "slices": ("language",),
    "group": "movie",
}


@pytest.mark.parametrize("name", fields_of(Workload, "result", places=False))
def test_each_setting_that_decides_a_result_has_a_noise_of_its_own(name: str) -> None:
    """Another value of it finds no calibration; a new field must be put on the list of this test."""
    known = [calibrate(*pair(GAPS))]
    candidate, baseline = pair([0.03])
    other = replace(baseline.workload, **{name: OTHER[name]})
    assert find_seed_noise(known, candidate, replace(baseline, workload=other)) is None


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
