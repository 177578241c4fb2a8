"""The entries of one training: results that were measured of the same weights, on whatever examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_ftguard.results import Trial
from pytest_ftguard.store.entries import parts_of
from pytest_ftguard.store.fingerprint import Fingerprint, parts_of_training
from pytest_ftguard.store.room import listed

__all__ = ["StoredTraining", "entries_with_weights"]


@dataclass(frozen=True)
class StoredTraining:
    """A stored result, of which the weights are stored as well.

    Attributes:
        result: The result.
        parts: What decided it.
    """

    result: Trial
    parts: Mapping[str, Any]


def entries_with_weights(folder: Path, fingerprint: Fingerprint) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the files of the results of a training that have weights next to them, and what decided each.

    Args:
        folder: That of the store.
        fingerprint: What decides a trial of that training.
    """
    training = parts_of_training(fingerprint.parts)
    for place in sorted(listed(folder / "weights"), key=lambda place: place.name):
        key = place.name.partition("-")[0]
        path = folder / "results" / key[:2] / f"{place.name}.json"
        parts = parts_of(path)
        if parts is not None and parts_of_training(parts) == training and Fingerprint(parts).key == key:
            yield path, parts
