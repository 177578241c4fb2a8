"""Trials asked for, results given: each trial is trained once, one after the other."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, hide_our_frames
from pytest_ftguard.results import TrainedVariant, TrialResult
from pytest_ftguard.running import worker
from pytest_ftguard.running.alternatives import lacks_memory, with_advice
from pytest_ftguard.running.process import Event, Job, Worker
from pytest_ftguard.specs import TrialSpec, Variant, Workload, canonical_json

__all__ = ["Lab", "LabOptions", "Progress"]

__tracebackhide__ = hide_our_frames

# What the base model's losses depend on; the evaluation's batch size follows from the workload's.
_BASE_FIELDS: Final = (
    "model",
    "revision",
    "tokenizer",
    "validation",
    "reference",
    "block_size",
    "batch_size",
    "precision",
    "validation_sequences",
    "purpose",
    "model_args",
)


@dataclass(frozen=True)
class LabOptions:
    """How trials are run.

    Attributes:
        device: "auto" or a device of torch.
        timeout_seconds: Time that one trial may take; None is no bound.
        keep_at_most_bytes: Largest size of trained weights that are kept until the lab closes; None is no bound.
        threads: CPU threads of a trial; None leaves the choice to torch.
        foretell: Whether memory is forecast: a training that will not fit is not started, and one that did not is told
            what would.
    """

    device: str = "auto"
    timeout_seconds: float | None = None
    keep_at_most_bytes: int | None = None
    threads: int | None = None
    foretell: bool = True


@dataclass(frozen=True)
class Progress:
    """Where a trial stands.

    Attributes:
        spec: What is being trained.
        phase: "start", "load", "evaluate", "train", "save", or "end".
        step: Optimizer steps done.
        loss: Training loss of that step, if known.
        elapsed_seconds: Time since the trial started.
        seconds_left: Estimated time until its last step; None while there is nothing to estimate from.
    """

    spec: TrialSpec
    phase: str
    step: int
    loss: float | None
    elapsed_seconds: float
    seconds_left: float | None


class Lab:
    """Trains what is asked for and remembers it until it is closed.

    Args:
        options: How trials are run.
        on_progress: Called a few times a second while a trial runs.
    """

    def __init__(self, options: LabOptions, on_progress: Callable[[Progress], None]) -> None:
        self._options = options
        self._on_progress = on_progress
        self._run = uuid.uuid4().hex
        self._root: Path | None = None
        self._results: dict[str, TrialResult] = {}
        self._errors: dict[str, ConfigurationError | DeviceUnavailableError] = {}
        self._bases: dict[str, Any] = {}
        self._plans: dict[str, TrialResult] = {}
        self._hopeless: dict[str, TrialResult] = {}
        self._spare: Worker | None = None
        self._started = 0
        self.more_variants_expected = 0
        """How many variants are likely to be asked for later; while there are any, the next worker is started early."""
        self._texts: dict[str, tuple[int, int]] = {}

    @property
    def results(self) -> tuple[TrialResult, ...]:
        """All trials so far, in the order in which they were trained."""
        return tuple(self._results.values())

    def train(self, workload: Workload, variant: Variant) -> TrainedVariant:
        """Return a variant trained with every seed of the workload; what was trained before is not trained again.

        Args:
            workload: What is held fixed.
            variant: What is trained, its learning rate filled in.

        Raises:
            ConfigurationError: The spec cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        self._refuse_changed_texts(workload)
        specs = [
            TrialSpec(workload=workload, variant=variant, seed=seed, device=self._options.device)
            for seed in workload.seeds
        ]
        missing = sum(spec.fingerprint not in self._results for spec in specs)
        trials = []
        for spec in specs:
            if spec.fingerprint not in self._results:
                missing -= 1
                more_to_come = missing > 0 or self.more_variants_expected > 0
                self._results[spec.fingerprint] = self._train_one(spec, more_to_come=more_to_come)
            trials.append(self._results[spec.fingerprint])

        def extend(count: int) -> TrainedVariant:
            fresh = (seed for seed in itertools.count() if seed not in workload.seeds)
            more = itertools.islice(fresh, count - len(workload.seeds))
            return self.train(replace(workload, seeds=(*workload.seeds, *more)), variant)

        return TrainedVariant(workload, variant, tuple(trials), loader=worker.load_trained, extend=extend)

    def plan(self, workload: Workload, variant: Variant) -> TrainedVariant:
        """Return a variant whose trials are planned and not trained, with the forecast of their memory.

        Raises:
            ConfigurationError: The spec cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        specs = [
            TrialSpec(workload=workload, variant=variant, seed=seed, device=self._options.device)
            for seed in workload.seeds
        ]
        key = _memory_key(specs[0])
        if key not in self._plans:
            (self._plans[key],) = self._start_worker().forecast(specs[:1])
        return TrainedVariant(workload, variant, tuple(replace(self._plans[key], spec=spec) for spec in specs))

    def close(self) -> None:
        """End what is running and remove everything that was written, kept models included."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def _train_one(self, spec: TrialSpec, *, more_to_come: bool) -> TrialResult:
        if spec.fingerprint in self._errors:
            raise self._errors[spec.fingerprint]
        if (known := self._hopeless.get(_memory_key(spec))) is not None:
            return replace(known, spec=spec)
        base_key = _base_key(spec)
        present = self._take_worker()
        if more_to_come:
            # It imports while the present worker imports or loads, and the present one's steps wait until it is done.
            self._spare = self._start_worker()
        folder = self._folder()
        job = Job(
            spec=spec,
            folder=folder,
            keep_at_most_bytes=self._options.keep_at_most_bytes,
            base=self._bases.get(base_key),
            timeout_seconds=self._options.timeout_seconds,
            run=self._run,
            foretell=self._options.foretell,
        )
        progress = _ProgressClock(spec, self._on_progress)
        spare = self._spare
        try:
            result = present.run(job, progress.take, spare.is_quiet if spare else lambda: True)
        except (ConfigurationError, DeviceUnavailableError) as error:
            self._errors[spec.fingerprint] = error
            raise
        finally:
            progress.take(Event("end"))
            shutil.rmtree(folder / "trainer", ignore_errors=True)
        if self._options.foretell and lacks_memory(result):
            result = with_advice(result, self._start_worker().forecast)
            if result.memory is not None and result.memory.method == "forecast":
                self._hopeless[_memory_key(spec)] = result  # it was not even started, and no other seed would be
        if (base := worker.base_losses(result)) is not None:
            self._bases.setdefault(base_key, base)
        return result

    def _take_worker(self) -> Worker:
        spare, self._spare = self._spare, None
        if spare is None:
            return self._start_worker()
        if spare.has_ended:
            # It died while it waited, for example for lack of memory beside the trial before: no fault of the next one.
            spare.close()
            return self._start_worker()
        return spare

    def _start_worker(self) -> Worker:
        return Worker(self._folder(), self._open_root(), self._options.threads)

    def _open_root(self) -> Path:
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="pytest-ftguard-"))
        return self._root

    def _folder(self) -> Path:
        self._started += 1
        folder = self._open_root() / f"{self._started:04}"
        folder.mkdir()
        return folder

    def _refuse_changed_texts(self, workload: Workload) -> None:
        """Trials are told apart by the paths of their texts, so within one run a path must keep its content."""
        for path in filter(None, (workload.train, workload.validation, workload.reference)):
            try:
                stat = Path(path).stat()
            except OSError:
                continue  # the worker says what is wrong with it
            found = (stat.st_size, stat.st_mtime_ns)
            if self._texts.setdefault(path, found) != found:
                message = (
                    f"the text {path!r} was changed after it was first trained or evaluated on in this run: "
                    "write each text to a path of its own"
                )
                raise ConfigurationError(message)


def _memory_key(spec: TrialSpec) -> str:
    """Return what the memory of a training depends on: neither the seed nor the number of steps."""
    same = replace(spec.workload, steps=1, seeds=(0,), most_seeds=0, final=False)
    return canonical_json(replace(spec, workload=same, seed=0).to_dict())


def _base_key(spec: TrialSpec) -> str:
    values = spec.workload.to_dict()
    return canonical_json({**{name: values[name] for name in _BASE_FIELDS}, "device": spec.device})


class _ProgressClock:
    """Adds the time that has passed, and the time left, to a worker's events."""

    def __init__(self, spec: TrialSpec, on_progress: Callable[[Progress], None]) -> None:
        self._spec = spec
        self._on_progress = on_progress
        self._start = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def take(self, event: Event) -> None:
        now = time.monotonic()
        if event.phase == "train" and (self._last is None or event.step > self._last[0]):
            self._first = self._first or (event.step, now)
            self._last = (event.step, now)
        self._on_progress(
            Progress(self._spec, event.phase, event.step, event.loss, now - self._start, self._seconds_left(event, now))
        )

    def _seconds_left(self, event: Event, now: float) -> float | None:
        if event.phase != "train" or not self._first or not self._last or self._last[0] == self._first[0]:
            return None
        per_step = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        return max(0.0, per_step * (self._spec.workload.steps - self._last[0]) - (now - self._last[1]))
