"""The one door to training: a job in, an answer out. Whoever calls it is a process of a trial's own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, FtguardError
from pytest_ftguard.results import Trial
from pytest_ftguard.running.executor import (
    Answer,
    DescribeJob,
    Event,
    Failure,
    ForecastJob,
    FormsJob,
    Job,
    MeasureJob,
    TrainJob,
    extend_import_path,
    job_from_dict,
)

__all__ = ["answer_to", "carry_out", "is_without_driver", "load_trained", "prepare"]


def prepare() -> None:
    """Import what a training needs, which takes seconds; a process that waits for its job may do so beforehand.

    Nothing that is imported is looked at by the collector of garbage, neither now nor at the end of each training: it
    would take a fifth of the time of the imports, and most of that of a short training.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        from pytest_ftguard.training import trial  # noqa: F401
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def is_without_driver() -> bool:
    """Return whether the present process, which is prepared, holds no driver that a fork would break."""
    from pytest_ftguard.training import machine

    return machine.is_without_driver()


def carry_out(
    job: Job, on_event: Callable[[Event], None] = lambda _: None, wait_for_quiet: Callable[[], None] = lambda: None
) -> Answer:
    """Do a job in the present process and return its answer; a crash is left to whoever watches the process.

    Args:
        job: What is to be done.
        on_event: Called as a training goes on.
        wait_for_quiet: Called before the steps that are timed; returns when nothing of ours disturbs them.
    """
    try:
        return _do(job, on_event, wait_for_quiet)
    except ConfigurationError as error:
        return Answer(failure=Failure(kind="configuration", message=str(error)))
    except DeviceUnavailableError as error:
        return Answer(failure=Failure(kind="no_device", message=str(error)))


def answer_to(
    values: Mapping[str, Any],
    on_event: Callable[[Event], None] = lambda _: None,
    wait_for_quiet: Callable[[], None] = lambda: None,
) -> Answer:
    """Do a job that came as values that JSON can hold; see `carry_out`.

    Args:
        values: What the job's `to_dict` wrote.
        on_event: Called as a training goes on.
        wait_for_quiet: Called before the steps that are timed.
    """
    try:
        job = job_from_dict(values)
    except ConfigurationError as error:  # a variant's class is not found here
        return Answer(failure=Failure(kind="configuration", message=str(error)))
    return carry_out(job, on_event, wait_for_quiet)


def _do(job: Job, on_event: Callable[[Event], None], wait_for_quiet: Callable[[], None]) -> Answer:
    match job:
        case DescribeJob():
            return _describe(job)
        case ForecastJob():
            return _forecast(job)
        case MeasureJob():
            return _measure(job, on_event)
        case FormsJob():
            return _measure_forms(job, on_event)
        case TrainJob():
            return _train(job, on_event, wait_for_quiet)


def _describe(job: DescribeJob) -> Answer:
    from pytest_ftguard.training import machine

    try:
        device = machine.resolve_device(job.device)
        precision = machine.resolve_precision(job.precision, device)
    except FtguardError:
        return Answer()  # the trial says what is wrong
    return Answer(environment=machine.describe(device, precision=precision))


def _forecast(job: ForecastJob) -> Answer:
    from pytest_ftguard.training import forecast

    extend_import_path(job.import_path)
    return Answer(forecasts=tuple(forecast.plan_trial(spec, texts=job.texts) for spec in job.specs))


def _measure(job: MeasureJob, on_event: Callable[[Event], None]) -> Answer:
    from pytest_ftguard.training import again

    extend_import_path(job.import_path)
    on_event(Event("evaluate", job.spec.workload.steps))
    try:
        return Answer(result=again.measure_again(job.spec, job.folder, job.probe, job.base))
    except again.OtherWeightsError as error:
        return Answer(failure=Failure(kind="crashed", message=str(error), phase="evaluate"))


def _measure_forms(job: FormsJob, on_event: Callable[[Event], None]) -> Answer:
    from pytest_ftguard.training import forms

    extend_import_path(job.import_path)
    on_event(Event("evaluate", job.spec.workload.steps))
    return Answer(forms=forms.measure_forms(job.spec, job.weights, job.folder, job.shipping))


def _train(job: TrainJob, on_event: Callable[[Event], None], wait_for_quiet: Callable[[], None]) -> Answer:
    from pytest_ftguard.training import trial

    def report(phase: str, step: int, loss: float | None) -> None:
        on_event(Event(phase, step, loss))

    extend_import_path(job.import_path)
    folder = trial.TrialFolder(job.folder, job.keep_at_most_bytes, job.checkpoints, job.checkpoint_seconds)
    options: dict[str, Any] = {"run": job.run, "foretell": job.foretell, "flop_per_second": job.flop_per_second}
    return Answer(result=trial.run_trial(job.spec, folder, report, job.base, wait_for_quiet, **options))


def load_trained(result: Trial) -> tuple[Any, Any]:
    """Return a trial's trained model and tokenizer; this imports torch into the present process."""
    from pytest_ftguard.training import kept

    assert result.provenance.model_dir is not None  # TrainedVariant.load has checked it
    return kept.load_trained(result.spec, result.provenance.model_dir)
