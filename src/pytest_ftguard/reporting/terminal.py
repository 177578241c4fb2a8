"""The summary and the progress line at a terminal: each line keeps its tone, which the terminal shows as a colour."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from tabulate import tabulate

from pytest_ftguard.reporting.summary import TONE_OF, Block, Line, Summary, Table
from pytest_ftguard.reporting.visible import visible

__all__ = ["terminal_lines"]

_WIDTH = 80
_UNDER = "    "
_HANGING = "      "


def terminal_lines(summary: Summary, verbosity: int = 0) -> Iterator[Line]:
    """Return the lines that a terminal shows, in 80 columns if their words allow it; each has a tone.

    Args:
        summary: What is shown.
        verbosity: pytest's: at -1 (`-q`) the table of gates alone, and below (`-qq`) one line. What makes the run fail
            although no test did is shown too. A plan is always whole.
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
    """Return the table of gates without its notes, and the problems."""
    blocks = []
    for block in summary.blocks:
        if block.subject == "gates" and block.table:
            rows = (replace(row, under=_names(row.under)) for row in block.table.rows)
            blocks.append(replace(block, table=replace(block.table, rows=tuple(rows))))
        elif block.subject == "not run":
            blocks.append(block)
    return replace(summary, blocks=tuple(blocks), notes=_problems(summary))


def _names(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    return tuple(line for line in lines if line.kind == "name")


def _problems(summary: Summary) -> tuple[Line, ...]:
    return tuple(note for note in summary.notes if note.tone == "bad")


def _counted(summary: Summary) -> Summary:
    """Return how many gates ended how, in one line, and the problems."""
    counts = Counter(recorded.verdict.status for recorded in summary.verdicts)
    parts = [f"{count} {status}" for status, count in counts.most_common()]
    is_bad = any(TONE_OF[status] == "bad" for status in counts)
    skipped = [line for block in summary.blocks if block.subject == "not run" for line in block.lines]
    said = [Line(f"gates: {', '.join(parts)}", "bad" if is_bad else "good")] if parts else []
    return Summary((), (*said, *(replace(line, under=()) for line in skipped), *_problems(summary)))


def _block(block: Block) -> Iterator[Line]:
    if block.title:
        yield Line(block.title)
    for line in block.lines:
        yield from _line(line)
    if block.table:
        if block.lines:
            yield Line("")
        yield from _table(block.table)
    for line in block.notes:
        yield from _line(line)


def _line(line: Line) -> Iterator[Line]:
    for text in _wrapped(line.text, "", _HANGING) if line.kind == "note" else [line.text]:
        yield Line(text, line.tone)
    yield from _under(line.under)


def _under(lines: tuple[Line, ...]) -> Iterator[Line]:
    for line in lines:
        for text in _wrapped(line.text, _UNDER, _UNDER) if line.kind == "note" else [f"{_UNDER}{line.text}"]:
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
    """Return the lines of a table: its headings, then for each row a line and what stands under it."""
    headers = [column.title for column in table.columns]
    # A cell is one line, whatever a label holds: the table's lines are its rows.
    cells = [[visible(cell) for cell in row.cells] for row in table.rows]
    align = ["right" if column.right else "left" for column in table.columns]
    text = tabulate(cells, headers, tablefmt="plain", colalign=align, disable_numparse=True)
    header, *lines = text.split("\n")
    yield Line(header)
    for line, row in zip(lines, table.rows, strict=True):
        yield Line(line, row.tone)
        yield from _under(row.under)
