"""One trial: a variant, a seed, and the workload that both belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.identity import TRIAL, key_of
from pytest_ftguard.specs.methods.base import Variant
from pytest_ftguard.specs.methods.variants import variant_from_dict, variant_to_dict
from pytest_ftguard.specs.values import Spec, text_value, whole
from pytest_ftguard.specs.workload import Workload

__all__ = ["TrialSpec"]


@dataclass(frozen=True, kw_only=True)
class TrialSpec(Spec):
    """One variant, one seed, to be trained once.

    Attributes:
        workload: What is held fixed.
        variant: The way of adapting the weights, its learning rate filled in.
        seed: Seed of the data order and of the adapters' initial weights.
        device: "auto" or a device of torch: "cpu", "cuda", ...

    Raises:
        ConfigurationError: The learning rate is not filled in, or a field is not valid.
    """

    rows: ClassVar = TRIAL
    workload: Workload
    variant: Variant
    seed: int
    device: str = "auto"

    def __post_init__(self) -> None:
        self._set("seed", whole("TrialSpec.seed", self.seed, 0))
        self._set("device", text_value("TrialSpec.device", self.device))
        for name, kind in (("workload", Workload), ("variant", Variant)):
            if not isinstance(getattr(self, name), kind):
                message = f"TrialSpec.{name} must be a {name}, got {getattr(self, name)!r}"
                raise ConfigurationError(message)
        if self.variant.learning_rate is None:
            message = f"TrialSpec.variant needs a learning rate, got {self.variant!r}: use with_learning_rate first"
            raise ConfigurationError(message)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as values that JSON can hold."""
        return {
            "workload": self.workload.to_dict(),
            "variant": variant_to_dict(self.variant),
            "seed": self.seed,
            "device": self.device,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote.

        Raises:
            ConfigurationError: A field is unknown, missing or invalid.
        """
        parts = dict(values)
        if isinstance(parts.get("workload"), Mapping):
            parts["workload"] = Workload.from_dict(parts["workload"])
        if isinstance(parts.get("variant"), Mapping):
            parts["variant"] = variant_from_dict(parts["variant"])
        return super().from_dict(parts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what tells the trial apart within a run, in which a path stands for its content."""
        return hashlib.sha256(key_of(self, "trial").encode()).hexdigest()
