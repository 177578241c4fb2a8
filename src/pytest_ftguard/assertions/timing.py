"""The step's time of a pair: as it was measured, or by short trials of both where that says nothing."""

from __future__ import annotations

from dataclasses import replace

from pytest_ftguard.errors import FtguardError, hide_our_frames
from pytest_ftguard.gates.budgets import assess_time, time_problems, why_time_again
from pytest_ftguard.gates.verdict import Verdict, invalid
from pytest_ftguard.limits import Limit
from pytest_ftguard.results import TrainedVariant

__all__ = ["judge_time"]

__tracebackhide__ = hide_our_frames


def judge_time(candidate: TrainedVariant, limit: Limit, baseline: TrainedVariant, confidence: float) -> Verdict:
    """Judge the time of a step as a share of the baseline's; where only other trials can tell, these are made.

    Args:
        candidate: The variant that is judged.
        limit: The largest accepted share.
        baseline: The variant whose time is the whole.
        confidence: One-sided confidence of each bound.
    """
    why = "; ".join(why_time_again(candidate, baseline))
    if not why or candidate.timer is None or baseline.timer is None:
        return assess_time(candidate, limit, baseline, confidence)
    try:
        ours, theirs = candidate.timed_beside(baseline, why)
    except FtguardError as error:
        problems = [*time_problems(candidate, baseline), f"they were not timed again in this run: {error}"]
        return invalid("time_budget", candidate, baseline, limit, problems)
    verdict = assess_time(ours, limit, theirs, confidence)
    when = "in an earlier run" if ours.cached and theirs.cached else "again in this run"
    origin = f"Both were timed {when}, in turns, by short trials of {ours.workload.steps} steps, because {why}."
    return replace(verdict, message=f"{verdict.message}\n{origin}")
