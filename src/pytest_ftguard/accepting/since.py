"""One pair of variants at two commits: whether both did the same work, what else has changed, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from pytest_ftguard.accepting.record import WORK, PairRecord
from pytest_ftguard.comparison.same_work import same_losses, same_sequences
from pytest_ftguard.score_statistics import score_gap
from pytest_ftguard.specs import content_of, without_folders
from pytest_ftguard.statistics import (
    Effort,
    FloatArray,
    Interval,
    SeedNoise,
    change_of_gap,
    cluster,
    effort_to_settle,
    mean_log_ratio,
    satterthwaite,
)

__all__ = [
    "MemoryGrowth",
    "base_noise",
    "differences_since",
    "differing_work",
    "effort_to_settle_change",
    "gap_change",
    "growth_by_seed",
    "memory_growth",
    "paired_seeds",
    "same_machine",
    "score_fall",
    "settings_since",
    "step_share",
    "surroundings_since",
    "time_growth",
    "timed_seeds",
    "units_of",
]

_DECIMALS: Final = 12


@dataclass(frozen=True)
class MemoryGrowth:
    """By which share memory has grown.

    Attributes:
        ratio: Growth of the candidate's share of the baseline's peak.
        absolute: Growth of the candidate's peak itself; None on another machine or with other versions.
    """

    ratio: float
    absolute: float | None

    @property
    def value(self) -> float:
        """The larger of both."""
        return self.ratio if self.absolute is None else max(self.ratio, self.absolute)


def differing_work(now: PairRecord, then: PairRecord) -> list[str]:
    """Return why a pair cannot be compared with its earlier self; the candidate may change, it is judged."""
    return [*_differing_settings(now, then), *_differing_content(now, then)]


def _differing_settings(now: PairRecord, then: PairRecord) -> Iterator[str]:
    ours = {**now.work, "precision": now.environment.precision}
    theirs = {**then.work, "precision": then.environment.precision}
    if (now.baseline is None) != (then.baseline is None):
        one, other = (_asked(record) for record in (now, then))
        yield f"{one} is judged now, and {other} was accepted"
    for name in (*WORK, "precision"):
        # Files of earlier versions hold folders of their machine.
        one, other = (without_folders(side.get(name)) for side in (ours, theirs))
        if one != other:
            yield f"{name} is {one!r} now, and was {other!r}"
    pairs = now.baseline is not None and then.baseline is not None
    for name, one, other in _variant_differences(now, then, "baseline") if pairs else ():
        yield f"the {name} of {now.reference.variant.label}, the reference, is {one!r} now, and was {other!r}"


def _asked(record: PairRecord) -> str:
    label = record.candidate.variant.label
    return f"{label} by itself" if record.baseline is None else f"{label} against {record.baseline.variant.label}"


def _differing_content(now: PairRecord, then: PairRecord) -> Iterator[str]:
    if not same_sequences(now.base, then.base):
        what = "other text, other tokenizer or another number of them"
        if (now.base.digest, now.base.tokens) == (then.base.digest, then.base.tokens):
            what = "they belong together in other groups or documents"
        yield f"the validation sequences are not the same: {what}"
    elif not same_losses(now.base, then.base, now.environment.precision):
        how = "" if now.baseline is not None else ", or losses are measured in another way"
        yield f"the base model is another one, as its losses on the same sequences show{how}"
    orders = dict(zip(then.seeds, then.data_orders, strict=True))
    shared = [seed for seed in now.seeds if seed in orders]
    if not shared:
        yield (
            f"there is no seed in common ({_listed(now.seeds)} now, {_listed(then.seeds)} then), so nothing shows that "
            "the training text is the same"
        )
    changed = [seed for seed, order in zip(now.seeds, now.data_orders, strict=True) if orders.get(seed, order) != order]
    if changed:
        yield f"the training batches of seed {_listed(changed)} are not the same, or not in the same order"


def _listed(seeds: Any) -> str:
    return ", ".join(map(str, seeds))


def _variant_differences(now: PairRecord, then: PairRecord, side: str) -> Iterator[tuple[str, Any, Any]]:
    ours, theirs = (content_of(getattr(record, side).variant, "training") for record in (now, then))
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            yield name, ours.get(name), theirs.get(name)


def settings_since(now: PairRecord, then: PairRecord) -> list[str]:
    """Return which settings of the candidate have changed, and whether the training function's code has."""
    # Files of earlier versions do not hold it.
    code = (
        []
        if then.code in (None, now.code)
        else [f"the code of {now.work.get('training_function') or now.work.get('trainer')}"]
    )
    return [
        *(f"{name} {other!r} -> {one!r}" for name, one, other in _variant_differences(now, then, "candidate")),
        *code,
    ]


def differences_since(now: PairRecord, then: PairRecord) -> list[str]:
    """Return what else has changed and may explain a regression: settings of the candidate, machine and versions."""
    return [*settings_since(now, then), *surroundings_since(now, then)]


def surroundings_since(now: PairRecord, then: PairRecord) -> list[str]:
    """Return what has changed of machine, precision and versions."""
    found: list[str] = []
    for name in ("device", "device_name", "precision", "platform"):
        found += _changes(name, getattr(now.environment, name), getattr(then.environment, name))
    ours, theirs = now.environment.versions, then.environment.versions
    found += [change for name in {**ours, **theirs} for change in _changes(name, ours.get(name), theirs.get(name))]
    return [*found, *_changes("pytest-ftguard", now.ftguard_version, then.ftguard_version)]


def _changes(name: str, now: object, then: object) -> list[str]:
    return [] if now == then else [f"{name} {then} -> {now}"]


def same_machine(now: PairRecord, then: PairRecord) -> bool:
    """Return whether bytes can be compared: they belong to their device and to the versions on it."""
    ours, theirs = (replace(record.environment, threads=0) for record in (now, then))
    return ours == theirs


def paired_seeds(now: PairRecord, then: PairRecord) -> tuple[int, ...]:
    """Return the seeds by which both are paired; none if each side has seeds that the other lacks.

    The same seeds share the order of the data and the adapters' first weights.
    """
    shared = tuple(seed for seed in now.seeds if seed in then.seeds)
    return shared if len(shared) in (len(now.seeds), len(then.seeds)) else ()


def gap_change(now: PairRecord, then: PairRecord, confidence: float) -> Interval:
    """Return by how much the loss gap has grown, in nats per token; both must have done the same work."""
    shared = paired_seeds(now, then)
    tokens = np.array(now.base.tokens, dtype=np.float64)
    ours, theirs = (_rows(record, shared or record.seeds) for record in (now, then))
    if now.base.documents is not None:
        ours, theirs, tokens = (cluster(array, now.base.documents) for array in (ours, theirs, tokens))
    return change_of_gap(ours, theirs, tokens, confidence, paired=bool(shared))


def units_of(record: PairRecord, name: str = "sequences") -> tuple[int, str]:
    """Return how many units the bounds of a gap count, and what they are: documents, groups, or single ones."""
    documents = record.base.documents
    if documents is None:
        return len(record.base.tokens), name
    return len(set(documents)), "documents" if record.group is None else "groups"


def score_fall(score: str, now: PairRecord, then: PairRecord, confidence: float) -> Interval:
    """Return by how much a score, or the gap in it, has fallen; both must have it, by one source and of the same work.

    As for the loss gap, the seeds' part is that of the pairs alone if the seeds are paired.
    """
    shared = paired_seeds(now, then)
    ours, theirs = (_score_rows(score, record, shared or record.seeds) for record in (now, then))
    counts = np.ones(ours.shape[1])
    if now.base.documents is not None:
        ours, theirs, counts = (cluster(array, now.base.documents) for array in (ours, theirs, counts))
    spans = [record.scores[score].span for record in (now, then)]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    if low == high:
        high = low + 1
    span = (low - high, high - low) if now.baseline is not None else (low, high)
    noise = _seeds_noise(ours, theirs, float(counts.sum()), confidence, paired=bool(shared))
    if not shared:
        ours, theirs = (side.mean(axis=0, keepdims=True) for side in (ours, theirs))
    return score_gap(theirs, ours, counts, confidence, noise, span=span)


def _score_rows(score: str, record: PairRecord, seeds: tuple[int, ...]) -> FloatArray:
    by_seed = dict(zip(record.seeds, record.scores[score].differences, strict=True))
    return np.array([by_seed[seed] for seed in seeds], dtype=np.float64)


def _seeds_noise(
    now: FloatArray, then: FloatArray, count: float, confidence: float, *, paired: bool
) -> SeedNoise | None:
    """Return the noise of seeds in a change: of the pairs, or of both sides; None if one pair shows none."""
    if paired:
        fallen = (then - now).sum(axis=1) / count
        return SeedNoise(float(fallen.std(ddof=1)), len(fallen) - 1) if len(fallen) > 1 else None
    ours, theirs = ((side.sum(axis=1) / count).var(ddof=1) / len(side) for side in (now, then))
    _, freedom = satterthwaite(ours, theirs, len(now) - 1, len(then) - 1, confidence)
    return SeedNoise(math.sqrt(ours + theirs), float(freedom))


def effort_to_settle_change(
    now: PairRecord, then: PairRecord, change: Interval, limit: float, confidence: float
) -> Effort | None:
    """Return how many common seeds or sequences of both results would settle a growth of the gap.

    None if there are fewer than two pairs of seeds: one pair shows no noise of seeds, and unpaired seeds leave the
    noise of the accepted ones as it is.
    """
    shared = paired_seeds(now, then)
    return effort_to_settle(change, limit, (len(shared), units_of(now)[0]), confidence) if len(shared) > 1 else None


def _rows(record: PairRecord, seeds: tuple[int, ...]) -> FloatArray:
    by_seed: Mapping[int, tuple[float, ...]] = dict(zip(record.seeds, record.differences, strict=True))
    rows = np.array([by_seed[seed] for seed in seeds], dtype=np.float64)
    # Of one variant the loss itself is judged, so what the base model's is now takes nothing off.
    return rows if record.baseline is not None else rows + np.array(record.base.nll, dtype=np.float64)


def base_noise(now: PairRecord, then: PairRecord) -> tuple[float, float]:
    """Return by how much the base model's loss on the same sequences differs: mean, and largest of a sequence.

    Nothing was trained there, so this is what machine, versions and precision do to the measuring alone.
    """
    tokens = np.array(now.base.tokens, dtype=np.float64)
    moved = np.array(now.base.nll, dtype=np.float64) - np.array(then.base.nll, dtype=np.float64)
    return float(moved.sum() / tokens.sum()), float(np.abs(moved / tokens).max())


def growth_by_seed(now: PairRecord, then: PairRecord) -> list[float]:
    """Return by how much the candidate's loss has grown, for each seed in common."""
    ours, theirs = (dict(zip(record.seeds, record.candidate.losses, strict=True)) for record in (now, then))
    return [ours[seed] - theirs[seed] for seed in now.seeds if seed in theirs]


def memory_growth(now: PairRecord, then: PairRecord) -> MemoryGrowth | None:
    """Return by how much memory has grown; None if it was not measured on both sides, in the same way."""
    ours, theirs = (_peaks(record) for record in (now, then))
    if ours is None or theirs is None or now.memory_method != then.memory_method:
        return None
    # Rounded, because 630 / 600 - 1 is not 5 % to the last digit, and a growth of just the limit is allowed.
    ratio = round((ours[0] / ours[1]) / (theirs[0] / theirs[1]) - 1, _DECIMALS)
    absolute = round(ours[0] / theirs[0] - 1, _DECIMALS) if same_machine(now, then) else None
    return MemoryGrowth(ratio, absolute)


def _peaks(record: PairRecord) -> tuple[int, int] | None:
    ours, theirs = record.candidate.peak_bytes, record.reference.peak_bytes
    return (ours, theirs) if ours and theirs and record.memory_method else None


def time_growth(now: PairRecord, then: PairRecord, confidence: float) -> Interval | None:
    """Return by how much the candidate's share of the baseline's step time has grown; None with too few measured.

    The share is compared, on the same machine too: seconds change with its load, which slows both variants.
    """
    shared = timed_seeds(now, then)
    ours, theirs = (_shares(record, shared) for record in (now, then))
    if len(shared) < 2 or ours is None or theirs is None:
        return None
    ratio = mean_log_ratio(ours, theirs, confidence)
    return replace(ratio, value=ratio.value - 1, lower=ratio.lower - 1, upper=ratio.upper - 1)


def timed_seeds(now: PairRecord, then: PairRecord) -> tuple[int, ...]:
    """Return the seeds in common, by which the times of steps are compared."""
    return tuple(seed for seed in now.seeds if seed in then.seeds)


def step_share(record: PairRecord, seeds: tuple[int, ...]) -> float | None:
    """Return the candidate's share of the baseline's step time, mean on the log scale; None if it was not measured."""
    shares = _shares(record, seeds)
    return None if shares is None else float(np.exp(np.log(shares).mean()))


def _shares(record: PairRecord, seeds: tuple[int, ...]) -> FloatArray | None:
    ours, theirs = record.candidate.seconds_per_step, record.reference.seconds_per_step
    if ours is None or theirs is None:
        return None
    by_seed = dict(zip(record.seeds, (a / b for a, b in zip(ours, theirs, strict=True)), strict=True))
    return np.array([by_seed[seed] for seed in seeds], dtype=np.float64)
