"""What a store remembers to save time: digests of large files, what machines are, and how fast."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.files import write_whole
from pytest_ftguard.results import Environment, from_plain, to_plain
from pytest_ftguard.store.room import prepare
from pytest_ftguard.store.trust import Trust

__all__ = ["Notes"]


class Notes:
    """The notes of a store.

    Args:
        folder: That of the store.
        trust: Whether notes are believed.

    Attributes:
        digests: Digests of large files that were seen before; see `contents.file_digest`.
    """

    def __init__(self, folder: Path, trust: Trust) -> None:
        self._folder = folder
        self._trust = trust
        self.digests: MutableMapping[str, list[Any]] = self._read("digests.json")
        self._digests_before = dict(self.digests)

    def environment(self, facts: str) -> Environment | None:
        """Return the environment that the facts of a machine stand for, if a trial has shown it."""
        values = self._read("environments.json").get(facts)
        with suppress(FtguardError):
            return from_plain(values, Environment) if values else None
        return None

    def remember_environment(self, facts: str, environment: Environment) -> None:
        """Write down what a machine's facts stand for."""
        if self._trust.of_notes:
            self._write("environments.json", {**self._read("environments.json"), facts: to_plain(environment)})

    def speed(self, facts: str) -> float | None:
        """Return the floating-point operations a second that a machine reaches, if a trial has measured them."""
        value = self._read("speeds.json").get(facts)
        return value if isinstance(value, float) and 0 < value < math.inf else None

    def remember_speed(self, facts: str, flop_per_second: float) -> None:
        """Write down what a machine reaches."""
        if self._trust.of_notes:
            self._write("speeds.json", {**self._read("speeds.json"), facts: flop_per_second})

    def write_digests(self) -> None:
        """Write down the digests that are new."""
        if self._trust.of_notes and self.digests != self._digests_before:
            known = {**self._read("digests.json"), **self.digests}
            # Path.exists() raises for a name that is too long, or in a folder that is closed.
            there = {path: note for path, note in known.items() if os.path.exists(path)}  # noqa: PTH110
            self._write("digests.json", there)
            self._digests_before = dict(self.digests)

    def _read(self, name: str) -> dict[str, Any]:
        if not self._trust.of_notes:
            return {}
        try:
            values = json.loads((self._folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}  # they only save time
        return values if isinstance(values, dict) else {}

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        with suppress(OSError):
            prepare(self._folder)
            write_whole(self._folder / name, json.dumps(values))
