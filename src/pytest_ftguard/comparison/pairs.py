"""Two trained variants side by side: the paired numbers that gates ask for, and what forbids a conclusion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, Literal

import numpy as np

from pytest_ftguard.comparison.changing import how_to_set
from pytest_ftguard.comparison.curves import basis_of, share_curves
from pytest_ftguard.comparison.evidence import count_units, no_evidence, unit_name
from pytest_ftguard.comparison.problem import Problem, failure_of, name_of
from pytest_ftguard.comparison.same_work import (
    different_arithmetic,
    different_content,
    different_environment,
    different_threads,
    different_workload,
    same_sequences,
    step_0,
)
from pytest_ftguard.results import (
    CurvePoint,
    SequenceLosses,
    TrainedVariant,
    Trial,
)
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.statistics import FloatArray, Interval, SeedNoise, cluster, gap_interval, line_weights

__all__ = [
    "Comparison",
    "PairedLosses",
    "Trend",
    "compare",
    "reference_losses",
    "text_problems",
    "trend_of",
]

# A slope needs more than the two points that any line goes through.
_TREND_POINTS: Final = 3


@dataclass(frozen=True)
class PairedLosses:
    """Summed losses of candidate and baseline on the same sequences, or documents if several were cut from one.

    Attributes:
        candidate: In nats, shape (k seeds, n units).
        baseline: Likewise, paired by seed and unit.
        base: Of the base model, shape (n,).
        tokens: Predicted tokens of each unit, shape (n,).
    """

    candidate: FloatArray
    baseline: FloatArray
    base: FloatArray
    tokens: FloatArray

    def gap(self, confidence: float, seed_noise: SeedNoise | None = None) -> Interval:
        """Return the gap, candidate minus baseline, in nats per token."""
        terms = (self.candidate, self.baseline)
        return gap_interval(terms[0] - terms[1], self.tokens, confidence, seed_noise, terms=terms)

    def gain(self, confidence: float) -> Interval:
        """Return what the baseline gained over the base model, in nats per token."""
        return gap_interval(self.base - self.baseline, self.tokens, confidence)

    def short_of(self, share: float, confidence: float) -> Interval:
        """Return by how much the candidate falls short of a share of the baseline's gain, in nats per token."""
        terms = (self.candidate, share * self.baseline)
        return gap_interval(terms[0] - terms[1] - (1 - share) * self.base, self.tokens, confidence, terms=terms)


@dataclass(frozen=True)
class Trend:
    """How a loss, or the gap between two, moves with the logarithm of the steps.

    Attributes:
        per_doubling: Change while the steps double, in nats per token.
        steps: The steps at which it was measured.
        sequences: How many sequences (or documents) it rests on.
    """

    per_doubling: Interval
    steps: tuple[int, ...]
    sequences: int


@dataclass(frozen=True)
class Comparison:
    """A candidate and its baseline.

    Attributes:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        different_work: Why the two did not do the same work; empty if they did.
        different_environment: Why bytes and seconds of the two cannot be compared; empty if they can.
        different_threads: Why seconds cannot be compared, although bytes can; empty if they can.
        unpaired: Why the trials do not form pairs, one of each seed; empty if they do.
        loss_problems: Why nothing may be concluded about the losses, all of the above included.
    """

    candidate: TrainedVariant
    baseline: TrainedVariant
    different_work: tuple[Problem, ...]
    different_environment: tuple[Problem, ...]
    different_threads: tuple[Problem, ...]
    unpaired: tuple[Problem, ...]
    loss_problems: tuple[Problem, ...]

    @property
    def seeds(self) -> int:
        """Number of paired seeds."""
        return len(self.candidate.trials)

    @property
    def units(self) -> int:
        """Number of evaluation sequences, or of documents if several sequences were cut from one."""
        return count_units(self.candidate.trials[0].measured.validation)

    @property
    def unit_name(self) -> str:
        """What is counted: "sequences" or "documents"."""
        return unit_name(self.candidate.trials[0].measured.validation)

    @property
    def losses(self) -> PairedLosses:
        """The losses on the validation text.

        Raises:
            ValueError: There are `loss_problems`.
        """
        if self.loss_problems:
            message = f"no losses can be compared: {self.loss_problems[0]}"
            raise ValueError(message)
        sides = [_stack(trial.measured.validation for trial in side.trials) for side in (self.candidate, self.baseline)]
        return _paired(sides[0], sides[1], self.baseline.trials[0].measured.base_validation)

    def trend(self, confidence: float) -> Trend | None:
        """Return how the gap moves with the steps; None if too few points along training were measured of both.

        Raises:
            ValueError: There are `loss_problems`, or the confidence is out of range.
        """
        if self.loss_problems:
            message = f"no trend can be computed: {self.loss_problems[0]}"
            raise ValueError(message)
        if not share_curves((*self.candidate.trials, *self.baseline.trials)):
            return None
        pairs = zip(self.candidate.trials, self.baseline.trials, strict=True)
        differences = [_difference(ours.measured.curve, theirs.measured.curve) for ours, theirs in pairs]
        return _trend(differences, self.baseline, confidence)


def compare(candidate: TrainedVariant, baseline: TrainedVariant, *, same_learning_rate: bool = False) -> Comparison:
    """Put two trained variants side by side and look for what forbids a conclusion.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        same_learning_rate: Whether full fine-tuning and LoRA may have the same learning rate.
    """
    candidate, baseline = (replace(side, trials=_by_seed(side)) for side in (candidate, baseline))
    # A side that was not trained because something else failed comes after its cause.
    sides = sorted(
        (candidate, baseline), key=lambda side: any(one.measured.outcome == "not_trained" for one in side.trials)
    )
    failed = [problem for side in sides for problem in (*_failed(side), *_repeated(side))]
    different = [
        *different_workload(candidate, baseline),
        *different_arithmetic(candidate, baseline),
        *different_content(candidate, baseline),
    ]
    unpaired = list(_unpaired(candidate, baseline))
    problems = [*failed, *different] or list(unpaired)
    if not problems:
        for ours, theirs in zip(candidate.trials, baseline.trials, strict=True):
            problems += _not_comparable(ours, theirs, (candidate, baseline))
    factors = {candidate.variant.rate_over_full, baseline.variant.rate_over_full}
    # A search may come to the other side's rate; only a rate that nobody looked at is an oversight.
    is_meant = same_learning_rate or "searched" in (candidate.rate.origin, baseline.rate.origin)
    if not is_meant and len(factors) > 1 and None not in factors:
        problems += _same_learning_rate(candidate, baseline)
    return Comparison(
        candidate=candidate,
        baseline=baseline,
        different_work=tuple(different),
        different_environment=tuple(different_environment(candidate, baseline)),
        different_threads=tuple(different_threads(candidate, baseline)),
        unpaired=tuple(unpaired),
        loss_problems=tuple(dict.fromkeys(problems)),
    )


def text_problems(variants: Sequence[TrainedVariant], text: Literal["validation", "reference"]) -> list[Problem]:
    """Return why the losses on a text, and the base model's on the same sequences, cannot be judged.

    Args:
        variants: The variants to be judged.
        text: Which text.
    """
    problems: list[Problem] = []
    for variant in variants:
        problems += _untrained(variant)
        for trial in variant.trials:
            trained, base = getattr(trial.measured, text), getattr(trial.measured, f"base_{text}")
            if failure := failure_of(trial):
                problems.append(failure)
            elif not (_is_finite(trained) and _is_finite(base)):
                what = f"the {text} loss of {name_of(trial)}, was not measured, or is not finite"
                problems.append(Problem(what, remedy=_set_reference(variant) if text == "reference" else ""))
            elif (trained.digest, trained.tokens) != (base.digest, base.tokens):
                what = f"{name_of(trial)}: the base model was not evaluated on the same {text} sequences"
                problems.append(Problem(what))
            else:
                problems += no_evidence(trained, text, variant)
    measured = [getattr(trial.measured, text) for variant in variants for trial in variant.trials]
    if not problems and not all(same_sequences(losses, measured[0]) for losses in measured):
        problems.append(Problem(f"not all trials were evaluated on the same {text} sequences"))
    return list(dict.fromkeys(problems))


def _set_reference(variant: TrainedVariant) -> str:
    if variant.workload.reference is not None:
        return ""
    way = "FtguardCallback(..., reference=...) in a Trainer run"
    if variant.workload_maker != "elsewhere":
        way = how_to_set(variant, reference="general.txt")
    return f"give a general text: {way}"


def reference_losses(candidate: TrainedVariant, baseline: TrainedVariant) -> PairedLosses:
    """Return the losses on the reference text; there must be no `text_problems`."""
    sides = [_stack(trial.measured.reference for trial in side.trials) for side in (candidate, baseline)]
    return _paired(sides[0], sides[1], candidate.trials[0].measured.base_reference)


def trend_of(variant: TrainedVariant, confidence: float) -> Trend | None:
    """Return how a variant's validation loss moves with the steps; None if too few points were measured."""
    if not share_curves(variant.trials):
        return None
    return _trend([trial.measured.curve for trial in variant.trials], variant, confidence)


def _stack(sides: Iterator[SequenceLosses | None]) -> list[SequenceLosses]:
    return [losses for losses in sides if losses is not None]


def _paired(
    candidate: list[SequenceLosses], baseline: list[SequenceLosses], base: SequenceLosses | None
) -> PairedLosses:
    assert base is not None  # a missing loss is among the problems
    arrays = {
        "candidate": np.array([losses.nll for losses in candidate], dtype=np.float64),
        "baseline": np.array([losses.nll for losses in baseline], dtype=np.float64),
        "base": np.array(base.nll, dtype=np.float64),
        "tokens": np.array(base.tokens, dtype=np.float64),
    }
    if base.documents is not None:
        arrays = {name: cluster(array, base.documents) for name, array in arrays.items()}
    return PairedLosses(**arrays)


def _difference(ours: tuple[CurvePoint, ...], theirs: tuple[CurvePoint, ...]) -> tuple[CurvePoint, ...]:
    other = {point.step: point.nll for point in theirs}
    return tuple(
        replace(point, nll=tuple(a - b for a, b in zip(point.nll, other[point.step], strict=True)))
        for point in ours
        if len(other.get(point.step, ())) == len(point.nll)
    )


def _trend(curves: list[tuple[CurvePoint, ...]], variant: TrainedVariant, confidence: float) -> Trend | None:
    """Fit a line against log(step) through the last points of each seed's curve.

    The slope is a weighted sum of the points, so per sequence it is one number, and the interval of gaps judges it.
    """
    basis = basis_of(variant.trials[0]) if variant.trials else None
    steps = tuple(point.step for point in curves[0] if point.step > 0)[-_TREND_POINTS:] if curves else ()
    values = [[point.nll for point in curve if point.step in steps] for curve in curves]
    sizes = {(len(points), len(nll)) for points in values for nll in points}
    if basis is None or len(steps) < _TREND_POINTS or len(sizes) != 1 or next(iter(sizes))[0] != len(steps):
        return None
    slope, _ = line_weights(steps, at=2 * steps[-1])
    slopes = np.einsum("p,kpn->kn", slope * math.log(2), np.array(values, dtype=np.float64))
    tokens = np.array(basis.tokens, dtype=np.float64)
    if next(iter(sizes))[1] != len(tokens):
        return None
    if basis.documents is not None:
        slopes, tokens = cluster(slopes, basis.documents), cluster(tokens, basis.documents)
    if len(tokens) < 2 or not np.isfinite(slopes).all():
        return None
    return Trend(gap_interval(slopes, tokens, confidence), steps, len(tokens))


def _is_finite(losses: SequenceLosses | None) -> bool:
    return losses is not None and bool(losses.nll) and all(map(math.isfinite, losses.nll))


def _by_seed(variant: TrainedVariant) -> tuple[Trial, ...]:
    return tuple(sorted(variant.trials, key=lambda trial: trial.spec.seed))


def _untrained(variant: TrainedVariant) -> list[Problem]:
    return [] if variant.trials else [Problem(f"{variant.label} has no trial")]


def _failed(variant: TrainedVariant) -> Iterator[Problem]:
    yield from _untrained(variant)
    for trial in variant.trials:
        if failure := failure_of(trial):
            yield failure
        elif trial.measured.validation is None or not trial.measured.validation.nll:
            yield Problem(f"the validation loss of {name_of(trial)}, was not measured")
        elif not all(map(math.isfinite, trial.measured.validation.nll)):
            yield Problem(f"the validation loss of {name_of(trial)}, is not finite")


def _repeated(variant: TrainedVariant) -> Iterator[Problem]:
    """Yield which seeds are one run repeated: with the same batches in the same order a seed changes very little."""
    first: dict[str, int] = {}
    for trial in variant.trials:
        seed = trial.spec.seed
        order = trial.measured.data_order
        if order is not None and first.setdefault(order, seed) != seed:
            yield Problem(
                f"seeds {first[order]} and {seed} of {variant.label} saw the same batches in the same order",
                why="So they are one run repeated, not two.",
                remedy="shuffle the training data with each seed",
            )


def _unpaired(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[Problem]:
    ours = [trial.spec.seed for trial in candidate.trials]
    theirs = [trial.spec.seed for trial in baseline.trials]
    if ours != theirs:
        yield Problem(
            f"the seeds are not paired: {ours} for {candidate.label}, {theirs} for {baseline.label}",
            remedy=_same_seeds(candidate, baseline),
        )
    elif len(set(ours)) != len(ours):
        yield Problem(f"a seed occurs twice among {ours}", why="A repeated seed adds no evidence.")


def _same_seeds(candidate: TrainedVariant, baseline: TrainedVariant) -> str:
    """Return how both get the same seeds: those of the side that is trained elsewhere, or of the one with more."""
    fixed = [side for side in (baseline, candidate) if side.workload_maker == "elsewhere"]
    model = fixed[0] if len(fixed) == 1 else max(candidate, baseline, key=lambda side: len(side.trials))
    other = candidate if model is baseline else baseline
    seeds = tuple(trial.spec.seed for trial in model.trials)
    return f"train {other.label} with the seeds of {model.label}: {how_to_set(other, seeds=seeds)}"


def _not_comparable(ours: Trial, theirs: Trial, sides: tuple[TrainedVariant, TrainedVariant]) -> Iterator[Problem]:
    assert ours.measured.validation is not None  # a missing loss is among the problems already found
    assert theirs.measured.validation is not None
    seed = ours.spec.seed
    if not same_sequences(theirs.measured.base_validation, theirs.measured.validation):
        yield Problem(f"seed {seed}: the base model was not evaluated on the same validation sequences")
    paired = same_sequences(ours.measured.validation, theirs.measured.validation)
    if not paired:
        yield Problem(f"seed {seed}: the two variants were not evaluated on the same validation sequences")
    yield from step_0(ours, theirs)
    points = [
        (point, other) for point in ours.measured.curve for other in theirs.measured.curve if point.step == other.step
    ]
    measured = len(ours.measured.curve) == len(points) == len(theirs.measured.curve)
    if not measured or not all(map(math.isfinite, chain.from_iterable((one.nll + other.nll) for one, other in points))):
        what = f"seed {seed}: the loss along training was not measured at the same steps of both, or is not finite"
        yield Problem(what)
    if paired:
        yield from no_evidence(ours.measured.validation, "validation", sides[0])
        if theirs.measured.validation.trained_on != ours.measured.validation.trained_on:
            yield from no_evidence(theirs.measured.validation, "validation", sides[1])


def _same_learning_rate(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[Problem]:
    rates = {_rate(trial.spec) for variant in (candidate, baseline) for trial in variant.trials}
    if len(rates) == 1:
        yield Problem(
            f"both variants were trained at the same learning rate, {rates.pop():g}",
            why="That holds LoRA back: its best rate is about ten times that of full fine-tuning.",
            remedy="give one of them another learning_rate, or pass same_learning_rate=True if you mean it",
        )


def _rate(spec: TrialSpec) -> float:
    assert spec.variant.learning_rate is not None  # a TrialSpec has none without it
    return spec.variant.learning_rate
