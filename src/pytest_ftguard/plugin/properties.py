"""The verdicts of a test among the properties that JUnit XML shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        self._asked: Counter[str] = Counter()
        self._acceptances: dict[str, Verdict] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no verdict was added since the test was started."""
        return not self._asked

    def forget(self) -> None:
        """Take our properties out, for another attempt of the test."""
        self._asked.clear()
        self._acceptances.clear()
        self._properties[:] = without_ours(self._properties)

    def add(self, verdict: Verdict) -> None:
        """Add a verdict. If a test asks a gate again, its further verdicts are numbered: ftguard.loss_gap.2.status."""
        self._asked[verdict.gate] += 1
        times = self._asked[verdict.gate]
        name = f"{_PREFIX}{verdict.gate}" if times == 1 else f"{_PREFIX}{verdict.gate}.{times}"
        if verdict.is_acceptance:
            self._acceptances[name] = verdict
        fields = verdict.to_dict()
        lower, upper = fields.pop("interval") or (None, None)
        for field, value in {**fields, "lower": lower, "upper": upper}.items():
            if field != "gate" and value is not None:
                self._properties.append((f"{name}.{field}", value))

    def tell_not_accepted(self) -> None:
        """Correct what was accepted and then not written: JUnit XML takes the properties from the teardown's report."""
        told = {
            f"{name}.{field}": value
            for name, verdict in self._acceptances.items()
            for field, value in verdict.without_acceptance().to_dict().items()
            if value is not None
        }
        self._properties[:] = [(name, told.get(name, value)) for name, value in self._properties]


def without_ours(properties: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Return the properties that are not ours."""
    return [pair for pair in properties if not pair[0].startswith(_PREFIX)]
