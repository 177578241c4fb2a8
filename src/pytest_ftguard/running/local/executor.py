"""The executor of this machine: each trial in a process of its own, one after the other on each device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_ftguard.running.executor import (
    Answer,
    DescribeJob,
    Event,
    ExecutorOptions,
    ForecastJob,
    FormsJob,
    Job,
    MeasureJob,
    TrainJob,
)
from pytest_ftguard.running.local.devices import CPU_SLOT, device_slots
from pytest_ftguard.running.local.leases import Neighbours, leased
from pytest_ftguard.running.local.workers import Workers
from pytest_ftguard.store.fingerprint import machine_facts

__all__ = ["LocalExecutor"]

_LeasedJob = TrainJob | MeasureJob | FormsJob
_NEIGHBOURS: Final = "another pytest run trained on the processor while its steps were timed: run one after the other"


class LocalExecutor:
    """Trains on this machine; see `pytest_ftguard.running.executor.Executor`.

    Args:
        options: Where it writes, and what disturbs it.
        workers: Who starts the processes; the ones of `options.root` by default.
    """

    def __init__(self, options: ExecutorOptions, workers: Workers | None = None) -> None:
        self._options = options
        self._workers = workers or Workers(options.root, forks=True)

    def run(self, job: Job, on_event: Callable[[Event], None], *, more_to_come: bool = False) -> Answer:
        """Do a job and return its answer, whatever happened to the process that did it."""
        match job:
            case DescribeJob():
                return self._describe(job)
            case ForecastJob():
                return self._workers.start().run(job, on_event, lambda: True)
            case TrainJob() | MeasureJob() | FormsJob():
                return self._train_leased(job, on_event, more_to_come)

    def _describe(self, job: DescribeJob) -> Answer:
        """Ask torch, in a worker that goes on to be the next one."""
        slot = device_slots(job.device)[0]
        present = self._workers.take(slot)
        self._workers.keep_ready(slot, present)
        return present.describe(job)

    def _train_leased(self, job: _LeasedJob, on_event: Callable[[Event], None], more_to_come: bool) -> Answer:
        """Train, or evaluate again, on a device that no other training of this user has meanwhile."""
        slots = device_slots(job.spec.device)
        preferred = sorted(slots, key=lambda slot: slot != self._workers.spare_slot)
        with leased(preferred, self._options.root, lambda: on_event(Event("wait"))) as slot:
            if slot != CPU_SLOT:
                return self._train(job, slot, on_event, more_to_come)
            with Neighbours() as neighbours:
                answer = self._train(job, slot, on_event, more_to_come)
                known = self._options.disturbance or (_NEIGHBOURS if neighbours.were_there else None)
                return replace(answer, disturbance=known)

    def _train(self, job: _LeasedJob, slot: str, on_event: Callable[[Event], None], more_to_come: bool) -> Answer:
        present = self._workers.take(slot)
        if more_to_come:
            # It imports while the present worker imports or loads, and the present one's steps wait until it is done.
            self._workers.keep_ready(slot)
        return present.run(job, on_event, self._workers.is_quiet)

    def folder(self) -> Path:
        """Return a new folder that lasts until the close."""
        return self._workers.folder()

    def facts(self, device: str, precision: str) -> str | None:
        """Return a digest of what decides the answer to a `DescribeJob`."""
        return machine_facts(device, precision)

    def disturbance(self, device: str) -> str | None:
        """Return what will disturb the timing of steps on a device, if it is known beforehand."""
        return self._options.disturbance if device_slots(device)[0] == CPU_SLOT else None

    def close(self) -> None:
        """End the worker that waits, and remove the folders unless somebody else does."""
        self._workers.close()
