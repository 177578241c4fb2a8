"""What an executor is given and what it answers, as plain data that JSON can hold, and the protocol that it follows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol, Self

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, FtguardError
from pytest_ftguard.results import (
    BaseLosses,
    Environment,
    Measured,
    Outcome,
    Trial,
    TrialError,
    from_plain,
    from_plain_if_any,
    to_plain,
)
from pytest_ftguard.results.forms import FormLosses
from pytest_ftguard.running.forms_job import FormsJob
from pytest_ftguard.running.measure_job import MeasureJob
from pytest_ftguard.specs import TrialSpec, find_variant_class, import_paths

__all__ = [
    "Answer",
    "DescribeJob",
    "Event",
    "Executor",
    "ExecutorOptions",
    "Failure",
    "FailureKind",
    "ForecastJob",
    "FormsJob",
    "Job",
    "MeasureJob",
    "TrainJob",
    "extend_import_path",
    "job_from_dict",
]

FailureKind = Literal["configuration", "no_device", "out_of_memory", "killed", "crashed", "timed_out"]

_OUTCOMES: Final[Mapping[str, Outcome]] = {
    "out_of_memory": "out_of_memory",
    "killed": "crashed",
    "crashed": "crashed",
    "timed_out": "timed_out",
}


@dataclass(frozen=True)
class Event:
    """What is reported while a trial goes on.

    Attributes:
        phase: "wait" while another training has the device, then "start", "load", "evaluate", "train" or "save".
        step: Optimizer steps done.
        loss: Training loss of that step, in nats per token, if known.
    """

    phase: str
    step: int = 0
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A trial that is to be trained. The answer holds its `result`, or why there is none.

    Attributes:
        spec: What is trained.
        folder: A folder of the trial's own, which the pytest process sees under the same path: trained weights go
            there.
        run: Identity of the run of pytest that the trial is part of.
        keep_at_most_bytes: Largest size of trained weights that are kept; None is no bound.
        base: Losses of the base model, if an earlier trial measured them.
        timeout_seconds: Time that the trial may take once it has its device; None is no bound. The executor ends it.
        foretell: Whether a training that will not fit into the device's memory is to end before it begins.
        flop_per_second: What the machine reaches in a large matrix product; None if it is to be measured.
        checkpoints: Folder that outlives the trial, from which a training that was killed goes on; None keeps none.
        checkpoint_seconds: Time between two checkpoints.
        import_path: Where modules are found, among them a training function of the user's.
    """

    kind: ClassVar = "train"

    spec: TrialSpec
    folder: Path
    run: str
    keep_at_most_bytes: int | None = None
    base: BaseLosses | None = None
    timeout_seconds: float | None = None
    foretell: bool = False
    flop_per_second: float | None = None
    checkpoints: Path | None = None
    checkpoint_seconds: float = 60.0
    import_path: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the job as values that JSON can hold."""
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "job": self.kind,
            "spec": self.spec.to_dict(),
            "folder": str(self.folder),
            "base": to_plain(self.base),
            "checkpoints": None if self.checkpoints is None else str(self.checkpoints),
            "import_path": list(self.import_path),
            "variant_classes": import_paths([self.spec.variant]),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the job that `to_dict` wrote."""
        checkpoints = values["checkpoints"]
        read = {
            "spec": TrialSpec.from_dict(values["spec"]),
            "folder": Path(values["folder"]),
            "base": from_plain_if_any(values["base"], BaseLosses),
            "checkpoints": None if checkpoints is None else Path(checkpoints),
            "import_path": tuple(values["import_path"]),
        }
        return cls(**{field.name: values[field.name] for field in fields(cls)} | read)


@dataclass(frozen=True, kw_only=True)
class ForecastJob:
    """Trials of which the memory is to be forecast. The answer holds a planned trial for each, in `forecasts`.

    Attributes:
        specs: What would be trained.
        texts: Whether to look at the texts too, as the trainings would.
        import_path: See `TrainJob`.
    """

    kind: ClassVar = "forecast"

    specs: tuple[TrialSpec, ...]
    texts: bool = False
    import_path: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the job as values that JSON can hold."""
        specs = [spec.to_dict() for spec in self.specs]
        return {
            "job": self.kind,
            "specs": specs,
            "texts": self.texts,
            "import_path": list(self.import_path),
            "variant_classes": import_paths(spec.variant for spec in self.specs),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the job that `to_dict` wrote."""
        specs = tuple(map(TrialSpec.from_dict, values["specs"]))
        return cls(specs=specs, texts=values["texts"], import_path=tuple(values["import_path"]))


@dataclass(frozen=True, kw_only=True)
class DescribeJob:
    """Which machine a trial would be trained on. The answer holds its `environment`; None if there is no such device.

    Attributes:
        device: "auto" or a device of torch.
        precision: "auto", "fp32" or "bf16".
    """

    kind: ClassVar = "describe"

    device: str
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """Return the job as values that JSON can hold."""
        return {"job": self.kind, **to_plain(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the job that `to_dict` wrote."""
        return cls(device=values["device"], precision=values["precision"])


Job = TrainJob | MeasureJob | FormsJob | ForecastJob | DescribeJob

_JOBS: Final[Mapping[str, type[Job]]] = {
    kind.kind: kind for kind in (TrainJob, MeasureJob, FormsJob, ForecastJob, DescribeJob)
}


def job_from_dict(values: Mapping[str, Any]) -> Job:
    """Return the job that its `to_dict` wrote, of whichever kind it is.

    From here on the process finds modules on the tests' import path: the variant may be a class of the user's own.

    Raises:
        ConfigurationError: The spec cannot be read.
    """
    extend_import_path(values.get("import_path", ()))
    for path in values.get("variant_classes", ()):
        find_variant_class(path)
    return _JOBS[values["job"]].from_dict(values)


def extend_import_path(paths: Iterable[str]) -> None:
    """Add the tests' import path, behind what is there already: a user's data.py must not win."""
    sys.path.extend(path for path in paths if path not in sys.path)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job has no result.

    Attributes:
        kind: "configuration" if the spec cannot be carried out, and "no_device" if the device is not present: the test
            fails or is skipped. The others are outcomes of a trial; "killed" is an end by somebody's SIGKILL, most
            likely the kernel's for lack of memory.
        message: What happened.
        log_tail: The end of the process's log.
        phase: The phase in which it happened; "start" if nothing was loaded yet.
    """

    kind: FailureKind
    message: str
    log_tail: str = ""
    phase: str = "start"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a job.

    Attributes:
        result: What a trial measured, also one that diverged or ran out of memory without losing its process; of a
            trained model that was evaluated again, the losses alone.
        forms: What a trained model comes to in each form in which it is shipped.
        forecasts: The planned trials, in the order of the job's specs.
        environment: The machine that was asked for.
        failure: Why the job has no result.
        disturbance: What else kept the processor busy while the steps of the trial were timed, if it is known.
    """

    result: Trial | None = None
    forms: tuple[FormLosses, ...] = ()
    forecasts: tuple[Trial, ...] = ()
    environment: Environment | None = None
    failure: Failure | None = None
    disturbance: str | None = None

    @property
    def lacks_memory(self) -> bool:
        """Whether a trial ended, or most likely ended, for lack of memory."""
        if self.failure is None:
            return self.result is not None and self.result.measured.outcome == "out_of_memory"
        # Before it has loaded anything a process takes little memory, so it was killed for something else.
        killed = self.failure.kind == "killed" and self.failure.phase != "start"
        return self.failure.kind == "out_of_memory" or killed

    @property
    def was_cut_short(self) -> bool:
        """Whether another attempt may go on from a checkpoint of this one."""
        return self.failure is not None and self.failure.kind not in ("configuration", "no_device")

    def raise_refusal(self) -> None:
        """Raise what the user must settle before the job can be done.

        Raises:
            ConfigurationError: The spec cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        if self.failure is not None and self.failure.kind == "configuration":
            raise ConfigurationError(self.failure.message)
        if self.failure is not None and self.failure.kind == "no_device":
            raise DeviceUnavailableError(self.failure.message)

    def trial(self, spec: TrialSpec) -> Trial:
        """Return what became of a trial; an answer that is not about it is a crash, never taken for its result.

        Args:
            spec: What the executor was to train.

        Raises:
            ConfigurationError: The spec cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        self.raise_refusal()
        if self.failure is not None:
            error = TrialError(self.failure.message, self.failure.log_tail)
            return Trial(spec, Measured(outcome=_OUTCOMES[self.failure.kind], error=error))
        if self.result is None:
            return Trial(spec, Measured(outcome="crashed", error=TrialError("the executor gave no result")))
        if self.result.spec != spec:
            other = f"{self.result.spec.variant.label}, seed {self.result.spec.seed}"
            message = f"the executor gave the result of another trial ({other})"
            return Trial(spec, Measured(outcome="crashed", error=TrialError(message)))
        return self.result

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as values that JSON can hold."""
        return {
            "result": None if self.result is None else self.result.to_dict(),
            "forms": to_plain(self.forms),
            "forecasts": [one.to_dict() for one in self.forecasts],
            "environment": to_plain(self.environment),
            "failure": to_plain(self.failure),
            "disturbance": self.disturbance,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the answer that `to_dict` wrote.

        Raises:
            FtguardError: It is not complete, or a value is of another type.
        """
        try:
            result = values["result"]
            return cls(
                result=None if result is None else Trial.from_dict(result),
                forms=tuple(from_plain(one, FormLosses) for one in values.get("forms", ())),
                forecasts=tuple(map(Trial.from_dict, values["forecasts"])),
                environment=from_plain_if_any(values["environment"], Environment),
                failure=from_plain_if_any(values["failure"], Failure),
                disturbance=from_plain_if_any(values["disturbance"], str),
            )
        except (KeyError, TypeError, AttributeError) as error:
            message = f"an executor's answer is not complete: {type(error).__name__}: {error}"
            raise FtguardError(message) from error


@dataclass(frozen=True)
class ExecutorOptions:
    """What an executor is made with.

    Attributes:
        root: Folder that all processes of this run of pytest share, and that somebody else removes; None if there is
            one process only, which makes and removes one of its own.
        disturbance: What else keeps the processor of this machine busy while trials run on it; None is nothing.
    """

    root: Path | None = None
    disturbance: str | None = None


class Executor(Protocol):
    """Starts the process of a trial on some machine.

    The setting `ftguard_executor` names it: "local", the name of an entry point in the group
    `pytest_ftguard.executors`, or "module:function". Behind the name is a function, or a class, that takes
    `ExecutorOptions` and returns an executor. It is made in each pytest process that trains, at its first training.

    A job is plain data: `job.to_dict()` can be sent anywhere as JSON, and whoever is there calls
    `pytest_ftguard.running.work.carry_out(job_from_dict(...))`, and its answer comes back by `Answer.to_dict()`.
    Only that process imports torch. Weights and checkpoints do not travel in the answer: they are in the job's folders,
    so these must be the same files on both sides.

    Each trial needs a fresh process: what a training has allocated, seeded or patched must not reach the next one. A
    result is stored only if the machine that it was trained on is the one that the answer to a `DescribeJob` has named:
    same device, precision and versions.
    """

    def run(self, job: Job, on_event: Callable[[Event], None], *, more_to_come: bool = False) -> Answer:
        """Do a job and return its answer, whatever happened to the process that did it.

        Args:
            job: What is to be done.
            on_event: Called with each event of a training, and a few times a second with the latest one; what it
                raises, such as Ctrl-C, ends the job.
            more_to_come: Whether another training is likely to follow, so that its process may be started early.
        """

    def folder(self) -> Path:
        """Return a new folder, the same for the pytest process and for those of jobs, that lasts until the close."""

    def facts(self, device: str, precision: str) -> str | None:
        """Return a digest of what decides the answer to a `DescribeJob`, so that a later run need not ask.

        It must be another one if the answer could be another one. None if this cannot be told without asking.

        Args:
            device: "auto" or a device of torch.
            precision: "auto", "fp32" or "bf16".
        """

    def disturbance(self, device: str) -> str | None:
        """Return what will disturb the timing of steps on a device, if it is known beforehand."""

    def close(self) -> None:
        """End what is running, and remove the folders."""
