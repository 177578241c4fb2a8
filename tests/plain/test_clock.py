"""The time that a trial will still take is told from the steps that it has made itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_ftguard.results.progress import Progress
from pytest_ftguard.running.clock import ProgressClock
from pytest_ftguard.running.executor import Event
from pytest_ftguard.specs import TrialSpec

from .builders import LORA, WORKLOAD

SPEC = TrialSpec(workload=WORKLOAD, variant=LORA, seed=0)  # 100 steps


@pytest.mark.parametrize("first", [0, 60])
def test_steps_of_an_earlier_attempt_took_no_time_in_this_one(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """With ten steps in twenty seconds two seconds are left for each step, wherever the training went on from."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("pytest_ftguard.running.clock.time.monotonic", lambda: now.seconds)
    shown: list[Progress] = []
    clock = ProgressClock(SPEC, shown.append)
    clock.take(Event("load"))
    now.seconds = 100.0
    clock.take(Event("train", first))
    assert shown[-1].seconds_left is None
    now.seconds = 120.0
    clock.take(Event("train", first + 10, 1.0))
    assert shown[-1].seconds_left == pytest.approx(2.0 * (90 - first))
    assert [progress.resumed_at for progress in shown] == [0, first, first]
