"""Learning rates that nobody chose are searched before a verdict hangs on them."""

from __future__ import annotations

from collections.abc import Callable

from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant

__all__ = ["settle_one", "settle_pair"]


def settle_pair(
    ask: Callable[[TrainedVariant, TrainedVariant], Verdict], candidate: TrainedVariant, baseline: TrainedVariant
) -> tuple[Verdict, TrainedVariant, TrainedVariant]:
    """Return an answer that hangs on no open learning rate, and the two variants that it is about.

    A gate says on which sides its answer hangs: a FAIL on the candidate, which may only be at a bad rate; a PASS on the
    baseline, which may be undertrained. The first of these that is open is searched and trained at the rate that was
    found, and the gate is asked again. So each side is searched once at most.

    Args:
        ask: Asks the gate.
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
    """
    verdict = ask(candidate, baseline)
    while True:
        sides = {"candidate": candidate, "baseline": baseline}
        side = next((side for side in verdict.hangs_on if sides[side].rate.is_open), None)
        if side is None:
            return verdict, candidate, baseline
        # What was not trained, because the other side had failed, is trained now.
        if side == "candidate":
            candidate = candidate.settled()
            baseline = baseline.completed() if candidate.ok else baseline
        else:
            baseline = baseline.settled()
            candidate = candidate.completed() if baseline.ok else candidate
        verdict = ask(candidate, baseline)


def settle_one(ask: Callable[[TrainedVariant], Verdict], variant: TrainedVariant) -> Verdict:
    """Return an answer about one variant that hangs on no open learning rate.

    Args:
        ask: Asks the gate.
        variant: The variant that is judged.
    """
    verdict = ask(variant)
    return ask(variant.settled()) if verdict.hangs_on and variant.rate.is_open else verdict
