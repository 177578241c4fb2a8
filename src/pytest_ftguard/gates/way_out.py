"""What settles a verdict in doubt: more of the text, which costs little, or more seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from pytest_ftguard.comparison.changing import MOST_LISTED_SEEDS, more_seeds
from pytest_ftguard.comparison.evidence import count_units, more_text, unit_name
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.results import SequenceLosses, TrainedVariant
from pytest_ftguard.statistics import Effort, Interval, effort_to_settle

__all__ = ["way_out", "way_out_of_growth"]

# Of two ways that take both, the one with fewer seeds is cheaper, unless it takes very much text.
_MOST_TIMES_THE_TEXT: Final = 10
_TOO_CLOSE: Final = "so close to the limit that neither more seeds nor more {} text alone would settle it"


def way_out(
    doubt: tuple[Interval, float],
    rule: Rule,
    variant: TrainedVariant,
    losses: SequenceLosses,
    text: str,
    *,
    of: tuple[int, str] | None = None,
) -> str:
    """Name the cheapest way to an answer: to evaluate more text costs a fraction of training more seeds.

    Args:
        doubt: An interval and the value in it that must lie outside for an answer.
        rule: How the gate decides.
        variant: The variant that is judged, with all its seeds.
        losses: Those of a trial, on the text.
        text: Which text, "validation" or "reference".
        of: How many sequences, or examples of a slice, the interval rests on, and what they are called; by default
            all of the text.
    """
    has = len(variant.trials)
    units, name = of or (count_units(losses), unit_name(losses))
    name = name.removeprefix(f"{text} ")
    effort = effort_to_settle(*doubt, (has, units), rule.confidence, rule.seed_noise)
    seeds, sequences = effort.seeds, effort.sequences
    together = _together(doubt, rule, (has, units)) if seeds is None and sequences is None else None
    # A calibration is that of its text.
    again = "" if rule.seed_noise is None else ", and calibrate again with --ftguard-calibrate"

    def set_text(count: int) -> str:
        more = more_text(losses, text, variant, times=count / units)
        return f"{more}{again}"

    def set_seeds(count: int) -> str:
        how = more_seeds(variant, count)
        return f": {how}" if how else ""

    words = []
    if sequences is not None:
        words.append(f"about {sequences} {text} {name} instead of {units} would settle it: {set_text(sequences)}")
    if seeds is not None:
        words.append(f"about {seeds} seeds instead of {has} would settle it{set_seeds(seeds)}")
    if together is not None:
        words.append(
            f"about {together.seeds} seeds instead of {has} and {together.sequences} {text} {name} instead of {units} "
            f"would settle it together{set_seeds(together.seeds)} and {set_text(together.sequences)}"
        )
    if not words:
        return f"the value is {_TOO_CLOSE.format(text)}. Choose another limit, or improve the candidate."
    if sequences is None and together is None:
        words.append(f"more {text} text alone would not")
    elif seeds is None and together is None and has > 1:
        words.append("more seeds alone would not")
    return "; ".join(words) + ". That holds if the value stays the same."


class _Both(NamedTuple):
    seeds: int
    sequences: int


def _together(doubt: tuple[Interval, float], rule: Rule, shape: tuple[int, int]) -> _Both | None:
    """Return the fewest seeds that settle a doubt together with more of the text; None if no affordable number does."""
    (interval, limit), (has, units) = doubt, shape
    for seeds in range(has + 1, MOST_LISTED_SEEDS + 1) if interval.seed_variance > 0 else ():
        fewer = replace(interval, seed_variance=interval.seed_variance * has / seeds)
        effort = effort_to_settle(fewer, limit, (seeds, units), rule.confidence, rule.seed_noise)
        if effort.sequences is not None and effort.sequences <= _MOST_TIMES_THE_TEXT * units:
            return _Both(seeds, effort.sequences)
    return None


def way_out_of_growth(
    effort: Effort, paired: int, accepted: int, units: tuple[int, str], accept_again: str, *, what: str = "growth"
) -> str:
    """Name the cheapest way to an answer on a growth, for which only the seeds and text of both results count.

    Args:
        effort: What would settle it, in both results.
        paired: Number of seeds that both have.
        accepted: Number of seeds of the accepted result.
        units: How many sequences or documents there are, and which of the two.
        accept_again: How to accept again.
        what: What the change is called.
    """
    seeds, sequences = effort.seeds, effort.sequences
    if seeds is not None and seeds <= accepted:
        return (
            f"about {seeds} of the {accepted} accepted seeds, instead of {paired}, would settle it if the {what} stays "
            "the same."
        )
    words = [f"about {seeds} seeds instead of {paired}"] if seeds is not None else []
    if sequences is not None:
        words.append(f"about {sequences} validation {units[1]} instead of {units[0]}")
    if not words:
        return f"the {what} is {_TOO_CLOSE.format('validation')}. Choose another limit."
    return (
        f"in both results, {' or '.join(words)} would settle it if the {what} stays the same. More of them now "
        "alone would not, because each is paired with the same one of the accepted result: "
        f"{accept_again}, with as many in that run."
    )
