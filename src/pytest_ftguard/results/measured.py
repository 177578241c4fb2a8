"""What one trial measured: all that is stored, sent and reported of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_ftguard.results.losses import SequenceLosses
from pytest_ftguard.results.parts import (
    CurvePoint,
    CurveText,
    Environment,
    Memory,
    Parameters,
    Start,
    Timing,
    TrialError,
    Updates,
)

__all__ = ["Measured", "Outcome"]

Outcome = Literal["ok", "out_of_memory", "diverged", "crashed", "timed_out", "not_trained", "planned"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that one trial measured; a value that was not measured is None.

    Attributes:
        outcome: "ok", "out_of_memory", "diverged", "crashed", "timed_out"; "not_trained" if another seed of the variant
            or its partner in a test had failed before, or "planned" if nothing was to be trained.
        parameters: Counts of the model's parameters.
        updates: What the training changed; None if it was not looked at.
        validation: Losses of the trained model on the validation text.
        base_validation: Losses of the base model on the same sequences.
        reference: Losses of the trained model on the reference text, if there is one.
        base_reference: Losses of the base model on the reference text.
        start: How the model compares with the base model before training; None if it was not measured.
        curve: Validation loss along training.
        curve_of: What the curve and the start were measured on, if that is no part of the sequences of `validation`.
        probe: Mean loss of the trained model on the first training examples, in nats per token: loaded weights must
            come to the same. None if the weights were not kept.
        data_order: SHA-256 of the batches in the order in which they were trained on.
        supervised_tokens: Number of tokens that the loss was taken of in training, each as often as it was trained on.
        code: SHA-256 of the module of the user's training function, if there is one.
        memory: Peak memory of the training phase.
        time: Duration of the training phase.
        environment: Machine and versions.
        error: Why the outcome is not "ok".
        notes: What else happened to the trial that its reader should know.
        remarks: What there is to know of the data, such as how much of them was cut.
    """

    outcome: Outcome
    parameters: Parameters | None = None
    updates: Updates | None = None
    validation: SequenceLosses | None = None
    base_validation: SequenceLosses | None = None
    reference: SequenceLosses | None = None
    base_reference: SequenceLosses | None = None
    start: Start | None = None
    curve: tuple[CurvePoint, ...] = ()
    curve_of: CurveText | None = None
    probe: float | None = None
    data_order: str | None = None
    supervised_tokens: int | None = None
    code: str | None = None
    memory: Memory | None = None
    time: Timing | None = None
    environment: Environment | None = None
    error: TrialError | None = None
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
