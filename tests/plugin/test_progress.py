"""While trials run somebody hears of it."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from tests.plain.builders import LORA, WORKLOAD

from pytest_ftguard.plugin import progress
from pytest_ftguard.results.progress import Progress
from pytest_ftguard.specs import TrialSpec

SPEC = TrialSpec(workload=WORKLOAD, variant=LORA, seed=0)


class Reporter:
    """Stands for pytest's terminal reporter where no terminal is attached."""

    isatty = False

    def __init__(self, clock: SimpleNamespace) -> None:
        self._clock = clock
        self.times: list[float] = []

    def ensure_newline(self) -> None:
        pass

    def write_line(self, line: str, **_: Any) -> None:
        self.times.append(self._clock.now)


@pytest.mark.parametrize("trial_seconds", [5, 19, 70])
def test_no_30_seconds_of_training_pass_in_silence(monkeypatch: pytest.MonkeyPatch, trial_seconds: int) -> None:
    """Trials one after the other, long or short, give a line at least every 30 seconds, and no more than is needed."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("pytest_ftguard.plugin.progress.time.monotonic", lambda: clock.now)
    reporter = Reporter(clock)
    plugins = {"terminalreporter": reporter, "capturemanager": None}
    config: Any = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=plugins.get))
    display = progress.ProgressDisplay(config)
    while clock.now < 1300:
        start = clock.now
        display.show(Progress(SPEC, "start", 0, None, 0.0, None))
        while clock.now < start + trial_seconds:
            clock.now += 0.25
            display.show(Progress(SPEC, "train", 1, 2.0, clock.now - start, None))
        display.show(Progress(SPEC, "end", 0, None, clock.now - start, None))
    heard = [1000.0, *reporter.times, clock.now]
    assert max(later - earlier for earlier, later in pairwise(heard)) <= 30
    assert len(reporter.times) <= (clock.now - 1000) / 20
