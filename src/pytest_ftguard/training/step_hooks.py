"""What is seen of the Trainer's steps from outside."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from pytest_ftguard.training.recorder import Recorder

__all__ = ["DivergedError", "StepHooks"]


class DivergedError(Exception):
    """The loss is no longer finite."""


class StepHooks(TrainerCallback):
    """Lets a recorder see the steps of the Trainer, and stops at losses that are not finite.

    Args:
        recorder: Measures the steps.
        report: Called with "train", the steps done and the training loss.
        lower_rate: What to do about a training that diverged.
    """

    def __init__(self, recorder: Recorder, report: Callable[[str, int, float | None], None], lower_rate: str) -> None:
        self._recorder = recorder
        self._report = report
        self._lower_rate = lower_rate

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and the memory meter."""
        self._recorder.begin_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop them, and measure a point of the curve if one is due."""
        self._recorder.end_step(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Report the step, and stop at the first loss or gradient that is not finite."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                word = {"loss": "training loss", "grad_norm": "gradient norm"}[name]
                message = f"the {word} is {value} at step {state.global_step}; {self._lower_rate}"
                raise DivergedError(message)
        if logs and "loss" in logs:
            self._report("train", state.global_step, float(logs["loss"]))
