"""Trains trials: makes the executor's jobs, with what earlier ones have shown."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, FtguardError
from pytest_ftguard.results import BaseLosses, Environment, Measured, Trial, TrialError
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.results.progress import Progress
from pytest_ftguard.running.alternatives import with_advice
from pytest_ftguard.running.clock import ProgressClock
from pytest_ftguard.running.executor import (
    Answer,
    DescribeJob,
    Event,
    Executor,
    ForecastJob,
    FormsJob,
    MeasureJob,
    TrainJob,
)
from pytest_ftguard.specs import TrialSpec, key_of
from pytest_ftguard.store.notes import Notes
from pytest_ftguard.store.weights import size_of

__all__ = ["CHECKPOINT_SECONDS", "Bench", "LabOptions"]

CHECKPOINT_SECONDS: Final = 60.0
"""Time between two checkpoints of a training."""


@dataclass(frozen=True)
class LabOptions:
    """How trials are run.

    Attributes:
        device: "auto" or a device of torch.
        timeout_seconds: Time that one trial may take; None is no bound.
        keep_at_most_bytes: Largest size of trained weights that are kept until the lab closes; None is no bound.
        foretell: Whether memory is forecast: a training that will not fit is not started, and one that did not is told
            what would.
        root: Folder for everything that lives as long as the run, which somebody else removes; None if this is the only
            process of the run.
    """

    device: str = "auto"
    timeout_seconds: float | None = None
    keep_at_most_bytes: int | None = None
    foretell: bool = True
    root: Path | None = None


class Bench:
    """Trains trials by an executor, each one that is asked for, and remembers what serves the next ones.

    Args:
        options: How trials are run.
        executor: Who starts their processes, and where.
        on_progress: Called a few times a second while a trial runs.
        run: Identity of this run of pytest.
        notes: Remembers what machines can do; None remembers it for this run only.
    """

    def __init__(
        self,
        options: LabOptions,
        executor: Executor,
        on_progress: Callable[[Progress], None],
        run: str,
        notes: Notes | None = None,
    ) -> None:
        self._options = options
        self._executor = executor
        self._on_progress = on_progress
        self._run = run
        self._notes = notes
        self._speeds: dict[tuple[str, str], float] = {}
        self._errors: dict[str, ConfigurationError | DeviceUnavailableError] = {}
        self._bases: dict[str, BaseLosses] = {}
        self._hopeless: dict[str, Trial] = {}

    def train(self, spec: TrialSpec, *, checkpoints: Path | None = None, more_to_come: bool) -> Trial:
        """Return what became of a trial.

        Args:
            spec: What is trained.
            checkpoints: Folder that outlives the trial, from which a training that was killed goes on.
            more_to_come: Whether another one is likely to follow.

        Raises:
            ConfigurationError: The spec cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        if spec.fingerprint in self._errors:
            raise self._errors[spec.fingerprint]
        if (known := self._hopeless.get(key_of(spec, "memory"))) is not None:
            return replace(known, spec=spec)
        try:
            answer = self._do(spec, checkpoints, more_to_come=more_to_come)
            result = answer.trial(spec)
        except (ConfigurationError, DeviceUnavailableError) as error:
            self._errors[spec.fingerprint] = error
            raise
        if self._options.foretell and answer.lacks_memory:
            result = with_advice(result, self.forecast)
            if result.measured.memory is not None and result.measured.memory.method == "forecast":
                self._hopeless[key_of(spec, "memory")] = result  # it was not even started, and no other seed would be
        self._remember_speed(result)
        return self.with_base(_disturbed(result, answer.disturbance))

    def _do(self, spec: TrialSpec, checkpoints: Path | None, *, more_to_come: bool) -> Answer:
        folder = self._executor.folder()
        job = TrainJob(
            spec=spec,
            folder=folder,
            run=self._run,
            keep_at_most_bytes=self._options.keep_at_most_bytes,
            base=self._bases.get(key_of(spec, "base")),
            timeout_seconds=self._options.timeout_seconds,
            foretell=self._options.foretell,
            flop_per_second=self._speed(spec),
            checkpoints=checkpoints,
            checkpoint_seconds=CHECKPOINT_SECONDS,
            import_path=_import_path(),
        )
        clock = ProgressClock(spec, self._on_progress)
        try:
            answer = self._executor.run(job, clock.take, more_to_come=more_to_come)
            if checkpoints is not None and not answer.was_cut_short:
                shutil.rmtree(checkpoints, ignore_errors=True)  # only now: the result is here
            return answer
        finally:
            clock.take(Event("end"))
            shutil.rmtree(folder / "trainer", ignore_errors=True)
            if checkpoints is not None:
                with suppress(OSError):
                    checkpoints.rmdir()  # no checkpoint was made

    def measure(self, spec: TrialSpec, folder: Path, probe: float, *, more_to_come: bool) -> Trial:
        """Return the losses of a trained model on the evaluation examples of a trial, or why there are none.

        Args:
            spec: The trial.
            folder: A folder of its own, with the weights in `model`.
            probe: What the trained model came to on the first training examples.
            more_to_come: Whether a training, or another evaluation, is likely to follow.

        Raises:
            ConfigurationError: The examples cannot be evaluated.
            DeviceUnavailableError: The device is not present.
        """
        if spec.fingerprint in self._errors:
            raise self._errors[spec.fingerprint]
        job = MeasureJob(
            spec=spec,
            folder=folder,
            probe=probe,
            base=self._bases.get(key_of(spec, "base")),
            timeout_seconds=self._options.timeout_seconds,
            import_path=_import_path(),
        )
        clock = ProgressClock(spec, self._on_progress)
        try:
            return self.with_base(self._executor.run(job, clock.take, more_to_come=more_to_come).trial(spec))
        except (ConfigurationError, DeviceUnavailableError) as error:
            self._errors[spec.fingerprint] = error
            raise
        finally:
            clock.take(Event("end"))

    def measure_forms(self, spec: TrialSpec, weights: Path, shipping: Shipping) -> tuple[FormLosses, ...]:
        """Return what a trained model comes to in each form in which it is shipped.

        Args:
            spec: The trial.
            weights: Folder of its weights.
            shipping: How it is shipped.

        Raises:
            FtguardError: They could not be measured.
        """
        folder = self._executor.folder()
        job = FormsJob(
            spec=spec,
            weights=weights,
            folder=folder,
            shipping=shipping,
            timeout_seconds=self._options.timeout_seconds,
            import_path=_import_path(),
        )
        clock = ProgressClock(spec, self._on_progress)
        try:
            answer = self._executor.run(job, clock.take)
        finally:
            clock.take(Event("end"))
            shutil.rmtree(folder, ignore_errors=True)
        answer.raise_refusal()
        if answer.failure is not None or not answer.forms:
            why = answer.failure.message if answer.failure else "the executor gave no losses"
            message = f"{spec.variant.label}, seed {spec.seed}, could not be evaluated as it ships: {why}"
            raise FtguardError(message)
        return answer.forms

    def _speed(self, spec: TrialSpec) -> float | None:
        """Return what the machine of a trial reaches in a large matrix product, if a trial has measured it."""
        facts = self.facts(spec) if self._notes is not None else None
        noted = self._notes.speed(facts) if self._notes is not None and facts is not None else None
        return self._speeds.get((spec.device, spec.workload.precision), noted)

    def _remember_speed(self, result: Trial) -> None:
        asked = result.spec.device, result.spec.workload.precision
        reached = result.measured.time.machine_flop_per_second if result.measured.time else None
        if reached is None or asked in self._speeds:
            return
        self._speeds[asked] = reached
        if self._notes is not None and (facts := self.facts(result.spec)) is not None:
            self._notes.remember_speed(facts, reached)

    def train_undisturbed(self, spec: TrialSpec, *, more_to_come: bool) -> Trial:
        """Train a trial for the time of its steps, unless what would disturb it is known beforehand.

        Raises:
            FtguardError: It would be disturbed, or cannot be carried out.
        """
        if disturbance := self._executor.disturbance(spec.device):
            raise FtguardError(disturbance)
        return self.train(spec, more_to_come=more_to_come)

    def is_hopeless(self, spec: TrialSpec) -> bool:
        """Return whether a trial is known not to fit into the memory, so that asking for it costs nothing."""
        return key_of(spec, "memory") in self._hopeless

    def with_base(self, result: Trial) -> Trial:
        """Keep the base model's losses, which need not be measured again for the next trial."""
        if result.measured.base_validation is not None:
            base = BaseLosses(result.measured.base_validation, result.measured.base_reference)
            self._bases.setdefault(key_of(result.spec, "base"), base)
        return result

    def forecast(self, specs: Sequence[TrialSpec], *, texts: bool = False) -> list[Trial]:
        """Return what trials would take, without training them; if there is no forecast, the result says why.

        Args:
            specs: What would be trained.
            texts: Whether to look at the texts too, as the trainings would.

        Raises:
            ConfigurationError: A spec cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        job = ForecastJob(specs=tuple(specs), texts=texts, import_path=_import_path())
        answer = self._executor.run(job, lambda _: None)
        answer.raise_refusal()
        if answer.failure is not None:
            return [_without_forecast(spec, answer.failure.message) for spec in specs]
        if [one.spec for one in answer.forecasts] != list(specs):
            return [_without_forecast(spec, "the executor gave none, or those of other trials") for spec in specs]
        return list(answer.forecasts)

    def facts(self, spec: TrialSpec) -> str | None:
        """Return a digest of what decides on which machine a trial is trained; None if it must be asked for."""
        return self._executor.facts(spec.device, spec.workload.precision)

    def describe(self, spec: TrialSpec) -> Environment | None:
        """Return the machine that a trial would be trained on; None if its device is not present."""
        job = DescribeJob(device=spec.device, precision=spec.workload.precision)
        return self._executor.run(job, lambda _: None).environment

    def waiting(self, spec: TrialSpec) -> Callable[[], None]:
        """Return what shows, when it is called, that a trial waits for another process."""
        clock = ProgressClock(spec, self._on_progress)
        return lambda: clock.take(Event("wait"))

    def keeps(self, weights: Path) -> bool:
        """Return whether a folder of weights is small enough to be kept until the close."""
        most = self._options.keep_at_most_bytes
        return most is None or size_of(weights) <= most

    def folder(self) -> Path:
        """Return a new folder that lasts until the close."""
        return self._executor.folder()

    def close(self) -> None:
        """End what is running and remove everything that was written, kept models included."""
        self._executor.close()


def _import_path() -> tuple[str, ...]:
    # What can be imported in the tests can be imported there: a training function of the user's, for one.
    return tuple(str(Path(path).resolve()) for path in sys.path)


def _disturbed(result: Trial, disturbance: str | None) -> Trial:
    """Return a result that says what else has used the processor while its steps were timed."""
    on_cpu = result.measured.environment is not None and result.measured.environment.device == "cpu"
    if (
        not on_cpu
        or disturbance is None
        or result.measured.time is None
        or result.measured.time.disturbance is not None
    ):
        return result
    return result.remeasured(time=replace(result.measured.time, disturbance=disturbance))


def _without_forecast(spec: TrialSpec, reason: str) -> Trial:
    return Trial(spec, Measured(outcome="planned", error=TrialError(f"no forecast: {reason}")))
