"""The result of one trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results.checking import checked
from pytest_ftguard.results.parts import (
    CurvePoint,
    Environment,
    Memory,
    Parameters,
    SequenceLosses,
    Start,
    Timing,
    TrialError,
)
from pytest_ftguard.specs import TrialSpec

__all__ = ["SCHEMA", "TRAINER_RUN_FILE", "Outcome", "TrialResult"]

SCHEMA: Final = 1
TRAINER_RUN_FILE: Final = "ftguard_trial.json"

Outcome = Literal["ok", "out_of_memory", "diverged", "crashed", "timed_out", "not_trained", "planned"]


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Everything that one trial measured; a value that was not measured is None.

    Attributes:
        spec: What was trained.
        outcome: "ok", "out_of_memory", "diverged", "crashed", "timed_out"; "not_trained" if another seed of the variant
            or its partner in a test had failed before, or "planned" where nothing was trained.
        parameters: Counts of the model's parameters.
        validation: Losses of the trained model on the validation text.
        base_validation: Losses of the base model on the same sequences.
        reference: Losses of the trained model on the reference text, where there is one.
        base_reference: Losses of the base model on the reference text.
        start: How the model compares with the base model before training; None if it was not measured.
        curve: Validation loss along training.
        data_order: SHA-256 of the batches in the order in which they were trained on.
        code: SHA-256 of the module of the user's training function, where there is one.
        memory: Peak memory of the training phase.
        time: Duration of the training phase.
        environment: Machine and versions.
        error: Why the outcome is not "ok".
        cached: Whether the trial was reused instead of trained.
        measured_elsewhere: Why the bytes and seconds of a cached trial say nothing about the present machine; None
            where they do.
        content: SHA-256 of everything that decides the result; None where it is not known.
        model_dir: Folder with the trained weights; None where they were not kept.
        not_kept: Why they were not kept.
        notes: What else happened to the trial that its reader should know.
    """

    spec: TrialSpec
    outcome: Outcome
    parameters: Parameters | None = None
    validation: SequenceLosses | None = None
    base_validation: SequenceLosses | None = None
    reference: SequenceLosses | None = None
    base_reference: SequenceLosses | None = None
    start: Start | None = None
    curve: tuple[CurvePoint, ...] = ()
    data_order: str | None = None
    code: str | None = None
    memory: Memory | None = None
    time: Timing | None = None
    environment: Environment | None = None
    error: TrialError | None = None
    cached: bool = False
    measured_elsewhere: str | None = None
    content: str | None = None
    model_dir: str | None = None
    not_kept: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Identity of what decided the trial or, if that is not known, of its spec."""
        return self.content or self.spec.fingerprint

    @property
    def failure(self) -> str | None:
        """What happened to a trial that did not end `ok`, with the end of its log; None where it did."""
        if self.outcome == "ok":
            return None
        detail = f": {self.error.message}" if self.error else ""
        tail = f"\nThe end of its log:\n{self.error.log_tail}" if self.error and self.error.log_tail else ""
        word = "timing" if self.spec.workload.purpose == "timing" else "trial"
        return f"the {word} of {self.spec.variant.label}, seed {self.spec.seed}, {self.ending}{detail}{tail}"

    @property
    def ending(self) -> str:
        """What became of the trial, as the rest of a sentence about it."""
        return "was not trained" if self.outcome == "not_trained" else f"ended {self.outcome}"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as values that JSON can hold, with the number of their schema."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("spec", "curve")}
        plain = {name: asdict(part) if name in _PARTS and part is not None else part for name, part in parts.items()}
        return {
            "schema": SCHEMA,
            "spec": self.spec.to_dict(),
            "curve": [asdict(point) for point in self.curve],
            **plain,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the result that `to_dict` wrote.

        Raises:
            FtguardError: It was written under another schema, it is not complete, or a value is of another type.
        """
        rest = dict(values)
        schema = rest.pop("schema", None)
        if schema != SCHEMA:
            message = f"a trial's result has schema {schema!r}; this version of pytest-ftguard reads schema {SCHEMA}"
            raise FtguardError(message)
        try:
            rest["spec"] = TrialSpec.from_dict(rest["spec"])
            points = rest.get("curve", ())
            rest["curve"] = tuple(
                checked(CurvePoint(point["step"], point["loss"], tuple(point["nll"]))) for point in points
            )
            rest["notes"] = tuple(rest.get("notes", ()))
            for name, read in _PARTS.items():
                if rest.get(name) is not None:
                    rest[name] = checked(read(rest[name]))
            return checked(cls(**rest))
        except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
            message = f"a trial's result is not complete: {type(error).__name__}: {error}"
            raise FtguardError(message) from error


_PARTS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "parameters": lambda values: Parameters(**values),
    "validation": SequenceLosses.from_dict,
    "base_validation": SequenceLosses.from_dict,
    "reference": SequenceLosses.from_dict,
    "base_reference": SequenceLosses.from_dict,
    "start": lambda values: Start(**values),
    "memory": Memory.from_dict,
    "time": lambda values: Timing(**values),
    "environment": lambda values: Environment(**values),
    "error": lambda values: TrialError(**values),
}
