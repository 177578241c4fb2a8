"""The step's time of a pair: as it was measured, or by short trials of both if that says nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.gates.asking import (
    Reaction,
    check_pair,
    conclude,
    limit_of,
    rule_of,
)
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.rule import confidence_at_timing
from pytest_ftguard.gates.step_time import assess_time, why_time_again
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant, Trial

__all__ = [
    "TimedPair",
    "assert_time_budget",
    "judge_time",
    "timed",
    "with_times",
]


# A fourth one would have next to no error left to spend.
_MOST_LOOKS: Final = 3


def assert_time_budget(
    candidate: TrainedVariant,
    at_most: str | None = None,
    *,
    of: TrainedVariant,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
) -> Verdict:
    """Fail the test unless a step of the candidate takes at most a given share of the baseline's.

    If both were trained by the plugin and the stored seconds cannot be compared, both are timed again.

    Args:
        candidate: The variant that is judged, usually LoRA.
        at_most: The share, for example "80%"; by default `max_time`.
        of: The variant that the share refers to.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no limit, or an argument is wrong.
    """
    check_pair("assert_time_budget", candidate, of, "lora_variant, of=full_variant")
    limit = limit_of("assert_time_budget", "max_time", at_most)
    return conclude(judge_time(candidate, limit, of, rule_of(confidence).confidence), on_inconclusive, candidate, of)


def judge_time(candidate: TrainedVariant, limit: Limit, baseline: TrainedVariant, confidence: float) -> Verdict:
    """Judge the time of a step as a share of the baseline's; make short trials if only they can tell.

    Args:
        candidate: The variant that is judged.
        limit: The largest accepted share.
        baseline: The variant that the share refers to.
        confidence: One-sided confidence of each bound, over all timings of the pair that may be made.
    """

    def judge(pair: TimedPair, look: int) -> Verdict:
        one = confidence_at_timing(confidence, look) if pair.is_short else confidence
        return assess_time(pair.candidate, limit, pair.baseline, one, pair.origin)

    pair, look = timed(candidate, baseline), 1
    verdict = judge(pair, look)
    # The machine may have been busy then, and the store would give the same doubt for ever.
    while verdict.status == "INCONCLUSIVE" and pair.is_short and pair.is_stored and look < _MOST_LOOKS:
        look += 1
        fresh = timed(candidate, baseline, look=look)
        judged = judge(fresh, look)
        if judged.status == "INVALID":
            break  # it was disturbed, or could not be made: the earlier answer stays
        pair, verdict = fresh, judged
    return verdict


@dataclass(frozen=True)
class TimedPair:
    """Two variants with seconds that can be compared, if there are any.

    Attributes:
        candidate: The variant that is judged, or short trials of it.
        baseline: The variant that it is judged against, or short trials of it.
        origin: Where the seconds come from, or why they are not better; empty if they are those of the trainings.
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


def timed(candidate: TrainedVariant, baseline: TrainedVariant, *, look: int = 1) -> TimedPair:
    """Return a pair as it was trained, or short trials of both if only these can be compared.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        look: Which timing by short trials it is, from 1.
    """
    why = "; ".join(why_time_again(candidate, baseline))
    if not why or candidate.source is None or baseline.source is None:
        return TimedPair(candidate, baseline)
    try:
        ours, theirs = candidate.timed_beside(baseline, why, look=look)
    except FtguardError as error:
        return TimedPair(candidate, baseline, f"They were not timed again in this run: {error}.")
    pair = TimedPair(ours, theirs)
    when = "in an earlier run" if pair.is_stored else "again in this run"
    origin = f"Both were timed {when}, in turns, by short trials of {ours.workload.steps} steps, because {why}."
    if look > 1:
        origin += f" This is timing number {look}: the earlier ones left the gate in doubt."
    return replace(pair, origin=origin)


def with_times(variant: TrainedVariant, short: TrainedVariant) -> TrainedVariant:
    """Return a variant with the seconds, and the machine, of its short trials; bytes of another GPU are left out.

    Args:
        variant: The variant as it was trained.
        short: Its short trials, of the same seeds; or the variant itself.
    """
    by_seed = {trial.spec.seed: trial for trial in short.trials}
    return replace(variant, trials=tuple(_with_time(trial, by_seed.get(trial.spec.seed)) for trial in variant.trials))


def _with_time(trial: Trial, short: Trial | None) -> Trial:
    if short is None or short is trial:  # after one that failed there are no more
        return trial
    if short.measured.outcome != "ok":
        return short
    is_foreign = trial.provenance.measured_elsewhere is not None
    # The sum of live tensors is the same on every processor.
    memory = trial.measured.memory
    if is_foreign and memory is not None and memory.method == "allocator":
        memory = None
    timed = trial.remeasured(time=short.measured.time, environment=short.measured.environment, memory=memory)
    return timed.come_by(measured_elsewhere=None)
