"""The gates of the summary, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tabulate import tabulate

from pytest_ftguard.gates.catalogue import GATES
from pytest_ftguard.gates.limits import BYTES, GROWTH, SHARE
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.units import decimals_apart, format_bytes_apart

__all__ = ["UNMEASURED", "RecordedVerdict", "gate_lines", "measured_and_limit"]

UNMEASURED: Final = "-"


@dataclass(frozen=True)
class RecordedVerdict:
    """A verdict and the test that it was given in.

    Attributes:
        nodeid: pytest's name of the test.
        verdict: The verdict.
    """

    nodeid: str
    verdict: Verdict


def gate_lines(verdicts: Sequence[RecordedVerdict]) -> Iterator[str]:
    """Return the table of gates: for each a row, the test, and what its reader should know."""
    rows = [_gate_row(recorded.verdict) for recorded in verdicts]
    table = tabulate(rows, ("gate", "measured", "limit", "verdict"), tablefmt="plain", disable_numparse=True)
    header, *lines = table.splitlines()
    yield header
    noted: set[str] = set()
    for line, recorded in zip(lines, verdicts, strict=True):
        yield line
        attempts = recorded.verdict.attempts
        yield f"    {recorded.nodeid}{f'  ({attempts} attempts)' if attempts > 1 else ''}"
        note = recorded.verdict.note or ""
        yield from _indented("(the note above holds here too)" if note in noted else note)
        noted |= {note} - {""}


def _indented(text: str) -> list[str]:
    indent = "    "
    return textwrap.wrap(
        text, 80, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _gate_row(verdict: Verdict) -> list[str]:
    measured, limit = measured_and_limit(verdict)
    sign = ">=" if GATES[verdict.gate].is_at_least else "<="
    return [GATES[verdict.gate].title, measured, f"{sign} {limit}  ({verdict.limit.origin.kind})", verdict.status]


def measured_and_limit(verdict: Verdict) -> tuple[str, str]:
    """Return both with as many digits as it takes to see on which side of the limit the figures lie."""
    value, limit, unit = verdict.value, verdict.limit, verdict.limit.unit
    if value is None:
        return "accepted" if verdict.is_acceptance else UNMEASURED, str(limit)
    if unit == BYTES:
        return format_bytes_apart(value, limit.value)
    bounds = verdict.interval or ()
    if limit.is_share:
        shares = [100 * number for number in (value, *bounds)]
        decimals = decimals_apart(shares, 100 * limit.value, 1)
        what = f"{shares[0]:{'+' if unit == GROWTH else ''}.{decimals}f}%"
        whole = f" of {verdict.baseline}" if unit == SHARE and not bounds else ""
        return f"{what}{_bounds(shares[1:], decimals)}{whole}", str(limit)
    decimals = decimals_apart((value, *bounds), limit.value, 3)
    return f"{value:+.{decimals}f}{_bounds(bounds, decimals)}", str(limit)


def _bounds(bounds: Sequence[float], decimals: int) -> str:
    return f" [{', '.join(f'{bound:.{decimals}f}' for bound in bounds)}]" if bounds else ""
