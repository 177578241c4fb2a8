"""Trained models evaluated as they ship: each once, from the weights that the store has, or trained again for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_ftguard.results import Trial
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.running.bench import Bench
from pytest_ftguard.running.loading import ModelLoader
from pytest_ftguard.store.store import Store

__all__ = ["FormsMeasurer"]


class FormsMeasurer:
    """Measures the forms of trained models, and remembers what they came to.

    Args:
        bench: Starts the process that measures.
        store: Where it is kept for later runs; None if it is not.
        loader: Gives the weights.
    """

    def __init__(self, bench: Bench, store: Store | None, loader: ModelLoader) -> None:
        self._bench = bench
        self._store = store
        self._loader = loader
        self._known: dict[tuple[str, Shipping], tuple[FormLosses, ...]] = {}

    def measure(self, result: Trial, shipping: Shipping) -> tuple[FormLosses, ...]:
        """Return what a trained model comes to in each form.

        Args:
            result: The trial.
            shipping: How it is shipped.

        Raises:
            FtguardError: There are no weights of it, or they could not be evaluated.
        """
        asked = (result.spec.fingerprint, shipping)
        if asked not in self._known:
            self._known[asked] = self._find_or_measure(result, shipping)
        return self._known[asked]

    def _find_or_measure(self, result: Trial, shipping: Shipping) -> tuple[FormLosses, ...]:
        store = self._store
        key = None if store is None else store.forms.key(result, shipping)
        if store is None or key is None:
            return self._measure(result, shipping)
        if (found := store.forms.find(result, shipping)) is not None:
            return found
        with store.lock(key, self._bench.waiting(result.spec)):
            found = store.forms.find(result, shipping)  # another process may have measured them
            if found is None:
                found = self._measure(result, shipping)
                store.forms.keep(result, shipping, found)
            return found

    def _measure(self, result: Trial, shipping: Shipping) -> tuple[FormLosses, ...]:
        trained = self._loader.with_weights(result)
        weights = trained.provenance.model_dir
        assert weights is not None  # the loader has raised an error otherwise
        forms = self._bench.measure_forms(result.spec, Path(weights), shipping)
        return tuple(_next_to(result, trained, form) for form in forms)


def _next_to(judged: Trial, trained: Trial, form: FormLosses) -> FormLosses:
    """Return a form's losses next to those of the judged trial, if its weights are those of another training of it.

    A second training on another machine rounds otherwise, which is no drift: what counts is by how much the form's
    losses differ from those of its own weights.
    """
    then, now = judged.measured.validation, trained.measured.validation
    if then is None or now is None or then.nll == now.nll or form.nll is None or len(form.nll) != len(then.nll):
        return form
    moved = (one + (old - new) for one, old, new in zip(form.nll, then.nll, now.nll, strict=True))
    return replace(form, nll=tuple(moved))
