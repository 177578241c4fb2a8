"""The result of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results.measured import Measured
from pytest_ftguard.results.schema import from_plain, to_plain
from pytest_ftguard.specs import TrialSpec

__all__ = ["SCHEMA", "TRAINER_RUN_FILE", "Provenance", "Trial"]

SCHEMA: Final = 2
TRAINER_RUN_FILE: Final = "ftguard_trial.json"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How this run came by a result.

    Attributes:
        cached: Whether the trial was reused instead of trained.
        measured_again: Whether this run has evaluated stored weights of it on other sequences.
        measured_elsewhere: Why the bytes and seconds of a cached trial say nothing about the present machine; None
            if they do.
        content: SHA-256 of everything that decides the result; None if it is not known.
        model_dir: Folder with the trained weights; None if they were not kept.
        not_kept: Why they were not kept.
    """

    cached: bool = False
    measured_again: bool = False
    measured_elsewhere: str | None = None
    content: str | None = None
    model_dir: str | None = None
    not_kept: str | None = None


@dataclass(frozen=True)
class Trial:
    """One variant, trained with one seed: what it measured, and how this run came by it.

    Attributes:
        spec: What was trained.
        measured: What was measured.
        provenance: How this run came by it.
    """

    spec: TrialSpec
    measured: Measured
    provenance: Provenance = Provenance()

    @property
    def fingerprint(self) -> str:
        """Identity of what decided the trial or, if that is not known, of its spec."""
        return self.provenance.content or self.spec.fingerprint

    @property
    def was_read(self) -> bool:
        """Whether it was trained elsewhere, and comes from a report or a Trainer's run, not from the store."""
        is_known = self.provenance.content is not None or self.measured.outcome == "planned"
        return self.provenance.cached and not is_known

    @property
    def failure(self) -> str | None:
        """What happened to a trial that did not end `ok`, with the end of its log; None if it did."""
        if self.measured.outcome == "ok":
            return None
        error = self.measured.error
        detail = f": {error.message}" if error else ""
        tail = f"\nThe end of its log:\n{error.log_tail}" if error and error.log_tail else ""
        word = "timing" if self.spec.workload.purpose == "timing" else "trial"
        return f"the {word} of {self.spec.variant.label}, seed {self.spec.seed}, {self.ending}{detail}{tail}"

    @property
    def ending(self) -> str:
        """What became of the trial, as the rest of a sentence about it."""
        outcome = self.measured.outcome
        return "was not trained" if outcome == "not_trained" else f"ended {outcome}"

    def remeasured(self, **changes: Any) -> Trial:
        """Return the trial with other values in what it measured."""
        return replace(self, measured=replace(self.measured, **changes))

    def come_by(self, **changes: Any) -> Trial:
        """Return the trial with other values in how this run came by it."""
        return replace(self, provenance=replace(self.provenance, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Return the result as values that JSON can hold, with the number of their schema."""
        parts = {"measured": to_plain(self.measured), "provenance": to_plain(self.provenance)}
        return {"schema": SCHEMA, "spec": self.spec.to_dict(), **parts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the result that `to_dict` wrote.

        Raises:
            FtguardError: It was written under another schema, it is not complete, or a value is of another type.
        """
        try:
            schema = values["schema"]
            if schema != SCHEMA:
                message = f"its schema is {schema!r}, and this version of pytest-ftguard reads {SCHEMA}"
                raise FtguardError(message)
            return cls(
                TrialSpec.from_dict(values["spec"]),
                from_plain(values["measured"], Measured),
                from_plain(values["provenance"], Provenance),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"a trial's result is not complete: {type(error).__name__}: {error}"
            raise FtguardError(message) from error
