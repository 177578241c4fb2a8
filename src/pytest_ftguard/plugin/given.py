"""The verdicts that a test was given in its present attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_ftguard.plugin.properties import Properties

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from pytest_ftguard.gates.verdict import Verdict

__all__ = ["GivenVerdicts"]


class GivenVerdicts:
    """The verdicts of one attempt, which JUnit XML shows too; those of what the test accepts are PENDING until it ends.

    Args:
        item: The test.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._properties = Properties(item)
        self._properties.forget()
        self._verdicts: list[Verdict] = []
        self._untold = 0

    def __iter__(self) -> Iterator[Verdict]:
        """Return all of them, in the order in which they were given."""
        return iter(self._verdicts)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._verdicts)

    def add(self, verdict: Verdict, *, is_late: bool) -> None:
        """Keep a verdict; one that was given after the test was over is not among its properties."""
        self._verdicts.append(verdict)
        if not is_late:
            self._properties.show(self._verdicts)

    def spoiled_by(self) -> list[str]:
        """Return which gates forbid to accept anything, also those that only warned."""
        return [
            f"the gate {verdict.gate} of this test ended {verdict.status}"
            for verdict in self._verdicts
            if not verdict.lets_pass
        ]

    @property
    def are_pending(self) -> bool:
        """Whether the test has accepted something, and nobody has decided yet what becomes of it."""
        return any(verdict.status == "PENDING" for verdict in self._verdicts)

    def settle(self, why_not: str | None) -> list[Verdict]:
        """Turn what is PENDING into ACCEPTED, or into INVALID for a reason; return those verdicts."""
        settled = []
        for number, verdict in enumerate(self._verdicts):
            if verdict.status == "PENDING":
                self._verdicts[number] = verdict.settled(why_not)
                settled.append(self._verdicts[number])
        self._properties.show(self._verdicts)
        return settled

    def news(self) -> Iterator[Verdict]:
        """Return the verdicts that were not told yet; from one that is PENDING on they wait until it is settled."""
        for verdict in self._verdicts[self._untold :]:
            if verdict.status == "PENDING":
                return
            self._untold += 1
            yield verdict
