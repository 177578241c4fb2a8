"""The local executor: one training on a device at a time, the next process started early, and what disturbs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_ftguard
from pytest_ftguard.results import BaseLosses
from pytest_ftguard.running.executor import (
    Answer,
    DescribeJob,
    Event,
    ExecutorOptions,
    Failure,
    ForecastJob,
    FormsJob,
    Job,
    MeasureJob,
    TrainJob,
    job_from_dict,
)
from pytest_ftguard.running.local.ending import Log, answer_of
from pytest_ftguard.running.local.environment import worker_environment
from pytest_ftguard.running.local.executor import LocalExecutor
from pytest_ftguard.running.local.leases import Neighbours
from pytest_ftguard.running.local.process import Worker
from pytest_ftguard.running.local.workers import Workers
from pytest_ftguard.specs import TrialSpec

from .builders import ENVIRONMENT, FULL, LORA, WORKLOAD, losses, trial

SPEC = TrialSpec(workload=WORKLOAD, variant=LORA, seed=0, device="cpu")


class IdleWorker(Worker):
    """Stands for a process that answers at once."""

    made: list[IdleWorker] = []  # noqa: RUF012 - the fixture empties it
    meets_another = False

    def __init__(self, folder: Path, scratch: Path, device: str | None = None) -> None:
        self.device = device
        self.jobs: list[Job] = []
        self.made.append(self)

    @property
    def has_ended(self) -> bool:
        return False

    def run(
        self,
        job: TrainJob | MeasureJob | FormsJob | ForecastJob,
        on_event: Callable[[Event], None],
        is_quiet: Callable[[], bool],
    ) -> Answer:
        self.jobs.append(job)
        on_event(Event("start"))
        if self.meets_another:
            with Neighbours():
                pass
        return Answer(result=trial(LORA, [1.0]))

    def describe(self, job: DescribeJob) -> Answer:
        self.jobs.append(job)
        return Answer(environment=ENVIRONMENT)

    def close(self) -> None:
        pass


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExecutorOptions:
    """Those of a run on a machine on which nobody else trains."""
    IdleWorker.made.clear()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return ExecutorOptions()


def executor(options: ExecutorOptions) -> LocalExecutor:
    return LocalExecutor(options, Workers(options.root, IdleWorker))


def job(tmp_path: Path, device: str = "cpu") -> TrainJob:
    spec = TrialSpec(workload=WORKLOAD, variant=LORA, seed=0, device=device)
    return TrainJob(spec=spec, folder=tmp_path, run="run")


@pytest.mark.parametrize("meets_another", [False, True])
def test_a_training_of_another_run_on_the_processor_disturbs(
    tmp_path: Path, options: ExecutorOptions, monkeypatch: pytest.MonkeyPatch, meets_another: bool
) -> None:
    """The answer says so, and who trains alone is told nothing."""
    monkeypatch.setattr(IdleWorker, "meets_another", meets_another)
    answer = executor(options).run(job(tmp_path), lambda _: None)
    words = "another pytest run trained on the processor while its steps were timed: run one after the other"
    assert answer.disturbance == (words if meets_another else None)


def test_what_is_known_to_disturb_is_said_of_the_processor_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: ExecutorOptions
) -> None:
    """Beforehand and with each answer; a GPU is not disturbed by other workers of xdist."""
    busy = executor(ExecutorOptions(tmp_path, "2 workers"))
    assert busy.disturbance("cpu") == "2 workers"
    assert busy.run(job(tmp_path), lambda _: None).disturbance == "2 workers"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert busy.disturbance("cuda") is None
    assert busy.run(job(tmp_path, "cuda"), lambda _: None).disturbance is None
    assert [worker.device for worker in IdleWorker.made] == [None, "0"]


@pytest.mark.parametrize("more_to_come", [False, True])
def test_the_next_process_is_started_early_if_more_is_to_come(
    tmp_path: Path, options: ExecutorOptions, more_to_come: bool
) -> None:
    """It imports while the present one trains, and is the one that trains next."""
    ours = executor(options)
    for _ in range(2):
        ours.run(job(tmp_path), lambda _: None, more_to_come=more_to_come)
    assert [len(worker.jobs) for worker in IdleWorker.made] == ([1, 1, 0] if more_to_come else [1, 1])


def test_the_process_that_was_asked_for_the_machine_trains_next(tmp_path: Path, options: ExecutorOptions) -> None:
    """The seconds that its imports took are not lost."""
    ours = executor(options)
    assert ours.run(DescribeJob(device="cpu", precision="fp32"), lambda _: None).environment == ENVIRONMENT
    ours.run(job(tmp_path), lambda _: None)
    (worker,) = IdleWorker.made
    assert [one.kind for one in worker.jobs] == ["describe", "train"]


@pytest.mark.parametrize(
    "one",
    [
        TrainJob(spec=SPEC, folder=Path("/f"), run="r"),
        TrainJob(
            spec=SPEC,
            folder=Path("/f"),
            run="r",
            keep_at_most_bytes=7,
            base=BaseLosses(losses([1.0]), losses([2.0])),
            timeout_seconds=1.5,
            foretell=True,
            flop_per_second=1e9,
            checkpoints=Path("/c"),
            checkpoint_seconds=0.0,
            import_path=("/a", "/b"),
        ),
        MeasureJob(
            spec=SPEC,
            folder=Path("/f"),
            probe=1.5,
            base=BaseLosses(losses([1.0]), None),
            timeout_seconds=1.5,
            import_path=("/a",),
        ),
        ForecastJob(specs=(SPEC, SPEC), texts=True, import_path=("/a",)),
        DescribeJob(device="auto", precision="bf16"),
    ],
)
def test_a_job_is_the_same_after_its_way_as_json(one: Job) -> None:
    """Whoever does it, on whichever machine, does what was asked for."""
    assert job_from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize(
    "answer",
    [
        Answer(),
        Answer(result=trial(FULL, [1.0]), disturbance="noise"),
        Answer(forecasts=(trial(FULL, [1.0]), trial(LORA, [1.0]))),
        Answer(environment=ENVIRONMENT),
        Answer(failure=Failure(kind="killed", message="m", log_tail="l", phase="train")),
    ],
)
def test_an_answer_is_the_same_after_its_way_as_json(answer: Answer) -> None:
    """Its result and the machine, or its failure with the kind."""
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"result": 3}', json.dumps({**Answer().to_dict(), "failure": {"kind": "x", "message": ""}})],
)
def test_an_answer_that_cannot_be_read_is_a_crash(tmp_path: Path, text: str) -> None:
    """Nothing of it is taken for a result."""
    (tmp_path / "answer.json").write_text(text)
    (tmp_path / "log.txt").write_text("its last words")
    log = Log(tmp_path / "log.txt")
    answer = answer_of(0, tmp_path / "answer.json", log, Event("save", 7), kernel_killed=False)
    assert answer.failure is not None
    assert (answer.failure.kind, answer.failure.phase) == ("crashed", "save")
    assert "left no readable result" in answer.failure.message
    assert answer.failure.log_tail == "its last words"


def test_a_worker_can_import_this_package_and_no_launcher_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a source tree that is on sys.path only; a user's own packages do not come first."""
    for name in ("ACCELERATE_MIXED_PRECISION", "RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = worker_environment("3")
    assert found["PYTHONPATH"].split(":") == ["/elsewhere", str(Path(pytest_ftguard.__file__).parents[1])]
    assert found["CUDA_VISIBLE_DEVICES"] == "3"
    assert not {"ACCELERATE_MIXED_PRECISION", "RANK", "MASTER_PORT"} & found.keys()
