"""Scores in the summary: their table, the tables of slices, the examples that lost most, and notes on the scoring."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from pytest_ftguard.comparison.examples import Lost, lost_most, pairs_to_compare
from pytest_ftguard.comparison.means import SliceMeans, by_slice, main_score, mean, mean_scores, own_scores
from pytest_ftguard.comparison.same_work import same_sequences
from pytest_ftguard.comparison.scores import Slice
from pytest_ftguard.reporting.gates import UNMEASURED
from pytest_ftguard.reporting.summary import Block, Column, Line, Row, Table
from pytest_ftguard.reporting.visible import visible
from pytest_ftguard.results import ACCURACY, SequenceLosses, TrainedVariant, Trial

__all__ = ["BASE", "column_of_score", "score_blocks", "score_cells", "score_notes"]

BASE: Final = "base model"
# A heading of one longer word makes the table of variants too wide.
_LONGEST_HEADING: Final = 13
_LONGEST_NAME: Final = 40
# So many models have room in a table of slices, with loss above score.
_MOST_SIDES: Final = 6
_SECONDS_TO_TELL: Final = 2.0


def score_blocks(
    variants: Sequence[TrainedVariant], labels: Sequence[str], judged: Collection[tuple[str, ...]]
) -> Iterator[Block]:
    """Yield what is shown of one workload's scores below its table of variants.

    Args:
        variants: The variants.
        labels: What the summary calls each of them.
        judged: The `keys` of verdicts: what tells candidate and baseline from other variants.
    """
    names = own_scores(variants)
    if names and column_of_score(variants) is None:
        rows = tuple(Row((visible(name), *score_cells(variants, name))) for name in names)
        columns = (Column("score"), *_headings(labels))
        yield Block("scores", "scores: mean over the validation examples", table=Table(columns, rows))
    yield from _slices(variants, labels)
    lines = tuple(_lost(variants, labels, judged))
    if lines:
        yield Block("examples", lines=lines)


def _headings(labels: Sequence[str]) -> Iterator[Column]:
    return (Column(visible(label)) for label in (BASE, *labels))


def column_of_score(variants: Sequence[TrainedVariant]) -> str | None:
    """Return the score that has a column in the table of variants; None if scores have a table of their own.

    That table has room for one score, if it shows no accuracy and no loss on a reference text.
    """
    names = own_scores(variants)
    measured = [trial.measured for variant in variants for trial in variant.trials]
    has_more = any(one.reference or (one.validation and one.validation.answers) for one in measured)
    return names[0] if len(names) == 1 and len(names[0]) <= _LONGEST_HEADING and not has_more else None


def score_cells(variants: Sequence[TrainedVariant], name: str) -> list[str]:
    """Return what the base model and each variant have of a score: mean over the examples, +- over the seeds."""
    base = _base(variants, name)
    means = [None if base is None else [mean_scores(base)[name]], *(_of_seeds(one, name) for one in variants)]
    shown = _Decimals(name, (value for values in means for value in values or ()))
    return [UNMEASURED if values is None else shown.mean(values) for values in means]


def _base(variants: Sequence[TrainedVariant], score: str | None) -> SequenceLosses | None:
    """Return the base model's losses, those of the first trial that has the score; None if none has."""
    trials = (trial for variant in variants for trial in variant.trials)
    losses = (trial.measured.base_validation for trial in trials)
    return next((one for one in losses if one is not None and (score is None or score in one.scored)), None)


def _of_seeds(variant: TrainedVariant, name: str) -> list[float] | None:
    """Return the mean of a score for each seed; None unless every seed has it."""
    losses = [trial.measured.validation for trial in variant.trials]
    found = [mean_scores(one)[name] for one in losses if one is not None and name in one.scored]
    return found if variant.ok and len(found) == len(losses) else None


class _Decimals:
    """Shows numbers of one score alike: accuracy in percent, others with as many digits as the largest one needs.

    Args:
        name: Name of the score.
        values: The numbers.
    """

    def __init__(self, name: str, values: Iterable[float]) -> None:
        self._scale, self._unit = (100, "%") if name == ACCURACY else (1, "")
        largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
        self._form = ".3g"
        if name == ACCURACY or largest >= 100:
            self._form = ".1f" if largest < 1e6 else ".3g"
        elif largest == 0 or largest >= 0.01:
            self._form = ".3f" if largest < 10 else ".2f"

    def value(self, value: float) -> str:
        """Return a number."""
        return f"{self._scale * value:{self._form}}{self._unit}"

    def mean(self, values: Sequence[float]) -> str:
        """Return the mean of numbers, and their standard deviation if they are several."""
        spread = ""
        if len(values) > 1 and all(map(math.isfinite, values)):
            spread = f" +-{self._scale * statistics.stdev(values):{self._form}}"
        return f"{self.value(mean(values))}{spread}"


def _slices(variants: Sequence[TrainedVariant], labels: Sequence[str]) -> Iterator[Block]:
    """Yield a table for each column that makes slices: a row for each of its values."""
    trials = [trial for variant in variants for trial in variant.trials]
    described = next((one for trial in trials if (one := trial.measured.validation) and one.about), None)
    if described is None or described.about is None or not described.about.slices:
        return
    score = main_score(variants)
    base = _base(variants, score)
    if base is not None and base.about is None and same_sequences(base, described):
        base = replace(base, about=described.about)
    sides = [[by_slice(base)] if base else None, *map(_slices_of_seeds, variants)]
    means = [each for side in sides for one in side or () for each in one.values()]
    shown = _Decimals(score or "", (each.scores[score] for each in means if score is not None and score in each.scores))
    what = f"loss, {visible(score)}" if score else "loss"
    named = list(zip(_headings(labels), sides, strict=True))
    counts = by_slice(described)
    for column in described.about.slices:
        title = f"slices by {visible(column)}: {what}"
        chosen = {one: means.examples for one, means in counts.items() if one.column == column}
        for first in range(0, len(named), _MOST_SIDES):
            part = named[first : first + _MOST_SIDES]
            columns = (Column(visible(column)), Column("examples", right=True), *(heading for heading, _ in part))
            rows = (
                (visible(one.value), str(count), *(_slice_cell(side, one, score, shown) for _, side in part))
                for one, count in chosen.items()
            )
            yield Block("slices", "" if first else title, table=Table(columns, tuple(map(Row, rows))))


def _slices_of_seeds(variant: TrainedVariant) -> list[Mapping[Slice, SliceMeans]] | None:
    """Return what each seed comes to on each slice; None unless all seeds ended `ok`."""
    losses = [trial.measured.validation for trial in variant.trials]
    return [{} if one is None else by_slice(one) for one in losses] if variant.ok else None


def _slice_cell(
    side: Sequence[Mapping[Slice, SliceMeans]] | None, chosen: Slice, score: str | None, shown: _Decimals
) -> str:
    """Return loss and score of a side on a slice, the mean over its seeds."""
    found = [one[chosen] for one in side or () if chosen in one]
    if not found or len(found) != len(side or ()):
        return UNMEASURED
    loss = f"{mean(one.loss for one in found):.3f}"
    if score is None:
        return loss
    scores = [one.scores[score] for one in found if score in one.scores]
    return f"{loss}, {shown.value(mean(scores)) if len(scores) == len(found) else UNMEASURED}"


def _lost(
    variants: Sequence[TrainedVariant], labels: Sequence[str], judged: Collection[tuple[str, ...]]
) -> Iterator[Line]:
    """Yield for each candidate on which examples it lost most: by name, never by text."""
    label_of = {id(variant): visible(label) for variant, label in zip(variants, labels, strict=True)}
    for candidate, baseline in pairs_to_compare(variants, judged):
        found = lost_most(candidate, baseline)
        if found is not None:
            what = f"{visible(found.score)} " if found.score else ""
            text = f"{label_of[id(candidate)]} lost most {what}against {label_of[id(baseline)]} on {_named(found)}"
            yield Line(text)


def _named(lost: Lost) -> str:
    """Return the names of examples, and by how much the first and the last of them got worse."""
    word = f"{'row' if lost.are_rows else 'sequence'}{'s' if len(lost.examples) > 1 else ''}"
    names = ", ".join(_cut(visible(one.name)) for one in lost.examples)
    worst, least = (
        f"{one.scores[lost.score] if lost.score else one.loss:+.2g}" for one in (lost.examples[0], lost.examples[-1])
    )
    size = worst if worst == least else f"{worst} to {least}"
    return f"{word} {names} ({size}{'' if lost.score else f' nats per {lost.per}'})"


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def score_notes(variants: Sequence[TrainedVariant], labels: Sequence[str]) -> Iterator[str]:
    """Yield how long the scoring took, if it took long, and where there is no score or none that is a number.

    Args:
        variants: The variants of one workload.
        labels: What the summary calls each of them.
    """
    function = variants[0].workload.score
    if function is None:
        return
    base = _base(variants, None)
    models = [(BASE, base), *((label, trial.measured.validation) for label, trial in _trials(variants, labels))]
    seconds = [losses.scores.seconds for _, losses in models if losses is not None and losses.scores is not None]
    if seconds and mean(seconds) > _SECONDS_TO_TELL:
        yield f"scored by {function} in {mean(seconds):.0f} s per model"
    faults: dict[tuple[str, str, str], list[str]] = {}
    for label, trial in _trials(variants, labels):
        losses = trial.measured.validation
        for before, after in _faults(losses, function) if losses is not None else ():
            faults.setdefault((before, label, after), []).append(str(trial.spec.seed))
    for before, after in _faults(base, function) if base is not None else ():
        yield f"{before}{BASE}{after}"
    for (before, label, after), seeds in faults.items():
        yield f"{before}{label}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}{after}"


def _trials(variants: Sequence[TrainedVariant], labels: Sequence[str]) -> Iterator[tuple[str, Trial]]:
    for variant, label in zip(variants, labels, strict=True):
        yield from ((label, trial) for trial in variant.trials)


def _faults(losses: SequenceLosses, function: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a model's scores: what stands before the model's name, and what after it."""
    if losses.scores is None:
        return
    if losses.scores.failure:
        yield f"{function} failed on ", f": {losses.scores.failure}"
    for name, values in losses.scores.values.items():
        odd = sum(not math.isfinite(value) for value in values)
        if odd:
            yield f"{visible(name)} of ", f", is no finite number for {odd} of {len(values)} examples"
