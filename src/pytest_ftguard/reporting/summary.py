"""The summary as data: what a run came to, in blocks, tables and lines that each renderer shows in its own way.

A renderer is a function that takes a `Summary` and returns a text. It needs no other module of this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_ftguard.gates.verdict import RecordedVerdict, Status
from pytest_ftguard.results import Trial

__all__ = [
    "TONE_OF",
    "Block",
    "Column",
    "Kind",
    "Line",
    "Row",
    "Subject",
    "Summary",
    "Table",
    "Tone",
    "told_apart",
    "tone_of",
]

Tone = Literal["neutral", "good", "warn", "bad"]
"""What a line says about the run: it is never read from the line's text.

"warn" is a verdict that did not fail its test, although it is neither PASS nor ACCEPTED.
"""

Kind = Literal["text", "note", "name"]
"""A sentence, a note, or pytest's name of a test. A name is never wrapped.

Each line of a note is a sentence of its own; a line that begins with spaces is a command, and is never wrapped.
"""

Subject = Literal["plan", "workload", "scores", "slices", "examples", "failures", "gates", "not run", "budgets"]

TONE_OF: dict[Status, Tone] = {
    "PASS": "good",
    "ACCEPTED": "good",
    "FAIL": "bad",
    "INCONCLUSIVE": "bad",
    "INVALID": "bad",
    "PENDING": "bad",
}
"""The tone of a verdict by itself: by default a test passes only if it is PASS or ACCEPTED."""


def tone_of(recorded: RecordedVerdict) -> Tone:
    """Return the tone of a verdict: that of its answer, unless it only warned, or its test was expected to fail."""
    tone, outcome = TONE_OF[recorded.verdict.status], recorded.test_outcome
    if tone != "bad" or outcome in (None, "failed"):
        return tone
    return "warn" if recorded.verdict.only_warned or outcome == "xfailed" else "bad"


def told_apart(recorded: RecordedVerdict) -> str:
    """Return the answer of a verdict, and why it did not fail its test if that is not PASS."""
    status = recorded.verdict.status
    if tone_of(recorded) != "warn":
        return status
    return f"{status} ({'xfailed' if recorded.test_outcome == 'xfailed' else 'only warned'})"


@dataclass(frozen=True)
class Line:
    """A sentence or a name.

    Attributes:
        text: The text; it may hold anything that a test's name, a label or an error's message holds.
        tone: What it says about the run.
        kind: How it may be shown.
        under: What belongs to it.
    """

    text: str
    tone: Tone = "neutral"
    kind: Kind = "text"
    under: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        right: Whether its cells are aligned to the right.
        below: Whether a narrow table has its cells below the rows, before the name of the test.
    """

    title: str
    right: bool = False
    below: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: A text for each column.
        tone: What the row says about the run.
        under: What belongs to it: the test's name first, then what its reader should know.
        recorded: The verdict that it shows, if it shows one.
    """

    cells: tuple[str, ...]
    tone: Tone = "neutral"
    under: tuple[Line, ...] = ()
    recorded: RecordedVerdict | None = None


@dataclass(frozen=True)
class Table:
    """Rows below their headings.

    Attributes:
        columns: The headings.
        rows: The rows, each with a cell for every column.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Block:
    """What is said about one subject.

    Attributes:
        subject: What it is about.
        title: A heading; "" if it needs none.
        lines: What stands before the table.
        table: The table, if there is one.
        notes: What stands after it.
    """

    subject: Subject
    title: str = ""
    lines: tuple[Line, ...] = ()
    table: Table | None = None
    notes: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        blocks: What was trained, what failed, and what the gates say, in the order in which people read it.
        notes: What else there is to say; problems, which make the run fail, come last and their tone is "bad".
        trials: Every trial, for renderers that show more than the blocks do.
        verdicts: Every verdict, for the same.
        is_plan: Whether nothing was trained, and the blocks say what would be.
        root: pytest's root folder, if paths in it are to be written from there.
    """

    blocks: tuple[Block, ...] = ()
    notes: tuple[Line, ...] = ()
    trials: tuple[Trial, ...] = ()
    verdicts: tuple[RecordedVerdict, ...] = ()
    is_plan: bool = False
    root: Path | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to say."""
        return not (self.blocks or self.notes)

    def about(self, *subjects: Subject) -> Iterator[Block]:
        """Return the blocks about some subjects, in their order."""
        return (block for block in self.blocks if block.subject in subjects)
