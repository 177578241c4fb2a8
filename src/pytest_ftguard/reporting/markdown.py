"""The summary as GitHub's Markdown, as long as GitHub takes it: verdicts first, and those that failed before others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_ftguard.gates.verdict import RecordedVerdict, Status
from pytest_ftguard.reporting.escaping import LONG, as_code, as_text
from pytest_ftguard.reporting.summary import Block, Column, Line, Row, Summary, told_apart, tone_of

__all__ = ["MOST_BYTES", "render"]

# GitHub takes 1 MiB for the summary of a step. Beyond it the whole summary is refused, and the step stays green.
MOST_BYTES: Final = 2**20 - 2**10
# What is said of things that were left out, once at the top and once in the part that lacks them.
_FOR_OMISSIONS: Final = 1000
_FOR_ONE_OMISSION: Final = 100
_WORST_FIRST: Final[tuple[Status, ...]] = ("FAIL", "INVALID", "INCONCLUSIVE", "PENDING", "PASS", "ACCEPTED")


@dataclass(frozen=True)
class _Part:
    """A part of the text.

    Attributes:
        rank: What is kept first if room is short: 0 before 1.
        head: What it begins with.
        items: Its lines, the most important ones first.
        what: What one of them is, in the plural.
    """

    rank: int
    head: str
    items: tuple[str, ...]
    what: str


def render(summary: Summary, most_bytes: int = MOST_BYTES) -> str:
    """Return the summary as Markdown in which every name and label is literal text.

    What does not fit is left out, details before verdicts, and the text says so at its top.

    Args:
        summary: What is shown.
        most_bytes: How long the text may be, in UTF-8; "" if not even its first lines fit.
    """
    top = f"## ftguard {'plan' if summary.is_plan else 'summary'}\n\n{_headline(summary.verdicts)}"
    parts = list(_parts(summary))
    room = most_bytes - _size(top) - _FOR_OMISSIONS
    if room < 0:
        return ""
    shown: dict[int, int] = {}
    for number, part in sorted(enumerate(parts), key=lambda pair: pair[1].rank):
        shown[number], used = _fit(part, room)
        # What matters less never takes the room of what matters more.
        room = room - used if shown[number] == len(part.items) else 0
    texts = [_text(part, shown[number]) for number, part in enumerate(parts)]
    return f"{top}{_omissions(parts, shown, summary.verdicts)}{''.join(texts)}"


def _headline(verdicts: Sequence[RecordedVerdict]) -> str:
    if not verdicts:
        return ""
    count = Counter(map(told_apart, _sorted(verdicts)))
    counts = ", ".join(f"{times} {answer}" for answer, times in count.items())
    return f"**{len(verdicts)} verdict{'s' if len(verdicts) > 1 else ''}: {counts}**\n\n"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace"))


def _fit(part: _Part, room: int) -> tuple[int, int]:
    """Return how many of a part's lines there is room for, and how many bytes the part then has."""
    used = _size(part.head) + _FOR_ONE_OMISSION + 1
    if used > room:
        return 0, 0
    for count, item in enumerate(part.items):
        size = _size(item) + 1
        if used + size > room:
            return (count, used) if count else (0, 0)
        used += size
    return len(part.items), used


def _text(part: _Part, count: int) -> str:
    if count == 0:
        return ""
    missing = len(part.items) - count
    omission = f"\nNot shown here, for lack of room: {missing:,} of {len(part.items):,} {part.what}.\n"
    return "\n".join([part.head, *part.items[:count], omission if missing else "", ""])


def _omissions(parts: Sequence[_Part], shown: dict[int, int], verdicts: Sequence[RecordedVerdict]) -> str:
    """Return what the text lacks, and whether any of that is a verdict that did not pass."""
    count: Counter[str] = Counter()
    listed: Counter[str] = Counter()
    for number, part in enumerate(parts):
        count[part.what] += len(part.items)
        listed[part.what] += shown[number]
    gone = [f"{count[what] - listed[what]:,} of {count[what]:,} {what}" for what in count if listed[what] < count[what]]
    if not gone:
        return ""
    hidden = Counter(map(told_apart, _sorted(verdicts)[listed["verdicts"] :]))
    which = ", ".join(f"{times:,} {answer}" for answer, times in hidden.items())
    verdict = f"Verdicts that are not listed: {which}. " if which else "Every verdict is listed. " if verdicts else ""
    return (
        f"**Left out, because GitHub takes 1 MiB at most: {', '.join(gone)}.** {verdict}"
        "The JSON report (`--ftguard-json`) has everything.\n\n"
    )


def _sorted(verdicts: Iterable[RecordedVerdict]) -> list[RecordedVerdict]:
    return sorted(verdicts, key=_badness)


def _parts(summary: Summary) -> Iterator[_Part]:
    """Return the parts in the order in which they are read."""
    problems = [line for line in summary.notes if line.tone == "bad"]
    others = [line for line in summary.notes if line.tone != "bad"]
    if problems:
        yield _Part(1, "### Problems\n", tuple(_list(problems)), "problems")
    for block in summary.about("gates"):
        yield from _gates(block)
    for block in summary.about("not run"):
        yield _Part(2, "### Not run\n", tuple(_list(block.lines)), "reasons")
    for block in summary.about("plan", "workload", "scores", "slices", "examples", "budgets"):
        yield from _described(block)
    for block in summary.about("failures"):
        yield _Part(3, "### Failed trials\n", tuple(_list(block.lines)), "failed trials")
    if others:
        yield _Part(6, "### Notes\n", tuple(_list(others)), "notes")


def _gates(block: Block) -> Iterator[_Part]:
    if block.table is None:
        return
    rows = sorted(block.table.rows, key=lambda row: _badness(row.recorded))
    head = _table_head((*block.table.columns, Column("test")))
    yield _Part(1, f"### Gates\n\n{head}", tuple(map(_gate_row, rows)), "verdicts")
    reasons = tuple(item for row in rows for item in _explanation(row))
    if reasons:
        yield _Part(5, "### What the gates say\n", reasons, "explanations")


def _badness(recorded: RecordedVerdict | None) -> tuple[int, int]:
    """Return what a verdict is sorted by: those that failed their tests come first."""
    if recorded is None:
        return len(_WORST_FIRST), 0
    tone = tone_of(recorded)
    return ("bad", "warn", "good", "neutral").index(tone), _WORST_FIRST.index(recorded.verdict.status)


def _gate_row(row: Row) -> str:
    name = next((line.text for line in row.under if line.kind == "name"), "")
    cells = [as_text(cell) for cell in row.cells]
    if row.tone == "bad":
        cells[-1] = f"**{cells[-1]}**"
    return _table_row([*cells, as_code(name)])


def _explanation(row: Row) -> Iterator[str]:
    """Return why a gate did not pass, or what should be known of one that did."""
    if row.recorded is None:
        return
    verdict = row.recorded.verdict
    lines = verdict.note if verdict.lets_pass else verdict.message
    if lines:
        name = f"{as_code(row.recorded.nodeid)}: {as_text(verdict.title)} {told_apart(row.recorded)}"
        yield _item(name, *_lines(lines))


def _described(block: Block) -> Iterator[_Part]:
    title = f"### {as_text(block.title)}\n" if block.title else ""
    if block.lines:
        yield _Part(4, title, tuple(_list(block.lines)), "lines")
        title = ""
    if block.table:
        rows = tuple(_table_row([as_text(cell) for cell in row.cells]) for row in block.table.rows)
        yield _Part(4, f"{title}\n{_table_head(block.table.columns)}", rows, "rows")
    if block.notes:
        yield _Part(6, "", tuple(_list(block.notes)), "notes")


def _list(lines: Iterable[Line], indent: str = "") -> Iterator[str]:
    for line in lines:
        if line.kind == "note":
            texts = _lines(line.text)
        else:
            texts = [as_code(line.text) if line.kind == "name" else as_text(line.text, LONG)]
        yield "\n".join([_item(*texts, indent=indent), *_list(line.under, f"{indent}  ")])


def _lines(text: str) -> list[str]:
    """Return each line of a text; one that begins with spaces is a command, and is shown as code."""
    lines = [line for line in text.split("\n") if line.strip()]
    return [as_code(line.strip()) if line.startswith("  ") else as_text(line.strip(), LONG) for line in lines]


def _item(*lines: str, indent: str = "") -> str:
    # A backslash at the end of a line breaks it.
    return f"{indent}- " + f"\\\n{indent}  ".join(lines)


def _table_head(columns: Sequence[Column]) -> str:
    rules = ["---:" if column.right else "---" for column in columns]
    return f"{_table_row([as_text(column.title) for column in columns])}\n{_table_row(rules)}"


def _table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
