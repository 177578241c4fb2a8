"""How long a trial has taken, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

from pytest_ftguard.results.progress import Progress
from pytest_ftguard.running.executor import Event
from pytest_ftguard.specs import TrialSpec

__all__ = ["ProgressClock"]


class ProgressClock:
    """Adds the time that has passed, and the time left, to a worker's events.

    Args:
        spec: What is being trained.
        on_progress: Called with each event.
    """

    def __init__(self, spec: TrialSpec, on_progress: Callable[[Progress], None]) -> None:
        self._spec = spec
        self._on_progress = on_progress
        self._start = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def take(self, event: Event) -> None:
        """Pass an event on."""
        now = time.monotonic()
        if event.phase == "train" and (self._last is None or event.step > self._last[0]):
            self._first = self._first or (event.step, now)
            self._last = (event.step, now)
        left, resumed_at = self._seconds_left(event, now), self._first[0] if self._first else 0
        self._on_progress(
            Progress(self._spec, event.phase, event.step, event.loss, now - self._start, left, resumed_at)
        )

    def _seconds_left(self, event: Event, now: float) -> float | None:
        if event.phase != "train" or not self._first or not self._last or self._last[0] == self._first[0]:
            return None
        per_step = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        return max(0.0, per_step * (self._spec.workload.steps - self._last[0]) - (now - self._last[1]))
