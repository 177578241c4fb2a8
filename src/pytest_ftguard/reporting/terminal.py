"""The summary and the progress line at a terminal: each line keeps its tone, which the terminal shows as a colour."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from pytest_ftguard.reporting.summary import Block, Line, Row, Summary, Table, Tone, told_apart, tone_of
from pytest_ftguard.reporting.visible import visible

__all__ = ["terminal_lines"]

_WIDTH = 80
_UNDER = "    "
_HANGING = "      "
_GAP = 2
_WORST_FIRST: tuple[Tone, ...] = ("bad", "warn", "neutral", "good")


def terminal_lines(summary: Summary, verbosity: int = 0) -> Iterator[Line]:
    """Return the lines that a terminal shows, in 80 columns if their words allow it; each has a tone.

    Args:
        summary: What is shown.
        verbosity: pytest's: at -1 (`-q`) the table of gates alone with its notes, and below (`-qq`) one line. What
            makes the run fail although no test did is shown too. A plan is always whole.
    """
    if verbosity < 0 and not summary.is_plan:
        summary = _quiet(summary) if verbosity == -1 else _counted(summary)
    for number, block in enumerate(summary.blocks):
        if number:
            yield Line("")
        yield from _block(block)
    for note in summary.notes:
        yield from _line(note)


def _quiet(summary: Summary) -> Summary:
    """Return the table of gates with what stands below its rows, and the problems."""
    blocks = tuple(summary.about("gates", "not run"))
    return replace(summary, blocks=blocks, notes=_problems(summary))


def _problems(summary: Summary) -> tuple[Line, ...]:
    return tuple(note for note in summary.notes if note.tone == "bad")


def _counted(summary: Summary) -> Summary:
    """Return how many gates ended how, in one line, and the problems."""
    counts = Counter(map(told_apart, summary.verdicts))
    tones = set(map(tone_of, summary.verdicts))
    parts = [f"{count} {answer}" for answer, count in counts.most_common()]
    skipped = [line for block in summary.blocks if block.subject == "not run" for line in block.lines]
    said = [Line(f"gates: {', '.join(parts)}", next(tone for tone in _WORST_FIRST if tone in tones))] if parts else []
    return Summary((), (*said, *(replace(line, under=()) for line in skipped), *_problems(summary)))


def _block(block: Block) -> Iterator[Line]:
    if block.title:
        yield from _line(Line(block.title))
    for line in block.lines:
        yield from _line(line)
    if block.table:
        if block.lines:
            yield Line("")
        yield from _table(block.table)
    for line in block.notes:
        yield from _line(line)


def _line(line: Line) -> Iterator[Line]:
    for text in [line.text] if line.kind == "name" else _wrapped(line.text, "", _HANGING):
        yield Line(text, line.tone)
    yield from _under(line.under)


def _under(lines: Iterable[Line]) -> Iterator[Line]:
    for line in lines:
        for text in [f"{_UNDER}{line.text}"] if line.kind == "name" else _wrapped(line.text, _UNDER, _UNDER):
            yield Line(text, line.tone)


def _wrapped(text: str, first: str, others: str) -> Iterator[str]:
    """Return a text in lines of the summary's width; options and paths, which people copy, stay whole.

    A line of the text that begins with spaces is a command, and stays as it is.
    """
    for line in text.split("\n"):
        if line.startswith(" "):
            yield f"{first}{line}"
            continue
        yield from textwrap.wrap(
            line,
            _WIDTH,
            initial_indent=first,
            subsequent_indent=others,
            break_long_words=False,
            break_on_hyphens=False,
        )


def _table(table: Table) -> Iterator[Line]:
    """Return the lines of a table: its headings, then for each row its lines and what stands under it."""
    shown = [number for number, column in enumerate(table.columns) if not column.below]
    # A cell holds no line break of a label's: only this function breaks it.
    cells = [[visible(row.cells[number]) for number in shown] for row in table.rows]
    rows = [[table.columns[number].title for number in shown], *cells]
    widths = _widths(rows)
    aligned = [table.columns[number].right for number in shown]
    header, *bodies = (list(_cells(row, widths, aligned)) for row in rows)
    yield from map(Line, header)
    for body, row in zip(bodies, table.rows, strict=True):
        yield from (Line(text, row.tone) for text in body)
        yield from _under(_with_names(table, row))


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the widths of columns: if all cells in one line are too wide, headings are broken, then labels, then all.

    A cell is broken between its words only, so a table of long words is wider than a terminal.
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    whole = [max(_longest_word(title), *map(len, cells), 0) for title, *cells in columns]
    words = [max(map(_longest_word, column)) for column in columns]
    for least in (whole, [words[0], *whole[1:]], words):
        excess = sum(widths) + _GAP * (len(widths) - 1) - _WIDTH
        for _ in range(min(max(0, excess), sum(widths) - sum(least))):
            widest = max(range(len(widths)), key=lambda number: (widths[number] > least[number], widths[number]))
            widths[widest] -= 1
    return widths


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _cells(row: Sequence[str], widths: Sequence[int], aligned: Sequence[bool]) -> Iterator[str]:
    """Return the lines of a row."""
    broken = [
        [cell] if len(cell) <= width else list(_broken(cell, width)) for cell, width in zip(row, widths, strict=True)
    ]
    for parts in zip_longest(*broken, fillvalue=""):
        texts = (
            part.rjust(width) if right else part.ljust(width)
            for part, width, right in zip(parts, widths, aligned, strict=True)
        )
        yield (" " * _GAP).join(texts).rstrip()


def _broken(text: str, width: int) -> Iterator[str]:
    yield from textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _with_names(table: Table, row: Row) -> Iterator[Line]:
    """Return what stands under a row; the cells of columns that have no room are in front of the test's name."""
    cells = [visible(cell) for cell, column in zip(row.cells, table.columns, strict=True) if column.below and cell]
    if not (cells and row.under):
        yield from row.under
        return
    head, name, rest = f"{', '.join(cells)} in", row.under[0], row.under[1:]
    text = f"{head} {name.text}"
    if len(_UNDER) + len(text) <= _WIDTH:
        yield replace(name, text=text)
    else:
        yield Line(head, kind="note")
        yield name
    yield from rest
