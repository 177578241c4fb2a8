"""Times both variants of a pair again by short trials in turns, if their seconds cannot be compared.

Only the time of a step is judged by these trials. It does not depend on the number of steps, so few are enough. The
store keeps them like others, and gives those of a pair together or not at all: seconds of two runs say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.results.retiming import Retiming
from pytest_ftguard.running.shelf import Identity, Shelf
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.specs.short import timing_workload
from pytest_ftguard.store.fingerprint import Fingerprint
from pytest_ftguard.store.store import Store

__all__ = ["PairTimer"]


class PairTimer:
    """Times pairs of variants, each pair once, and keeps their times in the store as those of whole trainings are kept.

    Args:
        shelf: Finds and keeps the trials.
        train: Trains a trial; it is told whether another one follows.
        waiting: Returns what is to be called while another process has the pair.

    Attributes:
        results: The trials.
        retimings: Which pairs were timed, and why.
    """

    def __init__(
        self,
        shelf: Shelf,
        train: Callable[[TrialSpec, bool], Trial],
        waiting: Callable[[TrialSpec], Callable[[], None]],
    ) -> None:
        self._shelf = shelf
        self._train = train
        self._waiting = waiting
        self._pairs: dict[tuple[tuple[str, ...], int], tuple[Trial, ...]] = {}
        self.results: list[Trial] = []
        self.retimings: list[Retiming] = []

    def time(
        self, candidate: TrainedVariant, baseline: TrainedVariant, why: str, *, look: int = 1
    ) -> tuple[TrainedVariant, TrainedVariant]:
        """Return short trials of both, in which they took turns, with the seeds that they have in common.

        After the first trial that fails there are no more: nothing could be concluded from them.

        Args:
            candidate: The variant that is judged.
            baseline: The variant that it is judged against.
            why: Why the seconds that they have cannot be compared.
            look: Which timing of the pair, from 1: each is kept apart, so that a gate knows how often it has looked.

        Raises:
            ConfigurationError: They have no seed in common, or a trial cannot be carried out.
            DeviceUnavailableError: The device is not present.
        """
        turns = _turns(candidate, baseline)
        if not turns:
            message = f"{candidate.label} and {baseline.label} have no seed in common: train both with the same"
            raise ConfigurationError(message)
        pair = tuple(spec.fingerprint for spec in turns), look
        if pair not in self._pairs:
            self._pairs[pair] = self._obtain(turns, look)
            self.results += self._pairs[pair]
        trials = self._pairs[pair]
        is_cached = all(trial.provenance.cached for trial in trials)
        steps, seeds = turns[0].workload.steps, len(turns) // 2
        retiming = Retiming(candidate.label, baseline.label, steps, seeds, why, cached=is_cached, look=look)
        if retiming not in self.retimings:
            self.retimings.append(retiming)
        # The candidate is first, last, first, last, ... of the two trials of a seed.
        ours, theirs = (
            TrainedVariant(
                turns[places[0]].workload,
                side.variant,
                tuple(trial for number, trial in enumerate(trials) if number % 4 in places),
            )
            for side, places in ((candidate, (0, 3)), (baseline, (1, 2)))
        )
        return ours, theirs

    def _obtain(self, turns: Sequence[TrialSpec], look: int) -> tuple[Trial, ...]:
        """Return the trials of a pair: from the store if one run has made them all, or trained now."""
        identities = [self._shelf.identify(spec) for spec in turns]
        store = self._shelf.store_of(identities[0])
        # If what decides them is not known, their specs tell them apart, in this run and in every other.
        names = [
            Fingerprint({"spec": spec.fingerprint, "beside": turns[number ^ 1].fingerprint, "look": look})
            for number, spec in enumerate(turns)
        ]
        if store is None:
            train = (self._train(spec, number + 1 < len(turns)) for number, spec in enumerate(turns))
            return _named(train, names)
        keys = [_key(identities, number, look) for number in range(len(turns))]
        # Whichever of the two is the candidate.
        with store.lock(min(key.key for key in keys), self._waiting(turns[0])):
            machine = identities[0].environment
            stored = [store.find(key, spec, machine) for key, spec in zip(keys, turns, strict=True)]
            sound = [trial for trial in stored if trial is not None and _is_sound(trial)]
            if (
                len(sound) == len(turns)
                and len({trial.measured.time and trial.measured.time.run for trial in sound}) == 1
            ):
                trials = iter(sound)
            else:
                trials = (
                    # What another process of this run has trained before it failed, how it failed, or a training.
                    (trial if trial and not trial.provenance.cached else None)
                    or store.failures.find(key, spec)
                    or self._train_to_keep(store, key, identities, number)
                    for number, (trial, key, spec) in enumerate(zip(stored, keys, turns, strict=True))
                )
            return _named(trials, keys if all(key.is_complete for key in keys) else names)

    def _train_to_keep(self, store: Store, key: Fingerprint, identities: Sequence[Identity], number: int) -> Trial:
        """Train one of a pair's trials, and keep what becomes of it for those who wait for it and for later runs."""
        result = self._train(identities[number].spec, number + 1 < len(identities))
        # A file that was changed meanwhile leaves open what was timed.
        if self._shelf.is_of(identities[number], result) and not self._shelf.has_changed(identities[number ^ 1]):
            keep = store.keep if result.measured.outcome == "ok" else store.failures.keep
            keep(key, result)
        return result


def _key(identities: Sequence[Identity], number: int, look: int) -> Fingerprint:
    """Return what a trial is kept by: the one before or after it, with which it takes turns, decides as well."""
    own, beside = (identities[one].candidates[0] for one in (number, number ^ 1))
    return Fingerprint({**own.parts, "beside": beside.key, "look": look}, own.is_complete)


def _named(trials: Iterable[Trial], names: Sequence[Fingerprint]) -> tuple[Trial, ...]:
    """Return the trials, each with what tells it from others, until one of them fails."""
    done = []
    for trial, name in zip(trials, names, strict=True):
        done.append(trial.come_by(content=name.key))
        if trial.measured.outcome != "ok":
            break
    return tuple(done)


def _is_sound(trial: Trial) -> bool:
    """Return whether the seconds of a trial from the store are worth those of one that is trained now."""
    if not trial.provenance.cached:
        return True
    disturbed = trial.measured.time is None or trial.measured.time.disturbance is not None
    short_of_memory = trial.measured.memory is not None and (
        bool(trial.measured.memory.allocator_retries) or trial.measured.memory.is_shared
    )
    return trial.provenance.measured_elsewhere is None and not disturbed and not short_of_memory


def _turns(candidate: TrainedVariant, baseline: TrainedVariant) -> list[TrialSpec]:
    """Return the trials in their order, for each seed one of either variant.

    The two variants take turns at going first, so that a machine that slows down is held against neither.
    """
    theirs = {trial.spec.seed: trial.spec for trial in baseline.trials}
    ours = {trial.spec.seed: trial.spec for trial in candidate.trials if trial.spec.seed in theirs}
    seeds = sorted(ours)
    known = [side.seconds_per_step for side in (candidate, baseline) if side.seconds_per_step]
    fastest = min(known, default=math.inf)
    turns: list[TrialSpec] = []
    for number, seed in enumerate(seeds):
        pair = [
            replace(spec, workload=timing_workload(spec.workload, seeds, fastest))
            for spec in (ours[seed], theirs[seed])
        ]
        turns += pair if number % 2 == 0 else reversed(pair)
    return turns
