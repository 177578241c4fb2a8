"""What every variant has: the base class, also for those of a user's own package."""

from __future__ import annotations

from dataclasses import Field
from typing import Any, ClassVar

from pytest_ftguard.specs.values import Spec, flag, positive

__all__ = ["Variant"]


class Variant(Spec):
    """A way of adapting the weights.

    A variant of your own is a frozen dataclass with keywords only, derived from this class. It has a `kind`, a
    `label`, a row in `rows` for each of its fields, and the two fields `learning_rate` and `search_learning_rate`.
    Its fields hold what JSON can hold. Decorate it with `register_variant`; the class must stand at the top of a
    module that can be imported, because each trial runs in a process of its own.

    Attributes:
        kind: What the variants of a class are called in reports and in the store.
        adapter: "module:Class" of the adapter, which turns a model into what is trained; see `training.adapters`.
        settings_prefix: How the ini keys of the fixture start that gives such a variant, "full" or "lora".
        starts_at_base: Whether its loss before training must be that of the base model. If not, a start that differs
            is measured, and explained if the base model is intact.
        rate_over_full: How many times full fine-tuning's learning rate its best is known to be; None if no rule is
            known, so that the rate must be given or searched.
        more_capacity: What gives it more capacity.
        told_by_label: The fields that its label always tells in full.
        learning_rate: Learning rate of the optimizer after the warm-up.
        search_learning_rate: Search the learning rate with a few short trials before the training.
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    kind: ClassVar[str]
    adapter: ClassVar[str] = ""
    settings_prefix: ClassVar[str] = "lora"
    starts_at_base: ClassVar[bool] = False
    rate_over_full: ClassVar[float | None] = None
    more_capacity: ClassVar[str] = "more trained parameters"
    told_by_label: ClassVar[tuple[str, ...]] = ()
    learning_rate: float | None
    search_learning_rate: bool

    @property
    def label(self) -> str:
        """The variant's name in the summary."""
        return self.kind

    def _check_rate(self) -> None:
        """Check the two fields that each variant has.

        Raises:
            ConfigurationError: The learning rate is not a finite number above 0, or the search neither True nor False.
        """
        name = type(self).__name__
        if self.learning_rate is not None:
            self._set("learning_rate", positive(f"{name}.learning_rate", self.learning_rate))
        flag(f"{name}.search_learning_rate", self.search_learning_rate)
