"""How the result of one trial is obtained: from the store, from stored weights, or from a training."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Final

from pytest_ftguard.results import Trial
from pytest_ftguard.running.again import evaluated_again, why_not_again
from pytest_ftguard.running.bench import Bench
from pytest_ftguard.running.shelf import Identity, Shelf
from pytest_ftguard.specs import TrialSpec

__all__ = ["Obtainer", "Reason"]

_NO_WEIGHTS: Final = "the store has no weights of it that could be evaluated"
_NEEDED: Final = "the sequences of the losses along training, which a gate needs"


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


class Obtainer:
    """Obtains the result of a trial in the cheapest way; of all processes only one trains it.

    Args:
        bench: Trains, and evaluates stored weights.
        shelf: Finds and keeps results.

    Attributes:
        reasons: Why trials were trained again.
    """

    def __init__(self, bench: Bench, shelf: Shelf) -> None:
        self._bench = bench
        self._shelf = shelf
        self.reasons: list[Reason] = []

    def obtain(self, spec: TrialSpec, *, more_to_come: bool, with_curve: bool = False) -> Trial:
        """Return the result of a trial.

        Args:
            spec: The trial.
            more_to_come: Whether another training is likely to follow.
            with_curve: Whether the losses along training must be of the sequences that the trial is evaluated on.
        """
        identity = self._shelf.identify(spec)
        store = self._shelf.store_of(identity)
        if store is None:
            return self._bench.train(spec, more_to_come=more_to_come)
        if (found := self._look_up(identity, with_curve)) is not None:
            return self._bench.with_base(found)
        first = identity.candidates[0]
        with store.lock(first.key, self._bench.waiting(spec)):
            if (found := self._look_up(identity, with_curve)) is not None:
                return self._bench.with_base(found)
            if (failed := store.failures.find(first, spec)) is not None:
                return failed
            if not with_curve and (found := self._measure_again(identity, more_to_come=more_to_come)) is not None:
                return found
            changes = _NEEDED if with_curve else store.why_missing(first, why_not_again(spec) or _NO_WEIGHTS)
            result = self._train(identity, more_to_come=more_to_come)
            if changes and result.measured.outcome == "ok" and spec.workload.purpose == "gates":
                self.reasons.append(Reason(spec.variant.label, spec.seed, changes))
            return self._shelf.publish(identity, result)

    def _look_up(self, identity: Identity, with_curve: bool) -> Trial | None:
        found = self._shelf.look_up(identity)
        return None if with_curve and found is not None and found.measured.curve_of is not None else found

    def _measure_again(self, identity: Identity, *, more_to_come: bool) -> Trial | None:
        """Evaluate the stored weights of the same training; None if that cannot be done, so that it is trained."""
        stored = self._shelf.find_training(identity)
        if stored is None or stored.result.measured.probe is None:
            return None
        folder = self._bench.folder()
        if not self._shelf.take_weights(stored.result, folder / "model"):
            return None
        spec = identity.spec
        evaluated = self._bench.measure(spec, folder, stored.result.measured.probe, more_to_come=more_to_come)
        if evaluated.measured.outcome != "ok" or evaluated.measured.validation is None:
            why = evaluated.measured.error.message if evaluated.measured.error else evaluated.ending
            self._shelf.complain(
                f"{spec.variant.label}, seed {spec.seed}, was trained again, because its stored weights could not be "
                f"evaluated: {why}"
            )
            return None
        if not self._shelf.is_of(identity, evaluated):
            return None
        result = evaluated_again(stored, evaluated, identity.candidates[0])
        result = result.come_by(model_dir=str(folder / "model"), not_kept=None)
        result = self._shelf.publish(identity, result, stored.result)
        # The store has them, so a run that keeps no models need not.
        return result if self._bench.keeps(folder / "model") else _without_weights(result, stored.result)

    def _train(self, identity: Identity, *, more_to_come: bool) -> Trial:
        """Train a trial, from a checkpoint if there is one of exactly this trial."""
        checkpoints = self._shelf.checkpoints(identity)
        goes_on = checkpoints is not None and any(checkpoints.iterdir())
        result = self._bench.train(identity.spec, checkpoints=checkpoints, more_to_come=more_to_come)
        if goes_on and self._shelf.has_changed(identity):
            # A file was changed while the trial waited for its device: half of it may be of the old one.
            return self._bench.train(identity.spec, more_to_come=more_to_come)
        return result


def _without_weights(result: Trial, stored: Trial) -> Trial:
    """Return a result with its folder of weights removed; `load` takes them from the store."""
    shutil.rmtree(str(result.provenance.model_dir), ignore_errors=True)
    return result.come_by(model_dir=None, not_kept=stored.provenance.not_kept)
