"""Locks between the processes of one machine; the system releases them when a process ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pytest_ftguard.store.room import prepare

__all__ = ["held", "one_of_many"]


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


@contextmanager
def one_of_many(folder: Path, key: str, on_wait: Callable[[], None], complain: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a trial, so that only one of many processes trains it.

    Args:
        folder: That of the store.
        key: The key of the trial's fingerprint.
        on_wait: Called a few times a second while another process holds it.
        complain: Called with why nothing can be locked.
    """
    try:
        prepare(folder)
        # Few files for all trials, which are never removed: nobody else may hold a lock that has been.
        path = folder / "locks" / f"{key[:3]}.lock"
        path.parent.mkdir(exist_ok=True)
        lock = held([path], on_wait)
        lock.__enter__()
    except (OSError, NotImplementedError) as error:
        # Trained twice is better than not at all.
        complain(f"nothing can be locked in {str(folder)!r}: {getattr(error, 'strerror', None) or error}")
        yield
        return
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _take(locks: dict[Path, FileLock], seconds: float = 0.0) -> Path | None:
    for path, lock in locks.items():
        try:
            lock.acquire(timeout=seconds / len(locks), poll_interval=0.05)
        except Timeout:
            continue
        return path
    return None
