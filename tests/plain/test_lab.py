"""The lab asks a worker for each trial once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.results import Memory, TrialError, TrialResult
from pytest_ftguard.running import lab
from pytest_ftguard.running.process import Job
from pytest_ftguard.specs import Full, TrialSpec, Workload


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


def test_what_cannot_fit_is_forecast_for_one_seed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a training does not depend on its seed, so further seeds cost no forecast; each is an outcome."""
    monkeypatch.setattr(lab, "Worker", HopelessWorker)
    HopelessWorker.jobs.clear()
    ours = lab.Lab(lab.LabOptions(), lambda _: None)
    workload = Workload(model="m", train="t", validation="v", seeds=(0, 1, 2))
    trained = ours.train(workload, Full())
    ours.close()
    assert [trial.outcome for trial in trained.trials] == ["out_of_memory"] * 3
    assert [trial.spec.seed for trial in trained.trials] == [0, 1, 2]
    assert [spec.seed for spec in HopelessWorker.jobs] == [0]
