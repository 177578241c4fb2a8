"""Rows that are evaluated: each is one example, with what is known of it besides its tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import About
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.rows.reading import Rows

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LENGTH", "RowSet", "described"]

LENGTH: Final = "length"
"""The slices that all rows have: by their number of tokens."""

_ID: Final = "id"
_MOST_SLICES: Final = 20
# A column with more different numbers than this is cut into thirds.
_MOST_NUMBERS: Final = 8
_NOTHING: Final = "none"
_LONGEST: Final = 40


class RowExample(Protocol):
    """A row in tokens."""

    @property
    def ids(self) -> Tensor:
        """Token ids, shape (tokens,)."""

    @property
    def predicted(self) -> int:
        """Number of tokens, or classes, that are predicted and count."""

    @property
    def content(self) -> Sequence[Tensor]:
        """All that the model sees and that is predicted."""


@dataclass(frozen=True)
class RowSet:
    """Examples to measure losses of: each is a row.

    Attributes:
        sequences: The examples.
        rows: The row of each, with all its columns.
        about: What is known of them; None if nobody asked.
        documents: Number of the group of each; None if they are independent of one another.
        repeated: Rows that were left out, because they repeat earlier ones.
        trained_on: How many of the examples stand in the training data as well.
        unknown: Share of the text that the tokenizer does not know.
    """

    sequences: tuple[Any, ...]
    rows: tuple[Mapping[str, Any], ...] = ()
    about: About | None = None
    documents: tuple[int, ...] | None = None
    repeated: int = 0
    trained_on: int = 0
    unknown: float = 0.0

    @property
    def tokens(self) -> tuple[int, ...]:
        """What is predicted of each: tokens that count, or one class."""
        return tuple(example.predicted for example in self.sequences)

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens and labels."""
        digest = hashlib.sha256()
        for example in self.sequences:
            digest.update(len(example.ids).to_bytes(8, "little"))
            for part in example.content:
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()


def described(workload: Workload, found: Rows, numbers: Sequence[int], evaluated: RowSet) -> RowSet:
    """Return examples with their rows, and with the slices and groups that the workload asks for.

    Args:
        workload: Which columns make slices and groups.
        found: The rows of the data.
        numbers: The number of each example's row, counted from 0.
        evaluated: The examples.

    Raises:
        ConfigurationError: There is no such column, or its values make no slices.
    """
    rows = tuple(found.rows[number] for number in numbers)
    lengths = [len(example.ids) for example in evaluated.sequences]
    slices = {
        column: _slices(found, column, lengths if _is_length(found, column) else _column(found, column, rows))
        for column in workload.slices
    }
    about = About(_names(rows, numbers), slices, workload.group)
    return replace(evaluated, rows=rows, about=about, documents=_groups(workload, found, rows))


def _names(rows: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> tuple[str, ...]:
    """Return what each example is called: by its id if every one has one of its own, else by its row's number."""
    names = tuple(str(row.get(_ID)) for row in rows)
    if len(set(names)) == len(names) and all(isinstance(row.get(_ID), int | str) for row in rows):
        return names
    return tuple(str(number + 1) for number in numbers)


def _groups(workload: Workload, found: Rows, rows: Sequence[Mapping[str, Any]]) -> tuple[int, ...] | None:
    if workload.group is None:
        return None
    known: dict[str, int] = {}
    # A row without a group is one of its own.
    keys = [
        f"{place}" if value is None else f"={value!r}"
        for place, value in enumerate(_column(found, workload.group, rows, "ftguard_group"))
    ]
    return tuple(known.setdefault(key, len(known)) for key in keys)


def _is_length(found: Rows, column: str) -> bool:
    return column == LENGTH and column not in found.columns


def _column(
    found: Rows, column: str, rows: Sequence[Mapping[str, Any]], setting: str = "ftguard_slices"
) -> Sequence[Any]:
    if column not in found.columns:
        message = (
            f"{found.name} has no column named {column!r} ({setting}): its columns are "
            f"{', '.join(map(repr, found.columns[:_MOST_SLICES]))}"
        )
        if setting == "ftguard_slices":
            message += f"; {LENGTH!r} stands for the number of tokens if there is no such column"
        raise ConfigurationError(message)
    return [row.get(column) for row in rows]


def _slices(found: Rows, column: str, values: Sequence[Any]) -> tuple[str, ...]:
    """Return the name of the slice of each value: its text or, if there are many different numbers, its third."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > _MOST_NUMBERS:
        return _thirds(numbers)
    names = tuple(_name(value) for value in values)
    if len(set(names)) > _MOST_SLICES:
        message = (
            f"the column {column!r} of {found.name} (ftguard_slices) has {len(set(names))} different values in the "
            f"evaluated rows, and slices are at most {_MOST_SLICES}: name a column with few values, or with numbers, "
            "which are cut into thirds"
        )
        raise ConfigurationError(message)
    return names


def _name(value: Any) -> str:
    text = _NOTHING if value is None else " ".join(str(value).split()) or _NOTHING
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _thirds(numbers: Sequence[float]) -> tuple[str, ...]:
    """Return to which third of the numbers each belongs; equal numbers are never parted."""
    ordered = sorted(numbers)
    low, high = (ordered[len(ordered) * share // 3 - 1] for share in (1, 2))

    def third(number: float) -> str:
        if number <= low:
            return f"up to {low:g}"
        return f"{low:g} to {high:g}" if number <= high else f"above {high:g}"

    return tuple(map(third, numbers))
