"""What a regression is judged by: the loss gap, the peak memory or the time of a step, each with its own sentences."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from pytest_ftguard.accepting.record import PairRecord
from pytest_ftguard.accepting.sentences import counts, earlier_label, over, units_and_seeds, way_out_of_change
from pytest_ftguard.accepting.since import (
    base_noise,
    differing_work,
    gap_change,
    growth_by_seed,
    memory_growth,
    paired_seeds,
    step_share,
    surroundings_since,
    time_growth,
    timed_seeds,
)
from pytest_ftguard.comparison.pairs import Comparison
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.comparison.same_work import same_sequences
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.limits import GROWTH, NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.margin import margin_of
from pytest_ftguard.gates.memory import memory_problems
from pytest_ftguard.gates.rates import learned_nothing
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.step_time import time_problems
from pytest_ftguard.gates.verdict import NOT_FINITE, Status, decide
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval
from pytest_ftguard.units import format_bytes

__all__ = [
    "MEASURES",
    "Change",
    "Measure",
    "_LossGap",
    "change_since",
    "counts",
    "earlier_label",
    "over",
    "units_and_seeds",
]

# Which answer counts if the last accepted result and the anchor give two.
_GRAVITY: Final[tuple[Status, ...]] = ("PASS", "INCONCLUSIVE", "INVALID", "FAIL")


@dataclass(frozen=True)
class Change:
    """How a pair stands to one result that was accepted.

    Attributes:
        against: Which one that is.
        then: The result.
        status: The answer.
        measured: By how much it has grown, in the limit's unit; None if nothing may be concluded.
        basis: What the value rests on, or what it means that nothing may be concluded.
        reason: Why nothing may be concluded, in a few words; "" if something may.
    """

    against: str
    then: PairRecord
    status: Status
    measured: Interval | float | None
    basis: str
    reason: str = ""

    @property
    def gravity(self) -> tuple[int, float]:
        """How much this answer weighs compared with another one."""
        value = self.measured.value if isinstance(self.measured, Interval) else self.measured
        return _GRAVITY.index(self.status), -math.inf if value is None else value


class Measure(ABC):
    """One way to judge a regression.

    Attributes:
        unit: Unit of its limit.
        depends_on_rates: Whether another learning rate may change it.
        beyond: What is said of a FAIL.
        moved: What became of a measure that is worse, and what that is called.
    """

    unit: ClassVar[str] = GROWTH
    depends_on_rates: ClassVar[bool] = False
    beyond: ClassVar[str] = explain.BEYOND
    moved: ClassVar[tuple[str, str]] = ("grown", "growth")

    @abstractmethod
    def problems(
        self, comparison: Comparison, limit: Limit, rule: Rule, status_at: Callable[[float], Status]
    ) -> list[Problem]:
        """Return why this measure of a pair can be neither judged nor accepted.

        Args:
            comparison: The pair.
            limit: The largest accepted growth.
            rule: How it is judged.
            status_at: Returns the answer at another limit.
        """

    @abstractmethod
    def change(self, now: PairRecord, then: PairRecord, limit: Limit, rule: Rule) -> tuple[Interval | float | str, str]:
        """Return by how much it has grown and what that rests on; why if it is unknown, and what that means."""

    @abstractmethod
    def standing(self, now: PairRecord, then: PairRecord) -> str:
        """Return what it is now and what it was, over the seeds from which the growth is judged."""

    @abstractmethod
    def way_out(
        self, now: PairRecord, change: Change, limit: Limit, rule: Rule, accept_again: str, *, candidate: TrainedVariant
    ) -> str:
        """Return what makes the interval narrower, with a number if it can be computed.

        Args:
            now: The result.
            change: How it has changed.
            limit: The largest accepted growth.
            rule: How it is judged.
            accept_again: How to accept again.
            candidate: The variant that is judged.
        """

    def notes(self, now: PairRecord, then: PairRecord, limit: Limit) -> list[str]:
        """Return what does not decide but should be known."""
        return []


class _LossGap(Measure):
    unit = NATS_PER_TOKEN
    depends_on_rates = True

    def problems(
        self, comparison: Comparison, limit: Limit, rule: Rule, status_at: Callable[[float], Status]
    ) -> list[Problem]:
        if comparison.loss_problems:
            return []
        # If full fine-tuning learns nothing either, a gap that has not grown says nothing.
        candidate, baseline = comparison.candidate, comparison.baseline
        gain, margin = comparison.losses.gain(rule.confidence), margin_of(limit, baseline)
        problems = learned_nothing(candidate, rule.confidence)
        if not gain.lower > rule.gain_factor * margin.nats:
            problems += learned_nothing(baseline, rule.confidence) or [
                explain.no_gain(baseline, gain, rule, margin, status_at)
            ]
        return problems

    def change(self, now: PairRecord, then: PairRecord, limit: Limit, rule: Rule) -> tuple[Interval | float | str, str]:
        interval = gap_change(now, then, rule.confidence)
        if now.differences == then.differences and now.seeds == then.seeds:
            same = "Both are the same to the last digit, for every seed and sequence, so nothing is uncertain."
            return interval, same
        return interval, counts(units_and_seeds(now, then), rule)

    def standing(self, now: PairRecord, then: PairRecord) -> str:
        shared = paired_seeds(now, then)
        gap, before = (record.gap(shared or record.seeds) for record in (now, then))
        label, reference = now.candidate.variant.label, now.reference.variant.label
        return (
            f"The loss gap of {label} against {reference}{over(shared, now, then)} is {gap:+.4f} nats per token, and "
            f"was {before:+.4f}{earlier_label(now, then)} when it was accepted."
        )

    def way_out(
        self, now: PairRecord, change: Change, limit: Limit, rule: Rule, accept_again: str, *, candidate: TrainedVariant
    ) -> str:
        assert isinstance(change.measured, Interval)  # nothing else is undecided
        doubt = (change.measured, limit.value)
        return way_out_of_change(now, change.then, doubt, rule, accept_again, against=change.against, of=candidate)

    def notes(self, now: PairRecord, then: PairRecord, limit: Limit) -> list[str]:
        shared = sorted(set(now.seeds) & set(then.seeds))
        if not shared:
            return []
        ours, theirs = (dict(zip(record.seeds, record.reference.losses, strict=True)) for record in (now, then))
        moved = sum(ours[seed] - theirs[seed] for seed in shared) / len(shared)
        if abs(moved) <= limit.value:
            return []
        return [
            f"The loss of {now.reference.variant.label} itself has moved by {moved:+.4f} nats per token, which is more "
            "than the limit: find out why before you rely on the gap."
        ]


class _Loss(_LossGap):
    """The loss of one variant by itself: what another library or machine does to it is not absorbed."""

    def change(self, now: PairRecord, then: PairRecord, limit: Limit, rule: Rule) -> tuple[Interval | float | str, str]:
        measured, basis = super().change(now, then, limit, rule)
        same = now.base.nll == then.base.nll
        return measured, basis if same else counts(units_and_seeds(now, then), rule)

    def standing(self, now: PairRecord, then: PairRecord) -> str:
        shared = paired_seeds(now, then)
        loss, before = (record.loss(shared or record.seeds) for record in (now, then))
        moved = "the same" if loss == before else "higher" if loss > before else "lower"
        return (
            f"The loss of {now.candidate.variant.label}{over(shared, now, then)} is {loss:.4f} nats per token, and "
            f"was {before:.4f}{earlier_label(now, then)} when it was accepted: it is {moved}."
        )

    def notes(self, now: PairRecord, then: PairRecord, limit: Limit) -> list[str]:
        changed = surroundings_since(now, then)
        if not changed or not same_sequences(now.base, then.base):
            return []
        mean, largest = base_noise(now, then)
        found = [
            f"Another environment than when it was accepted: {'; '.join(changed)}.",
            f"The base model, which was not trained, moved by {mean:+.4f} nats per token with these, and by up to "
            f"{largest:.4f} on one example: this much is measurement noise.",
        ]
        grown = growth_by_seed(now, then)
        if len(grown) > 1:
            found.append(f"The loss moved by {', '.join(f'{one:+.4f}' for one in grown)}, seed by seed.")
        return found


class _Memory(Measure):
    beyond = ""  # a peak has no chance in it

    def problems(
        self, comparison: Comparison, limit: Limit, rule: Rule, status_at: Callable[[float], Status]
    ) -> list[Problem]:
        return memory_problems(comparison.candidate, comparison.baseline)

    def change(self, now: PairRecord, then: PairRecord, limit: Limit, rule: Rule) -> tuple[Interval | float | str, str]:
        growth = memory_growth(now, then)
        if growth is None or not math.isfinite(growth.value):
            return "the peaks of memory were not measured in both, or not in the same way", ""
        (ratio,) = limit.texts(growth.ratio)
        share = f"The share of {now.reference.variant.label}'s peak has grown by {ratio}"
        if growth.absolute is None:
            return growth.value, f"{share}. Bytes are not compared, because machine or versions are not the same."
        (absolute,) = limit.texts(growth.absolute)
        return growth.value, f"{share}, and the peak itself, on the same machine, by {absolute}."

    def standing(self, now: PairRecord, then: PairRecord) -> str:
        # A peak is the largest over all seeds of its record.
        return _shares("The peak memory", now, then, (), *map(_peak, (now, then)))

    def way_out(
        self, now: PairRecord, change: Change, limit: Limit, rule: Rule, accept_again: str, *, candidate: TrainedVariant
    ) -> str:
        raise AssertionError("a peak has no interval, so it is never undecided")


class _Time(Measure):
    def problems(
        self, comparison: Comparison, limit: Limit, rule: Rule, status_at: Callable[[float], Status]
    ) -> list[Problem]:
        return time_problems(comparison.candidate, comparison.baseline)

    def change(self, now: PairRecord, then: PairRecord, limit: Limit, rule: Rule) -> tuple[Interval | float | str, str]:
        interval = time_growth(now, then, rule.confidence)
        if interval is None:
            return "the time of a step was not measured in both, with at least two seeds in common", ""
        basis = f"the {len(set(now.seeds) & set(then.seeds))} seeds in common"
        return interval, counts(basis, rule)

    def standing(self, now: PairRecord, then: PairRecord) -> str:
        shared = timed_seeds(now, then)
        return _shares(
            "The time of a step", now, then, shared, *(_step(record, shared or record.seeds) for record in (now, then))
        )

    def way_out(
        self, now: PairRecord, change: Change, limit: Limit, rule: Rule, accept_again: str, *, candidate: TrainedVariant
    ) -> str:
        return (
            "use an idle machine, more steps or more seeds (and --ftguard-no-cache if times come from the store), for "
            f"the accepted result too: {accept_again}."
        )


MEASURES: Final[Mapping[str, Measure]] = {
    "loss_gap": _LossGap(),
    "loss": _Loss(),
    "memory": _Memory(),
    "time": _Time(),
}


def change_since(
    now: PairRecord, then: PairRecord, against: str, *, limit: Limit, rule: Rule, measure: Measure
) -> Change:
    """Return how a pair stands to a result that was accepted.

    Args:
        now: The pair.
        then: The result.
        against: What sentences call it.
        limit: The largest accepted growth.
        rule: How it is judged.
        measure: What is judged.
    """
    if differing := differing_work(now, then):
        reason = f"not the same work as {against}"
        return Change(against, then, "INVALID", None, f"Different from {against}: {'; '.join(differing)}.", reason)
    measured, basis = measure.change(now, then, limit, rule)
    if isinstance(measured, str):
        return Change(against, then, "INVALID", None, basis, measured)
    if isinstance(measured, float):
        return Change(against, then, "PASS" if measured <= limit.value else "FAIL", measured, basis)
    status = decide("regression", measured, limit.value)
    if status == "INVALID":
        return Change(against, then, status, None, "", NOT_FINITE)
    return Change(against, then, status, measured, basis)


def _shares(what: str, now: PairRecord, then: PairRecord, shared: tuple[int, ...], *shares: str) -> str:
    ours, theirs = shares
    return (
        f"{what} of {now.candidate.variant.label}{over(shared, now, then)} is {ours} of "
        f"{now.reference.variant.label}'s, and was {theirs}{earlier_label(now, then)} when it was accepted."
    )


def _peak(record: PairRecord) -> str:
    ours, theirs = record.candidate.peak_bytes, record.reference.peak_bytes
    return f"{format_bytes(ours)}, {100 * ours / theirs:.1f}%" if ours and theirs else "unmeasured"


def _step(record: PairRecord, seeds: tuple[int, ...]) -> str:
    share = step_share(record, seeds)
    return "unmeasured" if share is None else f"{100 * share:.1f}%"
