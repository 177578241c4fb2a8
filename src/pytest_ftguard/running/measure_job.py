"""The job of evaluating a trained model again, as plain data that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from pytest_ftguard.results import BaseLosses, from_plain_if_any, to_plain
from pytest_ftguard.specs import TrialSpec, import_paths

__all__ = ["MeasureJob"]


@dataclass(frozen=True, kw_only=True)
class MeasureJob:
    """A trained model that is to be evaluated on other examples. The answer holds a `result` with losses alone.

    Attributes:
        spec: What was trained, with the workload that says what it is evaluated on.
        folder: A folder of the trial's own, which the pytest process sees under the same path, with the weights in
            `model`.
        probe: What the trained model came to on the first training examples, to which the weights must come again.
        base: Losses of the base model on these examples, if an earlier trial measured them.
        timeout_seconds: Time that it may take once it has its device; None is no bound. The executor ends it.
        import_path: See `TrainJob`.
    """

    kind: ClassVar = "measure"

    spec: TrialSpec
    folder: Path
    probe: float
    base: BaseLosses | None = None
    timeout_seconds: float | None = None
    import_path: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the job as values that JSON can hold."""
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "job": self.kind,
            "spec": self.spec.to_dict(),
            "folder": str(self.folder),
            "base": to_plain(self.base),
            "import_path": list(self.import_path),
            "variant_classes": import_paths([self.spec.variant]),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the job that `to_dict` wrote."""
        read = {
            "spec": TrialSpec.from_dict(values["spec"]),
            "folder": Path(values["folder"]),
            "base": from_plain_if_any(values["base"], BaseLosses),
            "import_path": tuple(values["import_path"]),
        }
        return cls(**{field.name: values[field.name] for field in fields(cls)} | read)
