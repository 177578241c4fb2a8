"""Locks between the processes of one machine; the system gives them back when a process ends, however it ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

__all__ = ["held", "leased"]

_POLL_SECONDS: Final = 0.2


@contextmanager
def held(paths: Sequence[Path], on_wait: Callable[[], None]) -> Iterator[Path]:
    """Hold the first of several locks that is free; yields its path.

    Args:
        paths: Files of the locks, the preferred one first.
        on_wait: Called a few times a second while all are held by others.
    """
    locks = {path: FileLock(path) for path in paths}
    taken = _take(locks)
    while taken is None:
        on_wait()
        taken = _take(locks, _POLL_SECONDS)
    try:
        yield taken
    finally:
        locks[taken].release()


def _take(locks: dict[Path, FileLock], seconds: float = 0.0) -> Path | None:
    for path, lock in locks.items():
        try:
            lock.acquire(timeout=seconds / len(locks), poll_interval=0.05)
        except Timeout:
            continue
        return path
    return None


def _lease_folder() -> Path:
    """Return the folder of this user's leases, the same for every pytest run on this machine."""
    owner = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"pytest-ftguard-leases-{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def leased(slots: Sequence[str], on_wait: Callable[[], None]) -> Iterator[str]:
    """Hold a device for a training, so that no two trainings of this user share one; yields its name.

    Args:
        slots: Names of the devices that would do, the preferred one first.
        on_wait: Called a few times a second while all are in use.
    """
    folder = _lease_folder()
    paths = {folder / f"{slot.replace('/', '_')}.lock": slot for slot in slots}
    with held(list(paths), on_wait) as path:
        yield paths[path]
