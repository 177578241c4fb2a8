"""How trials failed, for the other processes of a run, which would only fail in the same way."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.files import write_whole
from pytest_ftguard.results import Trial
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.store.fingerprint import Fingerprint
from pytest_ftguard.store.room import prepare, remove_older
from pytest_ftguard.store.trust import Trust

__all__ = ["Failures"]

# Those who wait for a trial read how it failed within moments.
_KEPT_SECONDS: Final = 3600.0
_OUTCOMES: Final = frozenset({"out_of_memory", "diverged", "crashed", "timed_out"})


class Failures:
    """The failures of a store.

    Args:
        folder: That of the store.
        trust: Whether they are believed.
        run: The present run.
    """

    def __init__(self, folder: Path, trust: Trust, run: str) -> None:
        self._folder = folder
        self._trust = trust
        self._run = run

    def find(self, fingerprint: Fingerprint, spec: TrialSpec) -> Trial | None:
        """Return how another process of this run has seen a trial fail; None if none has.

        Failures of other runs are not remembered: most are worth another try.

        Args:
            fingerprint: What decides the trial.
            spec: The trial.
        """
        if not self._trust.of_notes:
            return None
        try:
            values = json.loads(self._place(fingerprint).read_text(encoding="utf-8"))
            result = Trial.from_dict(values["result"])
            believed = result.measured.outcome in _OUTCOMES and values["run"] == self._run
            return replace(result, spec=spec) if believed else None
        except (OSError, FtguardError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def keep(self, fingerprint: Fingerprint, result: Trial) -> None:
        """Write down that a trial failed."""
        path = self._place(fingerprint)
        with suppress(OSError):
            prepare(self._folder)
            path.parent.mkdir(exist_ok=True)
            remove_older(path.parent, _KEPT_SECONDS)
            write_whole(path, json.dumps({"run": self._run, "result": result.to_dict()}))

    def _place(self, fingerprint: Fingerprint) -> Path:
        return self._folder / "failures" / f"{fingerprint.key}.json"
