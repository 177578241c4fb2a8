"""The timing: both variants of a pair again, in turns, by short trials, where their seconds cannot be compared.

Only the time of a step is judged by these trials. It does not depend on the number of steps, so few are enough. The
store of results neither gives nor keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Final

from pytest_ftguard.errors import ConfigurationError, hide_our_frames
from pytest_ftguard.results import TrainedVariant, TrialResult
from pytest_ftguard.running.fingerprint import Fingerprint
from pytest_ftguard.running.store import Store, StoreOptions
from pytest_ftguard.specs import TrialSpec, Variant, Workload

__all__ = ["PairTimer", "Retiming", "timing_workload"]

__tracebackhide__ = hide_our_frames

# Three steps warm up, and the median of the other 37 moves by about a fifth of what a single step does.
_LEAST_STEPS: Final = 40
# What else a machine does comes in bursts, and the first tenths of a second are a little slower than the rest.
_SECONDS: Final = 3.0
_ROUND_STEPS: Final = 20
# The losses judge nothing here; these few show that both variants start from one model.
_SEQUENCES: Final = 8


@dataclass(frozen=True)
class Retiming:
    """A pair of variants that was timed again.

    Attributes:
        candidate: Label of the variant that is judged.
        baseline: Label of the variant that it is judged against.
        steps: Steps of each trial.
        seeds: Number of trials of each variant.
        why: Why the seconds that they had could not be compared.
    """

    candidate: str
    baseline: str
    steps: int
    seeds: int
    why: str


def timing_workload(workload: Workload, seeds: Sequence[int], seconds_per_step: float) -> Workload:
    """Return what a timing trains: the same with next to no evaluation, and steps for about three seconds.

    These are 40 at least, unless the workload itself has fewer.

    Args:
        workload: What the variants were trained on.
        seeds: The seeds that both have.
        seconds_per_step: Time of a step, as far as it is known; it need not be this machine's.
    """
    wanted = math.ceil(_SECONDS / seconds_per_step / _ROUND_STEPS) * _ROUND_STEPS
    return replace(
        workload,
        steps=min(workload.steps, max(_LEAST_STEPS, wanted)),
        seeds=tuple(seeds),
        most_seeds=0,
        reference=None,
        validation_sequences=min(workload.validation_sequences, _SEQUENCES),
        purpose="timing",
    )


class PairTimer:
    """Times pairs of variants, each pair once in a run.

    Args:
        run: The run.
        folder: Where the processes of the run share what they time; None where there is one process only.
        train: Trains a trial; it is told whether another one follows.
        waiting: Returns what is to be called while another process has a trial.

    Attributes:
        results: What was trained, by identity: the spec's, that of the trial that it takes turns with, and the run's.
        retimings: Which pairs were timed, and why.
    """

    def __init__(
        self,
        run: str,
        folder: Path | None,
        train: Callable[[TrialSpec, bool], TrialResult],
        waiting: Callable[[TrialSpec], Callable[[], None]],
    ) -> None:
        self._run = run
        self._store = Store(StoreOptions(folder / "timing"), run) if folder else None
        self._train = train
        self._waiting = waiting
        self.results: dict[str, TrialResult] = {}
        self.retimings: list[Retiming] = []

    def time(
        self, candidate: TrainedVariant, baseline: TrainedVariant, why: str
    ) -> tuple[TrainedVariant, TrainedVariant]:
        """Return short trials of both, in which they took turns, with the seeds that they have in common.

        After the first trial that fails there are no more: nothing could be concluded from them.

        Args:
            candidate: The variant that is judged.
            baseline: The variant that it is judged against.
            why: Why the seconds that they have cannot be compared.

        Raises:
            ConfigurationError: They have no seed in common, or a trial cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        turns = list(_turns(candidate, baseline))
        if not turns:
            message = f"{candidate.label} and {baseline.label} have no seed in common: train both with the same"
            raise ConfigurationError(message)
        trials: dict[Variant, list[TrialResult]] = {candidate.variant: [], baseline.variant: []}
        works = {spec.variant: spec.workload for spec, _ in turns}
        for number, (spec, beside) in enumerate(turns, start=1):
            trial = self._obtain(spec, beside, more_to_come=number < len(turns))
            trials[spec.variant].append(trial)
            if trial.outcome != "ok":
                break
        steps, seeds = turns[0][0].workload.steps, len(turns) // 2
        retiming = Retiming(candidate.label, baseline.label, steps, seeds, why)
        if retiming not in self.retimings:
            self.retimings.append(retiming)
        ours, theirs = (
            TrainedVariant(works[side.variant], side.variant, tuple(trials[side.variant]))
            for side in (candidate, baseline)
        )
        return ours, theirs

    def _obtain(self, spec: TrialSpec, beside: TrialSpec, *, more_to_come: bool) -> TrialResult:
        """Train a trial unless this run has, which each of its processes may have done."""
        parts = {"timing": spec.fingerprint, "beside": beside.fingerprint, "run": self._run}
        fingerprint = Fingerprint(parts, is_complete=False)
        key = fingerprint.key
        if key in self.results:
            return self.results[key]
        if self._store is None:
            result = self._train(spec, more_to_come)
        else:
            since = time()
            with self._store.lock(key, self._waiting(spec)):
                found = self._store.find(fingerprint, spec, None)
                found = found or self._store.find_failure(fingerprint, spec, since)
                result = found or self._train(spec, more_to_come)
                if found is None:
                    keep = self._store.keep if result.outcome == "ok" else self._store.keep_failure
                    keep(fingerprint, result)
        self.results[key] = replace(result, content=key)
        return self.results[key]


def _turns(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[tuple[TrialSpec, TrialSpec]]:
    """Yield the trials in their order, each with the one that it takes turns with.

    Seed by seed the other variant is the first, so that a machine that grows slower is held against neither.
    """
    theirs = {trial.spec.seed: trial.spec for trial in baseline.trials}
    ours = {trial.spec.seed: trial.spec for trial in candidate.trials if trial.spec.seed in theirs}
    seeds = sorted(ours)
    known = [side.seconds_per_step for side in (candidate, baseline) if side.seconds_per_step]
    fastest = min(known, default=math.inf)
    for number, seed in enumerate(seeds):
        one, other = (
            replace(spec, workload=timing_workload(spec.workload, seeds, fastest))
            for spec in (ours[seed], theirs[seed])
        )
        yield from ((one, other), (other, one))[:: 1 if number % 2 == 0 else -1]
