"""Accepted results: what a pair of variants measured at an earlier commit, in the numbers that a later one needs."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final, Self

from pytest_ftguard import __version__
from pytest_ftguard.accepting.headline import headline
from pytest_ftguard.errors import ConfigurationError, FtguardError, hide_our_frames
from pytest_ftguard.results import Environment, SequenceLosses, TrainedVariant, TrialResult, checked
from pytest_ftguard.specs import (
    Variant,
    Workload,
    content_of,
    fields_of,
    readable_json,
    variant_from_dict,
    variant_to_dict,
    without_folders,
)

__all__ = [
    "WORK",
    "AcceptedFile",
    "History",
    "PairRecord",
    "SideRecord",
    "UnusedFile",
    "file_name",
    "file_number",
    "read_history",
    "read_test",
    "record_pair",
    "write_history",
]

__tracebackhide__ = hide_our_frames

_SCHEMA: Final = 1
WORK: Final = fields_of(Workload, "training", places=False, resolved=False)
"""What of a workload must be the same at both commits; texts and models are told apart by what was measured."""

# A ten-thousandth of a nat in the sum over a sequence is far below all noise, and keeps the files short.
_DECIMALS: Final = 4
_LONG: Final = frozenset({"base", "data_orders", "differences"})
# What rounding the losses of both sides and the differences can add up to, in nats per token.
_ROUNDING: Final = 1e-4
_LONGEST_NAME: Final = 120


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
    """A candidate beside its baseline, as one commit measured them.

    Attributes:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against, which absorbs what the machine changes.
        seeds: The seeds that both were trained with.
        differences: Summed loss of the candidate minus that of the baseline, in nats, of each seed and sequence.
        base: Losses of the base model on the same sequences, by which both text and model are told.
        data_orders: SHA-256 of the batches of each seed, in their order.
        work: What of the workload must be the same, see `WORK`.
        memory_method: How the peaks of memory were measured; None where they were not.
        environment: Machine and versions.
        code: SHA-256 of the module of the user's training function; None where there is none.
        ftguard_version: Version of pytest-ftguard.
        model: Name of the base model, for the reader; None in files of earlier versions, as what follows.
        accepted_on: Day on which it was accepted, for the reader.
        bounds: One-sided bounds of the gap, for the reader.
    """

    candidate: SideRecord
    baseline: SideRecord
    seeds: tuple[int, ...]
    differences: tuple[tuple[float, ...], ...]
    base: SequenceLosses
    data_orders: tuple[str, ...]
    work: Mapping[str, Any]
    memory_method: str | None
    environment: Environment
    code: str | None = None
    ftguard_version: str = __version__
    # Another day is no other result.
    model: str | None = field(default=None, compare=False)
    accepted_on: str | None = field(default=None, compare=False)
    bounds: tuple[float, float] | None = field(default=None, compare=False)

    def gap(self, seeds: Collection[int]) -> float:
        """Return the loss gap in nats per token, mean over some of the seeds."""
        rows = [row for seed, row in zip(self.seeds, self.differences, strict=True) if seed in seeds]
        return math.fsum(map(math.fsum, rows)) / (len(rows) * sum(self.base.tokens))

    def completed_by(self, other: PairRecord) -> PairRecord:
        """Return the record with the bytes and seconds of another one of the same trainings, where it has none."""
        if (self.seeds, self.data_orders, self.differences) != (other.seeds, other.data_orders, other.differences):
            return self
        candidate, baseline = (
            replace(
                ours,
                peak_bytes=ours.peak_bytes or theirs.peak_bytes,
                seconds_per_step=ours.seconds_per_step or theirs.seconds_per_step,
            )
            for ours, theirs in ((self.candidate, other.candidate), (self.baseline, other.baseline))
        )
        method = self.memory_method or other.memory_method
        return replace(self, candidate=candidate, baseline=baseline, memory_method=method)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as values that JSON can hold, the long lists of numbers last."""
        sides = {
            name: {**asdict(side), "variant": variant_to_dict(side.variant)}
            for name, side in (("candidate", self.candidate), ("baseline", self.baseline))
        }
        rest = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {"base": asdict(self.base), "environment": asdict(self.environment), "work": dict(self.work)}
        values = {**rest, **sides, **plain}
        return {name: values[name] for name in sorted(values, key=lambda name: (name in _LONG, name))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the record that `to_dict` wrote.

        Raises:
            ValueError: A value is not what it should be; other errors tell of one that is missing or unknown.
        """
        rest = dict(values)
        base = SequenceLosses.from_dict(rest.pop("base"))
        seeds = _numbers(rest.pop("seeds"), "seeds", above=-1, whole=True)
        sequences = len(_numbers(base.tokens, "tokens", above=0, whole=True))
        _numbers(base.nll, "losses of the base model", sequences)
        if base.documents is not None:
            _numbers(base.documents, "documents", sequences, whole=True)
        rows, orders = rest.pop("differences"), rest.pop("data_orders")
        environment = checked(Environment(**rest.pop("environment")))
        sides = {name: _read_side(rest.pop(name), len(seeds)) for name in ("candidate", "baseline")}
        if not len(set(seeds)) == len(seeds) == len(orders) == len(rows) or sequences < 2:
            raise ValueError("there is not one row of differences and one data order for each seed, or no sequence")
        texts = (*orders, *(rest.get(name) or "" for name in ("code", "model", "accepted_on")))
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a data order, the code, the model or the day is not a text")
        bounds = rest.pop("bounds", None)
        for row, ours, theirs in zip(rows, sides["candidate"].losses, sides["baseline"].losses, strict=True):
            gap = math.fsum(_numbers(row, "differences", sequences)) / sum(base.tokens)
            if not abs(gap - (ours - theirs)) <= _ROUNDING:
                raise ValueError(f"differences of {gap:.6f} nats per token beside losses of {ours} and {theirs}")
        return cls(
            base=base,
            seeds=seeds,
            differences=tuple(_numbers(row, "differences", sequences) for row in rows),
            data_orders=tuple(orders),
            environment=environment,
            bounds=None if bounds is None else _numbers(bounds, "bounds of the gap", 2),
            **{**rest, **sides, "work": dict(rest["work"])},
        )


@dataclass(frozen=True)
class History:
    """What was accepted of one pair of variants in one test.

    Attributes:
        test: pytest's name of the test, for the reader.
        accepted: What was accepted last.
        anchor: What was accepted first. It never moves, so that many small losses do not add up unseen.
    """

    test: str
    accepted: PairRecord
    anchor: PairRecord

    def accept(self, record: PairRecord) -> History:
        """Return the history after one more result was accepted."""
        return replace(self, accepted=record)


@dataclass(frozen=True)
class UnusedFile:
    """A file that no test looks for: its test was renamed or removed, or the file was.

    Attributes:
        place: Where it is.
        test: The test that it belongs to, by what is written in it.
        number: Of which of the test's pairs of variants it is, from 1.
    """

    place: Path
    test: str
    number: int

    def __str__(self) -> str:
        """Return what it is, as messages show it."""
        return f"{str(self.place)!r} holds what was accepted of {self.test}"


@dataclass(frozen=True)
class AcceptedFile:
    """The file that belongs to a pair of variants in a test.

    Attributes:
        place: Where it is, or would be.
        test: pytest's name of the test.
        history: What it holds; None where there is none.
        root: pytest's root folder, from which messages show the place.
        renamed: Files that no test looks for, which may be this one under an earlier name of the test.
    """

    place: Path
    test: str
    history: History | None
    renamed: tuple[UnusedFile, ...] = ()
    root: Path | None = None

    def __str__(self) -> str:
        """Return the place as messages show it, which may be read on another machine."""
        is_inside = self.root is not None and self.place.is_relative_to(self.root)
        return repr(str(self.place.relative_to(self.root) if self.root and is_inside else self.place))


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
    ours, theirs = (sorted(side.trials, key=lambda trial: trial.spec.seed) for side in (candidate, baseline))
    pairs = [(_validation(one), _validation(other)) for one, other in zip(ours, theirs, strict=True)]
    base, environment = theirs[0].base_validation, theirs[0].environment
    assert base is not None  # what was not measured is not comparable
    assert environment is not None
    methods = {trial.memory.method for trial in (*ours, *theirs) if trial.memory is not None}
    work = content_of(baseline.workload, "training")
    return PairRecord(
        candidate=_record_side(candidate, ours, **sound),
        baseline=_record_side(baseline, theirs, **sound),
        seeds=tuple(trial.spec.seed for trial in theirs),
        differences=tuple(
            tuple(_rounded(a - b) for a, b in zip(one.nll, other.nll, strict=True)) for one, other in pairs
        ),
        base=replace(base, nll=tuple(map(_rounded, base.nll))),
        data_orders=tuple(str(trial.data_order) for trial in theirs),
        work=without_folders({name: work[name] for name in WORK}),
        memory_method=methods.pop() if len(methods) == 1 else None,
        environment=environment,
        code=theirs[0].code,
        model=without_folders(baseline.workload.model),
        accepted_on=date.today().isoformat(),
        bounds=None if bounds is None else (_rounded(bounds[0]), _rounded(bounds[1])),
    )


def _record_side(
    side: TrainedVariant, trials: Sequence[TrialResult], *, sound_memory: bool, sound_time: bool
) -> SideRecord:
    seconds = [trial.time.seconds_per_step if trial.time else None for trial in trials]
    measured = tuple(float(f"{value:.6g}") for value in seconds if value is not None and 0 < value < math.inf)
    return SideRecord(
        variant=side.variant,
        losses=tuple(round(_validation(trial).loss, 6) for trial in trials),
        peak_bytes=side.peak_memory_bytes or None if sound_memory else None,
        seconds_per_step=measured if sound_time and len(measured) == len(trials) else None,
    )


def _validation(trial: TrialResult) -> SequenceLosses:
    assert trial.validation is not None  # what was not measured is not comparable
    return trial.validation


def _rounded(value: float) -> float:
    return round(value, _DECIMALS) + 0.0  # no -0.0


def file_name(test: str, number: int) -> str:
    """Return the name of the file for the so-manieth pair of variants that a test asks about, from 1.

    It shows the test's name as far as a file's name can, and holds a digest of all of it.
    """
    digest = hashlib.sha256(test.encode()).hexdigest()[:8]
    shown = re.sub(r"[^A-Za-z0-9_.\[\]-]+", "-", test.replace("::", ".").replace(".py", ""))[-_LONGEST_NAME:].strip(
        "-."
    )
    return f"{shown}-{digest}{f'.{number}' if number > 1 else ''}.json"


def file_number(name: str) -> tuple[str, int]:
    """Return the name of the first file of a test, and the number of the pair, from the name of one of its files."""
    found = re.fullmatch(r"(.*)\.(\d+)\.json", name)
    return (f"{found[1]}.json", int(found[2])) if found else (name, 1)


def read_test(text: str) -> str | None:
    """Return the test that a file of accepted results belongs to; None for another file."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    test = content.get("test") if isinstance(content, dict) and {"schema", "accepted"} <= content.keys() else None
    return test if isinstance(test, str) else None


def write_history(history: History) -> str:
    """Return the text of a file of accepted results: first what a reviewer reads, and the numbers last."""
    moved = history.anchor != history.accepted
    content = {
        "test": history.test,
        "headline": headline(history),
        "schema": _SCHEMA,
        "accepted": history.accepted.to_dict(),
        "anchor": history.anchor.to_dict() if moved else None,  # None: the last is the first
    }
    return readable_json(content)


def read_history(text: str, place: Path) -> History:
    """Return the accepted results of a file; nothing in it is ever run.

    Args:
        text: What the file holds.
        place: The file, for messages.

    Raises:
        ConfigurationError: It is not a file of accepted results, is damaged, or has another schema.
    """
    remedy = "restore it from version control, or delete it and accept anew with --ftguard-update"
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        schema = content["schema"]
        history = _history(content) if schema == _SCHEMA else None
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, FtguardError) as error:
        message = f"{str(place)!r} is not a file of accepted results ({type(error).__name__}: {error}): {remedy}"
        raise ConfigurationError(message) from None
    if history is None:
        message = (
            f"the accepted results in {str(place)!r} have schema {schema!r}, and this version of pytest-ftguard reads "
            f"{_SCHEMA}: {remedy}"
        )
        raise ConfigurationError(message)
    return history


def _history(content: Mapping[str, Any]) -> History:
    accepted = PairRecord.from_dict(content["accepted"])
    anchor = accepted if content["anchor"] is None else PairRecord.from_dict(content["anchor"])
    return History(str(content["test"]), accepted, anchor)


def _refuse_constant(name: str) -> float:
    message = f"{name} is no number that JSON has"
    raise ValueError(message)


def _read_side(values: Mapping[str, Any], seeds: int) -> SideRecord:
    side = SideRecord(**{**values, "variant": variant_from_dict(values["variant"])})
    peak, seconds = side.peak_bytes, side.seconds_per_step
    if peak is not None:
        _numbers([peak], "peak of memory", above=0, whole=True)
    return replace(
        side,
        losses=_numbers(side.losses, "losses", seeds),
        seconds_per_step=None if seconds is None else _numbers(seconds, "seconds of a step", seeds, above=0),
    )


def _numbers(
    values: Any, what: str, count: int | None = None, *, above: float = -math.inf, whole: bool = False
) -> tuple[Any, ...]:
    """Return numbers of a file, each of which is finite and above a bound."""
    kinds = int if whole else (int, float)
    valid = isinstance(values, list | tuple) and count in (None, len(values))
    if not valid or not all(isinstance(one, kinds) and not isinstance(one, bool) for one in values):
        message = f"the {what} must be {count or ''} {'whole ' if whole else ''}numbers, and are not"
        raise ValueError(message)
    if not all(math.isfinite(one) and one > above for one in values):
        message = f"the {what} are not all finite and above {above:g}"
        raise ValueError(message)
    return tuple(values)
