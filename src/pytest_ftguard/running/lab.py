"""Trials asked for, results given: each trial is trained once, one after the other, and only if no store has it."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results import Measured, TrainedVariant, Trial, TrialError
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.results.progress import Progress
from pytest_ftguard.results.retiming import Retiming
from pytest_ftguard.running.bench import Bench, LabOptions
from pytest_ftguard.running.executor import Executor
from pytest_ftguard.running.loading import ModelLoader
from pytest_ftguard.running.obtaining import Obtainer, Reason
from pytest_ftguard.running.search import RateSearch
from pytest_ftguard.running.shelf import Shelf
from pytest_ftguard.running.shipped import FormsMeasurer
from pytest_ftguard.running.timing import PairTimer
from pytest_ftguard.running.unchanged import UnchangedFiles, refuse_missing_texts
from pytest_ftguard.specs import TrialSpec, Variant, Workload, key_of
from pytest_ftguard.store.store import Store, StoreOptions

__all__ = ["Lab", "LabOptions", "Reason"]


class Lab:
    """Trains what is asked for and remembers it until it is closed.

    Args:
        options: How trials are run.
        executor: Who starts their processes, and where; closed with the lab.
        on_progress: Called a few times a second while a trial runs.
        store: Where results are kept and looked up; None if they are not.

    Attributes:
        broken_off: Which trainings were broken off, and by what.
        more_variants_expected: How many variants are likely to be asked for later; while there are any, the next
            worker is started early.
    """

    def __init__(
        self,
        options: LabOptions,
        executor: Executor,
        on_progress: Callable[[Progress], None],
        store: Store | None = None,
    ) -> None:
        self._options = options
        run = store.run if store else uuid.uuid4().hex
        # What later runs could not find again lasts as long as this run, and its processes share it.
        passing = Store(StoreOptions(options.root / "passing"), run) if options.root else None
        self.broken_off: list[str] = []
        self.more_variants_expected = 0
        self._results: dict[str, Trial] = {}
        self._plans: dict[str, Trial] = {}
        self._files = UnchangedFiles()
        self._bench = Bench(options, executor, on_progress, run, store.notes if store else None)
        self._shelf = Shelf(store, passing, self._bench, run)
        self._obtainer = Obtainer(self._bench, self._shelf)
        self._rates = RateSearch(self.train, self._is_known)
        self._timer = PairTimer(self._shelf, self._train_short, self._bench.waiting)
        self._loader = ModelLoader(self._bench, store, self._files.check)
        self._shipped = FormsMeasurer(self._bench, store, self._loader)

    @property
    def results(self) -> tuple[Trial, ...]:
        """All trials so far, in the order in which they were trained, those of a timing behind the others."""
        return (*self._results.values(), *self._timer.results)

    @property
    def reasons(self) -> list[Reason]:
        """Why trials were trained again."""
        return list(self._obtainer.reasons)

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
        self._files.check(workload)
        specs = self._specs(workload, variant)
        missing = sum(spec.fingerprint not in self._results for spec in specs)
        trials: list[Trial] = []
        for spec in specs:
            failed = next((trial for trial in trials if trial.measured.outcome != "ok"), None)
            known = self._results.get(spec.fingerprint)
            if known is None or known.measured.outcome == "not_trained":
                missing -= known is None
                more_to_come = missing > 0 or self.more_variants_expected > 0
                with self._noting_interruption(spec):
                    self._results[spec.fingerprint] = (
                        self._obtainer.obtain(spec, more_to_come=more_to_come)
                        if failed is None or self._bench.is_hopeless(spec) or self._shelf.is_stored(spec)
                        else _not_trained(spec, failed)
                    )
            trials.append(self._results[spec.fingerprint])
        return TrainedVariant(workload, variant, tuple(trials), source=self)

    def more_seeds(self, trained: TrainedVariant, count: int) -> TrainedVariant:
        """Return a variant trained with so many seeds in all; those that are missing are trained now."""
        workload = trained.workload
        fresh = (seed for seed in itertools.count() if seed not in workload.seeds)
        more = itertools.islice(fresh, count - len(workload.seeds))
        return self.train(replace(workload, seeds=(*workload.seeds, *more)), trained.variant)

    def complete(self, trained: TrainedVariant) -> TrainedVariant:
        """Return a variant with the seeds trained that were not, because another trial had failed."""
        return self.train(trained.workload, trained.variant)

    def search(self, workload: Workload, variant: Variant) -> float:
        """Return the learning rate that a search finds; see `RateSearch.find`."""
        self.more_variants_expected += 1  # each trial of the search is followed by one more, or the training
        try:
            return self._rates.find(workload, variant)
        finally:
            self.more_variants_expected -= 1

    def known_rate(self, workload: Workload, variant: Variant) -> float | None:
        """Return the learning rate that an earlier search has found; None if one of its trials is not known."""
        return self._rates.known(workload, variant)

    def settle(self, trained: TrainedVariant) -> TrainedVariant:
        """Return a variant trained at the learning rate that a search finds; see `RateSearch.settle`."""
        return self._rates.settle(trained, self.search)

    def _is_known(self, workload: Workload, variant: Variant) -> bool:
        return all(
            spec.fingerprint in self._results or self._shelf.is_stored(spec) for spec in self._specs(workload, variant)
        )

    def with_curves(self, trained: TrainedVariant) -> TrainedVariant:
        """Return a variant with losses along training on the sequences that it is evaluated on."""
        self._files.check(trained.workload)
        found = []
        for trial in trained.trials:
            known = self._results.get(trial.spec.fingerprint, trial)
            if known.measured.curve_of is not None:
                with self._noting_interruption(trial.spec):
                    known = self._obtainer.obtain(trial.spec, more_to_come=False, with_curve=True)
                self._results[trial.spec.fingerprint] = known
            found.append(known)
        return replace(trained, trials=tuple(found))

    def load(self, trial: Trial) -> tuple[Any, Any]:
        """Return the trained model and the tokenizer of a trial.

        Raises:
            FtguardError: There are no weights that belong to its result.
        """
        return self._loader.load(trial)

    def forms(self, trial: Trial, shipping: Shipping) -> tuple[FormLosses, ...]:
        """Return what the trained model of a trial comes to in each form in which it is shipped.

        Raises:
            FtguardError: There are no weights of it, or they could not be evaluated.
        """
        self._files.check(trial.spec.workload)
        return self._shipped.measure(trial, shipping)

    def _specs(self, workload: Workload, variant: Variant) -> list[TrialSpec]:
        device = self._options.device
        return [TrialSpec(workload=workload, variant=variant, seed=seed, device=device) for seed in workload.seeds]

    def spare(self, workload: Workload, variant: Variant, why: str) -> TrainedVariant:
        """Return a variant with the results that are there already; the others are not trained.

        Args:
            workload: What is held fixed.
            variant: What is not trained, its learning rate filled in.
            why: Why it is not.
        """
        self._files.check(workload)
        specs = self._specs(workload, variant)
        for spec in specs:
            known = self._results.get(spec.fingerprint)
            if known is None or known.measured.outcome == "not_trained":
                self._results[spec.fingerprint] = (
                    self._obtainer.obtain(spec, more_to_come=False)
                    if self._shelf.is_stored(spec)
                    else Trial(spec, Measured(outcome="not_trained", error=TrialError(why)))
                )
        trials = tuple(self._results[spec.fingerprint] for spec in specs)
        return TrainedVariant(workload, variant, trials, source=self)

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
        """Return a variant with trials that are planned, not trained, and the forecast of their memory.

        Raises:
            ConfigurationError: The spec cannot be carried out, or its texts cannot be trained or evaluated on.
            DeviceUnavailableError: The device is not present.
        """
        refuse_missing_texts(workload)
        specs = self._specs(workload, variant)
        key = key_of(specs[0], "memory")
        if key not in self._plans:
            (self._plans[key],) = self._bench.forecast(specs[:1], texts=True)
        planned = []
        for spec in specs:
            cached, again = self._shelf.is_needless(spec)
            planned.append(replace(self._plans[key], spec=spec).come_by(cached=cached, measured_again=again))
        return TrainedVariant(workload, variant, tuple(planned))

    def close(self) -> None:
        """End what is running and remove everything that was written, kept models included."""
        self._bench.close()

    def time_beside(
        self, candidate: TrainedVariant, baseline: TrainedVariant, why: str, look: int
    ) -> tuple[TrainedVariant, TrainedVariant]:
        """Return short trials of two variants, made in turns, unless the store holds that timing of both.

        Raises:
            FtguardError: They cannot be timed here.
        """
        for side in (candidate, baseline):
            self._files.check(side.workload)
        return self._timer.time(candidate, baseline, why, look=look)

    def _train_short(self, spec: TrialSpec, more_to_come: bool) -> Trial:
        more_to_come = more_to_come or self.more_variants_expected > 0
        return self._bench.train_undisturbed(spec, more_to_come=more_to_come)


def _not_trained(spec: TrialSpec, failed: Trial) -> Trial:
    """Return the result of a trial that is not worth its time: a variant with a failed seed is judged by no gate."""
    message = f"seed {failed.spec.seed} {failed.ending}, and no gate can judge a variant with a failed seed"
    return Trial(spec, Measured(outcome="not_trained", error=TrialError(message)))
