"""The job of evaluating a trained model in the forms in which it is shipped, as plain data that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from pytest_ftguard.results import from_plain, to_plain
from pytest_ftguard.results.forms import Shipping
from pytest_ftguard.specs import TrialSpec, import_paths

__all__ = ["FormsJob"]


@dataclass(frozen=True, kw_only=True)
class FormsJob:
    """A trained model that is to be saved, merged, reloaded and evaluated. The answer holds the losses, in `forms`.

    Attributes:
        spec: What was trained, with the workload that says what it is evaluated on.
        weights: Folder of the trained weights.
        folder: A folder of the job's own, which the pytest process sees under the same path.
        shipping: How it is shipped.
        timeout_seconds: Time that it may take once it has its device; None is no bound. The executor ends it.
        import_path: See `TrainJob`.
    """

    kind: ClassVar = "forms"

    spec: TrialSpec
    weights: Path
    folder: Path
    shipping: Shipping
    timeout_seconds: float | None = None
    import_path: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the job as values that JSON can hold."""
        return {
            "job": self.kind,
            "spec": self.spec.to_dict(),
            "weights": str(self.weights),
            "folder": str(self.folder),
            "shipping": to_plain(self.shipping),
            "timeout_seconds": self.timeout_seconds,
            "import_path": list(self.import_path),
            "variant_classes": import_paths([self.spec.variant]),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the job that `to_dict` wrote."""
        read = {
            "spec": TrialSpec.from_dict(values["spec"]),
            "weights": Path(values["weights"]),
            "folder": Path(values["folder"]),
            "shipping": from_plain(values["shipping"], Shipping),
            "import_path": tuple(values["import_path"]),
        }
        return cls(**{field.name: values[field.name] for field in fields(cls)} | read)
