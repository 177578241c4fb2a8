"""Scores of two trained variants side by side, on all examples or those of a slice, and what forbids a conclusion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_ftguard.comparison.changing import how_to_set
from pytest_ftguard.comparison.pairs import Comparison
from pytest_ftguard.comparison.problem import Problem, failure_of, name_of
from pytest_ftguard.comparison.same_work import same_sequences
from pytest_ftguard.results import ACCURACY, MINIMUM_UNITS, SequenceLosses, TrainedVariant, Trial
from pytest_ftguard.score_statistics import score_gap, score_mean
from pytest_ftguard.statistics import FloatArray, Interval, SeedNoise, cluster

__all__ = [
    "PairedScores",
    "Slice",
    "every_slice",
    "paired_scores",
    "score_problems",
    "score_problems_of_pair",
    "slices_of",
]

_MOST_NAMED = 5
# Two machines may round otherwise, and then a text that is written goes on in other words.
_SAME, _MOST_DIFFERENT = 1e-3, 0.1


@dataclass(frozen=True)
class Slice:
    """The examples that a score is taken over: those with one value in a column, or all.

    Attributes:
        column: The column; "" for all examples.
        value: The value.
    """

    column: str = ""
    value: str = ""

    def __str__(self) -> str:
        """Return what users call it: "language=de"; "" for all examples."""
        return f"{self.column}={self.value}" if self.column else ""

    @property
    def noun(self) -> str:
        """What its examples are called."""
        return f"validation examples in {self}" if self.column else "validation examples"

    @classmethod
    def of(cls, text: str | None) -> Slice:
        """Return the slice of a text such as "language=de"; None stands for all examples."""
        column, _, value = (text or "").partition("=")
        return cls(column.strip(), value.strip())

    def places(self, losses: SequenceLosses) -> list[int]:
        """Return the places of its examples."""
        if not self.column:
            return list(range(len(losses.nll)))
        values = losses.about.slices.get(self.column, ()) if losses.about else ()
        return [place for place, value in enumerate(values) if value == self.value]


@dataclass(frozen=True)
class PairedScores:
    """Summed scores on the same examples, or groups of examples that depend on one another.

    Attributes:
        candidate: Shape (k seeds, n units).
        baseline: Likewise, paired by seed and unit; None if the candidate is judged by itself.
        base: Of the base model, shape (n,).
        counts: Examples of each unit, shape (n,).
        span: The lowest and the highest score that an example can have.
        is_constant: Whether all scores are one number, those of the base model too.
    """

    candidate: FloatArray
    baseline: FloatArray | None
    base: FloatArray
    counts: FloatArray
    span: tuple[float, float]
    is_constant: bool = False

    def gap(self, confidence: float, seed_noise: SeedNoise | None = None) -> Interval:
        """Return candidate minus baseline, per example: below 0 the candidate is worse."""
        assert self.baseline is not None  # only a pair has a gap
        return score_gap(self.candidate, self.baseline, self.counts, confidence, seed_noise, span=self.span)

    def gain(self, side: FloatArray, confidence: float) -> Interval:
        """Return what a side gained over the base model, per example."""
        return score_gap(side, np.broadcast_to(self.base, side.shape), self.counts, confidence, span=self.span)

    def mean(self, confidence: float) -> Interval:
        """Return the candidate's own score."""
        return score_mean(self.candidate, self.counts, confidence, span=self.span)

    def mean_of(self, side: FloatArray) -> float:
        """Return the mean score per example of a side, or of the base model."""
        return float(side.sum() / (self.counts.sum() * max(1, side.size // len(self.counts))))


def every_slice(variant: TrainedVariant) -> tuple[Slice, ...]:
    """Return all slices of the examples that a variant was evaluated on, in the order of columns and of examples."""
    losses = next((trial.measured.validation for trial in variant.trials if trial.measured.validation), None)
    return () if losses is None else slices_of(losses)


def slices_of(losses: SequenceLosses) -> tuple[Slice, ...]:
    """Return all slices of the examples of an evaluation, in the order of columns and of examples."""
    if losses.about is None:
        return ()
    return tuple(Slice(column, value) for column, values in losses.about.slices.items() for value in _in_order(values))


def _in_order(values: Sequence[str]) -> list[str]:
    """Return different values: thirds of numbers from the lowest on, all else by name."""
    return sorted(set(values), key=lambda value: (value.startswith("above "), not value.startswith("up to "), value))


def paired_scores(
    score: str, chosen: Slice, candidate: TrainedVariant, baseline: TrainedVariant | None = None
) -> PairedScores:
    """Return the scores of one variant or two, by seed; there must be no problems with them."""
    first = candidate.trials[0].measured
    assert first.validation is not None  # else there are problems
    assert first.base_validation is not None
    places = chosen.places(first.validation)
    ours, theirs = (_stack(score, places, side) if side else None for side in (candidate, baseline))
    assert ours is not None
    base = np.array(first.base_validation.scored[score], dtype=np.float64)[places]
    counts = np.ones(len(places))
    every = [array for array in (ours, theirs, base) if array is not None]
    low, high = min(float(one.min()) for one in every), max(float(one.max()) for one in every)
    span = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    if low == high:  # an interval needs a span all the same
        span = (min(0.0, low), max(1.0, high))
    documents = first.validation.documents
    if documents is not None:
        inside = tuple(documents[place] for place in places)
        ours, base, counts = (cluster(array, inside) for array in (ours, base, counts))
        theirs = None if theirs is None else cluster(theirs, inside)
    return PairedScores(ours, theirs, base, counts, span, is_constant=low == high)


def _stack(score: str, places: Sequence[int], variant: TrainedVariant) -> FloatArray:
    trials = sorted(variant.trials, key=lambda trial: trial.spec.seed)
    found = [trial.measured.validation.scored[score] for trial in trials if trial.measured.validation]
    return np.array(found, dtype=np.float64)[:, places]


def score_problems_of_pair(comparison: Comparison, score: str, chosen: Slice) -> list[Problem]:
    """Return why nothing may be concluded about the scores of two variants."""
    if comparison.loss_problems:
        return list(comparison.loss_problems)
    problems = score_problems(comparison.candidate, score, chosen) + score_problems(comparison.baseline, score, chosen)
    problems += _two_sources((comparison.candidate, comparison.baseline), score, "train both in one run")
    problems += _other_examples((comparison.candidate, comparison.baseline), chosen)
    if not problems:
        problems += _other_base(comparison, score)
    return list(dict.fromkeys(problems))


def _other_base(comparison: Comparison, score: str) -> list[Problem]:
    """Return that the base model has other scores on one side: they are of one model, so only a few may differ."""
    found = [
        trial.measured.base_validation.scored[score]
        for side in (comparison.candidate, comparison.baseline)
        for trial in side.trials
        if trial.measured.base_validation
    ]
    most = max(sum(not math.isclose(a, b, abs_tol=_SAME) for a, b in zip(one, found[0], strict=True)) for one in found)
    if most <= _MOST_DIFFERENT * len(found[0]):
        return []
    return [
        Problem(
            "the base model was not scored alike for both variants",
            why=f"Its {score} differs for {most} of {len(found[0])} examples, although it is the same model.",
            remedy="let the score depend on the model's answers alone, without chance, and train both in one run",
        )
    ]


def score_problems(variant: TrainedVariant, score: str, chosen: Slice) -> list[Problem]:
    """Return why nothing may be concluded about a score of one variant."""
    if not variant.trials:
        return [Problem(f"{variant.label} has no trial")]
    problems: list[Problem] = []
    for trial in variant.trials:
        problems += list(_problems(trial, variant, score, chosen))
    problems += _two_sources((variant,), score, "train all seeds in one run")
    problems += _other_examples((variant,), chosen)
    return list(dict.fromkeys(problems))


def _other_examples(sides: Sequence[TrainedVariant], chosen: Slice) -> list[Problem]:
    """Return that not all trials were scored on the same examples, or not on the same ones of a slice."""
    measured = [trial.measured.validation for side in sides for trial in side.trials if trial.measured.validation]
    problems = []
    if not all(same_sequences(losses, measured[0]) for losses in measured):
        problems.append(Problem("not all trials were evaluated on the same validation examples"))
    abouts = [losses.about for losses in measured if losses.about]
    if chosen.column and any((one.slices, one.names) != (abouts[0].slices, abouts[0].names) for one in abouts):
        problems.append(Problem(f"the slices of {' and '.join(side.label for side in sides)} are not of the same rows"))
    return problems


def _two_sources(sides: Sequence[TrainedVariant], score: str, remedy: str) -> list[Problem]:
    """Return that what scores one trial is no longer what scored another; nothing if it is, or is not ours to know."""
    codes = {
        losses.scores.code
        for side in sides
        for trial in side.trials
        for losses in (trial.measured.validation, trial.measured.base_validation)
        if losses and losses.scores and score in losses.scores.values
    }
    if len(codes) < 2:
        return []
    why = "What scores one of them is no longer what scored the other."
    return [Problem("the source of the score was not the same for all trials", why, remedy)]


def _problems(trial: Trial, variant: TrainedVariant, score: str, chosen: Slice) -> Iterator[Problem]:
    if failure := failure_of(trial):
        yield failure
        return
    sides = {f"{name_of(trial)},": trial.measured.validation, "the base model": trial.measured.base_validation}
    for name, losses in sides.items():
        if losses is None:
            yield Problem(f"{name} was not evaluated")
        elif not all(map(math.isfinite, losses.nll)):
            yield Problem(f"the validation loss of {name} is not finite")
        elif losses.scores is not None and losses.scores.failure and score not in losses.scored:
            yield Problem(
                f"the score of {name} failed",
                why=f"{variant.workload.score} says: {losses.scores.failure}",
                remedy="mend the function and run again: weights that were kept are scored again without a training",
            )
        elif score not in losses.scored:
            yield _unmeasured(name, losses, variant, score)
        elif len(losses.scored[score]) != len(losses.nll):
            count = len(losses.scored[score])
            yield Problem(f"{score} of {name} has {count} values for {len(losses.nll)} examples")
        elif odd := [place for place, value in enumerate(losses.scored[score]) if not math.isfinite(value)]:
            names = losses.about.names if losses.about else tuple(str(place + 1) for place in range(len(losses.nll)))
            rows = ", ".join(names[place] for place in odd[:_MOST_NAMED])
            more = ", ..." if len(odd) > _MOST_NAMED else ""
            yield Problem(
                f"{score} of {name} is no finite number for {len(odd)} of {len(losses.nll)} examples",
                why=f"They are row {rows}{more}.",
                remedy="let the score return a number for each row: 0 if an answer cannot be judged",
            )
    ours, base = trial.measured.validation, trial.measured.base_validation
    if ours is not None and base is not None:
        if (ours.digest, ours.documents) != (base.digest, base.documents):
            yield Problem(f"{name_of(trial)}: the base model was not evaluated on the same validation examples")
        yield from _one_class(ours, score)
        yield from _too_few(ours, variant, chosen)


def _one_class(losses: SequenceLosses, score: str) -> Iterator[Problem]:
    """Yield that nobody can be wrong; a slice of one class is none of its own, because all classes are trained."""
    if score == ACCURACY and losses.answers is not None and len(set(losses.answers.labels)) == 1:
        yield Problem(
            f"all {len(losses.nll)} validation examples have one class",
            why="A model that gives this class to everything has an accuracy of 100 %.",
            remedy="give validation rows of every class",
        )


def _unmeasured(name: str, losses: SequenceLosses, variant: TrainedVariant, score: str) -> Problem:
    known = ", ".join(losses.scored)
    if score == ACCURACY:
        remedy = "train a task with classes (ftguard_task = classification), or judge a score of your own"
    elif variant.workload_maker == "elsewhere" and not known:
        remedy = "train in this run, or give a report whose trials have scores"
    else:
        way = how_to_set(variant, score="module:function")
        function = "" if variant.workload.score else f"name a function that gives it: {way}"
        measured = f"name one that was measured: {known}" if known else ""
        remedy = ", or ".join(filter(None, (function, measured)))
    return Problem(f"{name} has no score {score!r}" if known else f"no {score} of {name} was measured", remedy=remedy)


def _too_few(losses: SequenceLosses, variant: TrainedVariant, chosen: Slice) -> Iterator[Problem]:
    slices = losses.about.slices if losses.about else {}
    if chosen.column and chosen.column not in slices:
        known = f"the slices are of {', '.join(slices)}" if slices else "there are no slices"
        yield Problem(
            f"there are no slices by {chosen.column!r}",
            why=f"Here {known}.",
            remedy=f"name its column: {how_to_set(variant, slices=(*slices, chosen.column))}",
        )
        return
    places = chosen.places(losses)
    if chosen.column and not places:
        known = ", ".join(str(one) for one in every_slice(variant) if one.column == chosen.column)
        yield Problem(f"no validation example is in the slice {chosen}", remedy=f"name one of: {known}")
        return
    units = len(places) if losses.documents is None else len({losses.documents[place] for place in places})
    if units < MINIMUM_UNITS:
        name = "groups" if losses.documents is not None else chosen.noun
        more = f"give more rows of {chosen}" if chosen.column else "give more validation rows"
        yield Problem(
            f"{units} {name} are too few",
            why=f"At least {MINIMUM_UNITS} are needed to tell noise from a gap.",
            remedy=f"{more}, or judge all examples together" if chosen.column else more,
        )
