"""What trained models come to in the forms in which they are shipped, kept next to their results."""

from __future__ import annotations

import hashlib
import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.files import write_whole
from pytest_ftguard.results import Trial, from_plain, to_plain
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.specs import canonical_json
from pytest_ftguard.store.entries import digest_of
from pytest_ftguard.store.room import prepare
from pytest_ftguard.store.trust import Trust

__all__ = ["StoredForms"]


class StoredForms:
    """The losses of shipped forms in a store.

    They are found by what decides the trial and by all that it has measured, as its weights are. What a function of
    the user's has exported is not kept, because nobody knows what that depends on. Nor is what could not be measured.

    Args:
        folder: That of the store.
        trust: What in it is believed.
        run: The present run.
    """

    def __init__(self, folder: Path, trust: Trust, run: str) -> None:
        self._folder = folder
        self._trust = trust
        self._run = run

    def key(self, result: Trial, shipping: Shipping) -> str | None:
        """Return what the losses of a result are found by; None if they are not kept."""
        if result.provenance.content is None or shipping.deploy is not None:
            return None
        return hashlib.sha256(canonical_json(_parts(result, shipping)).encode()).hexdigest()

    def find(self, result: Trial, shipping: Shipping) -> tuple[FormLosses, ...] | None:
        """Return what a trained model has come to, if it is known; None if not."""
        key = self.key(result, shipping)
        if key is None:
            return None
        try:
            values = json.loads(self._place(key).read_text(encoding="utf-8"))
            content = values["content"]
            self._trust.check(canonical_json(content), values["signature"])
            believed = content["parts"] == _parts(result, shipping) and (
                self._trust.reads or content["run"] == self._run
            )
            forms = tuple(from_plain(one, FormLosses) for one in content["forms"])
        except (OSError, FtguardError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        if not (believed and _are_whole(forms)):
            return None
        with suppress(OSError):
            os.utime(self._place(key))  # what is used stays longest
        return forms

    def keep(self, result: Trial, shipping: Shipping, forms: tuple[FormLosses, ...]) -> None:
        """Write down what a trained model has come to."""
        key = self.key(result, shipping)
        if key is None or not _are_whole(forms):
            return
        content = {"parts": _parts(result, shipping), "run": self._run, "forms": to_plain(forms)}
        text = json.dumps({"content": content, "signature": self._trust.sign(canonical_json(content))})
        with suppress(OSError):
            prepare(self._folder)
            write_whole(self._place(key), text)

    def _place(self, key: str) -> Path:
        return self._folder / "forms" / f"{key}.json"


def _parts(result: Trial, shipping: Shipping) -> dict[str, Any]:
    return {"trial": result.provenance.content, "result": digest_of(result), "dtype": shipping.dtype}


def _are_whole(forms: tuple[FormLosses, ...]) -> bool:
    return bool(forms) and all(one.nll is not None and all(map(math.isfinite, one.nll)) for one in forms)
