"""Full fine-tuning, against which the other variants are judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from pytest_ftguard.specs.identity import FULL
from pytest_ftguard.specs.methods.base import Search, Variant

__all__ = ["FULL_LEARNING_RATE", "Full"]

FULL_LEARNING_RATE: Final = 5e-5


@dataclass(frozen=True, kw_only=True)
class Full(Variant):
    """Full fine-tuning: every weight is trained.

    Attributes:
        learning_rate: Learning rate of AdamW after the warm-up; None is 5e-5.
        search_learning_rate: Search the learning rate with a few short trials: auto (before a verdict hangs on a rate
            that nobody chose), yes (before the training) or no. True is yes, and False is no.

    Raises:
        ConfigurationError: The learning rate is not a finite number above 0, or the search is no known word.
    """

    kind: ClassVar[str] = "full"
    rows: ClassVar = FULL
    settings_prefix: ClassVar[str] = "full"
    starts_at_base: ClassVar[bool] = True
    rate_over_full: ClassVar[float | None] = 1.0
    learning_rate: float | None = None
    search_learning_rate: Search | bool = "auto"

    def __post_init__(self) -> None:
        self._check_rate()
