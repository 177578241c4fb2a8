"""The step's time of a pair: as it was measured, or by short trials of both where that says nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pytest_ftguard.errors import FtguardError, hide_our_frames
from pytest_ftguard.gates.budgets import assess_time, can_time_again, why_time_again
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.limits import Limit
from pytest_ftguard.results import TrainedVariant, TrialResult

__all__ = ["TimedPair", "judge_time", "judge_timed", "timed", "with_times"]

__tracebackhide__ = hide_our_frames

Judge = Callable[[TrainedVariant, TrainedVariant], Verdict]


@dataclass(frozen=True)
class TimedPair:
    """Two variants whose seconds can be compared, as far as that can be had.

    Attributes:
        candidate: The variant that is judged, or short trials of it.
        baseline: The variant that it is judged against, or short trials of it.
        origin: Where the seconds come from, or why they are not better; empty where they are those of the trainings.
    """

    candidate: TrainedVariant
    baseline: TrainedVariant
    origin: str = ""

    @property
    def is_short(self) -> bool:
        """Whether these are short trials."""
        return self.candidate.workload.purpose == "timing"

    @property
    def is_stored(self) -> bool:
        """Whether an earlier run has measured them."""
        return self.candidate.cached and self.baseline.cached

    def explain(self, verdict: Verdict) -> Verdict:
        """Return a verdict on the pair that says where its seconds come from."""
        return replace(verdict, message=f"{verdict.message}\n{self.origin}") if self.origin else verdict


def timed(
    candidate: TrainedVariant, baseline: TrainedVariant, *, in_doubt: bool = False, anew: bool = False
) -> TimedPair:
    """Return a pair as it was trained, or short trials of both where only these can be compared.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        in_doubt: Whether the seconds that the store has gave no answer.
        anew: Whether those were of short trials already.
    """
    why = "; ".join(why_time_again(candidate, baseline))
    if in_doubt and not why and can_time_again(candidate, baseline):
        why = "the seconds in the store left it in doubt"
    if not why or candidate.timer is None or baseline.timer is None:
        return TimedPair(candidate, baseline)
    try:
        ours, theirs = candidate.timed_beside(baseline, why, anew=anew)
    except FtguardError as error:
        return TimedPair(candidate, baseline, f"They were not timed again in this run: {error}")
    pair = TimedPair(ours, theirs)
    when = "in an earlier run" if pair.is_stored else "again in this run"
    origin = f"Both were timed {when}, in turns, by short trials of {ours.workload.steps} steps, because {why}."
    if anew:  # each look may err
        origin += " An earlier timing had left it in doubt."
    return replace(pair, origin=origin)


def judge_timed(candidate: TrainedVariant, baseline: TrainedVariant, judge: Judge) -> Verdict:
    """Judge a pair by seconds that can be compared; where the store's leave it in doubt, they are measured anew.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        judge: Gives the verdict on the pair, or on short trials of both.
    """
    pair = timed(candidate, baseline)
    verdict = judge(pair.candidate, pair.baseline)
    # The machine may have been busy then, and the store would give the same doubt for ever.
    while verdict.status == "INCONCLUSIVE" and pair.is_stored:
        fresh = timed(candidate, baseline, in_doubt=True, anew=pair.is_short)
        if not fresh.is_short:
            break
        pair, verdict = fresh, judge(fresh.candidate, fresh.baseline)
    return pair.explain(verdict)


def with_times(variant: TrainedVariant, short: TrainedVariant) -> TrainedVariant:
    """Return a variant with the seconds, and the machine, of its short trials; bytes of another GPU are left out.

    Args:
        variant: The variant as it was trained.
        short: Its short trials, of the same seeds; or the variant itself.
    """
    by_seed = {trial.spec.seed: trial for trial in short.trials}
    return replace(variant, trials=tuple(_with_time(trial, by_seed.get(trial.spec.seed)) for trial in variant.trials))


def _with_time(trial: TrialResult, short: TrialResult | None) -> TrialResult:
    if short is None or short is trial:  # after one that failed there are no more
        return trial
    if short.outcome != "ok":
        return short
    is_foreign = trial.measured_elsewhere is not None
    # The sum of live tensors is the same on every processor.
    memory = None if is_foreign and trial.memory is not None and trial.memory.method == "allocator" else trial.memory
    return replace(trial, time=short.time, environment=short.environment, memory=memory, measured_elsewhere=None)


def judge_time(candidate: TrainedVariant, limit: Limit, baseline: TrainedVariant, confidence: float) -> Verdict:
    """Judge the time of a step as a share of the baseline's; where only other trials can tell, these are made.

    Args:
        candidate: The variant that is judged.
        limit: The largest accepted share.
        baseline: The variant whose time is the whole.
        confidence: One-sided confidence of each bound.
    """
    return judge_timed(candidate, baseline, lambda ours, theirs: assess_time(ours, limit, theirs, confidence))
