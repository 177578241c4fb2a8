"""The workers of a run: the one that trains, and one that is started early for what comes next."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pytest_ftguard.running.local.devices import CPU_SLOT
from pytest_ftguard.running.local.process import Worker

__all__ = ["Workers"]


class Workers:
    """Starts workers, keeps at most one ready, and gives folders to write to.

    Args:
        shared: Folder that somebody else removes, in which those of this process are made; None is the system's.
        kind: The class of the workers.
    """

    def __init__(self, shared: Path | None, kind: type[Worker] = Worker) -> None:
        self._shared = shared
        self._kind = kind
        self._root: Path | None = None
        self._folders = 0
        self._spare: Worker | None = None
        self._spare_slot = ""

    @property
    def spare_slot(self) -> str:
        """The device that the worker was last made ready for."""
        return self._spare_slot

    def take(self, slot: str) -> Worker:
        """Return a worker for a device: the one that is ready, or else a new one."""
        spare, self._spare = self._spare, None
        if spare is None:
            return self.start(slot)
        if spare.has_ended or slot != self._spare_slot:
            # It died while it waited, for example for lack of memory: that is not the fault of the next trial.
            spare.close()
            return self.start(slot)
        return spare

    def start(self, slot: str = CPU_SLOT) -> Worker:
        """Return a new worker for a device."""
        return self._kind(self.folder(), self._open_root(), None if slot == CPU_SLOT else slot)

    def keep_ready(self, slot: str, worker: Worker | None = None) -> None:
        """Keep a worker, by default a new one, for the next trial on a device."""
        self._spare, self._spare_slot = worker or self.start(slot), slot

    def is_quiet(self) -> bool:
        """Return whether no worker that waits is busy: until it is, it would disturb one whose steps are timed."""
        return self._spare is None or self._spare.is_quiet()

    def folder(self) -> Path:
        """Return a new folder that lasts until the workers are closed."""
        self._folders += 1
        folder = self._open_root() / f"{self._folders:04}"
        folder.mkdir(parents=True)  # a cleaner of temporary files may have removed the root meanwhile
        return folder

    def _open_root(self) -> Path:
        if self._root is None:
            if self._shared is not None:
                self._shared.mkdir(parents=True, exist_ok=True)
            self._root = Path(tempfile.mkdtemp(prefix="pytest-ftguard-", dir=self._shared))
        return self._root

    def close(self) -> None:
        """End the worker that waits, and remove the folders unless somebody else does."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._root is not None and self._shared is None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None
