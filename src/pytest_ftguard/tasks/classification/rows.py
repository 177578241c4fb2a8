"""Rows with texts and labels, checked, and the classes that the labels stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.rows import Rows, listed

__all__ = ["Classes", "LabelledRow", "Read", "check_labels", "classes_of", "labelled_rows"]

Read = Callable[[str, str], Rows]
"""Reads rows from a place, in a role: "training", "validation" or "reference"."""

Label = int | str

_COLUMNS: Final = ("text", "text_pair", "label")
_MOST_NAMED: Final = 10
# A label of its own for nearly every row is a number or an identifier, and no class.
_MOST_CLASSES: Final = 0.5
_FEW_ROWS: Final = 20


@dataclass(frozen=True)
class LabelledRow:
    """A row.

    Attributes:
        text: What is classified.
        pair: The second of two texts that are classified together; None if there is one.
        label: Its class, as the row has it.
    """

    text: str
    pair: str | None
    label: Label

    @property
    def words(self) -> str:
        """What makes the row a copy of another, whatever their labels: its words."""
        return "\x00".join(" ".join(text.split()) for text in (self.text, self.pair) if text is not None)


@dataclass(frozen=True)
class Classes:
    """The classes that a model tells apart.

    Attributes:
        ids: The number of each label.
        count: How many classes the model's head has, which may be more than there are labels.
        is_known: Whether the model's own head knows these labels; otherwise it gets a new one.
    """

    ids: Mapping[Label, int]
    count: int
    is_known: bool

    @property
    def names(self) -> dict[int, str]:
        """The label of each number."""
        return {number: str(label) for label, number in self.ids.items()}


def labelled_rows(rows: Rows) -> tuple[LabelledRow, ...]:
    """Return rows as texts with labels.

    Raises:
        ConfigurationError: A column is missing, or a value is not what it must be; the message names the row.
    """
    missing = [column for column in ("text", "label") if column not in rows.columns]
    if missing:
        message = (
            f"{rows.name} has no column named {' or '.join(missing)}: its columns are "
            f"{', '.join(map(repr, rows.columns[:_MOST_NAMED]))}; the task classification reads text, label and, for "
            "two texts that belong together, text_pair"
        )
        raise ConfigurationError(message)
    has_pairs = "text_pair" in rows.columns
    return tuple(_row(rows.name, number, row, has_pairs) for number, row in enumerate(rows.rows, start=1))


def _row(name: str, number: int, row: Mapping[str, Any], has_pairs: bool) -> LabelledRow:
    text, pair, label = (row.get(column) for column in _COLUMNS)
    for column, value in (("text", text), *((("text_pair", pair),) if has_pairs else ())):
        if not isinstance(value, str) or not value.strip():
            message = f"row {number} of {name} has {value!r:.60} in its column {column}: it must be a text"
            raise ConfigurationError(message)
    # Yes and no are two classes; a column with a gap is read as fractions.
    if isinstance(label, bool) or (isinstance(label, float) and label.is_integer()):
        label = int(label)
    if not isinstance(label, int | str) or label == "":
        asked = "a whole number or a text"
        message = (
            f"row {number} of {name} has {label!r:.60} in its column label: it must be {asked}, the same for all rows "
            "of a class"
        )
        raise ConfigurationError(message)
    return LabelledRow(str(text), str(pair) if has_pairs else None, label)


def classes_of(rows: Sequence[LabelledRow], name: str, known: Mapping[str, int], count: int) -> Classes:
    """Return the classes that training rows are of.

    Args:
        rows: The rows.
        name: What messages call them.
        known: The labels that the model's configuration has, with their numbers; empty if it has no head.
        count: How many classes its head has.

    Raises:
        ConfigurationError: The labels are of two types, of one class, or no classes at all.
    """
    labels = {row.label for row in rows}
    if len({type(label) for label in labels}) > 1:
        odd = next(row for row in rows if isinstance(row.label, str))
        message = (
            f"{name} has labels of two types, whole numbers and texts (row {1 + rows.index(odd)} has {odd.label!r}): "
            "write all of them in one way"
        )
        raise ConfigurationError(message)
    found = sorted(labels, key=lambda label: (str(label) if isinstance(label, str) else "", label))
    if len(found) < 2:
        message = f"{name} has one class only ({found[0]!r}): a classifier needs at least two; look at the column label"
        raise ConfigurationError(message)
    if len(rows) >= _FEW_ROWS and len(found) > _MOST_CLASSES * len(rows):
        message = (
            f"{name} has {len(found)} different labels in {len(rows)} rows, so they are no classes: give a column "
            "label with the same value for all rows of a class"
        )
        raise ConfigurationError(message)
    if all(str(label) in known for label in found):
        return Classes({label: known[str(label)] for label in found}, count, is_known=True)
    numbers = [label for label in found if isinstance(label, int)]
    if known and len(numbers) == len(found) and min(numbers) >= 0 and max(numbers) < count:
        return Classes({number: number for number in numbers}, count, is_known=True)
    return Classes({label: number for number, label in enumerate(found)}, len(found), is_known=False)


def check_labels(rows: Sequence[LabelledRow], name: str, classes: Classes) -> None:
    """Check that rows have no other labels than those that are trained.

    Raises:
        ConfigurationError: They have.
    """
    odd = [number for number, row in enumerate(rows) if row.label not in classes.ids]
    if odd:
        labels = ", ".join(map(repr, dict.fromkeys(rows[number].label for number in odd[:_MOST_NAMED])))
        known = ", ".join(map(repr, list(classes.ids)[:_MOST_NAMED]))
        message = (
            f"{len(odd)} rows of {name} have a label that no training row has ({labels}; {listed(odd)}): the model "
            f"cannot learn it; the training labels are {known}"
        )
        raise ConfigurationError(message)
