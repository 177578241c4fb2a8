"""The lab asks a worker for each trial once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError
from pytest_ftguard.results import Memory, Timing, TrialError, TrialResult
from pytest_ftguard.running import lab
from pytest_ftguard.running.local import workers
from pytest_ftguard.running.local.process import Job, _environment
from pytest_ftguard.settings.reading import Settings
from pytest_ftguard.specs import Full, TrialSpec, Variant, Workload
from pytest_ftguard.store.fingerprint import Fingerprint, fingerprint_of
from pytest_ftguard.store.store import Store, StoreOptions

from .builders import ENVIRONMENT, FULL, LORA, WORKLOAD, trial


class HopelessWorker:
    """Stands for a process that finds each training too large to be started."""

    jobs: list[TrialSpec] = []  # noqa: RUF012 - the test empties it
    has_ended = False

    def __init__(self, *_: Any) -> None:
        pass

    def run(self, job: Job, *_: Any) -> TrialResult:
        self.jobs.append(job.spec)
        memory = Memory(None, "forecast", forecast_bytes=10**12)
        return TrialResult(spec=job.spec, outcome="out_of_memory", memory=memory, error=TrialError("too large"))

    def forecast(self, specs: list[TrialSpec]) -> list[TrialResult]:
        return [TrialResult(spec=spec, outcome="planned", memory=Memory(None, "forecast")) for spec in specs]

    def is_quiet(self) -> bool:
        return True

    def close(self) -> None:
        pass


class AbsentDevice(HopelessWorker):
    """Stands for a process on a machine that has no such device."""

    def describe(self, *_: Any) -> None:
        return None

    def run(self, job: Job, *_: Any) -> TrialResult:
        raise DeviceUnavailableError("device is 'cuda', but this machine has no such device")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_results_of_a_gpu_serve_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
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
    monkeypatch.setattr(workers, "Worker", AbsentDevice)
    ours = lab.Lab(lab.LabOptions(device="cuda"), lambda _: None, Store(options, "here"))
    (found,) = ours.train(workload, FULL).trials
    assert found.cached
    assert found.environment == environment
    assert "a machine without that device" in str(found.measured_elsewhere)
    with pytest.raises(DeviceUnavailableError):
        ours.train(replace(workload, steps=7), FULL)
    ours.close()


class Present(HopelessWorker):
    """Stands for a process that trains."""

    def describe(self, *_: Any) -> Any:
        return ENVIRONMENT

    def run(self, job: Job, *_: Any) -> TrialResult:
        self.jobs.append(job.spec)
        return replace(trial(FULL, [1.0]), spec=job.spec, time=Timing(0.5, 97, 50.0, run=job.run))


class WithBase(Present):
    """Stands for a process that trains, and remembers for which trials it was given the losses of the base model."""

    given: list[bool] = []  # noqa: RUF012 - the test empties it

    def run(self, job: Job, *arguments: Any) -> TrialResult:
        self.given.append(job.base is not None)
        return super().run(job, *arguments)


def test_base_losses_are_shared_by_trainings_of_one_base_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """More steps or another variant start from the same losses; another task or number of sequences does not."""
    other_task = replace(WORKLOAD)
    object.__setattr__(other_task, "task", "another-task")  # there is one only so far
    trainings: list[tuple[Workload, Variant, bool]] = [
        (WORKLOAD, FULL, False),
        (WORKLOAD, LORA, True),
        (replace(WORKLOAD, steps=7), FULL, True),
        (replace(WORKLOAD, validation_sequences=80), FULL, False),
        (other_task, FULL, False),
    ]
    monkeypatch.setattr(workers, "Worker", WithBase)
    WithBase.given.clear()
    ours = lab.Lab(lab.LabOptions(device="cpu"), lambda _: None)
    for workload, variant, _ in trainings:
        ours.train(workload, variant)
    ours.close()
    assert WithBase.given == [is_given for _, _, is_given in trainings]


def test_a_forecast_is_made_once_for_all_learning_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rate changes the memory that a training needs; another rank does."""
    for name in ("train", "validation"):
        (tmp_path / name).write_text(name)
    workload = replace(WORKLOAD, train=str(tmp_path / "train"), validation=str(tmp_path / "validation"))
    asked: list[TrialSpec] = []

    class Forecaster(HopelessWorker):
        def forecast(self, specs: list[TrialSpec], **_: Any) -> list[TrialResult]:
            asked.extend(specs)
            return super().forecast(specs)

    monkeypatch.setattr(workers, "Worker", Forecaster)
    ours = lab.Lab(lab.LabOptions(device="cpu"), lambda _: None)
    for variant in (LORA, replace(LORA, learning_rate=7e-4), replace(LORA, r=4)):
        assert [one.spec.variant for one in ours.plan(workload, variant).trials] == [variant]
    ours.close()
    assert [spec.variant for spec in asked] == [LORA, replace(LORA, r=4)]


def test_a_result_that_nobody_can_find_again_ends_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what decides it is not known, the processes of the run share it, and the store is left alone."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    known = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0,), **texts})
    monkeypatch.setattr(workers, "Worker", Present)
    HopelessWorker.jobs.clear()

    def train(workload: Workload, run: str, root: Path | None) -> TrialResult:
        store = Store(StoreOptions(tmp_path / "store"), run)
        if root is not None:
            root.mkdir(exist_ok=True)
        ours = lab.Lab(lab.LabOptions(device="cpu", root=root), lambda _: None, store)
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
        assert not train(unknown, run, root).cached
        assert len(HopelessWorker.jobs) == trained
    assert not list((tmp_path / "store").rglob("results/*/*.json"))
    train(known, "four", tmp_path / "four")
    assert len(list((tmp_path / "store").rglob("results/*/*.json"))) == 1


@pytest.mark.parametrize("role", ["model", "train"])
def test_a_path_keeps_its_content_within_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """Trials are told apart by paths in one run: one model's losses must not be taken for another's."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    workload = Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0,), **texts})
    monkeypatch.setattr(workers, "Worker", HopelessWorker)
    ours = lab.Lab(lab.LabOptions(), lambda _: None)
    ours.train(workload, FULL)
    ours.train(workload, FULL)
    (tmp_path / ("model/config.json" if role == "model" else role)).write_text("something else")
    with pytest.raises(ConfigurationError, match=f"the workload's {role}, was changed after it was first used"):
        ours.train(workload, FULL)
    ours.close()


def test_what_cannot_fit_is_forecast_for_one_seed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a training does not depend on its seed, so further seeds cost no forecast; each is an outcome."""
    monkeypatch.setattr(workers, "Worker", HopelessWorker)
    HopelessWorker.jobs.clear()
    ours = lab.Lab(lab.LabOptions(), lambda _: None)
    workload = Workload(model="m", train="t", validation="v", seeds=(0, 1, 2))
    trained = ours.train(workload, Full(learning_rate=5e-5))
    ours.close()
    assert [trial.outcome for trial in trained.trials] == ["out_of_memory"] * 3
    assert [trial.spec.seed for trial in trained.trials] == [0, 1, 2]
    assert [spec.seed for spec in HopelessWorker.jobs] == [0]


@pytest.mark.parametrize(("key", "required"), [(None, False), ("secret", True)])
def test_who_signs_believes_nothing_that_is_unsigned(tmp_path: Path, key: str | None, required: bool) -> None:
    """A checkpoint or a base loss of anybody's would else go into what bears the signature."""
    options = Settings({}).store(tmp_path, {"FTGUARD_SIGNING_KEY": key} if key else {})
    assert options is not None
    assert options.requires_signature is required
    ours = Store(options, "now")
    assert (ours.checkpoints(Fingerprint({"kind": "full", "seed": 0})) is None) is required


class FailingWorker(HopelessWorker):
    """Stands for a process in which one seed fails."""

    fails = 1

    def run(self, job: Job, *_: Any) -> TrialResult:
        self.jobs.append(job.spec)
        if job.spec.seed == self.fails:
            return TrialResult(spec=job.spec, outcome="diverged", error=TrialError("the loss is nan at step 3"))
        return replace(trial(FULL, [1.0]), spec=job.spec)


def test_no_further_seed_of_a_variant_with_a_failed_one_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gate judges the variant, whatever they come to; asked for alone, the seed is trained."""
    monkeypatch.setattr(workers, "Worker", FailingWorker)
    HopelessWorker.jobs.clear()
    workload = Workload(model="m", train="t", validation="v", seeds=(0, 1, 2, 3))
    ours = lab.Lab(lab.LabOptions(device="cpu"), lambda _: None)
    found = ours.train(workload, FULL)
    assert [one.outcome for one in found.trials] == ["ok", "diverged", "not_trained", "not_trained"]
    assert found.trials[2].failure == (
        "the trial of full, seed 2, was not trained: seed 1 ended diverged, and no gate can judge a variant with a "
        "failed seed"
    )
    assert [spec.seed for spec in HopelessWorker.jobs] == [0, 1]
    assert [one.outcome for one in ours.train(workload, FULL).trials] == [one.outcome for one in found.trials]
    assert ours.train(replace(workload, seeds=(2,)), FULL).trials[0].outcome == "ok"
    assert [spec.seed for spec in HopelessWorker.jobs] == [0, 1, 2]
    assert TrialResult.from_dict(found.trials[2].to_dict()) == found.trials[2]
    ours.close()


class BrokenOff(HopelessWorker):
    """Stands for a process whose run is ended from outside."""

    def run(self, job: Job, *_: Any) -> TrialResult:
        raise KeyboardInterrupt


def test_a_training_that_is_broken_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The summary says so, although there is no result."""
    monkeypatch.setattr(workers, "Worker", BrokenOff)
    ours = lab.Lab(lab.LabOptions(device="cpu"), lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        ours.train(Workload(model="m", train="t", validation="v", seeds=(0, 1)), FULL)
    assert ours.broken_off == ["full, seed 0, was interrupted by KeyboardInterrupt"]
    assert ours.results == ()
    ours.close()


def test_a_worker_finds_the_package_and_no_room_of_it_by_a_shorter_name() -> None:
    """The folder that holds the package is on its path; a room such as statistics would hide a module of Python's."""
    source = Path(_environment(None)["PYTHONPATH"].split(os.pathsep)[-1])
    assert (source / "pytest_ftguard" / "__init__.py").is_file()
    assert not (source / "statistics.py").exists()
