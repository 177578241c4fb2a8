"""The gate on the time of a step: the problems of what was measured, and the verdict."""

from __future__ import annotations

from typing import Final

import numpy as np

from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.gates.explain import measured_elsewhere, name_of
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.verdict import Status, Verdict, decide, give, invalid
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.statistics import mean_log_ratio
from pytest_ftguard.units import decimals_apart, format_bytes

__all__ = [
    "assess_time",
    "can_time_again",
    "time_problems",
    "why_time_again",
]


# One seed does not show how much a ratio of times moves.
_FEWEST_SEEDS: Final = 2


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
        f"Allowed: at most {limit}, set by {limit.origin.name}.",
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
    problems = [problem for side in sides for problem in (*_unmeasured(side), *map(measured_elsewhere, _foreign(side)))]
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
    ours, theirs = (side.trials[0].measured.time for side in (candidate, baseline))
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


def _disturbances(variant: TrainedVariant) -> list[tuple[Trial, str]]:
    return [
        (trial, trial.measured.time.disturbance)
        for trial in variant.trials
        if trial.measured.time is not None and trial.measured.time.disturbance is not None
    ]


def _short_of_memory(variant: TrainedVariant) -> list[str]:
    """Say what an accelerator's memory was short of while its steps were timed."""
    problems = []
    for trial in variant.trials:
        where, memory = name_of(trial), trial.measured.memory
        if memory is not None and memory.allocator_retries:
            problems.append(
                f"{where}: the allocator ran out of room {memory.allocator_retries} times and had to give back "
                "its cache, which takes time: use a smaller batch_size, or a larger device"
            )
        if memory is not None and memory.is_shared:
            problems.append(
                f"{where}: other processes had {format_bytes(memory.others_bytes or 0)} of the device, so it was "
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
    return {trial.measured.time.run for side in sides for trial in side.trials if trial.measured.time}


def _seconds(variant: TrainedVariant) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(
        [trial.measured.time.seconds_per_step for trial in variant.trials if trial.measured.time], dtype=np.float64
    )


def _unmeasured(variant: TrainedVariant) -> list[str]:
    if not variant.trials:
        return [f"{variant.label} has no trial"]
    problems = []
    for trial in variant.trials:
        seconds = trial.measured.time.seconds_per_step if trial.measured.time else None
        if trial.failure is not None:
            problems.append(trial.failure)
        elif seconds is None or not 0 < seconds < float("inf"):
            problems.append(f"the time of a step of {variant.label}, seed {trial.spec.seed}, was not measured")
    return problems


def _foreign(variant: TrainedVariant) -> list[Trial]:
    """Return the trials whose seconds are another machine's."""
    return [
        trial for trial in variant.trials if trial.failure is None and trial.provenance.measured_elsewhere is not None
    ]
