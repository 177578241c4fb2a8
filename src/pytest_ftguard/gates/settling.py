"""Learning rates that nobody chose are searched before a verdict hangs on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import key_of

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
            candidate = _apart(candidate, candidate.settled(), baseline)
            baseline = baseline.completed() if candidate.ok else baseline
        else:
            baseline = _better(baseline, _apart(baseline, baseline.settled(), candidate))
            candidate = candidate.completed() if baseline.ok else candidate
        verdict = ask(candidate, baseline)


def _apart(first: TrainedVariant, found: TrainedVariant, other: TrainedVariant) -> TrainedVariant:
    """Return a side at the rate that was found, unless that is the training of the other side: no gate could fail."""
    if key_of(found.variant, "training") != key_of(other.variant, "training"):
        return found
    why_not = f"the search came to {found.variant.learning_rate:g}, at which it is the other side's training"
    return replace(first, rate=replace(first.rate, is_open=False, why_not=why_not))


def _better(first: TrainedVariant, found: TrainedVariant) -> TrainedVariant:
    """Return a baseline at the better of two rates: what half of the steps chose may be worse after all of them.

    A worse baseline would let a candidate pass. A candidate has no such choice, because that would be by the losses on
    which it is judged.
    """
    if first.loss is None or (found.loss is not None and found.loss <= first.loss):
        return found
    return replace(first, rate=replace(found.rate, first=first.variant.learning_rate))


def settle_one(ask: Callable[[TrainedVariant], Verdict], variant: TrainedVariant) -> Verdict:
    """Return an answer about one variant that hangs on no open learning rate.

    Args:
        ask: Asks the gate.
        variant: The variant that is judged.
    """
    verdict = ask(variant)
    return ask(variant.settled()) if verdict.hangs_on and variant.rate.is_open else verdict
