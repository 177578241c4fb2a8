"""The gate on the peak memory of training."""

from __future__ import annotations

import math

from pytest_ftguard.comparison.changing import how_to_set
from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.comparison.problem import Problem, failure_of, name_of
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.asking import (
    check_pair,
    check_variant,
    conclude,
    find_test,
    limit_of,
)
from pytest_ftguard.gates.explain import measured_elsewhere
from pytest_ftguard.gates.limits import SHARE, Limit
from pytest_ftguard.gates.verdict import Status, Verdict, give, invalid
from pytest_ftguard.results import Breakdown, TrainedVariant
from pytest_ftguard.units import format_bytes

__all__ = [
    "assert_memory_budget",
    "assess_memory",
    "forecast_text",
    "foretell_memory",
    "memory_problems",
]


def assert_memory_budget(
    candidate: TrainedVariant, at_most: str | None = None, *, of: TrainedVariant | None = None
) -> Verdict:
    """Fail the test unless the candidate's peak memory of training is within the budget.

    Args:
        candidate: The variant that is judged, usually LoRA.
        at_most: A size ("0.9 GB") or a share ("60%"); by default `max_memory` of marker, option, environment or ini.
        of: The variant that a share refers to.

    Returns:
        The verdict, which is PASS.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID.
        ConfigurationError: There is no budget, a share without `of`, or an argument is wrong.
    """
    check_variant("assert_memory_budget", candidate)
    if of is not None:
        check_pair("assert_memory_budget", candidate, of, "lora_variant, of=full_variant")
    limit = limit_of("assert_memory_budget", "max_memory", at_most)
    test = find_test()
    assess = foretell_memory if test is not None and test.is_planned else assess_memory
    return conclude(assess(candidate, limit, of), None, candidate, *([of] if of else ()))


def assess_memory(candidate: TrainedVariant, limit: Limit, baseline: TrainedVariant | None = None) -> Verdict:
    """Judge the peak memory of training, in bytes or as a share of the baseline's.

    Memory is nearly deterministic, so there is no interval: the largest peak over the seeds is compared with the limit.

    Args:
        candidate: The variant that is judged.
        limit: The budget, in bytes or as a share.
        baseline: The variant that a share refers to.

    Raises:
        ConfigurationError: The limit is a share and there is no baseline.
    """
    whole = _whole(limit, baseline)
    problems = memory_problems(candidate, whole) if whole else _memory_problems(candidate)
    peak, of = candidate.peak_memory_bytes, whole.peak_memory_bytes if whole else None
    if problems or peak is None:
        return invalid("memory_budget", candidate, whole, limit, problems)
    value = peak / of if of else float(peak)
    status: Status = "PASS" if value <= limit.value else "FAIL"
    return give(
        "memory_budget",
        status,
        candidate=candidate,
        baseline=whole,
        measured=value,
        limit=limit,
        why=_why(candidate, whole, status),
        what_to_do=_what_to_do(candidate, whole) if status == "FAIL" else "",
    )


def _whole(limit: Limit, baseline: TrainedVariant | None) -> TrainedVariant | None:
    """Return the variant that the limit is a share of; None if it is a size."""
    if limit.unit == SHARE and baseline is None:
        message = (
            f"a memory limit of {limit} (set by {limit.origin.name}) is a share of another variant's peak: "
            "pass of=full_variant, or give a size such as '0.9 GB'"
        )
        raise ConfigurationError(message)
    return baseline if limit.unit == SHARE else None


def foretell_memory(candidate: TrainedVariant, limit: Limit, baseline: TrainedVariant | None = None) -> Verdict:
    """Say how `assess_memory` would decide if the forecasts came true; INVALID if there is no forecast.

    Args:
        candidate: The variant, planned or trained.
        limit: The budget, in bytes or as a share.
        baseline: The variant that a share refers to.

    Raises:
        ConfigurationError: The limit is a share and there is no baseline.
    """
    whole = _whole(limit, baseline)
    sides = [candidate] if whole is None else [candidate, whole]
    missing = [side.label for side in sides if side.forecast_memory_bytes is None]
    if missing:
        return invalid("memory_budget", candidate, whole, limit, [f"no forecast for {label}" for label in missing])
    value = float(candidate.forecast_memory_bytes or 0)
    if whole is not None:
        value /= whole.forecast_memory_bytes or math.nan
    status: Status = "PASS" if value <= limit.value else "FAIL"
    return give(
        "memory_budget",
        status,
        candidate=candidate,
        baseline=whole,
        measured=value,
        limit=limit,
        why=["This is a forecast; nothing was trained."],
    )


def forecast_text(candidate: TrainedVariant, whole: TrainedVariant | None) -> str:
    """Return the forecast of a peak as messages show it, with its share of another one's."""
    peak, of = (side.forecast_memory_bytes or 0 if side else 0 for side in (candidate, whole))
    share = f" ({100 * peak / of:.1f}% of {whole.label}'s)" if whole and of else ""
    return f"{format_bytes(peak)}{share}"


def memory_problems(candidate: TrainedVariant, baseline: TrainedVariant) -> list[Problem]:
    """Return why the peaks of memory of two variants cannot be compared; empty if they can."""
    problems = [*_memory_problems(candidate), *_memory_problems(baseline)]
    if problems:
        return problems
    comparison = compare(candidate, baseline, same_learning_rate=True)
    return [
        *comparison.different_work,
        *comparison.different_environment,
        *_different_methods(candidate, baseline),
    ]


def _memory_problems(variant: TrainedVariant) -> list[Problem]:
    if not variant.trials:
        return [Problem(f"{variant.label} has no trial")]
    problems = []
    for trial in variant.trials:
        if failure := failure_of(trial):
            problems.append(failure)
        elif trial.measured.memory is None or not (trial.measured.memory.peak_bytes or 0) > 0:
            problems.append(Problem(f"the peak memory of {name_of(trial)}, was not measured"))
        elif trial.provenance.measured_elsewhere is not None and trial.measured.memory.method == "allocator":
            problems.append(measured_elsewhere(trial))
    return problems


def _different_methods(candidate: TrainedVariant, baseline: TrainedVariant) -> list[Problem]:
    methods = {
        trial.measured.memory.method for side in (candidate, baseline) for trial in side.trials if trial.measured.memory
    }
    if len(methods) == 1:
        return []
    return [Problem(f"the peaks were measured in different ways ({', '.join(sorted(methods))})")]


def _why(candidate: TrainedVariant, whole: TrainedVariant | None, status: Status) -> list[str]:
    peak, of = (format_bytes(side.peak_memory_bytes or 0) if side else "" for side in (candidate, whole))
    memory = candidate.trials[0].measured.memory
    method = f" ({memory.method})" if memory else ""
    lines = [f"{candidate.label} peaked at {peak}{f', {whole.label} at {of}' if whole else ''}{method}."]
    if status == "FAIL" and memory is not None and memory.breakdown is not None:
        lines.append(_taken_by(memory.breakdown))
    return lines


def _what_to_do(candidate: TrainedVariant, whole: TrainedVariant | None) -> str:
    """Return what makes the peak, or its share of another one's, smaller; what cannot be done here is left out."""
    work, adapts = candidate.workload, candidate.variant.kind != "full"
    fewer = ["adapt fewer target modules"] if adapts else []
    if whole is not None:
        fewer += ["lower the rank"] if getattr(candidate.variant, "r", 1) > 1 else []
        smaller = f"{' or '.join(fewer)}, which makes the share smaller (a smaller batch shrinks both sides); or "
        return f"{smaller if fewer else ''}raise the limit"
    ways = []
    if work.batch_size > 1:
        with_more = "" if work.training_function else ", with as many more gradient_accumulation_steps"
        half = how_to_set(candidate, batch_size=max(1, work.batch_size // 2))
        ways.append(f"use a smaller batch ({half}{with_more})")
    if work.training_function is None and not work.training_args.get("gradient_checkpointing"):
        ways.append("set gradient_checkpointing in training_args (it applies to both variants)")
    ways += [f"use a smaller block_size than {work.block_size}", *fewer]
    return f"{', or '.join(ways)}; or raise the limit"


def _taken_by(parts: Breakdown) -> str:
    sizes = {
        "weights": parts.weights_bytes,
        "gradients": parts.gradients_bytes,
        "the optimizer's state": parts.optimizer_bytes,
        "activations": parts.activations_bytes,
    }
    listed = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
    stage = {"forward": "the forward pass", "backward": "the backward pass", "optimizer": "the optimizer's step"}
    return f"It consists of {listed}; the peak came in {stage.get(parts.peak_stage, parts.peak_stage)}."
