"""The scores of an accepted result, in the numbers that a later commit needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_ftguard.results import SequenceLosses, Trial

__all__ = ["ScoreRecord", "problem_of", "score_records"]

_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class ScoreRecord:
    """One score of a candidate and its baseline, or of one variant by itself.

    Attributes:
        differences: Score of the candidate minus that of the baseline, of each seed and example. Without a baseline,
            the score itself.
        base: Mean score of the base model.
        span: The lowest and the highest score that an example can have.
        function: The team's own function that gave it, "module:function"; None for the accuracy of a task with classes.
        code: SHA-256 of the module of the function; None if it has no source.
    """

    differences: tuple[tuple[float, ...], ...]
    base: float
    span: tuple[float, float]
    function: str | None = None
    code: str | None = None

    @property
    def source(self) -> tuple[str | None, str | None]:
        """What gave the score: scores of two sources are not comparable, whatever their name."""
        return self.function, self.code

    def mean(self, places: Sequence[int]) -> float:
        """Return the mean difference over some of the seeds, by their places."""
        rows = [self.differences[place] for place in places]
        return math.fsum(map(math.fsum, rows)) / sum(map(len, rows))

    def to_dict(self) -> dict[str, Any]:
        """Return the score as values that JSON can hold, in few characters."""
        about = {"function": self.function, "code": self.code, "base": self.base, "span": list(self.span)}
        return {**about, "differences": [[_short(value) for value in row] for row in self.differences]}


def _short(value: float) -> float:
    return int(value) if value == int(value) else value


def score_records(ours: Sequence[Trial], theirs: Sequence[Trial] | None) -> dict[str, ScoreRecord]:
    """Return what a later commit needs of each score that was measured of all, by one source; it may be none.

    Args:
        ours: The candidate's trials, by seed.
        theirs: The baseline's, likewise; None if the candidate is judged by itself.
    """
    trials = [*ours, *(theirs or ())]
    measured = [
        losses
        for trial in trials
        for losses in (trial.measured.validation, trial.measured.base_validation)
        if losses is not None
    ]
    if len(measured) != 2 * len(trials):
        return {}
    found = {name: _record(name, ours, theirs, measured) for name in measured[0].scored}
    return {name: record for name, record in found.items() if record is not None}


def _record(
    name: str, ours: Sequence[Trial], theirs: Sequence[Trial] | None, measured: Sequence[SequenceLosses]
) -> ScoreRecord | None:
    everything = [losses.scored.get(name, ()) for losses in measured]
    sources = {_source(name, losses, ours[0]) for losses in measured}
    if len(sources) > 1 or any(len(values) != len(measured[0].nll) for values in everything):
        return None
    if not all(map(math.isfinite, (value for values in everything for value in values))):
        return None
    low, high = min(map(min, everything)), max(map(max, everything))
    base = ours[0].measured.base_validation
    assert base is not None  # else it is not measured
    function, code = sources.pop()
    rows = [_scores(name, trial) for trial in ours]
    if theirs is not None:
        others = (_scores(name, trial) for trial in theirs)
        rows = [tuple(a - b for a, b in zip(one, other, strict=True)) for one, other in zip(rows, others, strict=True)]
    return ScoreRecord(
        differences=tuple(tuple(map(_rounded, row)) for row in rows),
        base=_rounded(math.fsum(base.scored[name]) / len(base.nll)),
        span=(0.0, 1.0) if low >= 0 and high <= 1 else (low, high),
        function=function,
        code=code,
    )


def _source(name: str, losses: SequenceLosses, trial: Trial) -> tuple[str | None, str | None]:
    if losses.scores is None or name not in losses.scores.values:
        return None, None
    return trial.spec.workload.score, losses.scores.code


def _scores(name: str, trial: Trial) -> tuple[float, ...]:
    assert trial.measured.validation is not None  # else it is not measured
    return trial.measured.validation.scored[name]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") + 0.0  # no -0.0


def problem_of(scores: Mapping[str, ScoreRecord], seeds: int, examples: int) -> str | None:
    """Return why nobody can have measured such scores, if they were read from a file; None if somebody can.

    Args:
        scores: The scores, by their names.
        seeds: How many seeds there are.
        examples: How many examples.
    """
    for name, record in scores.items():
        low, high = record.span
        numbers = [value for row in record.differences for value in row]
        if len(record.differences) != seeds or any(len(row) != examples for row in record.differences):
            return f"the score {name!r} has not one number for each seed and example"
        if not all(map(math.isfinite, (*numbers, record.base, low, high))) or low > high:
            return f"the score {name!r} has numbers that are not finite"
    return None
