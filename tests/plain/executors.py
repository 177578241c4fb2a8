"""Executors that train nothing, for tests of what is done with answers."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pytest_ftguard.results import Environment, Measured, Memory, Timing, Trial, TrialError
from pytest_ftguard.results.forms import FormLosses
from pytest_ftguard.running.executor import Answer, DescribeJob, Event, ForecastJob, FormsJob, Job, MeasureJob, TrainJob
from pytest_ftguard.specs import TrialSpec

from .builders import ENVIRONMENT, FULL, trial

__all__ = ["FakeExecutor", "Hopeless"]


class FakeExecutor:
    """Answers each job at once.

    Attributes:
        trained: The training jobs so far, and whether more were said to come.
        measured: The jobs of evaluating a trained model again.
        shipped: The jobs of evaluating one as it ships.
        forecast: The specs whose memory was forecast.
        described: How often it was asked for its machine.
        environment: The machine that it says it is; None if the device is not present.
        neighbours: What else it says has used the processor.
        known_disturbance: What it says beforehand will disturb a timing.
    """

    environment: Environment | None = ENVIRONMENT
    neighbours: str | None = None
    known_disturbance: str | None = None

    def __init__(self) -> None:
        self.trained: list[TrainJob] = []
        self.measured: list[MeasureJob] = []
        self.shipped: list[FormsJob] = []
        self.more_to_come: list[bool] = []
        self.forecast: list[TrialSpec] = []
        self.described = 0
        self.is_closed = False
        self._root = Path(tempfile.mkdtemp(prefix="pytest-ftguard-test-"))
        self._numbers = itertools.count()

    @property
    def specs(self) -> list[TrialSpec]:
        """What was trained."""
        return [job.spec for job in self.trained]

    def train(self, job: TrainJob) -> Trial | Answer:
        """Return what becomes of a trial."""
        return replace(trial(FULL, [1.0]), spec=job.spec).remeasured(time=Timing(0.5, 97, 50.0, run=job.run))

    def measure(self, job: MeasureJob) -> Trial | Answer:
        """Return what a trained model comes to on other examples."""
        done = trial(FULL, [1.0]).measured
        measured = Measured(outcome="ok", environment=self.environment, validation=done.validation)
        return Trial(job.spec, replace(measured, base_validation=done.base_validation))

    def forms(self, job: FormsJob) -> Answer:
        """Return what a trained model comes to as it ships."""
        return Answer(forms=(FormLosses(form="saved and reloaded", nll=(1.0,), digest="text"),))

    def run(self, job: Job, on_event: Callable[[Event], None], *, more_to_come: bool = False) -> Answer:
        match job:
            case DescribeJob():
                self.described += 1
                return Answer(environment=self.environment)
            case ForecastJob():
                self.forecast += job.specs
                memory = Memory(None, "forecast")
                planned = (Trial(spec, Measured(outcome="planned", memory=memory)) for spec in job.specs)
                return Answer(forecasts=tuple(planned))
            case MeasureJob():
                self.measured.append(job)
                found = self.measure(job)
                return found if isinstance(found, Answer) else Answer(result=found)
            case FormsJob():
                self.shipped.append(job)
                return self.forms(job)
            case TrainJob():
                self.trained.append(job)
                self.more_to_come.append(more_to_come)
                done = self.train(job)
                answer = done if isinstance(done, Answer) else Answer(result=done)
                return replace(answer, disturbance=self.known_disturbance or self.neighbours)

    def folder(self) -> Path:
        folder = self._root / str(next(self._numbers))
        folder.mkdir(parents=True)
        return folder

    def facts(self, device: str, precision: str) -> str | None:
        return f"{device} {precision}"

    def disturbance(self, device: str) -> str | None:
        return self.known_disturbance

    def close(self) -> None:
        self.is_closed = True


class Hopeless(FakeExecutor):
    """Finds each training too large to be started."""

    def train(self, job: TrainJob) -> Trial | Answer:
        memory = Memory(None, "forecast", forecast_bytes=10**12)
        return Trial(job.spec, Measured(outcome="out_of_memory", memory=memory, error=TrialError("too large")))
