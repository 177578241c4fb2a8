"""What every variant has: the base class, also for those of a user's own package."""

from __future__ import annotations

from dataclasses import Field
from typing import Any, ClassVar, Final, Literal, get_args

from pytest_ftguard.specs.values import Spec, one_of, positive

__all__ = ["Search", "Variant"]

Search = Literal["auto", "yes", "no"]
"""Whether a learning rate is searched: "yes" before a training, "no" never, and "auto" before a verdict hangs on it."""

_OF_FLAG: Final[dict[bool, Search]] = {True: "yes", False: "no"}


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
        search_learning_rate: Search the learning rate with a few short trials. "auto" does so before a verdict hangs on
            a rate that nobody chose; "yes", or True, before the training; "no", or False, never.
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
    search_learning_rate: Search | bool

    @property
    def label(self) -> str:
        """The variant's name in the summary."""
        return self.kind

    @property
    def search(self) -> Search:
        """Whether its learning rate is searched, as one of three words."""
        found = self.search_learning_rate
        return _OF_FLAG[found] if isinstance(found, bool) else found

    @property
    def searches_first(self) -> bool:
        """Whether its learning rate is searched before the training: on demand, or because no rule gives one."""
        has_none = self.learning_rate is None and self.rate_over_full is None
        return self.search == "yes" or (self.search == "auto" and has_none)

    def _check_rate(self) -> None:
        """Check the two fields that each variant has.

        Raises:
            ConfigurationError: The learning rate is not a finite number above 0, or the search is no known word.
        """
        name = type(self).__name__
        if self.learning_rate is not None:
            self._set("learning_rate", positive(f"{name}.learning_rate", self.learning_rate))
        search = self.search_learning_rate
        words = get_args(Search)
        self._set(
            "search_learning_rate",
            _OF_FLAG[search] if isinstance(search, bool) else one_of(f"{name}.search_learning_rate", search, words),
        )
