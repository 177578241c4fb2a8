"""Workers that are forked from a process that has imported do what those do that are started."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pytest_ftguard.results import Trial
from pytest_ftguard.running import work
from pytest_ftguard.running.executor import DescribeJob, Event, ExecutorOptions, TrainJob
from pytest_ftguard.running.local import devices
from pytest_ftguard.running.local import forker as forkers
from pytest_ftguard.running.local.executor import LocalExecutor
from pytest_ftguard.running.local.forker import ForkedProcess, Forker
from pytest_ftguard.running.local.process import Worker
from pytest_ftguard.running.local.workers import Workers
from pytest_ftguard.specs import LoRA, TrialSpec, Workload


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def forker(tmp_path: Path, warm_workers: None) -> Iterator[Forker]:
    """A process that has imported and may fork."""
    if not Forker.is_supported():
        pytest.skip("no worker is forked on this machine")
    found = Forker(tmp_path)
    assert wait_for(found.can_fork, 120)
    yield found
    found.close()


def run(
    workload: Workload, folder: Path, forker: Forker | None, on_training: Callable[[Worker], None] = lambda _: None
) -> Trial:
    folder.mkdir()
    worker = Worker(folder, folder, None, forker)
    assert isinstance(worker._process, ForkedProcess) is (forker is not None)

    seen: list[Event] = []

    def take(event: Event) -> None:
        if event.phase == "train" and not seen:
            seen.append(event)
            on_training(worker)

    spec = TrialSpec(workload=workload, variant=LoRA(r=4, learning_rate=1e-2, dropout=0.1), seed=0, device="cpu")
    return worker.run(TrainJob(spec=spec, folder=folder, run="run"), take, lambda: True).trial(spec)


def test_a_forked_worker_measures_what_a_started_one_does(workload: Workload, tmp_path: Path, forker: Forker) -> None:
    """Losses are equal to the last bit, also those of the second one, and so are memory, order and environment."""
    first, second = (run(workload, tmp_path / name, forker).measured for name in ("first", "second"))
    started = run(workload, tmp_path / "started", None).measured
    assert first.outcome == second.outcome == started.outcome == "ok"
    assert first.validation == second.validation == started.validation
    assert first.curve == second.curve == started.curve
    assert first.data_order == second.data_order == started.data_order
    assert first.environment == second.environment == started.environment
    assert first.memory is not None
    assert second.memory is not None
    assert started.memory is not None
    assert first.memory.peak_bytes == second.memory.peak_bytes == started.memory.peak_bytes
    for phase, growth in (started.memory.phases or {}).items():  # libraries take a few megabytes more or less
        assert first.memory.phases is not None
        assert abs(first.memory.phases[phase] - growth) < 20e6


def test_the_end_of_a_forked_worker_is_told_as_that_of_a_started_one(
    workload: Workload, tmp_path: Path, forker: Forker
) -> None:
    """A kill in the middle of a training is a crash that names the signal, and the next worker is forked too."""
    killed = run(workload, tmp_path / "killed", forker, lambda worker: os.kill(worker.pid, signal.SIGKILL)).measured
    assert killed.outcome == "crashed"
    assert killed.error is not None
    assert "its process was ended by SIGKILL" in killed.error.message
    assert run(workload, tmp_path / "next", forker).measured.outcome == "ok"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_trial_goes_on_without_the_process_that_has_forked_its_worker(
    workload: Workload, tmp_path: Path, forker: Forker, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed, or hangs: what the worker leaves is its answer all the same, and the next worker is started."""
    for name in ("_FORK_SECONDS", "_TELLING_SECONDS"):
        monkeypatch.setattr(forkers, name, 0.5)
    result = run(workload, tmp_path / "orphaned", forker, lambda _: os.kill(forker._process.pid, number))
    assert result.measured.outcome == "ok"
    folder = tmp_path / "started"
    folder.mkdir()
    worker = Worker(folder, folder, None, forker)
    assert not isinstance(worker._process, ForkedProcess)
    assert worker.describe(DescribeJob(device="cpu", precision="fp32")).environment is not None
    worker.close()


def test_an_orphan_that_leaves_no_answer_was_killed(workload: Workload, tmp_path: Path, forker: Forker) -> None:
    """Nobody can tell how it ended, so the trial is a crash."""

    def kill_both(worker: Worker) -> None:
        os.kill(forker._process.pid, signal.SIGKILL)
        forker._process.wait(30)
        os.kill(worker.pid, signal.SIGKILL)

    measured = run(workload, tmp_path / "killed", forker, kill_both).measured
    assert measured.outcome == "crashed"
    assert measured.error is not None
    assert "SIGKILL" in measured.error.message


def test_a_worker_that_comes_too_late_touches_nothing(
    tmp_path: Path, forker: Forker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one was started in its place and uses the folder, which a worker removes if pytest is gone."""
    monkeypatch.setattr(forkers, "_FORK_SECONDS", 0.5)
    # What the server forks from now on stands still until it is let go on.
    os.kill(forker._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(Forker, "close", lambda _: None)  # it would end the server
    scratch = tmp_path / "0001"
    scratch.mkdir()
    worker = Worker(scratch, tmp_path, None, forker)
    assert not isinstance(worker._process, ForkedProcess)
    os.kill(forker._process.pid, signal.SIGCONT)
    time.sleep(2)
    assert scratch.is_dir()
    assert not worker.has_ended
    worker.close()
    monkeypatch.undo()
    forker.close()


def test_a_forked_worker_ends_if_pytest_does(tmp_path: Path, forker: Forker) -> None:
    """Its standard input ends then, whatever the process that has forked it goes on to do."""
    worker = Worker(tmp_path, tmp_path / "scratch", None, forker)
    assert worker._process.stdin is not None
    worker._process.stdin.close()
    assert worker._process.wait(30) == -signal.SIGKILL
    worker.close()


@pytest.mark.parametrize(("slot", "forked"), [("cpu", True), ("0", False)])
def test_only_workers_on_the_processor_are_forked(tmp_path: Path, warm_workers: None, slot: str, forked: bool) -> None:
    """The driver of an accelerator does not outlive a fork, so a worker that sees one is started."""
    if not Forker.is_supported():
        pytest.skip("no worker is forked on this machine")
    workers = Workers(tmp_path / "shared", forks=True)
    workers.keep_ready(slot)
    assert (workers._forker is not None, workers._spare is not None) == (forked, not forked)
    workers.close()


@pytest.mark.parametrize("name", ["nvidiactl", "kfd", "dxg"])
def test_nothing_is_forked_on_a_machine_with_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its driver would not outlive it, so no process is started that imports only to find that out."""
    monkeypatch.setattr(devices, "_DEVICES", tmp_path)
    assert Forker.is_supported() is (sys.platform == "linux")
    (tmp_path / name).touch()
    assert not Forker.is_supported()
    assert not Workers(tmp_path / "shared", forks=True)._forks


def test_a_process_that_forks_is_replaced_if_workers_would_be_others(
    tmp_path: Path, warm_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries read the environment when they are imported; the name of the present test is no reason."""
    if not Forker.is_supported():
        pytest.skip("no worker is forked on this machine")
    workers = Workers(tmp_path / "shared", forks=True)
    workers.keep_ready("cpu")
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "another test")
    before = workers._forker
    workers.keep_ready("cpu")
    assert workers._forker is before
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    workers.keep_ready("cpu")
    assert workers._forker is not before
    workers.close()


def test_a_process_that_may_not_fork_leaves_the_workers_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_workers: None
) -> None:
    """It ends by itself, for example if a sandbox does not let it, and the next worker is started early as ever."""
    if not Forker.is_supported():
        pytest.skip("no worker is forked on this machine")
    real = subprocess.Popen
    ended = SimpleNamespace(**{**vars(subprocess), "Popen": lambda _, **options: real(["sleep", "60"], **options)})
    monkeypatch.setattr(forkers, "subprocess", ended)
    executor = LocalExecutor(ExecutorOptions(tmp_path / "shared"))
    workers = executor._workers
    workers.keep_ready("cpu")
    assert workers._forker is not None
    workers._forker._process.send_signal(signal.SIGTERM)
    workers._forker._process.wait(30)
    assert workers.is_quiet()
    workers.keep_ready("cpu")
    assert workers._spare is not None
    assert not isinstance(workers._spare._process, ForkedProcess)
    workers.close()


@pytest.mark.parametrize("collects", [True, False])
def test_what_was_imported_is_no_garbage_and_the_collector_goes_on_as_before(collects: bool) -> None:
    """No later collection looks at it, and whoever had switched the collector off finds it off."""
    made = [[number] for number in range(1000)]
    before = gc.get_freeze_count()
    was = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        work.prepare()
        assert gc.isenabled() is collects
    finally:
        (gc.enable if was else gc.disable)()
    assert gc.get_freeze_count() >= before + len(made)
