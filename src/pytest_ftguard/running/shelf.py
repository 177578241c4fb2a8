"""Where the result of a trial is kept: what it is found by, in which store, and whether that still holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_ftguard.results import Environment, Trial
from pytest_ftguard.running.again import why_not_again
from pytest_ftguard.running.bench import Bench
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.store.contents import UnknownContentError
from pytest_ftguard.store.fingerprint import Fingerprint, contents_of, fingerprint_of, other_surroundings
from pytest_ftguard.store.store import Store
from pytest_ftguard.store.trainings import StoredTraining

__all__ = ["Identity", "Shelf"]


@dataclass(frozen=True)
class Identity:
    """What a trial is found by, as it was when it was asked for.

    Attributes:
        spec: The trial.
        environment: The machine that it would be trained on; None if its device is not present.
        candidates: What it may be found by: more than one if the precision that "auto" stands for is not known, and
            none without a store.
    """

    spec: TrialSpec
    environment: Environment | None = None
    candidates: tuple[Fingerprint, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether all that decides the trial is known, so that later runs can find its result."""
        return all(one.is_complete for one in self.candidates)


class Shelf:
    """Finds and keeps results.

    Args:
        store: The store of the project; None if nothing is looked up or kept.
        passing: A store that ends with the run, for what later runs could not find again; None if there is one process
            only, which remembers it.
        bench: Says which machine trains.
        run: Identity of this run of pytest.
    """

    def __init__(self, store: Store | None, passing: Store | None, bench: Bench, run: str) -> None:
        self._store = store
        self._passing = passing
        self._bench = bench
        self._run = run
        self._environments: dict[tuple[str, str], Environment] = {}

    def identify(self, spec: TrialSpec) -> Identity:
        """Return what a trial is found by now."""
        if self._store is None:
            return Identity(spec)
        environment = self._environment(spec, self._store)
        device = environment.device if environment else spec.device.partition(":")[0]
        known = environment.precision if environment else spec.workload.precision
        precisions = ["bf16", "fp32"] if known == "auto" else [known]
        digests = self._store.notes.digests
        try:
            candidates = tuple(fingerprint_of(spec, device, one, digests) for one in precisions)
            return Identity(spec, environment, candidates)
        except UnknownContentError as error:
            self._store.complain(f"{spec.variant.label} was not looked up in the store: {error}")
            # Other processes of this run ask for the same spec, whatever it leads to.
            parts = {"kind": spec.variant.kind, "spec": spec.fingerprint, "run": self._run}
            return Identity(spec, environment, (Fingerprint(parts, is_complete=False),))

    def _environment(self, spec: TrialSpec, store: Store) -> Environment | None:
        """Return the machine, which stays the same as long as the run."""
        asked = spec.device, spec.workload.precision
        if asked not in self._environments:
            facts = self._bench.facts(spec)
            found = None if facts is None else store.notes.environment(facts)
            if found is None:
                found = self._bench.describe(spec)
                if found is None:
                    return None
                if facts is not None:
                    store.notes.remember_environment(facts, found)
            self._environments[asked] = found
        return self._environments[asked]

    def has_changed(self, identity: Identity) -> bool:
        """Return whether a file was changed since a trial was identified, so that nobody knows what it was made of."""
        if self._store is None:
            return False
        try:
            now = contents_of(identity.spec, self._store.notes.digests)
        except UnknownContentError:
            return identity.is_complete
        return not identity.is_complete or any(now != one.contents for one in identity.candidates)

    def store_of(self, identity: Identity) -> Store | None:
        """Return the store for a trial; None if there is none, so that it is trained in any case."""
        if not identity.candidates:
            return None
        return self._store if identity.is_complete else self._passing

    def look_up(self, identity: Identity) -> Trial | None:
        """Return the stored result of a trial, or None."""
        store = self.store_of(identity)
        if store is None:
            return None
        found = (store.find(one, identity.spec, identity.environment) for one in identity.candidates)
        return next((result for result in found if result is not None), None)

    def is_stored(self, spec: TrialSpec) -> bool:
        """Return whether the result of a trial is stored."""
        return self.look_up(self.identify(spec)) is not None

    def is_needless(self, spec: TrialSpec) -> tuple[bool, bool]:
        """Return whether a trial needs no training, and whether its weights would be evaluated again instead."""
        identity = self.identify(spec)
        if self.look_up(identity) is not None:
            return True, False
        again = self.find_training(identity) is not None
        return again, again

    def find_training(self, identity: Identity) -> StoredTraining | None:
        """Return a stored result of the same training on other examples, whose weights are to be evaluated; or None."""
        if self._store is None or len(identity.candidates) != 1 or why_not_again(identity.spec):
            return None
        return self._store.find_training(identity.candidates[0], identity.environment)

    def take_weights(self, result: Trial, target: Path) -> bool:
        """Copy the stored weights of a result to a folder that is made; return whether there are any to be believed."""
        return self._store is not None and self._store.take_weights(result, target)

    def complain(self, problem: str) -> None:
        """Note a problem for the summary, once."""
        if self._store is not None:
            self._store.complain(problem)

    def checkpoints(self, identity: Identity) -> Path | None:
        """Return the folder for a trial's checkpoints; None if there can be none, or its files have changed."""
        if self._store is None or len(identity.candidates) != 1 or self.has_changed(identity):
            return None
        return self._store.checkpoints(identity.candidates[0])

    def is_of(self, identity: Identity, result: Trial) -> bool:
        """Return whether a result is one of what was identified: its files, and the machine as it was described.

        An executor may train on another machine than the one that it has described, or with other versions.
        """
        if self._store is None or len(identity.candidates) != 1 or self.has_changed(identity):
            return False
        others = (
            other_surroundings(identity.candidates[0], result.measured.environment)
            if result.measured.environment
            else []
        )
        if others:
            label = f"{identity.spec.variant.label}, seed {identity.spec.seed}"
            self._store.complain(
                f"{label}, was not trained where the executor said, so it is not stored: {', '.join(others)}"
            )
        return not others

    def publish(self, identity: Identity, result: Trial, twin: Trial | None = None) -> Trial:
        """Keep a result for others, and return it with its fingerprint, if that is still what it was trained from.

        Args:
            identity: What it is found by.
            result: The result.
            twin: A stored one of the same weights.
        """
        store = self.store_of(identity)
        if store is None or not self.is_of(identity, result):
            return result
        (fingerprint,) = identity.candidates
        if fingerprint.is_complete:
            result = result.come_by(content=fingerprint.key)
        if result.measured.outcome == "ok":
            store.keep(fingerprint, result, twin)
        else:
            store.failures.keep(fingerprint, result)
        return result
