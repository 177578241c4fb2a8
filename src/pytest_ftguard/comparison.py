"""Two trained variants put side by side: the paired numbers that gates ask for, and what forbids a conclusion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from pytest_ftguard.results import TrainedVariant, TrialResult
from pytest_ftguard.specs import TrialSpec, Workload
from pytest_ftguard.statistics import FloatArray, Interval, cluster, gap_interval

__all__ = ["MINIMUM_SEQUENCES", "Comparison", "compare"]

# Below this many sequences the interval's own coverage is no longer what it claims.
MINIMUM_SEQUENCES: Final = 64

# The wrapped model must start where the base model stands; what remains is rounding in the precision used.
_STEP_0_TOLERANCE: Final = {"fp32": 1e-3, "bf16": 5e-3}


@dataclass(frozen=True)
class Comparison:
    """A candidate beside its baseline.

    Attributes:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        different_work: Why the two did not do the same work; empty where they did.
        loss_problems: Why nothing may be concluded about the losses, `different_work` included.
    """

    candidate: TrainedVariant
    baseline: TrainedVariant
    different_work: tuple[str, ...]
    loss_problems: tuple[str, ...]

    @property
    def seeds(self) -> int:
        """Number of paired seeds."""
        return len(self.candidate.trials)

    @property
    def units(self) -> int:
        """Number of evaluation sequences, or of documents where several sequences were cut from one."""
        return _units(self.candidate.trials[0])

    def loss_gap(self, confidence: float) -> Interval:
        """Return the paired gap of the losses, candidate minus baseline, in nats per token.

        Raises:
            ValueError: There are `loss_problems`, or the confidence is out of range.
        """
        if self.loss_problems:
            message = f"no gap can be computed: {self.loss_problems[0]}"
            raise ValueError(message)
        pairs = zip(self.candidate.trials, self.baseline.trials, strict=True)
        differences = np.stack([_nll(ours) - _nll(theirs) for ours, theirs in pairs])
        validation = self.candidate.trials[0].validation
        assert validation is not None  # a missing loss is among the problems
        tokens = np.asarray(validation.tokens, dtype=np.float64)
        if validation.documents is not None:
            differences, tokens = cluster(differences, tokens, validation.documents)
        return gap_interval(differences, tokens, confidence)


def compare(candidate: TrainedVariant, baseline: TrainedVariant, *, same_learning_rate: bool = False) -> Comparison:
    """Put two trained variants side by side and look for what forbids a conclusion.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        same_learning_rate: Whether an equal learning rate of full fine-tuning and LoRA is meant.
    """
    failed = [*_failed(candidate), *_failed(baseline)]
    different = [*_different_workload(candidate.workload, baseline.workload), *_different_machine(candidate, baseline)]
    problems = [*failed, *different]
    if not problems:
        problems += _unpaired(candidate, baseline)
    if not problems:
        for ours, theirs in zip(candidate.trials, baseline.trials, strict=True):
            problems += _not_comparable(ours, theirs)
    if not same_learning_rate and candidate.variant.kind != baseline.variant.kind:
        problems += _same_learning_rate(candidate, baseline)
    return Comparison(candidate, baseline, tuple(different), tuple(dict.fromkeys(problems)))


def _nll(trial: TrialResult) -> FloatArray:
    assert trial.validation is not None  # a missing loss is among the problems
    return np.asarray(trial.validation.nll, dtype=np.float64)


def _units(trial: TrialResult) -> int:
    if trial.validation is None:
        return 0
    documents = trial.validation.documents
    return len(trial.validation.nll) if documents is None else len(set(documents))


def _failed(variant: TrainedVariant) -> Iterator[str]:
    if not variant.trials:
        yield f"{variant.label} has no trial"
    for trial in variant.trials:
        if trial.failure is not None:
            yield trial.failure
        elif trial.validation is None or not trial.validation.nll:
            yield f"the validation loss of {variant.label}, seed {trial.spec.seed}, was not measured"
        elif not all(map(math.isfinite, trial.validation.nll)):
            yield f"the validation loss of {variant.label}, seed {trial.spec.seed}, is not finite"


def _different_workload(ours: Workload, theirs: Workload) -> Iterator[str]:
    left, right = ours.to_dict(), theirs.to_dict()
    for name in left:
        if name != "seeds" and left[name] != right[name]:
            yield (
                f"the two variants did not do the same work: {name} is {left[name]!r} for the candidate and "
                f"{right[name]!r} for the baseline; train both on one workload"
            )


def _different_machine(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[str]:
    for name in ("device", "device_name", "precision"):
        ours, theirs = _environment_values(candidate, name), _environment_values(baseline, name)
        if ours and theirs and (ours != theirs or len(ours) > 1):
            yield (
                f"the two variants did not do the same work: {name} is {', '.join(sorted(ours))} for the candidate and "
                f"{', '.join(sorted(theirs))} for the baseline; train both in one environment"
            )


def _environment_values(variant: TrainedVariant, name: str) -> set[str]:
    return {str(getattr(trial.environment, name)) for trial in variant.trials if trial.environment is not None}


def _unpaired(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[str]:
    ours = [trial.spec.seed for trial in candidate.trials]
    theirs = [trial.spec.seed for trial in baseline.trials]
    if ours != theirs:
        yield (
            f"the seeds are not paired: {ours} for {candidate.label}, {theirs} for {baseline.label}; "
            "train both on the same"
        )
    elif len(set(ours)) != len(ours):
        yield f"a seed occurs twice among {ours}: a repeated seed adds no evidence"


def _not_comparable(ours: TrialResult, theirs: TrialResult) -> Iterator[str]:
    assert ours.validation is not None  # a missing loss is among the problems already found
    assert theirs.validation is not None
    seed = ours.spec.seed
    same_sequences = (ours.validation.digest, ours.validation.tokens) == (
        theirs.validation.digest,
        theirs.validation.tokens,
    )
    if not same_sequences:
        yield f"seed {seed}: the two variants were not evaluated on the same validation sequences"
    if ours.data_order is None or ours.data_order != theirs.data_order:
        yield f"seed {seed}: the two variants were not trained on the same batches in the same order"
    yield from _step_0(ours, theirs)
    if same_sequences and _units(ours) < MINIMUM_SEQUENCES:
        unit = "sequences" if ours.validation.documents is None else "documents"
        yield (
            f"{_units(ours)} validation {unit} are too few to tell noise from a gap: at least {MINIMUM_SEQUENCES} are "
            "needed; give a longer validation text, or a smaller block_size"
        )


def _step_0(ours: TrialResult, theirs: TrialResult) -> Iterator[str]:
    starts = [trial.curve[0] for trial in (ours, theirs) if trial.curve and trial.curve[0].step == 0]
    if len(starts) != 2:
        yield f"seed {ours.spec.seed}: the loss before training was not measured for both variants"
        return
    precision = ours.environment.precision if ours.environment else "fp32"
    tolerance = _STEP_0_TOLERANCE.get(precision, min(_STEP_0_TOLERANCE.values()))
    left, right = starts[0].loss, starts[1].loss
    if not abs(left - right) <= tolerance * max(1.0, abs(right)):
        yield (
            f"seed {ours.spec.seed}: before training the losses should be equal, but they are {left:.4f} for the "
            f"candidate and {right:.4f} for the baseline: the two do not start from the same model"
        )


def _same_learning_rate(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[str]:
    rates = {_rate(trial.spec) for variant in (candidate, baseline) for trial in variant.trials}
    if len(rates) == 1:
        yield (
            f"both variants were trained at the same learning rate, {rates.pop():g}, which holds LoRA back: its best "
            "is about ten times that of full fine-tuning; set lora_learning_rate or full_learning_rate, or pass "
            "same_learning_rate=True if it is meant"
        )


def _rate(spec: TrialSpec) -> float:
    assert spec.variant.learning_rate is not None  # a TrialSpec has none without it
    return spec.variant.learning_rate
