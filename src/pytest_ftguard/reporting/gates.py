"""What the gates say, as a block of the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_ftguard.gates.catalogue import GATES
from pytest_ftguard.gates.limits import BYTES, GROWTH, POINTS, SHARE
from pytest_ftguard.gates.verdict import RecordedVerdict, Verdict
from pytest_ftguard.reporting.summary import Block, Column, Line, Row, Table, tone_of
from pytest_ftguard.units import decimals_apart, format_bytes_apart

__all__ = ["UNMEASURED", "gates_block", "measured_and_limit"]

UNMEASURED: Final = "-"
_COLUMNS: Final = (
    Column("gate"),
    Column("variant", below=True),
    Column("measured"),
    Column("limit"),
    Column("verdict"),
)


def gates_block(verdicts: Sequence[RecordedVerdict], labels: Mapping[str, str]) -> Block:
    """Return the table of gates: for each a row, the test, and what its reader should know.

    Args:
        verdicts: All verdicts.
        labels: What the tables of variants call each variant, by its key.
    """
    baselines = {_sides(recorded.verdict, labels)[1] for recorded in verdicts} - {""}
    noted: set[str] = set()
    rows = []
    for recorded in verdicts:
        verdict = recorded.verdict
        candidate, baseline = _sides(verdict, labels)
        variant = f"{candidate} against {baseline}" if baseline and len(baselines) > 1 else candidate
        attempts = f"  ({verdict.attempts} attempts)" if verdict.attempts > 1 else ""
        under = [Line(f"{recorded.nodeid}{attempts}", kind="name")]
        for note in filter(None, (why_not_printed(recorded), verdict.note)):
            under.append(Line("(the note above holds here too)" if note in noted else note, kind="note"))
            noted.add(note)
        rows.append(Row(_cells(verdict, variant), tone_of(recorded), tuple(under), recorded))
    return Block("gates", table=Table(_COLUMNS, tuple(rows)))


def _sides(verdict: Verdict, labels: Mapping[str, str]) -> tuple[str, str]:
    """Return what the tables of variants call candidate and baseline; "" for a baseline if there is none."""
    names = [verdict.candidate, verdict.baseline or ""]
    for number, key in enumerate(verdict.keys):
        names[number] = labels.get(key, names[number])
    return names[0], names[1]


def why_not_printed(recorded: RecordedVerdict) -> str:
    """Return in short what pytest's report of a failure would say, if pytest prints none; "" if it does."""
    verdict, outcome = recorded.verdict, recorded.test_outcome
    if verdict.lets_pass or not verdict.brief:
        return ""
    if outcome == "xfailed":
        return f"Expected to fail: {verdict.brief}"
    if verdict.only_warned:
        return f"Only a warning: {verdict.brief}"
    return "" if outcome in (None, "failed") else f"The test went on: {verdict.brief}"


def _cells(verdict: Verdict, variant: str) -> tuple[str, ...]:
    measured, limit = measured_and_limit(verdict)
    row = GATES.get(verdict.gate)  # nothing tells the side of the limit of a gate that is not known in this process
    sign = "" if row is None else ">= " if row.is_at_least else "<= "
    return verdict.title, variant, measured, f"{sign}{limit}  ({verdict.limit.origin.kind})", verdict.status


def measured_and_limit(verdict: Verdict) -> tuple[str, str]:
    """Return both with as many digits as it takes to see on which side of the limit the figures lie."""
    value, limit, unit = verdict.value, verdict.limit, verdict.limit.unit
    if value is None:
        return UNMEASURED, str(limit)
    if unit == BYTES:
        return format_bytes_apart(value, limit.value)
    bounds = verdict.interval or ()
    if limit.is_share:
        shares = [100 * number for number in (value, *bounds)]
        decimals = decimals_apart(shares, 100 * limit.value, 1)
        what = f"{shares[0]:{'+' if unit == GROWTH else ''}.{decimals}f}%"
        whole = f" of {verdict.baseline}" if unit == SHARE and not bounds else ""
        return f"{what}{_bounds(shares[1:], decimals)}{whole}", str(limit)
    decimals = decimals_apart((value, *bounds), limit.value, 1 if unit == POINTS else 3)
    return f"{value:+.{decimals}f}{_bounds(bounds, decimals)}", str(limit)


def _bounds(bounds: Sequence[float], decimals: int) -> str:
    return f" [{', '.join(f'{bound:.{decimals}f}' for bound in bounds)}]" if bounds else ""
