"""Where a trial stands, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pytest_ftguard.running.executor import Event
from pytest_ftguard.specs import TrialSpec

__all__ = ["Progress", "ProgressClock"]


@dataclass(frozen=True)
class Progress:
    """Where a trial stands.

    Attributes:
        spec: What is being trained.
        phase: "wait", "start", "load", "evaluate", "train", "save", or "end".
        step: Optimizer steps done.
        loss: Training loss of that step, if known.
        elapsed_seconds: Time since the trial started.
        seconds_left: Estimated time until its last step; None while there is nothing to estimate from.
        resumed_at: Step from which a training that was killed went on; 0 if it began at the start.
    """

    spec: TrialSpec
    phase: str
    step: int
    loss: float | None
    elapsed_seconds: float
    seconds_left: float | None
    resumed_at: int = 0


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
