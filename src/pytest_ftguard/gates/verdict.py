"""What every gate gives: a verdict, and the rule by which an interval and a limit become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pytest_ftguard.gates.catalogue import row_of, title_of
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.keys import Origin
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval

__all__ = ["NOT_FINITE", "RecordedVerdict", "Status", "Verdict", "decide", "give", "invalid", "needs_seeds"]


Status = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]


NOT_FINITE: Final = "the value or its bounds are not finite numbers"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer of a gate.

    Attributes:
        gate: "loss_gap", "perplexity_gap", "retention", "forgetting", "convergence", "memory_budget", "time_budget",
            "regression", or the name of a gate of your own.
        status: "PASS", "FAIL", "INCONCLUSIVE" or "INVALID".
        candidate: Label of the variant that was judged.
        baseline: Label of the variant that it was judged against, where there was one.
        value: What was measured, in the unit of the limit; None where nothing may be concluded, or was: a result was
            accepted.
        interval: One-sided bounds of the value; None where it has none.
        limit: The limit, and where it was set.
        message: What was measured, what was allowed, why the answer is what it is, and what to do.
        note: What a PASS asks for, or what should be known of it, since nobody reads the message of a test that passed;
            None where that is nothing.
        attempts: How many times the test had been started when this was given: a rerun starts it again.
    """

    gate: str
    status: Status
    candidate: str
    baseline: str | None
    value: float | None
    interval: tuple[float, float] | None
    limit: Limit
    message: str
    note: str | None = None
    attempts: int = 1

    @property
    def title(self) -> str:
        """What the summary calls the gate."""
        return title_of(self.gate)

    @property
    def is_acceptance(self) -> bool:
        """Whether nothing was judged, because what was measured is accepted once the test has passed."""
        return self.gate == "regression" and self.status == "PASS" and self.value is None

    def without_acceptance(self) -> Verdict:
        """Return the verdict as it is where the test did not pass."""
        if not self.is_acceptance:
            return self
        message = f"{title_of(self.gate)} INVALID: the result was not accepted, since the test did not pass."
        return replace(self, status="INVALID", message=message, note=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as values that JSON can hold."""
        origin = self.limit.origin
        return {
            "gate": self.gate,
            "status": self.status,
            "candidate": self.candidate,
            "baseline": self.baseline,
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "limit": self.limit.value,
            "unit": self.limit.unit,
            "limit_source": origin.kind,
            "set_by": origin.name,
            "message": self.message,
            "note": self.note,
            "attempts": self.attempts,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Return the verdict that `to_dict` wrote."""
        rest = dict(values)
        origin = Origin(rest.pop("limit_source"), rest.pop("set_by"))
        limit, interval = Limit(rest.pop("limit"), rest.pop("unit"), origin), rest.pop("interval")
        return cls(**rest, limit=limit, interval=None if interval is None else (interval[0], interval[1]))


@dataclass(frozen=True)
class RecordedVerdict:
    """A verdict and the test that it was given in.

    Attributes:
        nodeid: pytest's name of the test.
        verdict: The verdict.
    """

    nodeid: str
    verdict: Verdict


def decide(gate: str, interval: Interval, limit: float) -> Status:
    """Return PASS where both bounds are within the limit, FAIL where both are beyond it, or else INCONCLUSIVE.

    An estimate or bound that is not finite is INVALID: every comparison is false for NaN.

    Raises:
        ConfigurationError: There is no such gate.
    """
    if not interval.is_finite:
        return "INVALID"
    if row_of(gate).is_at_least:
        within, beyond = interval.lower >= limit, interval.upper < limit
    else:
        within, beyond = interval.upper <= limit, interval.lower > limit
    return "PASS" if within else "FAIL" if beyond else "INCONCLUSIVE"


def needs_seeds(verdict: Verdict) -> bool:
    """Return whether more seeds could settle a verdict: the limit lies between its bounds.

    A gap that is within the limit but widening needs more steps instead.
    """
    if verdict.status != "INCONCLUSIVE" or verdict.interval is None:
        return False
    return verdict.interval[0] <= verdict.limit.value <= verdict.interval[1]


def give(
    gate: str,
    status: Status,
    *,
    candidate: TrainedVariant,
    baseline: TrainedVariant | None,
    measured: Interval | float | None,
    limit: Limit,
    message: str,
    note: str | None = None,
) -> Verdict:
    """Return a verdict on what was measured, an interval or a number without bounds, against a limit."""
    return Verdict(
        gate=gate,
        status=status,
        candidate=candidate.label,
        baseline=baseline.label if baseline else None,
        value=measured.value if isinstance(measured, Interval) else measured,
        interval=(measured.lower, measured.upper) if isinstance(measured, Interval) else None,
        limit=limit,
        message=message,
        note=note,
    )


def invalid(
    gate: str, candidate: TrainedVariant, baseline: TrainedVariant | None, limit: Limit, problems: Iterable[str]
) -> Verdict:
    """Return the verdict of a gate that may not conclude anything.

    Args:
        gate: The gate.
        candidate: The variant that was to be judged.
        baseline: The variant that it was to be judged against, where there is one.
        limit: The limit.
        problems: Why nothing may be concluded, each with what to do.
    """
    reasons = "\n".join(f"- {problem}" for problem in problems) or "- it was not measured"
    where = f"The limit, {limit}, was set by {limit.origin.name}."
    message = f"{row_of(gate).title} INVALID: nothing may be concluded.\n{reasons}\n{where}"
    return give(gate, "INVALID", candidate=candidate, baseline=baseline, measured=None, limit=limit, message=message)
