"""What would fit if a training did not: other ways of training the same, each with its forecast of memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results import Trial, TrialError
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Workload, with_learning_rate
from pytest_ftguard.units import format_bytes

__all__ = ["alternatives", "with_advice"]

Forecast = Callable[[Sequence[TrialSpec]], list[Trial]]


def alternatives(spec: TrialSpec) -> dict[str, TrialSpec]:
    """Return the trial as it is and ways to train it with less memory; those of the workload are for all variants."""
    workload, ways = spec.workload, {"as it is": spec}
    accumulated = int(workload.training_args.get("gradient_accumulation_steps", 1))
    if workload.batch_size % 2 == 0:
        half = {"gradient_accumulation_steps": 2 * accumulated}
        name = f"batch_size = {workload.batch_size // 2} with gradient_accumulation_steps={2 * accumulated}"
        ways[name] = replace(spec, workload=_with(workload, half, batch_size=workload.batch_size // 2))
    if not workload.training_args.get("gradient_checkpointing"):
        ways["gradient_checkpointing=true"] = replace(spec, workload=_with(workload, {"gradient_checkpointing": True}))
    if spec.variant.kind == Full.kind:
        ways["LoRA(r=16) instead"] = replace(spec, variant=with_learning_rate(LoRA(), spec.variant))
    return ways


def _with(workload: Workload, arguments: Mapping[str, object], **changes: int) -> Workload:
    return replace(workload, training_args={**workload.training_args, **arguments}, **changes)  # type: ignore[arg-type]


def with_advice(result: Trial, forecast: Forecast) -> Trial:
    """Return a trial that lacked memory with what would have taken how much."""
    if result.spec.workload.own_training is not None:
        return result
    ways = alternatives(result.spec)
    try:
        planned = forecast(list(ways.values()))
    except FtguardError:
        return result  # the trial's own error is what the user must see
    peaks = [one.measured.memory.forecast_bytes if one.measured.memory else None for one in planned]
    whole = peaks[0]
    # Not every way takes less: LoRA does not if activations are nearly all of the memory.
    known = [
        f"{name}: {format_bytes(peak)}"
        for number, (name, peak) in enumerate(zip(ways, peaks, strict=True))
        if peak is not None and (number == 0 or whole is None or peak < whole)
    ]
    if not known or result.measured.error is None:
        return result
    message = f"{result.measured.error.message}. Forecast of the peak memory: {'; '.join(known)}"
    return result.remeasured(error=TrialError(message, result.measured.error.log_tail))
