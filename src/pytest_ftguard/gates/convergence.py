"""The gate on what more steps would still gain."""

from __future__ import annotations

from dataclasses import replace

from pytest_ftguard.comparison.pairs import text_problems, trend_of
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.asking import (
    Reaction,
    check_variant,
    conclude,
    limit_of,
    rule_of,
)
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.rates import learned_nothing, unsettled
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.verdict import NOT_FINITE, Verdict, decide, give, invalid
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.units import decimals_apart

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
    """Fail the test unless doubling the steps would improve the validation loss by at most so much.

    Args:
        variant: The variant that is judged.
        at_most: The improvement in nats per token; by default `max_improvement`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".

    Returns:
        The verdict: PASS, or INCONCLUSIVE where that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no limit, or an argument is wrong.
    """
    check_variant("assert_converged", variant)
    limit = limit_of("assert_converged", "max_improvement", at_most)
    return conclude(assess_convergence(variant, limit, rule_of(confidence)), on_inconclusive, variant)


def assess_convergence(variant: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Judge how much a variant's validation loss would still improve if the steps were doubled.

    Args:
        variant: The variant that is judged.
        limit: The largest accepted improvement, in nats per token.
        rule: How it is judged.
    """
    problems = text_problems([variant], "validation")
    # A loss that never fell has come to rest as well.
    problems = problems or learned_nothing(variant, rule.confidence)
    trend = None if problems else trend_of(variant, rule.confidence)
    if trend is None:
        few = "too few points along training were measured to see a trend: train for at least 4 steps"
        return invalid("convergence", variant, None, limit, problems or [few])
    slope = trend.per_doubling
    interval = replace(slope, value=-slope.value, lower=-slope.upper, upper=-slope.lower)
    status = decide("convergence", interval, limit.value)
    if status == "INVALID":
        return invalid("convergence", variant, None, limit, [NOT_FINITE])
    decimals = decimals_apart((interval.value, interval.lower, interval.upper), limit.value, 4)
    value, lower, upper = (f"{number:+.{decimals}f}" for number in (interval.value, interval.lower, interval.upper))
    steps = ", ".join(map(str, trend.steps))
    notes = unsettled(variant)
    lines = [
        f"convergence {status}: twice the {variant.workload.steps} steps would improve {variant.label} by about "
        f"{value} nats per token. Judging from {trend.sequences} sequences at steps {steps}, it lies between {lower} "
        f"and {upper} ({explain.ends_err(rule.confidence)}).",
        *notes,
        f"Allowed: at most {limit}, set by {limit.origin.name}.",
    ]
    if status == "FAIL":
        lines.append(
            "The whole interval is beyond the limit: the loss is still falling. What to do: train for more steps."
        )
    elif status == "INCONCLUSIVE":
        lines.append(
            "The interval contains the limit: undecided. What to do: train for more steps; more seeds make the "
            "interval narrower."
        )
    return give(
        "convergence",
        status,
        candidate=variant,
        baseline=None,
        measured=interval,
        limit=limit,
        message="\n".join(lines),
        note=" ".join(notes) or None,
    )
