"""Workers that tests fork from a server do what those do that a user's pytest starts."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.warm import PLACE, WarmProcess

from pytest_ftguard.results import TrialResult
from pytest_ftguard.running.local import process
from pytest_ftguard.running.local.process import Event, Job, Worker
from pytest_ftguard.specs import LoRA, TrialSpec, Workload


def run(workload: Workload, folder: Path, *, kind: type[object], killed: bool = False) -> TrialResult:
    """Train LoRA in a worker, the process of which is of a kind; it may be killed when its training begins."""
    folder.mkdir()
    worker = Worker(folder, folder)
    assert isinstance(worker._process, kind)

    def take(event: Event) -> None:
        if killed and event.phase == "train":
            worker._process.send_signal(signal.SIGKILL)

    spec = TrialSpec(workload=workload, variant=LoRA(r=4, learning_rate=1e-2, dropout=0.1), seed=0, device="cpu")
    return worker.run(Job(spec, folder, None, None, None, "run"), take, lambda: True)


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
    assert ours.outcome == theirs.outcome == "ok"
    assert ours.validation == theirs.validation
    assert ours.curve == theirs.curve
    assert ours.data_order == theirs.data_order
    assert ours.parameters == theirs.parameters
    assert ours.environment == theirs.environment
    assert ours.memory is not None
    assert theirs.memory is not None
    assert ours.memory.peak_bytes == theirs.memory.peak_bytes
    assert killed.outcome == "crashed"
    assert killed.error is not None
    assert "its process was ended by SIGKILL" in killed.error.message
