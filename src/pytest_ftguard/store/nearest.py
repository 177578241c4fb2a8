"""What has changed since the nearest result of an earlier run, which is why a trial is trained again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.store.entries import latest_parts
from pytest_ftguard.store.fingerprint import Fingerprint, changes, parts_of_training

__all__ = ["of_any_seed", "why_missing"]

_COMPARED_ENTRIES: Final = 300
_MOST_CHANGES: Final = 6


def why_missing(
    folder: Path, fingerprint: Fingerprint, run: str, used: Collection[Mapping[str, Any]], not_again: str
) -> str | None:
    """Return what differs from the nearest of the latest entries; None if earlier runs left none of its kind.

    What this run has found itself stands next to the trial, and was not changed into it.

    Args:
        folder: That of the store.
        fingerprint: What decides the trial.
        run: The present run.
        used: What this run has found, by `of_any_seed`.
        not_again: Why the weights of the nearest one were not evaluated instead, if it is of the same training.
    """
    # Another seed is no change, and what differs in nothing else was trained, or is new, or was damaged.
    if of_any_seed(fingerprint.parts) in used:
        return ""
    kind = fingerprint.parts["kind"]
    others = [
        parts
        for parts in latest_parts(folder, _COMPARED_ENTRIES, run)
        # A timing is paired with another trial, and is not stored in a trial's place.
        if parts.get("kind") == kind and "beside" not in parts and of_any_seed(parts) not in used
    ]
    if not others:
        return None
    seed = fingerprint.parts["seed"]
    others.sort(key=lambda parts: parts.get("seed") != seed)
    nearest = min(others, key=lambda parts: len(changes(fingerprint, {**parts, "seed": seed})))
    found = changes(fingerprint, {**nearest, "seed": seed})
    more = len(found) - _MOST_CHANGES
    text = ", ".join(found[:_MOST_CHANGES]) + (f" and {more} more" if more > 0 else "")
    is_same_training = bool(found) and parts_of_training(nearest) == parts_of_training(fingerprint.parts)
    return f"{text}; {not_again}" if is_same_training and not_again else text


def of_any_seed(parts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what decides a trial, whatever its seed."""
    return {**parts, "seed": None}
