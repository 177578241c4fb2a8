"""The workers of a run: the one that trains, and what is started early for those that come next."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pytest_ftguard.running.local.devices import CPU_SLOT
from pytest_ftguard.running.local.forker import Forker
from pytest_ftguard.running.local.process import Worker

__all__ = ["Workers"]


class Workers:
    """Starts workers, keeps at most one ready, and gives folders to write to.

    Args:
        shared: Folder that somebody else removes, in which those of this process are made; None is the system's.
        kind: The class of the workers.
        forks: Whether workers on the processor may be forked from a process that has imported already. The driver of
            an accelerator does not outlive a fork, so its workers are started.
    """

    def __init__(self, shared: Path | None, kind: type[Worker] = Worker, *, forks: bool = False) -> None:
        self._shared = shared
        self._kind = kind
        self._forks = forks and Forker.is_supported()
        self._forker: Forker | None = None
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
        """Return a new worker for a device; all of a run on the processor are forked, or none is."""
        if slot != CPU_SLOT:
            return self._kind(self.folder(), self._open_root(), slot)
        if self._has_forker() and self._forker is not None and self._forker.wait():
            return self._kind(self.folder(), self._open_root(), None, self._forker)
        return self._kind(self.folder(), self._open_root(), None)

    def keep_ready(self, slot: str, worker: Worker | None = None) -> None:
        """Keep a worker, by default a new one, for the next trial on a device."""
        if worker is None and slot == CPU_SLOT and self._has_forker():
            return
        self._spare, self._spare_slot = worker or self.start(slot), slot

    def _has_forker(self) -> bool:
        """Return whether the next worker will be forked; the process that does it is started now if there is none."""
        if not self._forks:
            return False
        if self._forker is not None and not self._forker.is_of_now:
            self._forker.close()
            self._forker = None
        if self._forker is None:
            self._forker = Forker(self._open_root())
        self._forks = not self._forker.has_ended  # it has found that it may not fork, or it cannot import
        return self._forks

    def is_quiet(self) -> bool:
        """Return whether nothing that waits is busy: until then, it would disturb a worker whose steps are timed."""
        return all(one is None or one.is_quiet() for one in (self._spare, self._forker))

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
        if self._forker is not None:
            self._forker.close()
            self._forker = None
        if self._root is not None and self._shared is None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None
