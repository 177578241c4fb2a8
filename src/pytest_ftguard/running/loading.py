"""The trained models: from their folder, from the store, or trained again."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results import Trial
from pytest_ftguard.running import work
from pytest_ftguard.running.bench import Bench
from pytest_ftguard.specs import Workload
from pytest_ftguard.store.store import Store
from pytest_ftguard.store.weights import has_weights

__all__ = ["ModelLoader"]

# Two machines round differently, and training lets that grow; seeds differ by more.
_SAME_LOSS: Final = 0.01


class ModelLoader:
    """Loads trained models into the present process, which imports torch for it.

    Args:
        bench: Trains again what has no weights.
        store: Where weights are kept; None if they are not.
        check_files: Raises ConfigurationError if a file of the workload was changed in this run.
    """

    def __init__(self, bench: Bench, store: Store | None, check_files: Callable[[Workload], None]) -> None:
        self._bench = bench
        self._store = store
        self._check_files = check_files
        self._reloaded: dict[str, Trial] = {}

    def load(self, result: Trial) -> tuple[Any, Any]:
        """Return a trial's model and tokenizer; weights that are not at hand are trained again.

        Raises:
            FtguardError: There are no weights, or those of the second training are not those of the first.
        """
        return work.load_trained(self.with_weights(result))

    def with_weights(self, result: Trial) -> Trial:
        """Return a trial with a folder of its weights; those that are not at hand are trained again.

        Raises:
            FtguardError: There are no weights, or those of the second training are not those of the first.
        """
        judged = result
        if not has_weights(result.provenance.model_dir):
            key = result.spec.fingerprint
            if key not in self._reloaded or not has_weights(self._reloaded[key].provenance.model_dir):
                self._check_files(result.spec.workload)
                self._reloaded[key] = self._with_stored_weights(result) or self._train_again(result)
            result = self._reloaded[key]
        if result.provenance.model_dir is None:
            why = result.failure or result.provenance.not_kept
            message = f"the weights of {result.spec.variant.label} were not kept: {why}"
            raise FtguardError(message)
        if not _is_the_same_training(judged, result):
            message = (
                f"the weights of {result.spec.variant.label}, seed {result.spec.seed}, are not at hand: trained again, "
                "it did not come to the stored losses; --ftguard-no-cache judges what is trained here"
            )
            raise FtguardError(message)
        return result

    def _with_stored_weights(self, result: Trial) -> Trial | None:
        folder = self._bench.folder() / "model"
        stored = self._store is not None and self._store.take_weights(result, folder)
        return result.come_by(model_dir=str(folder)) if stored else None

    def _train_again(self, judged: Trial) -> Trial:
        """Train a trial again for its weights, say so, and keep them for later runs."""
        trained = self._bench.train(judged.spec, more_to_come=False)
        if (
            self._store is not None
            and trained.provenance.model_dir is not None
            and _is_the_same_training(judged, trained)
        ):
            why_not = self._store.keep_weights(judged, Path(trained.provenance.model_dir))
            self._store.complain(
                f"{judged.spec.variant.label}, seed {judged.spec.seed}, was trained again for its weights, because the "
                f"store had none of it; {f'it still has none: {why_not}' if why_not else 'now it has them'}"
            )
        return trained


def _is_the_same_training(one: Trial, other: Trial) -> bool:
    """Return whether two trials saw the same and came to the same, but for another machine's rounding."""
    if (
        one.measured.validation is None
        or other.measured.validation is None
        or one.measured.data_order != other.measured.data_order
    ):
        return False
    close = math.isclose(one.measured.validation.loss, other.measured.validation.loss, rel_tol=_SAME_LOSS)
    return close and one.measured.validation.digest == other.measured.validation.digest
