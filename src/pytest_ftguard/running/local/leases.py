"""Who trains on which device of this machine, told by locks."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from pytest_ftguard.running.local.devices import CPU_SLOT
from pytest_ftguard.store.locks import held

__all__ = ["Neighbours", "leased"]


def _machine_folder() -> Path:
    """Return this user's folder for all pytest runs on this machine."""
    owner = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"pytest-ftguard-leases-{owner}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.lstat().st_uid != owner:
        # Somebody else's, who could keep every training waiting: better to share a device than never to have it.
        return Path(tempfile.mkdtemp(prefix="pytest-ftguard-leases-"))
    return folder


@contextmanager
def leased(slots: Sequence[str], run_folder: Path | None, on_wait: Callable[[], None]) -> Iterator[str]:
    """Hold a device for a training; yields its name.

    No two trainings of a user share a GPU. On the processor those of one run take turns; those of other runs share it,
    which `Neighbours` tells.

    Args:
        slots: Names of the devices that would do, the preferred one first.
        run_folder: Folder that the processes of the run share; None if there is one process only.
        on_wait: Called a few times a second while all are in use.
    """
    folder = run_folder if CPU_SLOT in slots else _machine_folder()
    if folder is None:
        yield slots[0]
        return
    paths = {folder / f"{slot.replace('/', '_')}.lock": slot for slot in slots}
    with held(list(paths), on_wait) as path:
        yield paths[path]


class Neighbours:
    """Other trainings of this user on the processor, told by the locks that they hold while they run.

    Each leaves word with those that it finds running, so that they know as well when it has ended before them.
    """

    def __init__(self) -> None:
        self._folder = _machine_folder()
        self._name = uuid.uuid4().hex
        self._lock = FileLock(self._folder / f"{self._name}.running")
        self._found = False

    def __enter__(self) -> Self:
        self._lock.acquire()
        for path in self._folder.glob("*.running"):
            if path.stem != self._name and _is_held(path):
                self._found = True
                path.with_suffix(".met").touch()
        return self

    def __exit__(self, *_: object) -> None:
        for suffix in (".running", ".met"):
            (self._folder / f"{self._name}{suffix}").unlink(missing_ok=True)
        self._lock.release()

    @property
    def were_there(self) -> bool:
        """Whether another training has run on the processor meanwhile."""
        return self._found or (self._folder / f"{self._name}.met").exists()


def _is_held(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    path.unlink(missing_ok=True)  # its process was killed
    path.with_suffix(".met").unlink(missing_ok=True)
    lock.release()
    return False
