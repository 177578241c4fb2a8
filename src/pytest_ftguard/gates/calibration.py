"""The noise of seeds, measured once on many of them, so that later runs need only a few."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.comparison.pairs import Comparison, compare
from pytest_ftguard.comparison.scores import Slice, paired_scores, score_problems_of_pair
from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.results import ACCURACY, Scores, TrainedVariant, from_plain, to_plain
from pytest_ftguard.specs import Workload, canonical_json, content_of, variant_to_dict
from pytest_ftguard.statistics import SeedNoise

__all__ = [
    "MINIMUM_SEEDS",
    "Calibration",
    "SeedNoise",
    "calibrate",
    "find_seed_noise",
    "read_calibrations",
    "write_calibrations",
]

MINIMUM_SEEDS: Final = 10
_SCHEMA: Final = 1
# Keys of the first calibrations, which users have committed, do not name these: they are left out at their defaults.
_LATER: Final = ("task", "purpose")
# What is measured besides the losses changes nothing of their noise.
_BESIDES: Final = ("score", "slices", "group")


@dataclass(frozen=True)
class Calibration:
    """The noise of seeds in the gap between two variants on a workload.

    Attributes:
        key: Identity of the workload and both variants.
        candidate: Label of the variant that is judged.
        baseline: Label of the variant that it is judged against.
        tau: Standard deviation of the loss gap over seeds, in nats per token.
        degrees_of_freedom: Number of seeds less one.
        data_orders: Digest of the training batches of each seed: it shows if the training text has changed.
        taus: Standard deviation of the gap of each score over seeds, by its name, in the score's unit.
        function: The team's own function that gave the scores, "module:function"; None if there was none.
        code: SHA-256 of the module of the function.
    """

    key: str
    candidate: str
    baseline: str
    tau: float
    degrees_of_freedom: int
    data_orders: Mapping[str, str]
    taus: Mapping[str, float] = field(default_factory=dict)
    function: str | None = None
    code: str | None = None


def calibrate(candidate: TrainedVariant, baseline: TrainedVariant) -> Calibration:
    """Measure the noise of seeds.

    Args:
        candidate: The variant that is judged, trained with many seeds.
        baseline: The variant that it is judged against, with the same seeds.

    Raises:
        ConfigurationError: The two cannot be compared, or there are fewer than ten seeds.
    """
    comparison = compare(candidate, baseline, same_learning_rate=True)
    if comparison.loss_problems:
        message = f"no calibration of {candidate.label} against {baseline.label}: {comparison.loss_problems[0]}"
        raise ConfigurationError(message)
    if comparison.seeds < MINIMUM_SEEDS:
        message = f"a calibration needs at least {MINIMUM_SEEDS} seeds, {candidate.label} has {comparison.seeds}"
        raise ConfigurationError(message)
    losses = comparison.losses
    gaps = (losses.candidate - losses.baseline).sum(axis=1) / losses.tokens.sum()
    orders = {str(trial.spec.seed): str(trial.measured.data_order) for trial in baseline.trials}
    tau = float(gaps.std(ddof=1))
    return Calibration(
        key=_key(candidate, baseline),
        candidate=candidate.label,
        baseline=baseline.label,
        tau=tau,
        degrees_of_freedom=len(gaps) - 1,
        data_orders=orders,
        taus=_taus(comparison),
        function=candidate.workload.score,
        code=_code(candidate),
    )


def _taus(comparison: Comparison) -> dict[str, float]:
    """Return the noise of each score that can be judged; a score that failed has none."""
    first = comparison.candidate.trials[0].measured.validation
    found = {}
    for name in first.scored if first is not None else ():
        if not score_problems_of_pair(comparison, name, Slice()):
            scores = paired_scores(name, Slice(), comparison.candidate, comparison.baseline)
            assert scores.baseline is not None  # it is a pair
            gaps = (scores.candidate - scores.baseline).sum(axis=1) / scores.counts.sum()
            found[name] = float(gaps.std(ddof=1))
    return found


def _own_scores(variant: TrainedVariant) -> Iterator[Scores]:
    measured = (trial.measured.validation for trial in variant.trials)
    yield from (losses.scores for losses in measured if losses is not None and losses.scores is not None)


def _code(variant: TrainedVariant) -> str | None:
    return next((scores.code for scores in _own_scores(variant)), None)


def _taus_for(calibration: Calibration, candidate: TrainedVariant) -> Mapping[str, float]:
    """Return the noise of scores, without that of the team's own if another function, or source, gives them now."""
    if (calibration.function, calibration.code) == (candidate.workload.score, _code(candidate)):
        return calibration.taus
    own = {name for scores in _own_scores(candidate) for name in scores.values}
    return {name: tau for name, tau in calibration.taus.items() if name == ACCURACY and name not in own}


def find_seed_noise(
    calibrations: Iterable[Calibration], candidate: TrainedVariant, baseline: TrainedVariant
) -> SeedNoise | None:
    """Return the calibrated noise for two variants, or None if there is none for just this work.

    Args:
        calibrations: What was calibrated.
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
    """
    key = _key(candidate, baseline)
    orders = {str(trial.spec.seed): trial.measured.data_order for trial in baseline.trials}
    for calibration in calibrations:
        shared = orders.keys() & calibration.data_orders.keys()
        same_data = bool(shared) and all(orders[seed] == calibration.data_orders[seed] for seed in shared)
        if calibration.key == key and same_data:
            return SeedNoise(calibration.tau, calibration.degrees_of_freedom, _taus_for(calibration, candidate))
    return None


def _key(candidate: TrainedVariant, baseline: TrainedVariant) -> str:
    # Paths differ from machine to machine, so the digests of the texts are compared.
    work = content_of(baseline.workload, "result", places="left out")
    usual = {item.name: item.default for item in fields(Workload)}
    validations = {
        trial.measured.validation.digest for trial in baseline.trials if trial.measured.validation is not None
    }
    precisions = {
        trial.measured.environment.precision for trial in baseline.trials if trial.measured.environment is not None
    }
    content = {
        **{
            name: value
            for name, value in work.items()
            if name not in _BESIDES and (name not in _LATER or value != usual[name])
        },
        "model": Path(baseline.workload.model).name,
        "revision": baseline.workload.revision,
        "validation": sorted(validations),
        "resolved_precision": sorted(precisions),
        "candidate": _variant(candidate),
        "baseline": _variant(baseline),
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _variant(side: TrainedVariant) -> dict[str, Any]:
    # As the first calibrations wrote it.
    return {**variant_to_dict(side.variant), "search_learning_rate": side.variant.search == "yes"}


def write_calibrations(calibrations: Iterable[Calibration]) -> str:
    """Return the text of a file of calibrations; the last one of a key counts."""
    by_key = {calibration.key: to_plain(calibration) for calibration in calibrations}
    return json.dumps({"schema": _SCHEMA, "calibrations": list(by_key.values())}, indent=2, allow_nan=False) + "\n"


def read_calibrations(text: str, place: str) -> tuple[Calibration, ...]:
    """Return the calibrations of a file.

    Args:
        text: What the file holds.
        place: What messages call the file.

    Raises:
        ConfigurationError: The text is not a file of calibrations, or of another schema.
    """
    try:
        content: dict[str, Any] = json.loads(text)
        if content["schema"] != _SCHEMA:
            message = f"{place} has schema {content['schema']!r}, and this version reads {_SCHEMA}: calibrate again"
            raise ConfigurationError(message)
        found = tuple(from_plain(values, Calibration) for values in content["calibrations"])
        taus = [tau for calibration in found for tau in (calibration.tau, *calibration.taus.values())]
        if not (all(tau >= 0 for tau in taus) and all(one.degrees_of_freedom >= 1 for one in found)):
            raise ValueError("a noise below 0, or without degrees of freedom")
    except (FtguardError, ValueError, KeyError, TypeError) as error:
        message = f"{place} is not a file of calibrations ({type(error).__name__}: {error}): calibrate again"
        raise ConfigurationError(message) from None
    return found
