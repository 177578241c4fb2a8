"""Trials asked for, results given: each trial is trained once, one after the other, and only if no store has it."""

from __future__ import annotations

import itertools
import math
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, FtguardError, hide_our_frames
from pytest_ftguard.results import Environment, TrainedVariant, TrialError, TrialResult
from pytest_ftguard.running.alternatives import lacks_memory, with_advice
from pytest_ftguard.running.clock import Progress, ProgressClock
from pytest_ftguard.running.local import worker
from pytest_ftguard.running.local.devices import CPU_SLOT, device_slots
from pytest_ftguard.running.local.leases import Neighbours, leased
from pytest_ftguard.running.local.process import Event, Job
from pytest_ftguard.running.local.workers import Workers
from pytest_ftguard.running.timing import PairTimer, Retiming
from pytest_ftguard.specs import TrialSpec, Variant, Workload, key_of, places_of
from pytest_ftguard.store.contents import UnknownContentError
from pytest_ftguard.store.fingerprint import Fingerprint, fingerprint_of, machine_facts
from pytest_ftguard.store.store import Store, StoreOptions
from pytest_ftguard.store.weights import has_weights

__all__ = ["Lab", "LabOptions", "Reason"]

__tracebackhide__ = hide_our_frames

# Two machines round differently, and training lets that grow; seeds differ by more.
_SAME_LOSS: Final = 0.01
_NEIGHBOURS: Final = "another pytest run trained on the processor while its steps were timed: run one after the other"


@dataclass(frozen=True)
class LabOptions:
    """How trials are run.

    Attributes:
        device: "auto" or a device of torch.
        timeout_seconds: Time that one trial may take; None is no bound.
        keep_at_most_bytes: Largest size of trained weights that are kept until the lab closes; None is no bound.
        foretell: Whether memory is forecast: a training that will not fit is not started, and one that did not is told
            what would.
        root: Folder for everything that lives as long as the run, which somebody else removes; None makes one.
        disturbance: What else keeps the processor busy while trials run on it; None is nothing.
    """

    device: str = "auto"
    timeout_seconds: float | None = None
    keep_at_most_bytes: int | None = None
    foretell: bool = True
    root: Path | None = None
    disturbance: str | None = None


@dataclass(frozen=True)
class Reason:
    """Why a trial was trained although others like it are in the store.

    Attributes:
        label: Label of its variant.
        seed: Its seed.
        changes: What differs from the nearest stored trial.
    """

    label: str
    seed: int
    changes: str


class Lab:
    """Trains what is asked for and remembers it until it is closed.

    Args:
        options: How trials are run.
        on_progress: Called a few times a second while a trial runs.
        store: Where results are kept and looked up; None where they are not.

    Attributes:
        reasons: Why trials were trained again.
        broken_off: Which trainings were broken off, and by what.
        more_variants_expected: How many variants are likely to be asked for later; while there are any, the next
            worker is started early.
    """

    def __init__(
        self, options: LabOptions, on_progress: Callable[[Progress], None], store: Store | None = None
    ) -> None:
        self._options = options
        self._on_progress = on_progress
        self._store = store
        self._run = store.run if store else uuid.uuid4().hex
        # What later runs could not find again ends with this one, whose processes share it.
        self._passing = Store(StoreOptions(options.root / "passing"), self._run) if options.root else None
        self.reasons: list[Reason] = []
        self.broken_off: list[str] = []
        self.more_variants_expected = 0
        self._results: dict[str, TrialResult] = {}
        self._reloaded: dict[str, TrialResult] = {}
        self._errors: dict[str, ConfigurationError | DeviceUnavailableError] = {}
        self._bases: dict[str, Any] = {}
        self._plans: dict[str, TrialResult] = {}
        self._hopeless: dict[str, TrialResult] = {}
        self._workers = Workers(options.root)
        self._files: dict[str, list[tuple[int, int]]] = {}
        self._timer = PairTimer(self._shelf, self._identify, self._train_short, self._waiting)

    @property
    def results(self) -> tuple[TrialResult, ...]:
        """All trials so far, in the order in which they were trained, those of a timing behind the others."""
        return (*self._results.values(), *self._timer.results)

    @property
    def retimings(self) -> tuple[Retiming, ...]:
        """Pairs that were timed again, and why."""
        return tuple(self._timer.retimings)

    def train(self, workload: Workload, variant: Variant) -> TrainedVariant:
        """Return a variant trained with every seed of the workload; what was trained before is not trained again.

        Args:
            workload: What is held fixed.
            variant: What is trained, its learning rate filled in.

        Raises:
            ConfigurationError: The spec cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        self._refuse_changed_files(workload)
        specs = [
            TrialSpec(workload=workload, variant=variant, seed=seed, device=self._options.device)
            for seed in workload.seeds
        ]
        missing = sum(spec.fingerprint not in self._results for spec in specs)
        trials: list[TrialResult] = []
        for spec in specs:
            failed = next((trial for trial in trials if trial.outcome != "ok"), None)
            known = self._results.get(spec.fingerprint)
            if known is None or (known.outcome == "not_trained" and failed is None):
                missing -= known is None
                more_to_come = missing > 0 or self.more_variants_expected > 0
                with self._noting_interruption(spec):
                    self._results[spec.fingerprint] = (
                        self._obtain(spec, more_to_come=more_to_come)
                        if failed is None or key_of(spec, "memory") in self._hopeless or self._is_stored(spec)
                        else _not_trained(spec, failed)
                    )
            trials.append(self._results[spec.fingerprint])

        def extend(count: int) -> TrainedVariant:
            fresh = (seed for seed in itertools.count() if seed not in workload.seeds)
            more = itertools.islice(fresh, count - len(workload.seeds))
            return self.train(replace(workload, seeds=(*workload.seeds, *more)), variant)

        return TrainedVariant(
            workload, variant, tuple(trials), loader=self._load, extend=extend, timer=self._time_again
        )

    @contextmanager
    def _noting_interruption(self, spec: TrialSpec) -> Iterator[None]:
        """Keep which training was broken off: by a timeout of the test, by Ctrl-C, or by the end of the run."""
        try:
            yield
        except FtguardError:
            raise
        except BaseException as error:
            why = f"{type(error).__name__}{f': {error}' if str(error) else ''}"
            self.broken_off.append(f"{spec.variant.label}, seed {spec.seed}, was interrupted by {why}")
            raise

    def plan(self, workload: Workload, variant: Variant) -> TrainedVariant:
        """Return a variant whose trials are planned and not trained, with the forecast of their memory.

        Raises:
            ConfigurationError: The spec cannot be carried out, or its texts cannot be trained or evaluated on.
            DeviceUnavailableError: The device is not present.
        """
        _refuse_missing_texts(workload)
        specs = [
            TrialSpec(workload=workload, variant=variant, seed=seed, device=self._options.device)
            for seed in workload.seeds
        ]
        key = key_of(specs[0], "memory")
        if key not in self._plans:
            (self._plans[key],) = self._workers.start().forecast(specs[:1], texts=True)
        planned = (replace(self._plans[key], spec=spec, cached=self._is_stored(spec)) for spec in specs)
        return TrainedVariant(workload, variant, tuple(planned))

    def _is_stored(self, spec: TrialSpec) -> bool:
        environment, candidates = self._identify(spec)
        return _look_up(self._shelf(candidates), spec, candidates, environment) is not None

    def close(self) -> None:
        """End what is running and remove everything that was written, kept models included."""
        self._workers.close()

    def _obtain(self, spec: TrialSpec, *, more_to_come: bool) -> TrialResult:
        """Return the result of a trial, from the store or from a training, of which there is one in all processes."""
        environment, candidates = self._identify(spec)
        store = self._shelf(candidates)
        if store is None:
            return self._train_leased(spec, more_to_come=more_to_come)
        if (found := _look_up(store, spec, candidates, environment)) is not None:
            return self._with_base(found)
        since = time.time()
        with store.lock(candidates[0].key, self._waiting(spec)):
            if (found := _look_up(store, spec, candidates, environment)) is not None:
                return self._with_base(found)
            if (failed := store.find_failure(candidates[0], spec, since)) is not None:
                return failed
            changes = store.why_missing(candidates[0])
            result = self._train_leased(spec, candidates[0], more_to_come=more_to_come)
            if changes and result.outcome == "ok" and spec.workload.purpose == "gates":
                self.reasons.append(Reason(spec.variant.label, spec.seed, changes))
            return self._publish(store, spec, candidates[0], result)

    def _shelf(self, candidates: Sequence[Fingerprint]) -> Store | None:
        """Return the store for a trial; None where there is none, so that it is trained in any case."""
        if not candidates:
            return None
        return self._store if all(one.is_complete for one in candidates) else self._passing

    def _publish(self, store: Store, spec: TrialSpec, fingerprint: Fingerprint, result: TrialResult) -> TrialResult:
        """Keep a result for others, and return it with its fingerprint, if that is still what it was trained from."""
        if [fingerprint] != self._identify(spec)[1]:
            return result  # a file was changed meanwhile: nobody knows what was trained on
        if fingerprint.is_complete:
            result = replace(result, content=fingerprint.key)
        if result.outcome == "ok":
            store.keep(fingerprint, result)
        else:
            store.keep_failure(fingerprint, result)
        return result

    def _identify(self, spec: TrialSpec) -> tuple[Environment | None, list[Fingerprint]]:
        """Return the present machine, and what a stored result of the trial may be found by; nothing without a store.

        Where the device that is asked for is not present, the precision that "auto" stands for is not known.
        """
        if self._store is None:
            return None, []
        facts = machine_facts(spec.device, spec.workload.precision)
        environment = self._store.environment(facts)
        if environment is None:
            environment = self._describe(spec)
            if environment is not None:
                self._store.remember_environment(facts, environment)
        device = environment.device if environment else spec.device.partition(":")[0]
        known = environment.precision if environment else spec.workload.precision
        precisions = ["bf16", "fp32"] if known == "auto" else [known]
        try:
            return environment, [fingerprint_of(spec, device, one, self._store.digests) for one in precisions]
        except UnknownContentError as error:
            self._store.complain(f"{spec.variant.label} was not looked up in the store: {error}")
            # Other processes of this run ask for the same spec, whatever it leads to.
            parts = {"kind": spec.variant.kind, "spec": spec.fingerprint, "run": self._run}
            return environment, [Fingerprint(parts, is_complete=False)]

    def _describe(self, spec: TrialSpec) -> Environment | None:
        """Ask torch, in a worker that goes on to be the next one."""
        slot = device_slots(spec.device)[0]
        present = self._workers.take(slot)
        self._workers.keep_ready(slot, present)
        return present.describe(spec.device, spec.workload.precision)

    def _with_base(self, result: TrialResult) -> TrialResult:
        """Keep the base model's losses, which need not be measured again for the next trial."""
        if (base := worker.base_losses(result)) is not None:
            self._bases.setdefault(key_of(result.spec, "base"), base)
        return result

    def _load(self, result: TrialResult) -> tuple[Any, Any]:
        """Return a trial's model and tokenizer; weights that are not at hand are trained again."""
        judged = result
        if not has_weights(result.model_dir):
            key = result.spec.fingerprint
            if key not in self._reloaded or not has_weights(self._reloaded[key].model_dir):
                self._refuse_changed_files(result.spec.workload)
                self._reloaded[key] = self._with_stored_weights(result) or self._train_to_load(result)
            result = self._reloaded[key]
        if result.model_dir is None:
            message = f"the weights of {result.spec.variant.label} were not kept: {result.failure or result.not_kept}"
            raise FtguardError(message)
        if not _is_the_same_training(judged, result):
            message = (
                f"the weights of {result.spec.variant.label}, seed {result.spec.seed}, are not at hand: trained again, "
                "it did not come to the stored losses; --ftguard-no-cache judges what is trained here"
            )
            raise FtguardError(message)
        return worker.load_trained(result)

    def _with_stored_weights(self, result: TrialResult) -> TrialResult | None:
        folder = self._workers.folder() / "model"
        stored = self._store is not None and self._store.take_weights(result, folder)
        return replace(result, model_dir=str(folder)) if stored else None

    def _train_to_load(self, judged: TrialResult) -> TrialResult:
        """Train a trial again for its weights, say so, and keep them for later runs."""
        trained = self._train_leased(judged.spec, more_to_come=False)
        if self._store is not None and trained.model_dir is not None and _is_the_same_training(judged, trained):
            why_not = self._store.keep_weights(judged, Path(trained.model_dir))
            self._store.complain(
                f"{judged.spec.variant.label}, seed {judged.spec.seed}, was trained again for load(), as the store had "
                f"no weights of it to take; {f'it still has none: {why_not}' if why_not else 'now it has'}"
            )
        return trained

    def _time_again(
        self, candidate: TrainedVariant, baseline: TrainedVariant, why: str, look: int
    ) -> tuple[TrainedVariant, TrainedVariant]:
        """Time two variants in turns, unless the store holds that timing of both."""
        for side in (candidate, baseline):
            self._refuse_changed_files(side.workload)
        return self._timer.time(candidate, baseline, why, look=look)

    def _train_short(self, spec: TrialSpec, more_to_come: bool) -> TrialResult:
        """Train a trial for the time of its steps, unless what would disturb it is known beforehand."""
        if self._options.disturbance and device_slots(spec.device)[0] == CPU_SLOT:
            raise FtguardError(self._options.disturbance)
        return self._train_leased(spec, more_to_come=more_to_come or self.more_variants_expected > 0)

    def _waiting(self, spec: TrialSpec) -> Callable[[], None]:
        """Return what shows, when it is called, that a trial waits for another process."""
        clock = ProgressClock(spec, self._on_progress)
        return lambda: clock.take(Event("wait"))

    def _train_leased(
        self, spec: TrialSpec, fingerprint: Fingerprint | None = None, *, more_to_come: bool
    ) -> TrialResult:
        """Train a trial on a device that no other training of this user has meanwhile."""
        if spec.fingerprint in self._errors:
            raise self._errors[spec.fingerprint]
        if (known := self._hopeless.get(key_of(spec, "memory"))) is not None:
            return replace(known, spec=spec)
        slots = device_slots(spec.device)
        preferred = sorted(slots, key=lambda slot: slot != self._workers.spare_slot)
        with leased(preferred, self._options.root, self._waiting(spec)) as slot:
            if slot != CPU_SLOT:
                return self._train_one(spec, slot, fingerprint, more_to_come=more_to_come)
            with Neighbours() as neighbours:
                result = self._train_one(spec, slot, fingerprint, more_to_come=more_to_come)
                return self._with_disturbance(result, neighbours.were_there)

    def _train_one(
        self, spec: TrialSpec, slot: str, fingerprint: Fingerprint | None, *, more_to_come: bool
    ) -> TrialResult:
        present = self._workers.take(slot)
        if more_to_come:
            # It imports while the present worker imports or loads, and the present one's steps wait until it is done.
            self._workers.keep_ready(slot)
        folder = self._workers.folder()
        job = Job(
            spec=spec,
            folder=folder,
            keep_at_most_bytes=self._options.keep_at_most_bytes,
            base=self._bases.get(key_of(spec, "base")),
            timeout_seconds=self._options.timeout_seconds,
            run=self._run,
            foretell=self._options.foretell,
            checkpoints=self._checkpoints(spec, fingerprint),
        )
        progress = ProgressClock(spec, self._on_progress)
        try:
            result = present.run(job, progress.take, self._workers.is_quiet)
        except (ConfigurationError, DeviceUnavailableError) as error:
            self._errors[spec.fingerprint] = error
            raise
        finally:
            progress.take(Event("end"))
            shutil.rmtree(folder / "trainer", ignore_errors=True)
            if job.checkpoints is not None:
                with suppress(OSError):
                    job.checkpoints.rmdir()  # where no checkpoint was made, there is nothing to go on from
        if self._options.foretell and lacks_memory(result):
            result = with_advice(result, self._workers.start().forecast)
            if result.memory is not None and result.memory.method == "forecast":
                self._hopeless[key_of(spec, "memory")] = result  # it was not even started, and no other seed would be
        return self._with_base(result)

    def _checkpoints(self, spec: TrialSpec, fingerprint: Fingerprint | None) -> Path | None:
        """Return the folder for a trial's checkpoints, unless a file was changed while it waited for its device."""
        if self._store is None or fingerprint is None or [fingerprint] != self._identify(spec)[1]:
            return None
        return self._store.checkpoints(fingerprint)

    def _with_disturbance(self, result: TrialResult, neighbours: bool) -> TrialResult:
        """Return a result that says what else has used the processor while its steps were timed."""
        known = self._options.disturbance or (_NEIGHBOURS if neighbours else None)
        on_cpu = result.environment is not None and result.environment.device == "cpu"
        if not on_cpu or known is None or result.time is None or result.time.disturbance is not None:
            return result
        return replace(result, time=replace(result.time, disturbance=known))

    def _refuse_changed_files(self, workload: Workload) -> None:
        """Trials are told apart by paths within one run, so in it a path must keep its content."""
        for role in places_of(Workload, "text", "model"):
            path = getattr(workload, role)
            if path is None or (found := _stats(Path(path))) is None:
                continue  # a name on the hub; or the worker says what is wrong with it
            if self._files.setdefault(path, found) != found:
                message = (
                    f"{path!r}, the workload's {role}, was changed after it was first used in this run: "
                    f"write each {role} to a path of its own"
                )
                raise ConfigurationError(message)


def _not_trained(spec: TrialSpec, failed: TrialResult) -> TrialResult:
    """Return the result of a trial that is not worth its time: a variant with a failed seed is judged by no gate."""
    message = f"seed {failed.spec.seed} {failed.ending}, and no gate can judge a variant with a failed seed"
    return TrialResult(spec=spec, outcome="not_trained", error=TrialError(message))


def _refuse_missing_texts(workload: Workload) -> None:
    for role in places_of(Workload, "text"):
        path = getattr(workload, role)
        if path is not None and not Path(path).is_file():
            message = f"the {role} text {path!r} cannot be read: there is no such file; give a file that exists"
            raise ConfigurationError(message)


def _look_up(
    store: Store | None, spec: TrialSpec, candidates: Sequence[Fingerprint], environment: Environment | None
) -> TrialResult | None:
    if store is None:
        return None
    found = (store.find(one, spec, environment) for one in candidates)
    return next((result for result in found if result is not None), None)


def _stats(path: Path) -> list[tuple[int, int]] | None:
    """Return size and time of a file, or of each file in a folder; None where there is none."""
    try:
        inside = sorted(one for one in path.rglob("*") if one.is_file() and one.suffix != ".pyc")
        stats = [one.stat() for one in (inside if path.is_dir() else [path])]
    except OSError:
        return None
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _is_the_same_training(one: TrialResult, other: TrialResult) -> bool:
    """Return whether two trials saw the same and came to the same, but for another machine's rounding."""
    if one.validation is None or other.validation is None or one.data_order != other.data_order:
        return False
    close = math.isclose(one.validation.loss, other.validation.loss, rel_tol=_SAME_LOSS)
    return close and one.validation.digest == other.validation.digest
