"""Sentences on a change since a result was accepted: what it rests on, and what would settle it."""

from __future__ import annotations

from pytest_ftguard.accepting.record import PairRecord
from pytest_ftguard.accepting.since import effort_to_settle_change, paired_seeds, units_of
from pytest_ftguard.comparison.changing import how_to_set
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.way_out import way_out_of_growth
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval

__all__ = ["counts", "earlier_label", "over", "units_and_seeds", "way_out_of_change"]


def counts(basis: str, rule: Rule) -> str:
    """Return what an interval rests on, and how often it errs."""
    return f"The interval rests on {basis}; {explain.ends_err(rule.confidence)}."


def units_and_seeds(now: PairRecord, then: PairRecord, name: str = "sequences") -> str:
    """Return how many examples and seeds of both results there are."""
    shared, units = paired_seeds(now, then), "{} {}".format(*units_of(now, name))
    if len(shared) == 1:
        return f"{units} and the one seed in common, which says nothing of other seeds"
    if shared:
        return f"{units} and {len(shared)} seeds, each paired with the same one then"
    return f"{units}, {len(now.seeds)} seeds now and {len(then.seeds)} others then"


def over(shared: tuple[int, ...], now: PairRecord, then: PairRecord) -> str:
    """Return that a value is over some of the seeds; "" if it is over all of them."""
    some = bool(shared) and not set(shared) == set(now.seeds) == set(then.seeds)
    return f", over the seed{'s' if len(shared) > 1 else ''} in common," if some else ""


def earlier_label(now: PairRecord, then: PairRecord) -> str:
    """Return what the candidate was called then; "" if that is its name now."""
    label = then.candidate.variant.label
    return "" if label == now.candidate.variant.label else f" ({label})"


def way_out_of_change(
    now: PairRecord,
    then: PairRecord,
    doubt: tuple[Interval, float],
    rule: Rule,
    accept_again: str,
    *,
    against: str,
    of: TrainedVariant,
    what: tuple[str, str] = ("growth", "sequences"),
) -> str:
    """Return what settles a change in doubt, with a number if it can be computed.

    Args:
        now: The result.
        then: What was accepted.
        doubt: The interval of the change, and the limit in it.
        rule: How it is judged.
        accept_again: How to accept again.
        against: What sentences call what was accepted.
        of: The variant that is judged.
        what: What the change is called, and what it was measured on.
    """
    effort = effort_to_settle_change(now, then, *doubt, rule.confidence)
    if effort is None:
        how = how_to_set(of, seeds=then.seeds)
        return (
            f"train with the seeds of {against} ({how}): pairs of the same seed mostly have less "
            "noise. Other seeds leave the noise of the accepted ones as it is, however many there are."
        )
    paired = len(paired_seeds(now, then))
    return way_out_of_growth(effort, paired, len(then.seeds), units_of(now, what[1]), accept_again, what=what[0])
