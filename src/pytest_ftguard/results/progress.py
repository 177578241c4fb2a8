"""Where a trial stands."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_ftguard.specs import TrialSpec

__all__ = ["Progress"]


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
