"""Locks between the processes of one machine; the system releases them when a process ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

__all__ = ["held"]


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
