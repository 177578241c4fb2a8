"""Workers that tests fork from a server do what those do that a user's pytest starts."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.warm import PLACE, WarmProcess

from pytest_ftguard.results import Trial
from pytest_ftguard.running.executor import Event, TrainJob
from pytest_ftguard.running.local import process
from pytest_ftguard.running.local.process import Worker
from pytest_ftguard.specs import LoRA, TrialSpec, Workload


def run(workload: Workload, folder: Path, *, kind: type[object], killed: bool = False) -> Trial:
    """Train LoRA in a worker, the process of which is of a kind; it may be killed when its training begins."""
    folder.mkdir()
    worker = Worker(folder, folder)
    assert isinstance(worker._process, kind)

    def take(event: Event) -> None:
        if killed and event.phase == "train":
            worker._process.send_signal(signal.SIGKILL)

    spec = TrialSpec(workload=workload, variant=LoRA(r=4, learning_rate=1e-2, dropout=0.1), seed=0, device="cpu")
    return worker.run(TrainJob(spec=spec, folder=folder, run="run"), take, lambda: True).trial(spec)


def test_a_forked_worker_measures_what_a_new_one_does(
    workload: Workload, tmp_path: Path, warm_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses are equal to the last bit, and so are parameters, memory and environment; a kill is told the same."""
    if PLACE not in os.environ:
        pytest.skip("no server on this machine")
    ours = run(workload, tmp_path / "warm", kind=WarmProcess)
    killed = run(workload, tmp_path / "killed", kind=WarmProcess, killed=True)
    monkeypatch.setattr(process, "subprocess", subprocess)
    theirs = run(workload, tmp_path / "cold", kind=subprocess.Popen)
    assert ours.measured.outcome == theirs.measured.outcome == "ok"
    assert ours.measured.validation == theirs.measured.validation
    assert ours.measured.curve == theirs.measured.curve
    assert ours.measured.data_order == theirs.measured.data_order
    assert ours.measured.parameters == theirs.measured.parameters
    assert ours.measured.environment == theirs.measured.environment
    assert ours.measured.memory is not None
    assert theirs.measured.memory is not None
    assert ours.measured.memory.peak_bytes == theirs.measured.memory.peak_bytes
    assert killed.measured.outcome == "crashed"
    assert killed.measured.error is not None
    assert "its process was ended by SIGKILL" in killed.measured.error.message
