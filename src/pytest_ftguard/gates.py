"""Gates: a limit applied to what was measured gives a verdict that explains itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pytest_ftguard.comparison import Comparison, compare
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.limits import SHARE, Limit
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval
from pytest_ftguard.units import decimals_apart, format_bytes, format_bytes_apart

__all__ = ["Status", "Verdict", "assess_loss_gap", "assess_memory"]

Status = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer of a gate.

    Attributes:
        gate: "loss_gap" or "memory_budget".
        status: "PASS", "FAIL", "INCONCLUSIVE" or "INVALID".
        candidate: Label of the variant that was judged.
        baseline: Label of the variant that it was judged against, where there was one.
        value: What was measured, in `unit`; None where nothing may be concluded.
        interval: One-sided lower and upper bound; None where the measurement is not a sample.
        limit: The largest accepted value, in `unit`.
        unit: "nats per token", "bytes" or "of baseline".
        limit_source: Where the limit was set.
        message: What was measured, what was allowed, why the answer is what it is, what to do.
    """

    gate: str
    status: Status
    candidate: str
    baseline: str | None
    value: float | None
    interval: tuple[float, float] | None
    limit: float
    unit: str
    limit_source: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as values that JSON can hold."""
        return {**asdict(self), "interval": None if self.interval is None else list(self.interval)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Return the verdict that `to_dict` wrote."""
        interval = values["interval"]
        return cls(**{**values, "interval": None if interval is None else (interval[0], interval[1])})


def assess_loss_gap(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    limit: Limit,
    *,
    confidence: float,
    same_learning_rate: bool = False,
) -> Verdict:
    """Judge the gap between the validation losses, candidate minus baseline, in nats per token.

    PASS where the upper bound is within the limit, FAIL where the lower bound is beyond it, INCONCLUSIVE where
    the limit lies between the two, INVALID where nothing may be concluded.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        limit: The margin.
        confidence: One-sided confidence of each bound.
        same_learning_rate: Whether an equal learning rate of full fine-tuning and LoRA is meant.
    """
    comparison = compare(candidate, baseline, same_learning_rate=same_learning_rate)
    if comparison.loss_problems:
        return _invalid("loss_gap", candidate, baseline, limit, comparison.loss_problems)
    interval = comparison.loss_gap(confidence)
    if not all(map(math.isfinite, (interval.value, interval.lower, interval.upper))):
        return _invalid("loss_gap", candidate, baseline, limit, ("the gap or its bounds are not finite",))
    # Both comparisons are false for NaN, so that nothing passes by accident.
    if interval.upper <= limit.value:
        status: Status = "PASS"
    elif interval.lower > limit.value:
        status = "FAIL"
    else:
        status = "INCONCLUSIVE"
    return Verdict(
        gate="loss_gap",
        status=status,
        candidate=candidate.label,
        baseline=baseline.label,
        value=interval.value,
        interval=(interval.lower, interval.upper),
        limit=limit.value,
        unit=limit.unit,
        limit_source=limit.source,
        message=_explain_gap(comparison, interval, limit, status, confidence),
    )


def _explain_gap(comparison: Comparison, interval: Interval, limit: Limit, status: Status, confidence: float) -> str:
    candidate, baseline = comparison.candidate, comparison.baseline
    seeds = "1 seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    validation = candidate.trials[0].validation
    unit = "documents" if validation is not None and validation.documents is not None else "sequences"
    steps = candidate.workload.steps
    decimals = decimals_apart((interval.value, interval.lower, interval.upper), limit.value, 4)
    lines = [
        f"loss gap {status}: after {steps} steps {candidate.label} is at {candidate.loss:.4f} nats per token, "
        f"{baseline.label} at {baseline.loss:.4f}.",
        f"Measured: a gap of {interval.value:+.{decimals}f}, bounds {interval.lower:+.{decimals}f} and "
        f"{interval.upper:+.{decimals}f} "
        f"(each at {100 * confidence:g} % confidence; {seeds}, {comparison.units} {unit}).",
        f"Allowed: at most {limit}, set by {limit.place}.",
        _reason(comparison, interval, status),
    ]
    if comparison.seeds == 1:
        lines.append("With one seed this speaks of these two checkpoints, not of the next training run.")
    return "\n".join(lines)


def _reason(comparison: Comparison, interval: Interval, status: Status) -> str:
    label = comparison.candidate.label
    if status == "PASS":
        return "Even the upper bound is within the limit."
    if status == "FAIL":
        return (
            f"Even the lower bound is beyond the limit, so this is not noise. What to do: give {label} more capacity "
            "(rank, target modules), search its learning rate, or choose full fine-tuning; raise the limit only if the "
            "loss of quality is acceptable."
        )
    if comparison.seeds == 1 or interval.item_variance >= interval.seed_variance:
        noise = "the choice of validation sequences; a longer validation text narrows the bounds"
    else:
        noise = "the seeds; more seeds narrow the bounds, more validation text does not"
    return f"The limit lies between the bounds, so neither answer is safe. Most of the noise comes from {noise}."


def assess_memory(candidate: TrainedVariant, limit: Limit, baseline: TrainedVariant | None = None) -> Verdict:
    """Judge the peak memory of training, in bytes or as a share of the baseline's.

    Memory is nearly deterministic, so there is no interval: the largest peak over the seeds is held against the limit.

    Args:
        candidate: The variant that is judged.
        limit: The budget, in bytes or as a share.
        baseline: The variant whose peak is the whole of a share.

    Raises:
        ConfigurationError: The limit is a share and there is no baseline.
    """
    if limit.unit == SHARE and baseline is None:
        message = (
            f"a memory limit of {limit} (set by {limit.place}) is a share of another variant's peak: "
            "pass of=full_variant, or give a size such as '0.9 GB'"
        )
        raise ConfigurationError(message)
    whole = baseline if limit.unit == SHARE else None
    problems = [*_memory_problems(candidate), *(_memory_problems(whole) if whole else ())]
    if whole and not problems:
        problems += compare(candidate, whole, same_learning_rate=True).different_work
        problems += _different_methods(candidate, whole)
    peak, of = candidate.peak_memory_bytes, whole.peak_memory_bytes if whole else None
    if problems or peak is None:
        return _invalid("memory_budget", candidate, whole, limit, tuple(problems))
    value = peak / of if of else float(peak)
    status: Status = "PASS" if value <= limit.value else "FAIL"
    return Verdict(
        gate="memory_budget",
        status=status,
        candidate=candidate.label,
        baseline=whole.label if whole else None,
        value=value,
        interval=None,
        limit=limit.value,
        unit=limit.unit,
        limit_source=limit.source,
        message=_explain_memory(candidate, whole, limit, value, status),
    )


def _memory_problems(variant: TrainedVariant) -> list[str]:
    if not variant.trials:
        return [f"{variant.label} has no trial"]
    problems = []
    for trial in variant.trials:
        if trial.failure is not None:
            problems.append(trial.failure)
        elif trial.memory is None or not trial.memory.peak_bytes > 0:
            problems.append(f"the peak memory of {variant.label}, seed {trial.spec.seed}, was not measured")
    return problems


def _different_methods(candidate: TrainedVariant, baseline: TrainedVariant) -> list[str]:
    methods = {trial.memory.method for side in (candidate, baseline) for trial in side.trials if trial.memory}
    if len(methods) == 1:
        return []
    return [f"the peaks were measured in different ways ({', '.join(sorted(methods))}), which cannot be compared"]


def _explain_memory(
    candidate: TrainedVariant, baseline: TrainedVariant | None, limit: Limit, value: float, status: Status
) -> str:
    peak = candidate.peak_memory_bytes
    assert peak is not None  # an unmeasured peak is INVALID
    memory = candidate.trials[0].memory
    method = f" ({memory.method})" if memory else ""
    if baseline is None or baseline.peak_memory_bytes is None:
        size, allowed = format_bytes_apart(value, limit.value)
        measured = f"{candidate.label} peaked at {size}{method}"
    else:
        allowed = str(limit)
        share = f"{100 * value:.{decimals_apart([100 * value], 100 * limit.value, 1)}f}%"
        whole = f"{baseline.label}'s {format_bytes(baseline.peak_memory_bytes)}"
        measured = f"{candidate.label} peaked at {format_bytes(peak)}{method}, {share} of {whole}"
    lines = [f"peak memory {status}: {measured}.", f"Allowed: at most {allowed}, set by {limit.place}."]
    if status == "FAIL":
        lines.append(
            "What to do: a smaller batch_size with gradient_accumulation_steps, gradient_checkpointing in "
            "training_args (it applies to both variants), fewer target modules; or raise the limit."
        )
    return "\n".join(lines)


def _invalid(
    gate: str, candidate: TrainedVariant, baseline: TrainedVariant | None, limit: Limit, problems: tuple[str, ...]
) -> Verdict:
    title = {"loss_gap": "loss gap", "memory_budget": "peak memory"}[gate]
    reasons = "\n".join(f"- {problem}" for problem in problems) or "- it was not measured"
    return Verdict(
        gate=gate,
        status="INVALID",
        candidate=candidate.label,
        baseline=baseline.label if baseline else None,
        value=None,
        interval=None,
        limit=limit.value,
        unit=limit.unit,
        limit_source=limit.source,
        message=f"{title} INVALID: nothing may be concluded.\n{reasons}\nThe limit, {limit}, was set by {limit.place}.",
    )
