"""What a test asks about a pair of variants and its accepted result, with all that the answer depends on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_ftguard.accepting.history import AcceptedFile
from pytest_ftguard.accepting.metrics import MEASURES, Change, Measure, change_since
from pytest_ftguard.accepting.record import PairRecord, record_one, record_pair
from pytest_ftguard.accepting.score_measure import ScoreFall
from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.memory import memory_problems
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.step_time import time_problems
from pytest_ftguard.gates.verdict import Status, Verdict, give, invalid
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval

__all__ = ["ANCHOR", "LAST", "Asked", "Metric"]

Metric = Literal["loss_gap", "loss", "memory", "time"]
LAST, ANCHOR = "the accepted result", "the anchor, which was accepted first"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whether a pair, or one variant, is about as good as when it was accepted, or whether it may be accepted.

    Attributes:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against, which absorbs what the machine has changed; None if the
            candidate is judged by itself.
        limit: The largest accepted growth: of the loss gap or the loss in nats per token, or of memory or time as a
            share; or the largest accepted fall of a score, in percentage points or its own unit.
        rule: How it is judged; a calibrated noise is that of one gap and not of two, so it is not used.
        metric: What is judged.
        file: What was accepted, and where it belongs.
        origin: Where the seconds come from; "" if they are those of the trainings.
        score: The score that is judged, in place of the loss; None if the metric is judged.
    """

    candidate: TrainedVariant
    baseline: TrainedVariant | None
    limit: Limit
    rule: Rule
    metric: Metric
    file: AcceptedFile
    origin: str = ""
    score: str | None = None

    @property
    def measure(self) -> Measure:
        """How the metric, or the score, is judged."""
        return MEASURES[self.metric] if self.score is None else ScoreFall(self.score)

    @property
    def sides(self) -> tuple[TrainedVariant, ...]:
        """The candidate, and the baseline if there is one."""
        return (self.candidate,) if self.baseline is None else (self.candidate, self.baseline)

    def problems(self) -> list[Problem]:
        """Return why the pair by itself can be neither judged nor accepted; empty if it can."""
        same_rate = self.rule.same_learning_rate or not self.measure.depends_on_rates
        # One variant stands next to itself: what forbids a conclusion about a side is found all the same.
        comparison = compare(self.candidate, self.baseline or self.candidate, same_learning_rate=same_rate)
        problems = [
            *comparison.loss_problems,
            *self.measure.problems(comparison, self.limit, self.rule, self._status_at),
        ]
        return list(dict.fromkeys(problems))

    def _status_at(self, limit: float) -> Status:
        """Return the answer at another limit; what has no accepted result yet can be accepted at any."""
        if self.file.history is None:
            return "PASS"
        asked, now = replace(self, limit=replace(self.limit, value=limit)), self.record()
        held = {LAST: self.file.history.accepted, ANCHOR: self.file.history.anchor}
        return max(
            (asked.change_since(now, then, name) for name, then in held.items()), key=lambda change: change.gravity
        ).status

    def record(self) -> PairRecord:
        """Return the record of the pair; bytes and seconds that their own gates would refuse are not in it."""
        if self.baseline is None:
            return record_one(self.candidate)
        sides = (self.candidate, self.baseline)
        gap = compare(*sides, same_learning_rate=True).losses.gap(self.rule.confidence)
        return record_pair(
            *sides,
            bounds=(gap.lower, gap.upper) if gap.is_finite else None,
            sound_memory=not memory_problems(*sides),
            sound_time=not time_problems(*sides),
        )

    def change_since(self, now: PairRecord, then: PairRecord, name: str) -> Change:
        """Return how a record of the pair stands to one that was accepted, which sentences call by a name."""
        return change_since(now, then, name, limit=self.limit, rule=self.rule, measure=self.measure)

    def give(
        self,
        status: Status,
        measured: Interval | float | None,
        why: Sequence[str],
        what_to_do: str = "",
        *,
        notes: Sequence[str] = (),
        at: str = "",
    ) -> Verdict:
        """Return a verdict; see `verdict.give`."""
        verdict = give(
            "regression",
            status,
            candidate=self.candidate,
            baseline=self.baseline,
            measured=measured,
            limit=self.limit,
            at=at,
            why=[*why, self.origin],
            what_to_do=what_to_do,
            note=" ".join(notes) or None,
        )
        return replace(verdict, score=self.score)

    def invalid(self, problems: Iterable[Problem], why: Sequence[str] = ()) -> Verdict:
        """Return the verdict that nothing may be concluded; see `verdict.invalid`."""
        sides = (self.candidate, self.baseline)
        verdict = invalid("regression", *sides, self.limit, problems, why=[*why, self.origin])
        return replace(verdict, score=self.score)
