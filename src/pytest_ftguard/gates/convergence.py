"""The gate on what more steps would still gain."""

from __future__ import annotations

from dataclasses import replace

from pytest_ftguard.comparison.changing import more_seeds
from pytest_ftguard.comparison.curves import has_own_curves
from pytest_ftguard.comparison.pairs import Trend, text_problems, trend_of
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.asking import (
    Reaction,
    check_variant,
    conclude,
    limit_of,
    rule_of,
)
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.rates import how_to_settle, learned_nothing, rates_line, rates_note, unsettled
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.settling import settle_one
from pytest_ftguard.gates.verdict import NOT_FINITE, Verdict, decide, give, invalid
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import effort_to_settle

__all__ = [
    "assert_converged",
    "assess_convergence",
]


def assert_converged(
    variant: TrainedVariant,
    *,
    at_most: float | str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
) -> Verdict:
    """Fail the test unless doubling the steps would improve the validation loss by at most the limit.

    Args:
        variant: The variant that is judged.
        at_most: The improvement in nats per token; by default `max_improvement`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no limit, or an argument is wrong.
    """
    check_variant("assert_converged", variant)
    limit = limit_of("assert_converged", "max_improvement", at_most)
    rule = rule_of(confidence)

    def ask(ours: TrainedVariant) -> Verdict:
        return assess_convergence(ours if has_own_curves(ours) else ours.with_curves(), limit, rule)

    return conclude(settle_one(ask, variant), on_inconclusive, variant)


def assess_convergence(variant: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge how much a variant's validation loss would still improve if the steps were doubled."""
    problems = text_problems([variant], "validation")
    # A loss that never fell has come to rest as well.
    problems = problems or learned_nothing(variant, rule.confidence)
    trend = None if problems else trend_of(variant, rule.confidence)
    if trend is None:
        few = Problem("too few points along training were measured", remedy="train for at least 4 steps")
        other = Problem(
            "the losses along training were measured on other sequences than the present ones",
            remedy="train it with the present validation text",
        )
        return invalid("convergence", variant, None, limit, problems or [few if has_own_curves(variant) else other])
    slope = trend.per_doubling
    interval = replace(slope, value=-slope.value, lower=-slope.upper, upper=-slope.lower)
    status = decide("convergence", interval, limit.value)
    if status == "INVALID":
        return invalid("convergence", variant, None, limit, [NOT_FINITE])
    steps = ", ".join(map(str, trend.steps))
    reasons = {
        "PASS": explain.WITHIN,
        "FAIL": f"{explain.BEYOND} The loss is still falling.",
        "INCONCLUSIVE": explain.UNDECIDED,
    }
    todo = {
        "FAIL": "train for more steps",
        "INCONCLUSIVE": f"train for more steps{_or_seeds(variant, trend, limit, rule)}",
    }
    return give(
        "convergence",
        status,
        candidate=variant,
        baseline=None,
        measured=interval,
        limit=limit,
        at=rates_line(variant),
        why=[
            f"Twice the {variant.workload.steps} steps would gain that much. {reasons[status]}",
            f"The interval rests on {trend.sequences} sequences at steps {steps}; {explain.ends_err(rule.confidence)}.",
            *unsettled(variant),
        ],
        what_to_do=todo.get(status, how_to_settle(variant)),
        note=" ".join(rates_note(variant)) or None,
        hangs_on=("candidate",),
    )


def _or_seeds(variant: TrainedVariant, trend: Trend, limit: Limit, rule: Rule) -> str:
    """Return how many seeds would settle a doubt with the present steps; "" if no affordable number does."""
    shape = len(variant.trials), trend.sequences
    seeds = effort_to_settle(trend.per_doubling, -limit.value, shape, rule.confidence).seeds
    if seeds is None:
        return ""
    how = more_seeds(variant, seeds)
    return f"; or about {seeds} seeds instead of {shape[0]} would settle it{f': {how}' if how else ''}"
