"""Gates on what training costs: peak memory and time per step."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from pytest_ftguard.comparison import compare
from pytest_ftguard.errors import ConfigurationError, hide_our_frames
from pytest_ftguard.gates.verdict import Status, Verdict, decide, give, invalid
from pytest_ftguard.limits import SHARE, Limit
from pytest_ftguard.results import Breakdown, TrainedVariant, TrialResult
from pytest_ftguard.statistics import mean_log_ratio
from pytest_ftguard.units import decimals_apart, format_bytes, format_bytes_apart

__all__ = [
    "assess_memory",
    "assess_time",
    "can_time_again",
    "foretell_memory",
    "memory_problems",
    "time_problems",
    "why_time_again",
]

__tracebackhide__ = hide_our_frames

# One seed does not show how much a ratio of times moves.
_FEWEST_SEEDS: Final = 2


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
        message=_explain_memory(candidate, whole, limit, value, status),
    )


def _whole(limit: Limit, baseline: TrainedVariant | None) -> TrainedVariant | None:
    """Return the variant of whose peak the limit is a share; None where it is a size."""
    if limit.unit == SHARE and baseline is None:
        message = (
            f"a memory limit of {limit} (set by {limit.place}) is a share of another variant's peak: "
            "pass of=full_variant, or give a size such as '0.9 GB'"
        )
        raise ConfigurationError(message)
    return baseline if limit.unit == SHARE else None


def foretell_memory(candidate: TrainedVariant, limit: Limit, baseline: TrainedVariant | None = None) -> Verdict:
    """Say how `assess_memory` would decide if the forecasts came true; INVALID where there is no forecast.

    Args:
        candidate: The variant, planned or trained.
        limit: The budget, in bytes or as a share.
        baseline: The variant whose peak is the whole of a share.

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
    share = f" ({100 * value:.1f}% of {whole.label}'s)" if whole else ""
    peak = format_bytes(candidate.forecast_memory_bytes or 0)
    message = f"the peak memory of {candidate.label} is forecast at {peak}{share}"
    return give(
        "memory_budget", status, candidate=candidate, baseline=whole, measured=value, limit=limit, message=message
    )


def memory_problems(candidate: TrainedVariant, baseline: TrainedVariant) -> list[str]:
    """Return why the peaks of memory of two variants cannot be compared; empty where they can."""
    problems = [*_memory_problems(candidate), *_memory_problems(baseline)]
    if problems:
        return problems
    comparison = compare(candidate, baseline, same_learning_rate=True)
    return [
        *comparison.different_work,
        *comparison.different_environment,
        *_different_methods(candidate, baseline),
    ]


def _memory_problems(variant: TrainedVariant) -> list[str]:
    if not variant.trials:
        return [f"{variant.label} has no trial"]
    problems = []
    for trial in variant.trials:
        if trial.failure is not None:
            problems.append(trial.failure)
        elif trial.memory is None or not (trial.memory.peak_bytes or 0) > 0:
            problems.append(f"the peak memory of {variant.label}, seed {trial.spec.seed}, was not measured")
        elif trial.measured_elsewhere is not None and trial.memory.method == "allocator":
            problems.append(_measured_elsewhere(trial))
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
    if status == "FAIL" and memory is not None and memory.breakdown is not None:
        lines.append(_taken_by(memory.breakdown))
    if status == "FAIL" and baseline is not None:
        lines.append(
            "What to do: adapt fewer target modules or lower the rank, which makes the share smaller (a smaller batch "
            "shrinks both sides); or raise the limit."
        )
    elif status == "FAIL":
        lines.append(
            "What to do: use a smaller batch_size with gradient_accumulation_steps, gradient_checkpointing in "
            "training_args (it applies to both variants), or fewer target modules; or raise the limit."
        )
    return "\n".join(lines)


def _taken_by(parts: Breakdown) -> str:
    sizes = {
        "weights": parts.weights_bytes,
        "gradients": parts.gradients_bytes,
        "the optimizer's state": parts.optimizer_bytes,
        "activations": parts.activations_bytes,
    }
    listed = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
    stage = {"forward": "the forward pass", "backward": "the backward pass", "optimizer": "the optimizer's step"}
    return f"It is taken by {listed}; the peak came in {stage.get(parts.peak_stage, parts.peak_stage)}."


def assess_time(candidate: TrainedVariant, limit: Limit, baseline: TrainedVariant, confidence: float) -> Verdict:
    """Judge the time of an optimizer step as a share of the baseline's.

    Seconds of one machine say nothing about another, so only the ratio is judged. Its bounds come from the seeds, on
    the log scale; one seed cannot show how much the ratio moves from run to run.

    Args:
        candidate: The variant that is judged.
        limit: The largest accepted share.
        baseline: The variant whose time is the whole.
        confidence: One-sided confidence of each bound.
    """
    problems = time_problems(candidate, baseline)
    if not problems and len(candidate.trials) < _FEWEST_SEEDS:
        problems.append(
            "one seed cannot tell a slower step from a busy machine: train at least two, better three (ftguard_seeds)"
        )
    if problems:
        return invalid("time_budget", candidate, baseline, limit, problems)
    interval = mean_log_ratio(_seconds(candidate), _seconds(baseline), confidence)
    status = decide("time_budget", interval, limit.value)
    if status == "INVALID":
        return invalid("time_budget", candidate, baseline, limit, ["the ratio or its bounds are not finite numbers"])
    shares = [100 * bound for bound in (interval.value, interval.lower, interval.upper)]
    value, lower, upper = (f"{share:.{decimals_apart(shares, 100 * limit.value, 1)}f}%" for share in shares)
    lines = [
        f"step time {status}: a step of {candidate.label} takes {value} of {baseline.label}'s. Judging from "
        f"{len(candidate.trials)} seeds, it lies between {lower} and {upper} (each bound is wrong in at most "
        f"{100 * (1 - confidence):.3g} % of cases).",
        f"Allowed: at most {limit}, set by {limit.place}.",
        *_arithmetic(candidate, baseline),
        *_time_advice(status, candidate),
    ]
    return give(
        "time_budget",
        status,
        candidate=candidate,
        baseline=baseline,
        measured=interval,
        limit=limit,
        message="\n".join(lines),
    )


def time_problems(candidate: TrainedVariant, baseline: TrainedVariant) -> list[str]:
    """Return why the steps' times of two variants cannot be compared; empty where they can."""
    sides = (candidate, baseline)
    problems = [
        problem for side in sides for problem in (*_unmeasured(side), *map(_measured_elsewhere, _foreign(side)))
    ]
    if problems:
        return problems
    comparison = compare(candidate, baseline, same_learning_rate=True)
    # A later run makes short trials of both where it can.
    again = "" if can_time_again(candidate, baseline) else "; --ftguard-no-cache trains it again"
    return [
        *comparison.different_work,
        *comparison.different_environment,
        *comparison.different_threads,
        *comparison.unpaired,
        *_different_runs(candidate, baseline),
        *(problem for side in sides for problem in (*_disturbed(side, again), *_short_of_memory(side))),
    ]


def can_time_again(candidate: TrainedVariant, baseline: TrainedVariant) -> bool:
    """Return whether other trials of two variants could give times of steps that can be compared."""
    sides = (candidate, baseline)
    if len(candidate.trials) < _FEWEST_SEEDS or any(_unmeasured(side) or _short_of_memory(side) for side in sides):
        return False
    comparison = compare(candidate, baseline, same_learning_rate=True)
    # What a user's own function does may depend on the step, or on how many there are: short trials show another thing.
    is_own = candidate.workload.training_function is not None
    return not (comparison.different_work or comparison.unpaired or is_own)


def why_time_again(candidate: TrainedVariant, baseline: TrainedVariant) -> list[str]:
    """Return why the steps' times of two variants cannot be compared, where those of other trials of both could.

    Empty where they can be compared, and where something else is wrong with them that would be wrong again.
    """
    sides = (candidate, baseline)
    if not can_time_again(candidate, baseline):
        return []
    sides_of: dict[str, list[str]] = {}
    for side in sides:
        texts = ["the steps were timed on another machine"] if _foreign(side) else []
        # What to do about a disturbance comes behind the colon, and is being done.
        texts += [text.partition(":")[0] for _, text in _disturbances(side)]
        for text in dict.fromkeys(texts):
            sides_of.setdefault(text, []).append(side.label)
    reasons = [f"{text} ({', '.join(labels)})" for text, labels in sides_of.items()]
    if len(_runs(*sides)) > 1 and not any(map(_foreign, sides)):
        reasons.insert(0, "their steps were timed in different runs")
    return reasons


def _time_advice(status: Status, candidate: TrainedVariant) -> list[str]:
    """Say why the answer is what it is, and what to do."""
    if status == "FAIL":
        return [
            "The whole interval is beyond the limit. What to do: adapt fewer target modules, which makes a step of "
            "LoRA faster (the rank hardly matters); or raise the limit."
        ]
    if status == "INCONCLUSIVE":
        seeds, is_short = len(candidate.trials), candidate.workload.purpose == "timing"
        quiet, more = "run on a machine with nothing else to do", ", or for more steps"
        if is_short:
            more = ", or with --ftguard-no-cache, which times all steps"
        elif candidate.cached:  # the store gives these seconds again
            quiet += " with --ftguard-no-cache"
        few = f"{seeds} seeds make the interval wide: use 4 or more; " if seeds < 4 else ""
        return [f"The interval contains the limit: undecided. What to do: {few}{quiet}{more}."]
    return []


def _arithmetic(candidate: TrainedVariant, baseline: TrainedVariant) -> list[str]:
    """Say what the arithmetic of a step alone would allow."""
    ours, theirs = (side.trials[0].time for side in (candidate, baseline))
    if ours is None or theirs is None or not (ours.flop_per_step and theirs.flop_per_step):
        return []
    shares = [f"{100 * one.share_of_machine:.0f} %" for one in (ours, theirs) if one.share_of_machine is not None]
    reached = f"; they reach {' and '.join(shares)} of what this machine can do" if len(shares) == 2 else ""
    percent = f"{100 * ours.flop_per_step / theirs.flop_per_step:.0f} %"
    return [
        f"Arithmetic: a step of {candidate.label} takes {ours.flop_per_step / 1e9:,.3g} GFLOP, {percent} of "
        f"{baseline.label}'s {theirs.flop_per_step / 1e9:,.3g}{reached}."
    ]


def _disturbed(variant: TrainedVariant, again: str) -> list[str]:
    """Say what else used the device while its steps were timed, and what to do, with how to train it again."""
    seeds: dict[str, list[str]] = {}
    for trial, text in _disturbances(variant):
        seeds.setdefault(text, []).append(str(trial.spec.seed))
    return [
        f"{variant.label}, seed{'s' if len(which) > 1 else ''} {', '.join(which)}: {text}{again}"
        for text, which in seeds.items()
    ]


def _disturbances(variant: TrainedVariant) -> list[tuple[TrialResult, str]]:
    return [
        (trial, trial.time.disturbance)
        for trial in variant.trials
        if trial.time is not None and trial.time.disturbance is not None
    ]


def _short_of_memory(variant: TrainedVariant) -> list[str]:
    """Say what an accelerator's memory was short of while its steps were timed."""
    problems = []
    for trial in variant.trials:
        where = _where(trial)
        if trial.memory is not None and trial.memory.allocator_retries:
            problems.append(
                f"{where}: the allocator ran out of room {trial.memory.allocator_retries} times and had to give back "
                "its cache, which takes time: use a smaller batch_size, or a larger device"
            )
        if trial.memory is not None and trial.memory.is_shared:
            problems.append(
                f"{where}: other processes had {format_bytes(trial.memory.others_bytes or 0)} of the device, so it was "
                "shared: run where nothing else does"
            )
    return problems


def _different_runs(candidate: TrainedVariant, baseline: TrainedVariant) -> list[str]:
    """Seeds show how much a step's time moves within a run, and nothing of how it moves from run to run."""
    if len(_runs(candidate, baseline)) == 1:
        return []
    return [
        "the steps were timed in different runs, between which the load of the machine may change: train both in "
        "one (--ftguard-no-cache trains what is in the store again)"
    ]


def _runs(*sides: TrainedVariant) -> set[str]:
    return {trial.time.run for side in sides for trial in side.trials if trial.time}


def _where(trial: TrialResult) -> str:
    return f"{trial.spec.variant.label}, seed {trial.spec.seed}"


def _seconds(variant: TrainedVariant) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([trial.time.seconds_per_step for trial in variant.trials if trial.time], dtype=np.float64)


def _unmeasured(variant: TrainedVariant) -> list[str]:
    if not variant.trials:
        return [f"{variant.label} has no trial"]
    problems = []
    for trial in variant.trials:
        seconds = trial.time.seconds_per_step if trial.time else None
        if trial.failure is not None:
            problems.append(trial.failure)
        elif seconds is None or not 0 < seconds < float("inf"):
            problems.append(f"the time of a step of {variant.label}, seed {trial.spec.seed}, was not measured")
    return problems


def _foreign(variant: TrainedVariant) -> list[TrialResult]:
    """Return the trials whose seconds are another machine's."""
    return [trial for trial in variant.trials if trial.failure is None and trial.measured_elsewhere is not None]


def _measured_elsewhere(trial: TrialResult) -> str:
    return f"{_where(trial)}, comes from the store: {trial.measured_elsewhere}; --ftguard-no-cache trains it here"
