"""The verdicts of a test among the properties that JUnit XML shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pytest

    from pytest_ftguard.gates.verdict import Verdict

__all__ = ["Properties", "without_ours"]

_PREFIX = "ftguard."


class Properties:
    """The properties of one test.

    Args:
        item: The test.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._properties = item.user_properties

    def forget(self) -> None:
        """Take our properties out, for another attempt of the test."""
        self._properties[:] = without_ours(self._properties)

    def show(self, verdicts: Iterable[Verdict]) -> None:
        """Show these verdicts, and no others.

        If a test asks a gate again, its further verdicts are numbered: ftguard.loss_gap.2.status. What is pending has
        its number already.
        """
        self.forget()
        asked: Counter[str] = Counter()
        for verdict in verdicts:
            asked[verdict.gate] += 1
            times = asked[verdict.gate]
            name = f"{_PREFIX}{verdict.gate}" if times == 1 else f"{_PREFIX}{verdict.gate}.{times}"
            if verdict.status != "PENDING":
                self._properties += _fields(name, verdict)


def _fields(name: str, verdict: Verdict) -> Iterator[tuple[str, object]]:
    fields = verdict.shown()
    lower, upper = fields.pop("interval") or (None, None)
    for field, value in {**fields, "lower": lower, "upper": upper}.items():
        if field != "gate" and value is not None:
            yield f"{name}.{field}", value


def without_ours(properties: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Return the properties that are not ours."""
    return [pair for pair in properties if not pair[0].startswith(_PREFIX)]
