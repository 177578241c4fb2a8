"""The gate on the time of a step: the problems of what was measured, and the verdict."""

from __future__ import annotations

from typing import Final

import numpy as np

from pytest_ftguard.comparison.changing import more_seeds
from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.comparison.problem import Problem, failure_of, name_of
from pytest_ftguard.gates.explain import BEYOND, UNDECIDED, WITHIN, ends_err, measured_elsewhere
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.verdict import NOT_FINITE, Status, Verdict, decide, give, invalid
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.statistics import mean_log_ratio
from pytest_ftguard.units import format_bytes

__all__ = [
    "assess_time",
    "can_time_again",
    "time_problems",
    "why_time_again",
]


# One seed does not show how much a ratio of times moves.
_FEWEST_SEEDS: Final = 2
# With fewer the interval is wide.
_ENOUGH_SEEDS: Final = 4


def assess_time(
    candidate: TrainedVariant, limit: Limit, baseline: TrainedVariant, confidence: float, origin: str = ""
) -> Verdict:
    """Judge the time of an optimizer step as a share of the baseline's.

    Seconds of one machine say nothing about another, so only the ratio is judged. Its bounds come from the seeds, on
    the log scale; one seed cannot show how much the ratio moves from run to run.

    Args:
        candidate: The variant that is judged.
        limit: The largest accepted share.
        baseline: The variant that the share refers to.
        confidence: One-sided confidence of each bound.
        origin: Where the seconds come from; "" if they are those of the trainings.
    """
    problems = time_problems(candidate, baseline)
    if not problems and len(candidate.trials) < _FEWEST_SEEDS:
        what = "one seed cannot tell a slower step from a busy machine"
        problems.append(Problem(what, remedy=f"{more_seeds(candidate, _ENOUGH_SEEDS)}, or at least two of them"))
    if problems:
        return invalid("time_budget", candidate, baseline, limit, problems, why=[origin])
    interval = mean_log_ratio(_seconds(candidate), _seconds(baseline), confidence)
    status = decide("time_budget", interval, limit.value)
    if status == "INVALID":
        return invalid("time_budget", candidate, baseline, limit, [NOT_FINITE])
    reasons = {"PASS": WITHIN, "FAIL": BEYOND, "INCONCLUSIVE": UNDECIDED}
    seeds = f"The interval rests on {len(candidate.trials)} seeds; {ends_err(confidence)}."
    return give(
        "time_budget",
        status,
        candidate=candidate,
        baseline=baseline,
        measured=interval,
        limit=limit,
        why=[f"{reasons[status]} {seeds}", *_arithmetic(candidate, baseline), origin],
        what_to_do=_time_advice(status, candidate),
    )


def time_problems(candidate: TrainedVariant, baseline: TrainedVariant) -> list[Problem]:
    """Return why the steps' times of two variants cannot be compared; empty if they can."""
    sides = (candidate, baseline)
    problems = [problem for side in sides for problem in (*_unmeasured(side), *map(measured_elsewhere, _foreign(side)))]
    if problems:
        return problems
    comparison = compare(candidate, baseline, same_learning_rate=True)
    # A later run makes short trials of both if it can.
    is_ours = "elsewhere" not in (candidate.workload_maker, baseline.workload_maker)
    again = "" if can_time_again(candidate, baseline) else "--ftguard-no-cache trains it again"
    again = again if is_ours else "train it again in the run that trained it"
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
    # A user's own code may depend on the step, or on the number of steps, so short trials may differ.
    is_own = candidate.workload.own_training is not None
    return not (comparison.different_work or comparison.unpaired or is_own)


def why_time_again(candidate: TrainedVariant, baseline: TrainedVariant) -> list[str]:
    """Return why the steps' times of two variants cannot be compared, although those of other trials could.

    Empty if they can be compared, or if something else is wrong with them that would be wrong again.
    """
    sides = (candidate, baseline)
    if not can_time_again(candidate, baseline):
        return []
    sides_of: dict[str, list[str]] = {}
    for side in sides:
        texts = ["the steps were timed on another machine"] if _foreign(side) else []
        # What to do about a disturbance comes after the colon, and is being done.
        texts += [text.partition(":")[0] for _, text in _disturbances(side)]
        for text in dict.fromkeys(texts):
            sides_of.setdefault(text, []).append(side.label)
    reasons = [f"{text} ({', '.join(labels)})" for text, labels in sides_of.items()]
    if len(_runs(*sides)) > 1 and not any(map(_foreign, sides)):
        reasons.insert(0, "their steps were timed in different runs")
    return reasons


def _time_advice(status: Status, candidate: TrainedVariant) -> str:
    """Return what to do; "" if that is nothing."""
    if status == "FAIL":
        return (
            "adapt fewer target modules, which makes a step of LoRA faster (the rank hardly matters); or raise the "
            "limit"
        )
    if status == "INCONCLUSIVE":
        seeds, is_short = len(candidate.trials), candidate.workload.purpose == "timing"
        quiet, more = "run on a machine with nothing else to do", ", or for more steps"
        if is_short:
            more = ", or with --ftguard-no-cache, which times all steps"
        elif candidate.cached:  # the store gives these seconds again
            quiet += " with --ftguard-no-cache"
        few = ""
        if seeds < _ENOUGH_SEEDS:
            few = f"{seeds} seeds make the interval wide: {more_seeds(candidate, _ENOUGH_SEEDS)}; "
        return f"{few}{quiet}{more}"
    return ""


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


def _disturbed(variant: TrainedVariant, again: str) -> list[Problem]:
    """Say what else used the device while its steps were timed, and what to do, with how to train it again."""
    seeds: dict[str, list[str]] = {}
    for trial, text in _disturbances(variant):
        seeds.setdefault(text, []).append(str(trial.spec.seed))
    return [
        Problem(
            f"the steps of {_seeds(variant, which)}, were disturbed", why=f"{text[0].upper()}{text[1:]}.", remedy=again
        )
        for text, which in seeds.items()
    ]


def _seeds(variant: TrainedVariant, seeds: list[str]) -> str:
    return f"{variant.label}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


def _disturbances(variant: TrainedVariant) -> list[tuple[Trial, str]]:
    return [
        (trial, trial.measured.time.disturbance)
        for trial in variant.trials
        if trial.measured.time is not None and trial.measured.time.disturbance is not None
    ]


def _short_of_memory(variant: TrainedVariant) -> list[Problem]:
    """Say what an accelerator's memory was short of while its steps were timed."""
    problems = []
    for trial in variant.trials:
        where, memory = name_of(trial), trial.measured.memory
        if memory is not None and memory.allocator_retries:
            problems.append(
                Problem(
                    f"{where}: the allocator ran out of room {memory.allocator_retries} times",
                    why="It had to give back its cache, which takes time.",
                    remedy="use a smaller batch_size, or a larger device",
                )
            )
        if memory is not None and memory.is_shared:
            problems.append(
                Problem(
                    f"{where}: other processes had {format_bytes(memory.others_bytes or 0)} of the device's memory",
                    remedy="run on a device that nothing else uses",
                )
            )
    return problems


def _different_runs(candidate: TrainedVariant, baseline: TrainedVariant) -> list[Problem]:
    """Seeds show how much a step's time moves within a run, but not how it moves from run to run."""
    if len(_runs(candidate, baseline)) == 1:
        return []
    is_ours = "elsewhere" not in (candidate.workload_maker, baseline.workload_maker)
    again = " (--ftguard-no-cache trains what is in the store again)"
    return [
        Problem(
            "the steps were timed in different runs",
            why="The load of the machine may have changed between them.",
            remedy=f"train both in one{again if is_ours else ''}",
        )
    ]


def _runs(*sides: TrainedVariant) -> set[str]:
    return {trial.measured.time.run for side in sides for trial in side.trials if trial.measured.time}


def _seconds(variant: TrainedVariant) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(
        [trial.measured.time.seconds_per_step for trial in variant.trials if trial.measured.time], dtype=np.float64
    )


def _unmeasured(variant: TrainedVariant) -> list[Problem]:
    if not variant.trials:
        return [Problem(f"{variant.label} has no trial")]
    problems = []
    for trial in variant.trials:
        seconds = trial.measured.time.seconds_per_step if trial.measured.time else None
        if failure := failure_of(trial):
            problems.append(failure)
        elif seconds is None or not 0 < seconds < float("inf"):
            problems.append(Problem(f"the time of a step of {name_of(trial)}, was not measured"))
    return problems


def _foreign(variant: TrainedVariant) -> list[Trial]:
    """Return the trials that another machine timed."""
    return [
        trial
        for trial in variant.trials
        if trial.measured.outcome == "ok" and trial.provenance.measured_elsewhere is not None
    ]
