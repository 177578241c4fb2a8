"""The gate on what training takes from the reference text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pytest_ftguard.comparison.pairs import compare, reference_losses, text_problems
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.asking import (
    Reaction,
    check_pair,
    check_variant,
    conclude,
    limit_of,
    rule_of,
)
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.rates import how_to_settle, learned_nothing, rates_line, rates_note, unsettled
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.settling import settle_one, settle_pair
from pytest_ftguard.gates.verdict import NOT_FINITE, Status, Verdict, decide, give, invalid
from pytest_ftguard.gates.way_out import way_out
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval, gap_interval

__all__ = [
    "assert_forgetting",
    "assess_forgetting",
]

_REASONS: Final = {"PASS": explain.WITHIN, "FAIL": explain.BEYOND, "INCONCLUSIVE": explain.UNDECIDED}
_LESS: Final = "train for fewer steps, lower the learning rate{}, or mix general text into the training data"


def assert_forgetting(
    candidate: TrainedVariant,
    baseline: TrainedVariant | None = None,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
) -> Verdict:
    """Fail the test unless the loss on the reference text has grown by at most the margin.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against; the base model if there is none.
        at_most: The margin in nats per token; by default `max_forgetting`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no margin, or an argument is wrong.
    """
    check_variant("assert_forgetting", candidate)
    if baseline is not None:
        check_pair("assert_forgetting", candidate, baseline)
    limit = limit_of("assert_forgetting", "max_forgetting", at_most)
    rule = rule_of(confidence)
    if baseline is None:
        verdict = settle_one(lambda ours: assess_forgetting(ours, limit, rule, None), candidate)
    else:
        verdict, *_ = settle_pair(
            lambda ours, theirs: assess_forgetting(ours, limit, rule, theirs), candidate, baseline
        )
    return conclude(verdict, on_inconclusive, candidate, *([baseline] if baseline else ()))


def assess_forgetting(candidate: TrainedVariant, limit: Limit, rule: Rule, baseline: TrainedVariant | None) -> Verdict:
    """Judge how much the loss on the reference text has grown by training.

    Args:
        candidate: The variant that is judged.
        limit: The largest accepted growth, in nats per token.
        rule: How it is judged.
        baseline: The variant that it is judged against; the base model if there is none.
    """
    problems = text_problems([candidate, baseline] if baseline else [candidate], "reference")
    if baseline is not None:
        problems += compare(candidate, baseline, same_learning_rate=True).loss_problems
    # A model that learned nothing forgets nothing.
    problems = problems or learned_nothing(candidate, rule.confidence)
    if problems:
        return invalid("forgetting", candidate, baseline, limit, problems)
    losses = reference_losses(candidate, baseline or candidate)
    # The base model has no seeds, so against it the candidate's own noise is all there is.
    above_base = gap_interval(losses.candidate - losses.base, losses.tokens, rule.confidence)
    interval = above_base if baseline is None else losses.gap(rule.confidence)
    status = decide("forgetting", interval, limit.value)
    if status == "INVALID":
        return invalid("forgetting", candidate, baseline, limit, [NOT_FINITE])
    than = "the base model's" if baseline is None else f"{baseline.label}'s"
    side = f"{'above' if interval.value >= 0 else 'below'} {than}"
    sides = [candidate, *([baseline] if baseline else [])]
    return give(
        "forgetting",
        status,
        candidate=candidate,
        baseline=baseline,
        measured=interval,
        limit=limit,
        at=rates_line(*sides),
        why=[
            f"On the reference text {candidate.label}'s loss is {side}. {_REASONS[status]}",
            f"The interval rests on {len(losses.tokens)} sequences; {explain.ends_err(rule.confidence)}.",
            *unsettled(*sides),
        ],
        what_to_do=_what_to_do(status, sides, interval, limit, rule),
        note=" ".join(rates_note(*sides)) or None,
        hangs_on=("candidate", "baseline"),
    )


def _what_to_do(status: Status, sides: Sequence[TrainedVariant], interval: Interval, limit: Limit, rule: Rule) -> str:
    """Return what to do about a verdict; "" if that is nothing."""
    candidate, trials = sides[0], sides[0].trials
    if status == "FAIL":
        return _LESS.format(" or the rank" if candidate.variant.kind == "lora" else "")
    if status == "PASS":
        return how_to_settle(*sides)
    losses = trials[0].measured.reference
    assert losses is not None  # else there is no interval
    return way_out((interval, limit.value), replace(rule, seed_noise=None), candidate, losses, "reference")
