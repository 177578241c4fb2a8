"""Accepted results: what a pair of variants measured at an earlier commit, in the numbers that a later one needs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final, Self

from pytest_ftguard import __version__
from pytest_ftguard.accepting.scored import ScoreRecord, problem_of, score_records
from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results import Environment, SequenceLosses, TrainedVariant, Trial, from_plain, to_plain
from pytest_ftguard.specs import (
    Variant,
    Workload,
    content_of,
    fields_of,
    variant_from_dict,
    variant_to_dict,
    without_folders,
)

__all__ = ["WORK", "PairRecord", "SideRecord", "record_one", "record_pair"]


WORK: Final = fields_of(Workload, "training", places=False, resolved=False)


"""What of a workload must be the same at both commits; texts and models are told apart by what was measured."""


# A ten-thousandth of a nat in the sum over a sequence is far below all noise, and keeps the files short.
_DECIMALS: Final = 4


_LONG: Final = frozenset({"base", "data_orders", "differences", "scores"})


# Without them a file is what earlier versions wrote.
_LATER: Final = ("scores", "group", "about")


# What rounding the losses of both sides and the differences can add up to, in nats per token.
_ROUNDING: Final = 1e-4


@dataclass(frozen=True, kw_only=True)
class SideRecord:
    """One of the two variants.

    Attributes:
        variant: The way of adapting the weights.
        losses: Validation loss of each seed, in nats per token.
        peak_bytes: Peak memory of training, the largest over the seeds; None where it was not measured.
        seconds_per_step: Median time of a step, of each seed; None where it was not measured.
    """

    variant: Variant
    losses: tuple[float, ...]
    peak_bytes: int | None
    seconds_per_step: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class PairRecord:
    """A candidate and its baseline, or one variant by itself, as one commit measured them.

    Attributes:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against, which absorbs what the machine changes; None if the candidate
            is judged by itself.
        seeds: The seeds that both were trained with.
        differences: Summed loss of the candidate minus that of the baseline, in nats, of each seed and sequence.
            Without a baseline, minus that of the base model, so that the losses themselves are known.
        base: Losses of the base model on the same sequences, by which both text and model are told.
        data_orders: SHA-256 of the batches of each seed, in their order.
        work: What of the workload must be the same, see `WORK`.
        memory_method: How the peaks of memory were measured; None where they were not.
        environment: Machine and versions.
        code: SHA-256 of the module of the user's training function; None where there is none.
        ftguard_version: Version of pytest-ftguard.
        scores: What was measured besides the loss, by the name of the score; empty if that is nothing.
        group: The column that makes examples one unit; None if there is none.
        model: Name of the base model, for the reader; None in files of earlier versions, as what follows.
        accepted_on: Day on which it was accepted, for the reader.
        bounds: One-sided bounds of the gap, for the reader.
    """

    candidate: SideRecord
    baseline: SideRecord | None
    seeds: tuple[int, ...]
    differences: tuple[tuple[float, ...], ...]
    base: SequenceLosses
    data_orders: tuple[str, ...]
    work: Mapping[str, Any]
    memory_method: str | None
    environment: Environment
    code: str | None = None
    ftguard_version: str = __version__
    scores: Mapping[str, ScoreRecord] = field(default_factory=dict)
    group: str | None = None
    # Another day is no other result.
    model: str | None = field(default=None, compare=False)
    accepted_on: str | None = field(default=None, compare=False)
    bounds: tuple[float, float] | None = field(default=None, compare=False)

    @property
    def reference(self) -> SideRecord:
        """The baseline of a pair."""
        assert self.baseline is not None  # only a pair is asked for it
        return self.baseline

    @property
    def sides(self) -> tuple[SideRecord, ...]:
        """The candidate, and the baseline if there is one."""
        return (self.candidate,) if self.baseline is None else (self.candidate, self.baseline)

    def loss(self, seeds: Collection[int]) -> float:
        """Return the candidate's loss in nats per token, mean over some of the seeds."""
        return math.fsum(
            loss for seed, loss in zip(self.seeds, self.candidate.losses, strict=True) if seed in seeds
        ) / len(seeds)

    def gap(self, seeds: Collection[int]) -> float:
        """Return the loss gap in nats per token, mean over some of the seeds; without a baseline, to the base model."""
        rows = [row for seed, row in zip(self.seeds, self.differences, strict=True) if seed in seeds]
        return math.fsum(map(math.fsum, rows)) / (len(rows) * sum(self.base.tokens))

    def completed_by(self, other: PairRecord) -> PairRecord:
        """Return the record with what it lacks of bytes, seconds and scores, from another one of the same trainings."""
        if (self.seeds, self.data_orders, self.differences) != (other.seeds, other.data_orders, other.differences):
            return self
        candidate, *baseline = (
            replace(
                ours,
                peak_bytes=ours.peak_bytes or theirs.peak_bytes,
                seconds_per_step=ours.seconds_per_step or theirs.seconds_per_step,
            )
            for ours, theirs in zip(self.sides, other.sides, strict=False)
        )
        method, scores = self.memory_method or other.memory_method, {**other.scores, **self.scores}
        baseline_side = next(iter(baseline), None)
        return replace(self, candidate=candidate, baseline=baseline_side, memory_method=method, scores=scores)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as values that JSON can hold, the long lists of numbers last."""
        values = to_plain(self)
        for name, side in zip(("candidate", "baseline"), self.sides, strict=False):
            values[name]["variant"] = variant_to_dict(side.variant)
        values["scores"] = {name: score.to_dict() for name, score in self.scores.items()}
        for part in (values, values["base"]):
            for name in _LATER:
                if not part.get(name, True):
                    del part[name]
        return {name: values[name] for name in sorted(values, key=lambda name: (name in _LONG, name))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the record that `to_dict` wrote.

        Raises:
            FtguardError: A value is missing, unknown or of another type, or is not what it should be.
        """
        record = from_plain(values, cls, _read_variant)
        _check(record)
        return record


def _read_variant(kind: Any, values: Any) -> Variant:
    assert kind is Variant  # all else in a record is plain
    return variant_from_dict(values)


def _check(record: PairRecord) -> None:
    """Refuse a record that no pair of variants can have measured.

    Raises:
        FtguardError: It is one.
    """
    seeds, sequences = len(record.seeds), len(record.base.nll)
    if not len(set(record.seeds)) == seeds == len(record.data_orders) == len(record.differences) or sequences < 2:
        raise FtguardError("there is not one row of differences and one data order for each seed, or no sequence")
    _check_numbers(record.seeds, "seeds", above=-1)
    _check_numbers(record.base.tokens, "tokens", above=0)
    _check_numbers(record.base.nll, "losses of the base model")
    _check_numbers(record.bounds or (0.0, 0.0), "bounds of the gap", count=2)
    for side in record.sides:
        _check_numbers(side.losses, "losses", count=seeds)
        if side.seconds_per_step is not None:
            _check_numbers(side.seconds_per_step, "seconds of a step", count=seeds, above=0)
        _check_numbers((1 if side.peak_bytes is None else side.peak_bytes,), "peak of memory", above=0)
    if problem := problem_of(record.scores, seeds, sequences):
        raise FtguardError(problem)
    against = (record.base.loss,) * seeds if record.baseline is None else record.baseline.losses
    for row, ours, theirs in zip(record.differences, record.candidate.losses, against, strict=True):
        _check_numbers(row, "differences", count=sequences)
        gap = math.fsum(row) / sum(record.base.tokens)
        if not abs(gap - (ours - theirs)) <= _ROUNDING:
            message = f"differences of {gap:.6f} nats per token with losses of {ours} and {theirs}"
            raise FtguardError(message)


def _check_numbers(values: Sequence[float], what: str, *, count: int | None = None, above: float = -math.inf) -> None:
    """Refuse numbers that are not finite and above a bound, or not so many.

    Raises:
        FtguardError: They are.
    """
    if len(values) != (len(values) if count is None else count):
        message = f"the {what} must be {count} numbers, and are {len(values)}"
        raise FtguardError(message)
    if not all(math.isfinite(one) and one > above for one in values):
        message = f"the {what} are not all finite and above {above:g}"
        raise FtguardError(message)


def record_pair(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    *,
    sound_memory: bool = True,
    sound_time: bool = True,
    bounds: tuple[float, float] | None = None,
) -> PairRecord:
    """Return what a later commit needs of two variants, which must be comparable.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against, trained with the same seeds.
        sound_memory: Whether their peaks of memory can be compared; otherwise none is recorded.
        sound_time: Whether the times of their steps can be compared; otherwise none is recorded.
        bounds: One-sided bounds of the gap, for the reader.
    """
    sound = {"sound_memory": sound_memory, "sound_time": sound_time}
    ours, theirs = (_by_seed(side) for side in (candidate, baseline))
    methods = {trial.measured.memory.method for trial in (*ours, *theirs) if trial.measured.memory is not None}
    against = [_validation(trial) for trial in theirs]
    record = _record(baseline, _record_side(candidate, ours, **sound), ours, against, bounds)
    return replace(
        record,
        scores=score_records(ours, theirs),
        baseline=_record_side(baseline, theirs, **sound),
        memory_method=methods.pop() if len(methods) == 1 else None,
    )


def record_one(variant: TrainedVariant, bounds: tuple[float, float] | None = None) -> PairRecord:
    """Return what a later commit needs of one variant, to be held to its own loss.

    Args:
        variant: The variant that is judged.
        bounds: One-sided bounds of its loss minus that of the base model, for the reader.
    """
    trials = _by_seed(variant)
    base = trials[0].measured.base_validation
    assert base is not None  # what was not measured is not comparable
    side = _record_side(variant, trials, sound_memory=False, sound_time=False)
    record = _record(variant, side, trials, [base] * len(trials), bounds)
    return replace(record, scores=score_records(trials, None))


def _by_seed(variant: TrainedVariant) -> list[Trial]:
    return sorted(variant.trials, key=lambda trial: trial.spec.seed)


def _record(
    reference: TrainedVariant,
    candidate: SideRecord,
    trials: Sequence[Trial],
    against: Sequence[SequenceLosses],
    bounds: tuple[float, float] | None,
) -> PairRecord:
    """Return a record of a candidate's trials, without a baseline.

    Args:
        reference: The variant that says what was trained on, and how.
        candidate: What is recorded of the candidate.
        trials: Its trials, by seed.
        against: The losses that each trial's differences are taken to.
        bounds: For the reader.
    """
    theirs = _by_seed(reference)
    base, environment = theirs[0].measured.base_validation, theirs[0].measured.environment
    assert base is not None  # what was not measured is not comparable
    assert environment is not None
    pairs = [(_validation(trial).nll, other.nll) for trial, other in zip(trials, against, strict=True)]
    work = content_of(reference.workload, "training")
    return PairRecord(
        candidate=candidate,
        baseline=None,
        seeds=tuple(trial.spec.seed for trial in theirs),
        differences=tuple(tuple(_rounded(a - b) for a, b in zip(one, other, strict=True)) for one, other in pairs),
        base=replace(base, nll=tuple(map(_rounded, base.nll)), scores=None, about=None),
        data_orders=tuple(str(trial.measured.data_order) for trial in theirs),
        work=without_folders({name: work[name] for name in WORK if name in work}),
        memory_method=None,
        environment=environment,
        code=theirs[0].measured.code,
        group=reference.workload.group,
        model=without_folders(reference.workload.model),
        accepted_on=date.today().isoformat(),
        bounds=None if bounds is None else (_rounded(bounds[0]), _rounded(bounds[1])),
    )


def _record_side(side: TrainedVariant, trials: Sequence[Trial], *, sound_memory: bool, sound_time: bool) -> SideRecord:
    seconds = [trial.measured.time.seconds_per_step if trial.measured.time else None for trial in trials]
    measured = tuple(float(f"{value:.6g}") for value in seconds if value is not None and 0 < value < math.inf)
    return SideRecord(
        variant=side.variant,
        losses=tuple(round(_validation(trial).loss, 6) for trial in trials),
        peak_bytes=side.peak_memory_bytes or None if sound_memory else None,
        seconds_per_step=measured if sound_time and len(measured) == len(trials) else None,
    )


def _validation(trial: Trial) -> SequenceLosses:
    assert trial.measured.validation is not None  # what was not measured is not comparable
    return trial.measured.validation


def _rounded(value: float) -> float:
    return round(value, _DECIMALS) + 0.0  # no -0.0
