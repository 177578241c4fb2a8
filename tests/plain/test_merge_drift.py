"""The gate on the model as it ships: the worst form decides, and nothing that was not measured is green."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard import assert_merge_drift, current
from pytest_ftguard.errors import ConfigurationError, FtguardError, GateFailure, LimitExceeded
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.merge_drift import assess_merge_drift
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.running.bench import LabOptions
from pytest_ftguard.running.executor import Answer, Failure, FormsJob, TrainJob
from pytest_ftguard.running.lab import Lab
from pytest_ftguard.specs import Workload
from pytest_ftguard.store.forms import StoredForms
from pytest_ftguard.store.room import make_room
from pytest_ftguard.store.store import Store, StoreOptions
from pytest_ftguard.store.trust import Trust

from .builders import FULL, LORA, WORKLOAD, GivenSource, losses, trained, trial
from .executors import FakeExecutor

N = 64
NLL = tuple(20.0 + 0.01 * i for i in range(N))
SAVED, FP32, BF16 = "saved and reloaded", "merged, saved in fp32 and reloaded", "merged, saved in bf16 and reloaded"
Shift = Callable[[int], float]


def limit(at_most: float) -> Limit:
    return Limit(at_most, NATS_PER_TOKEN, Origin("argument", "the argument at_most"))


def form(name: str, shift: Shift = lambda _: 0.0, **changes: Any) -> FormLosses:
    """A form with its growth of each sequence's loss, in nats per token of ten."""
    values = {"nll": tuple(value + 10 * shift(i) for i, value in enumerate(NLL)), "digest": "text"}
    return FormLosses(form=name, **{**values, **changes})


def shipped(*forms: FormLosses, seeds: int = 1, **changes: Any) -> TrainedVariant:
    """A variant that ships in these forms."""
    values = {"model_dir": "kept", **changes}
    trials = tuple(trial(LORA, NLL, seed=seed, **values) for seed in range(seeds))
    return replace(trained(LORA, *trials), source=GivenSource(forms=lambda *_: forms))


def judged(variant: TrainedVariant, at_most: float = 0.01, **rule: Any) -> Verdict:
    return assess_merge_drift(variant, limit(at_most), Rule(**rule), Shipping())


def around(value: float) -> Shift:
    """Growths with this mean and a standard deviation of 0.02."""
    return lambda i: value + (0.02 if i % 2 else -0.02)


@pytest.mark.parametrize(
    ("growth", "status"),
    [
        (-0.5, "PASS"),
        (0.0, "PASS"),
        (0.005, "PASS"),
        (0.0099, "INCONCLUSIVE"),
        (0.0101, "INCONCLUSIVE"),
        (0.015, "FAIL"),
        (0.5, "FAIL"),
    ],
)
@pytest.mark.parametrize("place", range(3))
def test_the_worst_form_decides_by_its_interval(growth: float, status: str, place: int) -> None:
    """Whichever form it is; a form that is better than the trained model fails nothing."""
    forms = [form(name, lambda _: -1.0) for name in (SAVED, FP32, BF16)]
    forms[place] = form(forms[place].form, around(growth))
    found = judged(shipped(*forms))
    assert found.status == status, found.message
    assert found.value == pytest.approx(growth)
    assert found.interval is not None
    assert found.interval[1] - growth == pytest.approx(0.02 * math.sqrt(1 / (N - 1)) * 1.669, rel=0.01)
    assert f"The worst form is lora r=16 {forms[place].form}." in found.message
    assert all(f"{one.form} " in found.message for one in forms)
    assert found.note is not None
    assert all(f"{one.form} " in found.note for one in forms)
    assert found.shown()["note"] == found.note


@pytest.mark.parametrize(("at_most", "status"), [(0.0201, "PASS"), (0.02, "PASS"), (0.0199, "FAIL")])
def test_a_growth_without_noise_is_held_against_the_limit(at_most: float, status: str) -> None:
    """Every sequence is worse by the same."""
    found = judged(shipped(form(SAVED, lambda _: 0.02 - 1e-12)), at_most)
    assert found.status == status


def test_seeds_are_paired_and_their_noise_counts() -> None:
    """One seed that ships badly makes the mean unsure."""
    rows = {0: form(BF16), 1: form(BF16), 2: form(BF16, lambda _: 0.03)}
    variant = replace(shipped(seeds=3), source=GivenSource(forms=lambda one, _: (rows[one.spec.seed],)))
    found = judged(variant, 0.02)
    assert found.status == "INCONCLUSIVE"
    assert found.value == pytest.approx(0.01)
    assert "64 sequences and 3 seeds" in found.message


def test_a_form_with_the_losses_of_the_base_model_is_told() -> None:
    """The merge has changed nothing, or the file is lost."""
    found = judged(shipped(form(SAVED), form(FP32, nll=(30.0,) * N)))
    assert found.status == "FAIL"
    assert f"{FP32.capitalize()}, it has the base model's losses: what was trained is lost." in found.message


def test_a_merge_without_any_rounding_is_suspicious() -> None:
    """It passes with a note; an adapter that is only saved and reloaded has to be the same."""
    found = judged(shipped(form(SAVED), form(FP32)))
    assert found.status == "PASS"
    words = f"{FP32.capitalize()}, each loss is the trained one to the last digit, although a merge rounds."
    assert words in found.message
    assert words in (found.note or "")
    quiet = judged(shipped(form(SAVED), form(FP32, lambda i: 1e-7 * (i == 3))))
    assert quiet.status == "PASS"
    assert "to the last digit" not in quiet.message


def test_tensors_that_changed_are_named() -> None:
    """As far as they are few, and only of a form that does not pass."""
    names = tuple(f"layer.{i}" for i in range(7))
    found = judged(shipped(form(SAVED, changed=("quiet",)), form(FP32, lambda _: 1.0, changed=names)))
    assert (
        "7 tensors are not what they were in memory: layer.0, layer.1, layer.2, layer.3, layer.4, ..." in found.message
    )
    assert "quiet" not in found.message


UNSOUND: Mapping[str, tuple[TrainedVariant, str]] = {
    "a form that failed": (
        shipped(form(SAVED), form(FP32, nll=None, cause="its file lacks 1 of its weights")),
        f"lora r=16, seed 0, {FP32}, cannot be evaluated: its file lacks 1 of its weights",
    ),
    "other examples": (shipped(form(SAVED, digest="other")), "was evaluated on other examples"),
    "fewer losses": (shipped(form(SAVED, nll=NLL[1:])), "was evaluated on other examples"),
    "a loss that is no number": (shipped(form(SAVED), form(BF16, nll=(math.nan, *NLL[1:]))), f"{BF16}: the value or"),
    "an infinite loss": (shipped(form(SAVED, nll=(-math.inf, *NLL[1:]))), "not finite"),
    "no form": (shipped(), "not all forms of lora r=16 were evaluated"),
    "nothing learned": (shipped(form(SAVED), validation=losses((30.0,) * N)), "is not better than the base model"),
    "not trained here": (trained(LORA, trial(LORA, NLL)), "no form of lora r=16 was evaluated"),
    "a failed trial": (shipped(form(SAVED), outcome="crashed"), "lora r=16, seed 0, ended crashed"),
    "a planned trial": (shipped(form(SAVED), outcome="planned", validation=None), "lora r=16, seed 0, ended planned"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_was_not_measured_is_invalid(name: str) -> None:
    """With the cause in the first line of the message."""
    variant, reason = UNSOUND[name]
    found = judged(variant)
    assert found.status == "INVALID"
    assert found.value is None
    assert reason in found.headline


def test_seeds_in_different_forms_are_invalid() -> None:
    """Whoever stopped after the first one has not measured the others."""
    rows = {0: (form(SAVED), form(FP32)), 1: (form(SAVED),)}
    variant = replace(shipped(seeds=2), source=GivenSource(forms=lambda one, _: rows[one.spec.seed]))
    found = judged(variant)
    assert found.status == "INVALID"
    assert "not all forms of lora r=16 were evaluated" in found.headline


@pytest.mark.parametrize(("gain", "status"), [(0.031, "PASS"), (0.029, "INVALID")])
def test_a_gain_near_the_limit_proves_nothing(gain: float, status: str) -> None:
    """A model that lost all that it had learned would pass as well."""
    base = losses([value + 10 * gain for value in NLL])
    found = judged(shipped(form(SAVED), base_validation=base))
    assert found.status == status
    assert ("this test has no power" in found.headline) is (status == "INVALID")


def test_the_helper_raises_what_its_verdict_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAIL is an exceeded limit; INVALID is not. Outside of a run of pytest it works as well."""
    monkeypatch.setattr(current, "running", current.RunningTests())
    Context().run(_ask_the_helper)


def _ask_the_helper() -> None:
    assert assert_merge_drift(shipped(form(SAVED)), at_most=0.01).status == "PASS"
    with pytest.raises(LimitExceeded, match=r"^merge drift FAIL: \+1"):
        assert_merge_drift(shipped(form(SAVED, lambda _: 1.0)), at_most=0.01)
    with pytest.raises(GateFailure, match=r"^merge drift INVALID"):
        assert_merge_drift(trained(LORA, trial(LORA, NLL)), at_most=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "must be 'bf16', 'fp16', 'fp32', got 'int8'"),
        ({"deploy": "no_colon"}, "deploy must name"),
        ({"deploy": print}, "deploy must name"),
    ],
)
def test_a_wrong_argument_is_an_error(arguments: dict[str, Any], message: str) -> None:
    """Before anything is trained again or evaluated."""
    with pytest.raises(ConfigurationError, match=message):
        assert_merge_drift(shipped(form(SAVED)), at_most=0.01, **arguments)


class Keeping(FakeExecutor):
    """Keeps weights of each training, and gives forms that a test says."""

    def train(self, job: TrainJob) -> Trial:
        (job.folder / "model").mkdir()
        (job.folder / "model" / "model.safetensors").write_bytes(b"weights")
        done = super().train(job)
        assert isinstance(done, Trial)
        return done.come_by(model_dir=str(job.folder / "model"))


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    """One with files, so that its trials can be stored."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train.txt", "validation.txt"):
        (tmp_path / name).write_text(name)
    train, validation = str(tmp_path / "train.txt"), str(tmp_path / "validation.txt")
    return replace(WORKLOAD, model=str(tmp_path / "model"), train=train, validation=validation)


def lab_of(tmp_path: Path, run: str, executor: FakeExecutor, **options: Any) -> Lab:
    return Lab(LabOptions(device="cpu"), executor, lambda _: None, Store(StoreOptions(tmp_path / "s", **options), run))


def test_a_second_run_evaluates_nothing(tmp_path: Path, workload: Workload) -> None:
    """Nor does a second question of the first one; another type is another question."""
    first, second = Keeping(), Keeping()
    ours = lab_of(tmp_path, "one", first)
    variant = ours.train(workload, FULL)
    assert variant.forms(Shipping()) == variant.forms(Shipping())
    assert len(first.shipped) == 1
    variant.forms(Shipping("fp16"))
    assert [job.shipping.dtype for job in first.shipped] == ["bf16", "fp16"]
    later = lab_of(tmp_path, "two", second)
    again = later.train(workload, FULL)
    assert again.cached
    assert again.forms(Shipping()) == variant.forms(Shipping())
    assert second.shipped == []
    assert second.trained == []
    assert again.forms(Shipping(deploy="mine:export"))
    assert [job.shipping.deploy for job in second.shipped] == ["mine:export"]
    third = Keeping()
    lab_of(tmp_path, "three", third).train(workload, FULL).forms(Shipping(deploy="mine:export"))
    assert len(third.shipped) == 1  # nobody knows what an export depends on


def test_the_weights_of_the_store_are_taken_and_lost_ones_are_trained_again(tmp_path: Path, workload: Workload) -> None:
    """As for `load`."""
    lab_of(tmp_path, "one", Keeping()).train(workload, FULL)
    executor = Keeping()
    lab_of(tmp_path, "two", executor).train(workload, FULL).forms(Shipping())
    assert executor.trained == []
    assert [job.weights.name for job in executor.shipped] == ["model"]
    for place in (tmp_path / "s" / "weights").iterdir():
        shutil.rmtree(place)
    executor = Keeping()
    lab_of(tmp_path, "three", executor).train(workload, FULL).forms(Shipping("fp16"))
    assert len(executor.trained) == len(executor.shipped) == 1


def test_weights_of_a_second_training_are_held_to_its_own_losses(tmp_path: Path, workload: Workload) -> None:
    """Another machine rounds otherwise while it trains, which is no drift of the merge."""

    class Elsewhere(Keeping):
        def train(self, job: TrainJob) -> Trial:
            return super().train(job).remeasured(validation=losses([1.002]))

        def forms(self, job: FormsJob) -> Answer:
            return Answer(forms=(form(SAVED, nll=(1.003,)), form(FP32, nll=None, cause="no head")))

    variant = lab_of(tmp_path, "one", Keeping()).train(workload, FULL)
    for place in (tmp_path / "s" / "weights").iterdir():
        shutil.rmtree(place)
    again = lab_of(tmp_path, "two", Elsewhere()).train(workload, FULL)
    assert again.cached
    assert again.losses == variant.losses
    ((saved, merged),) = again.forms(Shipping())
    assert saved.nll == pytest.approx((1.001,))
    assert (merged.nll, merged.cause) == (None, "no head")


@pytest.mark.parametrize("failure", ["out_of_memory", "crashed", "timed_out"])
def test_a_process_that_dies_gives_no_losses(tmp_path: Path, workload: Workload, failure: Any) -> None:
    """The gate is INVALID with what happened, and the next question tries again."""

    class Dying(Keeping):
        def forms(self, job: FormsJob) -> Answer:
            return Answer(failure=Failure(kind=failure, message="it died"))

    executor = Dying()
    variant = lab_of(tmp_path, "one", executor).train(workload, FULL)
    with pytest.raises(FtguardError, match="full, seed 0, could not be evaluated as it ships: it died"):
        variant.forms(Shipping())
    with pytest.raises(FtguardError):
        variant.forms(Shipping())
    assert len(executor.shipped) == 2


def test_weights_that_were_not_kept_are_invalid_with_the_reason() -> None:
    """What the trial says of them, which names the setting."""
    one = trial(LORA, NLL, not_kept="they take more than keep_models allows")
    found = judged(replace(trained(LORA, one), source=GivenSource(forms=lambda *_: (form(SAVED),))))
    assert found.status == "INVALID"
    assert "were not kept: they take more than keep_models allows" in found.message


RESULT = trial(FULL, NLL, content="c" * 64)


def test_stored_forms_are_those_of_a_result_and_a_type(tmp_path: Path) -> None:
    """Another measurement of the same trial has weights of its own."""
    stored, forms = StoredForms(tmp_path, Trust(), "run"), (form(SAVED), form(BF16))
    stored.keep(RESULT, Shipping(), forms)
    assert stored.find(RESULT, Shipping()) == forms
    assert stored.find(RESULT, Shipping("fp16")) is None
    assert stored.find(RESULT.remeasured(data_order="other"), Shipping()) is None
    assert stored.find(RESULT.come_by(content="d" * 64), Shipping()) is None
    assert stored.find(RESULT.come_by(content=None), Shipping()) is None


@pytest.mark.parametrize("forms", [(), (form(SAVED, nll=None, cause="x"),), (form(SAVED, nll=(math.nan,)),)], ids=str)
def test_what_was_not_measured_is_not_stored(tmp_path: Path, forms: tuple[FormLosses, ...]) -> None:
    """The next run may have more luck."""
    stored = StoredForms(tmp_path, Trust(), "run")
    stored.keep(RESULT, Shipping(), forms)
    assert stored.find(RESULT, Shipping()) is None
    assert not (tmp_path / "forms").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: text.replace("20.0", "19.0", 1),
        lambda text: json.dumps({**json.loads(text), "signature": None}),
        lambda _: json.dumps({}),
        lambda _: "[]",
    ],
)
def test_what_is_damaged_or_forged_is_not_believed(tmp_path: Path, damage: Callable[[str], str]) -> None:
    """With a key each file is signed; the forms are measured again."""
    stored = StoredForms(tmp_path, Trust(signing_key=b"k", requires_signature=True), "run")
    stored.keep(RESULT, Shipping(), (form(SAVED),))
    (file,) = (tmp_path / "forms").iterdir()
    assert stored.find(RESULT, Shipping()) is not None
    file.write_text(damage(file.read_text()))
    assert stored.find(RESULT, Shipping()) is None


def test_a_protected_store_believes_its_own_run_alone(tmp_path: Path) -> None:
    """As with results."""
    ours = StoredForms(tmp_path, Trust(reads=False), "one")
    ours.keep(RESULT, Shipping(), (form(SAVED),))
    assert ours.find(RESULT, Shipping()) is not None
    assert StoredForms(tmp_path, Trust(reads=False), "two").find(RESULT, Shipping()) is None


def test_forms_take_room_and_make_room(tmp_path: Path) -> None:
    """They count, and go before the results."""
    StoredForms(tmp_path, Trust(), "run").keep(RESULT, Shipping(), (form(SAVED),))
    (file,) = (tmp_path / "forms").iterdir()
    assert make_room(tmp_path, file.stat().st_size) == []
    assert [held.path for held in make_room(tmp_path, file.stat().st_size - 1)] == [file]
