"""The lab asks a worker for each trial once."""

from __future__ import annotations

import importlib.metadata
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError
from pytest_ftguard.plugin.workshop import store_options
from pytest_ftguard.results import Measured, Memory, Timing, Trial, TrialError
from pytest_ftguard.running.executor import Answer, Failure, Job, TrainJob
from pytest_ftguard.running.lab import Lab, LabOptions
from pytest_ftguard.settings.reading import Settings
from pytest_ftguard.specs import Full, TrialSpec, Variant, Workload
from pytest_ftguard.store.fingerprint import Fingerprint, fingerprint_of
from pytest_ftguard.store.store import Store, StoreOptions

from .builders import ENVIRONMENT, FULL, LORA, WORKLOAD, trial
from .executors import FakeExecutor, Hopeless


class AbsentDevice(FakeExecutor):
    """Stands for a machine that has no such device."""

    environment = None

    def train(self, job: TrainJob) -> Answer:
        message = "device is 'cuda', but this machine has no such device"
        return Answer(failure=Failure(kind="no_device", message=message))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_results_of_a_gpu_serve_where_there_is_none(tmp_path: Path, precision: str) -> None:
    """Their losses are judged, in whichever precision "auto" was there; their bytes and seconds are marked."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    workload = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0,), **texts})
    spec = TrialSpec(workload=workload, variant=FULL, seed=0, device="cuda")
    environment = replace(ENVIRONMENT, device="cuda", device_name="a GPU", precision=precision)
    options = StoreOptions(tmp_path / "store", signing_key=b"key", requires_signature=True)
    there = Store(options, "there")
    there.keep(fingerprint_of(spec, "cuda", precision, {}), trial(FULL, [1.0], environment=environment))
    ours = Lab(LabOptions(device="cuda"), AbsentDevice(), lambda _: None, Store(options, "here"))
    (found,) = ours.train(workload, FULL).trials
    assert found.provenance.cached
    assert found.measured.environment == environment
    assert "a machine without that device" in str(found.provenance.measured_elsewhere)
    with pytest.raises(DeviceUnavailableError):
        ours.train(replace(workload, steps=7), FULL)
    ours.close()


def test_base_losses_are_shared_by_trainings_of_one_base_and_evaluation() -> None:
    """More steps or another variant start from the same losses; another task or number of sequences does not."""
    trainings: list[tuple[Workload, Variant, bool]] = [
        (WORKLOAD, FULL, False),
        (WORKLOAD, LORA, True),
        (replace(WORKLOAD, steps=7), FULL, True),
        (replace(WORKLOAD, validation_sequences=80), FULL, False),
        (replace(WORKLOAD, task="mine:Task"), FULL, False),
    ]
    executor = FakeExecutor()
    ours = Lab(LabOptions(device="cpu"), executor, lambda _: None)
    for workload, variant, _ in trainings:
        ours.train(workload, variant)
    ours.close()
    assert [job.base is not None for job in executor.trained] == [is_given for _, _, is_given in trainings]


def test_a_forecast_is_made_once_for_all_learning_rates(tmp_path: Path) -> None:
    """No rate changes the memory that a training needs; another rank does."""
    for name in ("train", "validation"):
        (tmp_path / name).write_text(name)
    workload = replace(WORKLOAD, train=str(tmp_path / "train"), validation=str(tmp_path / "validation"))
    executor = Hopeless()
    ours = Lab(LabOptions(device="cpu"), executor, lambda _: None)
    for variant in (LORA, replace(LORA, learning_rate=7e-4), replace(LORA, r=4)):
        assert [one.spec.variant for one in ours.plan(workload, variant).trials] == [variant]
    ours.close()
    assert [spec.variant for spec in executor.forecast] == [LORA, replace(LORA, r=4)]


def test_a_result_that_nobody_can_find_again_ends_with_its_run(tmp_path: Path) -> None:
    """Where what decides it is not known, the processes of the run share it, and the store is left alone."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    known = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0,), **texts})
    executor = FakeExecutor()

    def train(workload: Workload, run: str, root: Path | None) -> Trial:
        store = Store(StoreOptions(tmp_path / "store"), run)
        if root is not None:
            root.mkdir(exist_ok=True)
        ours = Lab(LabOptions(device="cpu", root=root), executor, lambda _: None, store)
        (found,) = ours.train(workload, FULL).trials
        ours.close()
        assert any("was not looked up" in problem for problem in store.problems) is (workload != known)
        return found

    unknown = replace(known, training_function="nowhere.loop:train")
    for run, root, trained in (
        ("one", tmp_path / "one", 1),
        ("one", tmp_path / "one", 1),
        ("two", tmp_path / "two", 2),
        ("three", None, 3),
    ):
        assert not train(unknown, run, root).provenance.cached
        assert len(executor.trained) == trained
    assert not list((tmp_path / "store").rglob("results/*/*.json"))
    train(known, "four", tmp_path / "four")
    assert len(list((tmp_path / "store").rglob("results/*/*.json"))) == 1


@pytest.mark.parametrize("role", ["model", "train"])
def test_a_path_keeps_its_content_within_a_run(tmp_path: Path, role: str) -> None:
    """Trials are told apart by paths in one run: one model's losses must not be taken for another's."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    workload = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0,), **texts})
    ours = Lab(LabOptions(), Hopeless(), lambda _: None)
    ours.train(workload, FULL)
    ours.train(workload, FULL)
    (tmp_path / ("model/config.json" if role == "model" else role)).write_text("something else")
    with pytest.raises(ConfigurationError, match=f"the workload's {role}, was changed after it was first used"):
        ours.train(workload, FULL)
    ours.close()


def test_what_cannot_fit_is_forecast_for_one_seed_only(tmp_path: Path) -> None:
    """The memory of a training does not depend on its seed, so further seeds cost no forecast; each is an outcome."""
    executor = Hopeless()
    ours = Lab(LabOptions(), executor, lambda _: None)
    workload = Workload(model="m", train="t", validation="v", seeds=(0, 1, 2))
    trained = ours.train(workload, Full(learning_rate=5e-5))
    ours.close()
    assert [trial.measured.outcome for trial in trained.trials] == ["out_of_memory"] * 3
    assert [trial.spec.seed for trial in trained.trials] == [0, 1, 2]
    assert [spec.seed for spec in executor.specs] == [0]


@pytest.mark.parametrize(("key", "required"), [(None, False), ("secret", True)])
def test_who_signs_believes_nothing_that_is_unsigned(tmp_path: Path, key: str | None, required: bool) -> None:
    """A checkpoint or a base loss of anybody's would else go into what bears the signature."""
    options = store_options(Settings({}), tmp_path, {"FTGUARD_SIGNING_KEY": key} if key else {})
    assert options is not None
    assert options.requires_signature is required
    ours = Store(options, "now")
    assert (ours.checkpoints(Fingerprint({"kind": "full", "seed": 0})) is None) is required


class Failing(FakeExecutor):
    """Stands for a machine on which one seed fails."""

    def train(self, job: TrainJob) -> Trial | Answer:
        if job.spec.seed == 1:
            return Trial(job.spec, Measured(outcome="diverged", error=TrialError("the loss is nan at step 3")))
        return super().train(job)


def test_no_further_seed_of_a_variant_with_a_failed_one_is_trained() -> None:
    """No gate judges the variant, whatever they come to; asked for alone, the seed is trained."""
    executor = Failing()
    workload = Workload(model="m", train="t", validation="v", seeds=(0, 1, 2, 3))
    ours = Lab(LabOptions(device="cpu"), executor, lambda _: None)
    found = ours.train(workload, FULL)
    assert [one.measured.outcome for one in found.trials] == ["ok", "diverged", "not_trained", "not_trained"]
    assert found.trials[2].failure == (
        "the trial of full, seed 2, was not trained: seed 1 ended diverged, and no gate can judge a variant with a "
        "failed seed"
    )
    assert [spec.seed for spec in executor.specs] == [0, 1]
    assert [one.measured.outcome for one in ours.train(workload, FULL).trials] == [
        one.measured.outcome for one in found.trials
    ]
    assert ours.train(replace(workload, seeds=(2,)), FULL).trials[0].measured.outcome == "ok"
    assert [spec.seed for spec in executor.specs] == [0, 1, 2]
    assert Trial.from_dict(found.trials[2].to_dict()) == found.trials[2]
    ours.close()


class BrokenOff(FakeExecutor):
    """Stands for a machine whose run is ended from outside."""

    def train(self, job: TrainJob) -> Trial:
        raise KeyboardInterrupt


def test_a_training_that_is_broken_off_is_named() -> None:
    """The summary says so, although there is no result."""
    executor = BrokenOff()
    ours = Lab(LabOptions(device="cpu"), executor, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        ours.train(Workload(model="m", train="t", validation="v", seeds=(0, 1)), FULL)
    assert ours.broken_off == ["full, seed 0, was interrupted by KeyboardInterrupt"]
    assert ours.results == ()
    ours.close()
    assert executor.is_closed


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(), "the executor gave no result"),
        (Answer(result=trial(LORA, [1.0])), r"the executor gave the result of another trial (lora r=16, seed 0)"),
    ],
)
def test_an_answer_that_is_not_about_the_trial_is_a_crash(answer: Answer, message: str) -> None:
    """Whatever an executor of somebody's own gets wrong, no gate judges a result that is another trial's."""

    class Wrong(FakeExecutor):
        def train(self, job: TrainJob) -> Answer:
            return answer

    ours = Lab(LabOptions(device="cpu"), Wrong(), lambda _: None)
    (found,) = ours.train(replace(WORKLOAD, seeds=(0,)), FULL).trials
    ours.close()
    assert found.measured.outcome == "crashed"
    assert found.measured.validation is None
    assert found.measured.error is not None
    assert found.measured.error.message == message


def test_forecasts_of_other_trials_are_none(tmp_path: Path) -> None:
    """A plan then says that there is no forecast, and not that of another training."""
    for name in ("train", "validation"):
        (tmp_path / name).write_text(name)
    workload = replace(WORKLOAD, train=str(tmp_path / "train"), validation=str(tmp_path / "validation"))

    class Wrong(FakeExecutor):
        def run(self, job: Job, on_event: Any, *, more_to_come: bool = False) -> Answer:
            spec = TrialSpec(workload=workload, variant=LORA, seed=0, device="cpu")
            memory = Memory(None, "forecast", forecast_bytes=7)
            return Answer(forecasts=(Trial(spec, Measured(outcome="planned", memory=memory)),))

    ours = Lab(LabOptions(device="cpu"), Wrong(), lambda _: None)
    (wrong,) = ours.plan(workload, FULL).trials
    (right,) = ours.plan(workload, LORA).trials
    ours.close()
    assert wrong.measured.memory is None
    assert wrong.measured.error == TrialError("no forecast: the executor gave none, or those of other trials")
    assert right.measured.memory == Memory(None, "forecast", forecast_bytes=7)


def test_the_speed_of_the_machine_is_measured_once(tmp_path: Path) -> None:
    """By the first trial; those after it, in later runs too, are told, unless they train in another precision."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    workload = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0, 1), **texts})

    class Measuring(FakeExecutor):
        def train(self, job: TrainJob) -> Trial:
            time = Timing(0.5, 97, 50.0, run=job.run, machine_flop_per_second=job.flop_per_second or 7e9)
            return replace(trial(FULL, [1.0]), spec=job.spec).remeasured(time=time)

    told = []
    for run, variant, work in (
        ("one", FULL, workload),
        ("two", LORA, workload),
        ("three", FULL, replace(workload, precision="fp32", steps=7)),
    ):
        executor = Measuring()
        ours = Lab(LabOptions(), executor, lambda _: None, Store(StoreOptions(tmp_path / "store"), run))
        ours.train(work, variant)
        ours.close()
        told.append([job.flop_per_second for job in executor.trained])
    assert told == [[None, 7e9], [7e9, 7e9], [None, 7e9]]


def test_the_machine_is_asked_for_once_in_a_run_that_believes_no_notes(tmp_path: Path) -> None:
    """Protected mode does not start torch again for each trial."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    workload = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0, 1), **texts})
    executor = FakeExecutor()
    ours = Lab(LabOptions(), executor, lambda _: None, Store(StoreOptions(tmp_path / "store", reads=False), "now"))
    ours.train(workload, FULL)
    ours.close()
    assert len(executor.trained) == 2
    assert executor.described == 1


@pytest.mark.parametrize(
    ("trained_on", "words"),
    [
        ({}, ""),
        ({"device_name": "another processor"}, ""),
        ({"precision": "bf16"}, "precision (fp32 -> bf16)"),
        ({"device": "cuda"}, "device (cpu -> cuda)"),
        ({"versions": {"torch": "1.0"}}, "version of torch ("),
        ({"versions": {"torch": importlib.metadata.version("torch"), "somebodys": "1"}}, ""),
    ],
)
def test_what_was_trained_elsewhere_than_was_said_is_not_stored(
    tmp_path: Path, trained_on: dict[str, Any], words: str
) -> None:
    """An executor whose machines differ would else leave a result under the name of what another one trains."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    workload = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0,), **texts})

    class Elsewhere(FakeExecutor):
        def train(self, job: TrainJob) -> Trial:
            return replace(trial(FULL, [1.0]), spec=job.spec).remeasured(environment=replace(ENVIRONMENT, **trained_on))

    store = Store(StoreOptions(tmp_path / "store"), "now")
    ours = Lab(LabOptions(), Elsewhere(), lambda _: None, store)
    assert ours.train(workload, FULL).ok
    ours.close()
    assert bool(list((tmp_path / "store").rglob("results/*/*.json"))) is not bool(words)
    assert [words in problem for problem in store.problems] == [True] * bool(words)


@pytest.mark.parametrize(
    ("kind", "is_kept"),
    [
        ("ok", False),
        ("diverged", False),
        ("configuration", False),
        ("killed", True),
        ("crashed", True),
        ("timed_out", True),
    ],
)
def test_only_a_training_that_was_cut_short_leaves_its_checkpoints(tmp_path: Path, kind: Any, is_kept: bool) -> None:
    """The next attempt goes on from them; after a result, also of a training that diverged, there is none."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    workload = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0,), **texts})

    class Ending(FakeExecutor):
        def train(self, job: TrainJob) -> Trial | Answer:
            assert job.checkpoints is not None
            (job.checkpoints / "checkpoint-5").mkdir()
            if kind == "ok":
                return super().train(job)
            if kind == "diverged":
                return Trial(job.spec, Measured(outcome="diverged", error=TrialError("the loss is nan at step 3")))
            return Answer(failure=Failure(kind=kind, message="it ended"))

    ours = Lab(LabOptions(), Ending(), lambda _: None, Store(StoreOptions(tmp_path / "store"), "now"))
    with suppress(ConfigurationError):
        ours.train(workload, FULL)
    ours.close()
    assert bool(list((tmp_path / "store").rglob("checkpoint-5"))) is is_kept


@pytest.mark.parametrize("changes", [False, True])
def test_a_training_of_a_changed_file_does_not_go_on_from_a_checkpoint(tmp_path: Path, changes: bool) -> None:
    """Half of it would be of the old file, so it is trained again from its start; unchanged, it is trained once."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    workload = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0,), **texts})

    class Killed(FakeExecutor):
        def train(self, job: TrainJob) -> Trial | Answer:
            assert job.checkpoints is not None
            (job.checkpoints / "checkpoint-5").mkdir()
            return Answer(failure=Failure(kind="killed", message="by someone"))

    class Resumed(FakeExecutor):
        def train(self, job: TrainJob) -> Trial | Answer:
            if changes:
                (tmp_path / "train").write_text("changed")
            return super().train(job)

    executor = Resumed()
    for run, one in (("first", Killed()), ("second", executor)):
        ours = Lab(LabOptions(), one, lambda _: None, Store(StoreOptions(tmp_path / "store"), run))
        ours.train(workload, FULL)
        ours.close()
    assert [job.checkpoints is not None for job in executor.trained] == ([True, False] if changes else [True])
    assert bool(list((tmp_path / "store").rglob("results/*/*.json"))) is not changes
