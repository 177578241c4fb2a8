"""What every gate gives: a verdict that explains itself, and the rule that makes one of an interval and a limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.gates.catalogue import GATES, row_of, title_of
from pytest_ftguard.gates.limits import BYTES, GROWTH, OF_GAIN, PERPLEXITY, SCORE, SHARE, Limit
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import key_of
from pytest_ftguard.statistics import Interval

__all__ = [
    "NOT_FINITE",
    "RecordedVerdict",
    "Side",
    "Status",
    "TestOutcome",
    "Verdict",
    "decide",
    "give",
    "invalid",
    "needs_seeds",
]


Status = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID", "ACCEPTED", "PENDING"]
"""The answers of a gate.

A result that is accepted is PENDING until its test has ended. Then it is ACCEPTED or INVALID: no report has a PENDING.
"""


Side = Literal["candidate", "baseline"]
"""One of the two variants of a verdict."""


_RATES: Final = (
    "candidate_learning_rate",
    "candidate_rate_origin",
    "baseline_learning_rate",
    "baseline_rate_origin",
)

_SCORED: Final = ("score", "slice")

# The side with a learning rate that may change an answer, the likelier one first.
_HANGS_ON: Final[Mapping[Status, tuple[Side, ...]]] = {
    "FAIL": ("candidate",),
    "INCONCLUSIVE": ("candidate", "baseline"),
    "PASS": ("baseline",),
}


TestOutcome = Literal["passed", "failed", "skipped", "xfailed", "xpassed"]
"""What became of a test, in pytest's words.

An error in setup or teardown is "failed", and so is a strict xfail that passes.
"""


NOT_FINITE: Final = "the value or its bounds are not finite numbers"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer of a gate.

    Attributes:
        gate: "loss_gap", "perplexity_gap", "retention", "accuracy_gap", "score_gap", "score", "forgetting",
            "convergence", "merge_drift", "memory_budget", "time_budget", "regression", or the name of a gate of your
            own.
        status: "PASS", "FAIL", "INCONCLUSIVE", "INVALID", or "ACCEPTED" if a result was accepted. The test itself sees
            "PENDING" for the last one, because a result is accepted only after its test has passed.
        candidate: Label of the variant that was judged.
        baseline: Label of the variant that it was judged against; None if there was none.
        value: What was measured, in the unit of the limit; None if nothing may be concluded, or a result was accepted.
        interval: One-sided bounds of the value; None if it has none.
        limit: The limit, and where it was set.
        reason: Why there is no value, in a few words; "" if there is one, or none is needed.
        details: The message after its first line: why the answer is what it is, then what to do.
        note: What the summary says below the verdict, because nobody reads the message of a test that passed; None if
            that is nothing.
        attempts: How many times the test had been started when this was given: a rerun starts it again.
        brief: Why the answer is what it is and what to do, in short; the summary says it if pytest does not print the
            message.
        only_warned: Whether the verdict only warned, and the test went on.
        keys: What tells candidate and baseline from every other variant of the run.
        candidate_learning_rate: The candidate's learning rate.
        candidate_rate_origin: Where that comes from: "given", "searched" or "default".
        baseline_learning_rate: The baseline's learning rate; None if there is no baseline.
        baseline_rate_origin: Where that comes from.
        score: The score that was judged; None if the gate is on something else.
        slice: The slice that it was judged on, as in "language=de"; None if on all examples.
        hangs_on: The sides that may lead to another answer at another learning rate, the likelier one first. It is for
            the helper that asks, and no report has it.
    """

    gate: str
    status: Status
    candidate: str
    baseline: str | None
    value: float | None
    interval: tuple[float, float] | None
    limit: Limit
    reason: str = ""
    details: tuple[str, ...] = ()
    note: str | None = None
    attempts: int = 1
    brief: str = ""
    only_warned: bool = False
    keys: tuple[str, ...] = ()
    candidate_learning_rate: float | None = None
    candidate_rate_origin: str | None = None
    baseline_learning_rate: float | None = None
    baseline_rate_origin: str | None = None
    score: str | None = None
    slice: str | None = None
    hangs_on: tuple[Side, ...] = field(default=(), compare=False)

    @property
    def title(self) -> str:
        """What the summary calls the gate, with the score and the slice that it judged."""
        title = title_of(self.gate)
        if self.score is not None and not title.startswith(self.score):
            title = f"{title} {self.score}" if self.gate == "score" else f"{self.score} {title}"
        return title if self.slice is None else f"{title}, {self.slice}"

    @property
    def lets_pass(self) -> bool:
        """Whether the test may still pass."""
        return self.status in ("PASS", "ACCEPTED", "PENDING")

    @property
    def headline(self) -> str:
        """The first line of the message, with gate, answer, value and bounds or the reason, and the limit.

        JUnit XML, GitHub's annotations and GitLab show this line alone.
        """
        is_of_baseline = self.limit.unit in (SHARE, OF_GAIN) and self.value is not None
        sides = f"{self.candidate} against {self.baseline}" if self.baseline and not is_of_baseline else self.candidate
        what = f": {self._measured}" if self.value is not None else f": {self.reason}" if self.reason else ""
        least = "at least " if _is_at_least(self.gate) else ""
        limit = f"limit {least}{self.limit.text_next_to(self.value)} ({self.limit.origin.name})"
        line = f"{self.title} {self.status}{what}, {limit}" + ("" if self.reason else f": {sides}")
        return " ".join(line.split())  # a label may hold a line break

    @property
    def _measured(self) -> str:
        assert self.value is not None  # else there is a reason
        value, *bounds = self.limit.texts(self.value, *(self.interval or ()))
        units = {BYTES: "", GROWTH: "", SCORE: "", PERPLEXITY: " points of perplexity"}
        if self.baseline is not None:  # a gate of a user's own may judge a share of one variant alone
            units |= {SHARE: f" of {self.baseline}'s", OF_GAIN: f" of {self.baseline}'s gain"}
        return value + (f" [{', '.join(bounds)}]" if bounds else "") + units.get(self.limit.unit, f" {self.limit.unit}")

    @property
    def message(self) -> str:
        """What was measured, what was allowed, why the answer is what it is, and what to do."""
        return "\n".join([self.headline, *self.details])

    def settled(self, why_not: str | None) -> Verdict:
        """Return what has become of a result that was to be accepted; any other verdict stays what it is.

        Args:
            why_not: Why it was not accepted, in a few words; None if it was.
        """
        if self.status != "PENDING":
            return self
        if why_not is None:
            return replace(self, status="ACCEPTED")
        reason = f"not accepted, because {why_not}"
        return replace(self, status="INVALID", reason=reason, details=(), brief="", note=_sentence(reason))

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as values that JSON can hold, for another process."""
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
            "reason": self.reason,
            "details": list(self.details),
            "note": self.note,
            "attempts": self.attempts,
            **{name: getattr(self, name) for name in (*_RATES, *_SCORED)},
            "brief": self.brief,
            "only_warned": self.only_warned,
            "keys": list(self.keys),
        }

    def shown(self) -> dict[str, Any]:
        """Return the verdict as reports show it: with its message in one piece."""
        rest = self.to_dict()
        for name in ("reason", "details", "brief", "only_warned", "keys"):
            del rest[name]
        last = {name: rest.pop(name) for name in ("note", "attempts", *_RATES, *_SCORED)}
        return {**rest, "message": self.message, **last}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Return the verdict that `to_dict` wrote."""
        rest = dict(values)
        origin = Origin(rest.pop("limit_source"), rest.pop("set_by"))
        limit, interval = Limit(rest.pop("limit"), rest.pop("unit"), origin), rest.pop("interval")
        bounds = None if interval is None else (interval[0], interval[1])
        lists = {name: tuple(rest.get(name, ())) for name in ("details", "keys")}
        return cls(**{**rest, **lists}, limit=limit, interval=bounds)


@dataclass(frozen=True)
class RecordedVerdict:
    """A verdict and the test that it was given in.

    Attributes:
        nodeid: pytest's name of the test.
        verdict: The verdict.
        test_outcome: What became of the test; None if that is not known.
    """

    nodeid: str
    verdict: Verdict
    test_outcome: TestOutcome | None = None


def _is_at_least(gate: str) -> bool:
    """Return whether a limit is known to be the smallest accepted value: another process may know more gates."""
    return gate in GATES and GATES[gate].is_at_least


def decide(gate: str, interval: Interval, limit: float) -> Status:
    """Return PASS if the whole interval is within the limit, FAIL if it is beyond it, or else INCONCLUSIVE.

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
    """Return whether more seeds could settle a verdict: the interval contains the limit.

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
    at: str = "",
    why: Sequence[str] = (),
    what_to_do: str = "",
    note: str | None = None,
    hangs_on: Sequence[Side] | None = None,
) -> Verdict:
    """Return a verdict; the first line of its message follows from what was measured and from the limit.

    Args:
        gate: The gate.
        status: Its answer.
        candidate: The variant that is judged.
        baseline: The variant that it is judged against; None if there is none.
        measured: An interval, or a number without bounds; None if a result is to be accepted.
        limit: The limit.
        at: What the answer holds at, for example learning rates; the second line of the message.
        why: Why the answer is what it is, a line each.
        what_to_do: What to do, the cheapest first; "" if that is nothing.
        note: What the summary says below the verdict.
        hangs_on: The sides that may lead to another answer at another learning rate; by default the candidate of a
            FAIL, the baseline of a PASS, and both of an INCONCLUSIVE.
    """
    return Verdict(
        gate=gate,
        status=status,
        candidate=candidate.label,
        baseline=baseline.label if baseline else None,
        value=measured.value if isinstance(measured, Interval) else measured,
        interval=(measured.lower, measured.upper) if isinstance(measured, Interval) else None,
        limit=limit,
        details=_details([at, *why], [what_to_do]),
        note=note,
        **_rates_of(candidate, baseline),
        hangs_on=tuple(_HANGS_ON.get(status, ()) if hangs_on is None else hangs_on),
        brief=" ".join(_details(why[:1], [what_to_do])),
        keys=_keys(candidate, baseline),
    )


def invalid(
    gate: str,
    candidate: TrainedVariant,
    baseline: TrainedVariant | None,
    limit: Limit,
    problems: Iterable[Problem | str],
    *,
    why: Iterable[str] = (),
) -> Verdict:
    """Return the verdict of a gate that may not conclude anything.

    Args:
        gate: The gate.
        candidate: The variant that was to be judged.
        baseline: The variant that it was to be judged against; None if there is none.
        limit: The limit.
        problems: Why nothing may be concluded; the first one stands in the first line of the message.
        why: What else belongs to the reasons, a line each.

    Raises:
        ConfigurationError: There is no such gate.
    """
    row_of(gate)  # a gate that nobody has added cannot be told from a misspelt one
    found = [one if isinstance(one, Problem) else Problem(one) for one in problems] or [Problem("it was not measured")]
    others = (" ".join(filter(None, (f"Also: {one.what}.", one.why))) for one in found[1:])
    logs = [f"The end of the log ({one.what}):\n{one.log}" for one in found if one.log]
    return Verdict(
        gate=gate,
        status="INVALID",
        candidate=candidate.label,
        baseline=baseline.label if baseline else None,
        value=None,
        interval=None,
        limit=limit,
        reason=found[0].what,
        details=(*_details([found[0].why, *others, *why], [one.remedy for one in found]), *logs),
        **_rates_of(candidate, baseline),
        hangs_on=_sides_of(found, candidate, baseline),
        brief=" ".join([_sentence(found[0].what), *_details([found[0].why], [found[0].remedy])]),
        keys=_keys(candidate, baseline),
    )


def _keys(candidate: TrainedVariant, baseline: TrainedVariant | None) -> tuple[str, ...]:
    return tuple(key_of(side.variant, "trial") for side in (candidate, baseline) if side is not None)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _rates_of(candidate: TrainedVariant, baseline: TrainedVariant | None) -> dict[str, Any]:
    sides = (candidate, baseline)
    found = [
        value for side in sides for value in ((side.variant.learning_rate, side.rate.origin) if side else (None,) * 2)
    ]
    return dict(zip(_RATES, found, strict=True))


def _sides_of(
    problems: Sequence[Problem], candidate: TrainedVariant, baseline: TrainedVariant | None
) -> tuple[Side, ...]:
    """Return the sides that another learning rate may help, the cause first; none if something else is wrong too."""
    sides: dict[str, Side] = {key_of(baseline.variant, "training"): "baseline"} if baseline else {}
    sides[key_of(candidate.variant, "training")] = "candidate"
    found = [sides.get(key_of(one.rate_of, "training")) if one.rate_of else None for one in problems]
    return () if None in found else tuple(dict.fromkeys(filter(None, found)))


def _details(why: Iterable[str], remedies: Iterable[str]) -> tuple[str, ...]:
    """Return the lines of a message after the first: reasons, then what to do."""
    todo = "; ".join(dict.fromkeys(filter(None, remedies)))
    return (*filter(None, why), *([f"What to do: {todo}{'' if todo.endswith('.') else '.'}"] if todo else []))
