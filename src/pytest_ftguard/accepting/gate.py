"""The gate across commits: a pair of variants now against what was accepted of it, and the accepting itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pytest_ftguard.accepting.history import AcceptedFile, History
from pytest_ftguard.accepting.metrics import MEASURES, Change, Measure, change_since
from pytest_ftguard.accepting.missing import missing
from pytest_ftguard.accepting.record import PairRecord, record_pair
from pytest_ftguard.accepting.since import (
    differences_since,
    settings_since,
)
from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.memory import memory_problems
from pytest_ftguard.gates.rates import unsettled
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.step_time import time_problems
from pytest_ftguard.gates.verdict import Verdict, give, invalid
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval

__all__ = ["MINIMUM_SEEDS", "Metric", "accept", "assess_regression", "pair_problems"]


Metric = Literal["loss_gap", "memory", "time"]


MINIMUM_SEEDS: Final = 3


"""Fewer seeds show next to nothing of their noise, and whatever is accepted is what later commits are held to."""


# What the anchor, which stays, does not allow would fail in every later run.
_REFUSED: Final = ("FAIL", "INVALID")


_LAST, _ANCHOR = "the accepted result", "the anchor, which was accepted first"


def _record(candidate: TrainedVariant, baseline: TrainedVariant, rule: Rule) -> PairRecord:
    """Return the record of a pair; bytes and seconds that their own gates would refuse are not in it."""
    gap = compare(candidate, baseline, same_learning_rate=True).losses.gap(rule.confidence)
    return record_pair(
        candidate,
        baseline,
        bounds=(gap.lower, gap.upper) if gap.is_finite else None,
        sound_memory=not memory_problems(candidate, baseline),
        sound_time=not time_problems(candidate, baseline),
    )


def assess_regression(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    limit: Limit,
    rule: Rule,
    *,
    metric: Metric,
    file: AcceptedFile,
    on_missing: str = "fail",
) -> Verdict:
    """Judge by how much a pair has become worse since it was accepted: last, and for the first time.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against, and which absorbs what the machine has changed.
        limit: The largest accepted growth: of the loss gap in nats per token, or of memory or time as a share.
        rule: How it is judged; a calibrated noise is that of one gap and not of two, so it is not used.
        metric: What is judged.
        file: What was accepted.
        on_missing: What a missing accepted result does to the test, "fail" or "warn".
    """
    history, problems = file.history, pair_problems(candidate, baseline, limit, rule, metric)
    problems += [] if history else [missing(file, on_missing)]
    if problems or history is None:
        return invalid("regression", candidate, baseline, limit, problems)
    now, measure = _record(candidate, baseline, rule), MEASURES[metric]
    held = {_LAST: history.accepted, **({_ANCHOR: history.anchor} if history.anchor != history.accepted else {})}
    changes = [change_since(now, then, name, limit=limit, rule=rule, measure=measure) for name, then in held.items()]
    worst = max(changes, key=lambda change: change.gravity)
    passed = [*_better(now, changes[0], limit), *_changed(now, history.accepted)]
    asked = [*(passed if worst.status == "PASS" else []), *measure.notes(now, history.accepted, limit)]
    rates = unsettled(candidate, baseline) if measure.depends_on_rates else []
    lines = [
        f"regression {worst.status}: {measure.standing(now, history.accepted)}",
        *rates,
        *(f"Against {change.against}: {' '.join(change.sentences)}" for change in changes),
        f"Allowed: a growth of at most {limit}, set by {limit.origin.name}. The accepted result is {file}.",
        *_advice(now, worst, changes[-1], limit=limit, rule=rule, measure=measure, file=file),
        *asked,
    ]
    return give(
        "regression",
        worst.status,
        candidate=candidate,
        baseline=baseline,
        measured=worst.measured,
        limit=limit,
        message="\n".join(lines),
        note=" ".join([*(asked if worst.status == "PASS" else []), *rates]) or None,
    )


def accept(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    limit: Limit,
    rule: Rule,
    *,
    metric: Metric,
    file: AcceptedFile,
    refusals: Sequence[str],
) -> tuple[Verdict, History | None]:
    """Accept what a pair of variants measured, or refuse to.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        limit: The limit that later commits are held to.
        rule: How they are judged.
        metric: What they are judged by.
        file: What was accepted before, and where this belongs.
        refusals: Why nothing may be accepted here and now, whatever was measured.

    Returns:
        A verdict, PASS or INVALID, and what the file is to hold, which it may hold already; None where it is refused.
    """
    problems = [*refusals, *pair_problems(candidate, baseline, limit, rule, metric)]
    problems += _few_seeds(candidate)
    history, measure = file.history, MEASURES[metric]
    now = None if problems else _record(candidate, baseline, rule)
    notes: list[str] = []
    if now and history:
        change = change_since(now, history.anchor, _ANCHOR, limit=limit, rule=rule, measure=measure)
        problems += _refused_by_anchor(change, limit, file)
        notes += _doubted_by_anchor(change, limit, file)
    if problems or now is None:
        lines = ["regression INVALID: the result was not accepted.", *(f"- {problem}" for problem in problems)]
        updated = None
    else:
        updated = history.accept(now) if history else History(file.test, now, now)
        if history and updated != history:
            notes = [*_replaced(now, history.accepted, limit, rule, measure), *notes]
        lines = [f"regression PASS: {_accepted(now, history, updated)}", f"The file is {file}.", *notes]
    return give(
        "regression",
        "INVALID" if problems else "PASS",
        candidate=candidate,
        baseline=baseline,
        measured=None,
        limit=limit,
        message="\n".join(lines),
        note=None if problems else " ".join(notes) or None,
    ), updated


def _few_seeds(candidate: TrainedVariant) -> list[str]:
    seeds = len(candidate.trials)
    if seeds >= MINIMUM_SEEDS:
        return []
    return [
        f"{candidate.label} was trained with {seeds} seed{'s' if seeds != 1 else ''}, and what later commits are held "
        f"to needs at least {MINIMUM_SEEDS} (ftguard_seeds = 0, 1, 2)"
    ]


def _refused_by_anchor(change: Change, limit: Limit, file: AcceptedFile) -> list[str]:
    if change.status not in _REFUSED:
        return []
    why = f"it is worse than {_ANCHOR}, by more than {limit}"
    if change.status == "INVALID":
        why = f"it cannot be compared with {_ANCHOR} ({' '.join(change.sentences).rstrip('.')})"
    return [f"{why}, so every later run would fail", f"to begin again, delete {file} and accept again"]


def _doubted_by_anchor(change: Change, limit: Limit, file: AcceptedFile) -> list[str]:
    if change.status != "INCONCLUSIVE":
        return []
    return [
        f"Compared with {_ANCHOR}, this result is INCONCLUSIVE: it may be worse by more than {limit}, and later runs "
        "like it will be INCONCLUSIVE too (they fail, or warn with on_inconclusive = warn). What to do: delete "
        f"{file} and accept again, which makes this result the anchor; or, if it must not be worse, restore the file "
        "and find what has changed."
    ]


def _replaced(now: PairRecord, then: PairRecord, limit: Limit, rule: Rule, measure: Measure) -> list[str]:
    """Return how a result that is accepted stands to the one whose place it takes."""
    change = change_since(now, then, _LAST, limit=limit, rule=rule, measure=measure)
    standing = measure.standing(now, then)
    worse = [f"It is worse than {_LAST} by more than {limit}: commit it only if that is meant."]
    return [standing[0].upper() + standing[1:], *(worse if change.status == "FAIL" else [])]


def _accepted(now: PairRecord, history: History | None, updated: History) -> str:
    if updated == history:
        return "this very result was accepted already, and nothing is written or compared."
    once = "the result is accepted once the test has passed"
    if history is None:
        return f"{once}, the first one of this test, and nothing was compared; review and commit it."
    return f"{once}, in the place of the last one."


def pair_problems(
    candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule, metric: Metric
) -> list[str]:
    """Return why a pair by itself can be neither judged nor accepted; empty where it can.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        limit: The largest accepted growth.
        rule: How it is judged.
        metric: What is judged.
    """
    measure = MEASURES[metric]
    comparison = compare(
        candidate, baseline, same_learning_rate=rule.same_learning_rate or not measure.depends_on_rates
    )
    problems = [*comparison.loss_problems, *measure.problems(comparison, limit, rule)]
    return list(dict.fromkeys(problems))


def _how_to_accept(now: PairRecord, anchored: Change, file: AcceptedFile) -> str:
    """Return how this result can be accepted: what the anchor forbids is accepted only in a new file.

    Args:
        now: The result.
        anchored: How it stands to the anchor, which may be what was accepted last.
        file: What was accepted.
    """
    how = f"delete {file} and accept again" if anchored.status in _REFUSED else "accept it"
    seeds = "" if len(now.seeds) >= MINIMUM_SEEDS else f", trained with at least {MINIMUM_SEEDS} seeds"
    return f"{how} with --ftguard-update{seeds}"


def _advice(
    now: PairRecord,
    worst: Change,
    anchored: Change,
    *,
    limit: Limit,
    rule: Rule,
    measure: Measure,
    file: AcceptedFile,
) -> list[str]:
    """Return why the answer is what it is, and what to do; nothing of a PASS."""
    if worst.status == "PASS":
        return []
    accepting = _how_to_accept(now, anchored, file)
    changed = differences_since(now, worst.then)
    since = (
        f"Changed since then: {'; '.join(changed)}."
        if changed
        else "No setting of the candidate and no version changed."
    )
    if worst.status == "FAIL":
        return [
            f"{measure.beyond}{since}",
            f"What to do: find the change that caused it; or, if it is meant, {accepting}.",
        ]
    if worst.status == "INVALID":
        return [f"What to do: undo what differs; or, if it is meant, {accepting}, on this commit once it was reviewed."]
    # The anchor stays what it is when another result is accepted, so its own noise is left only with the file.
    accept_again = f"delete {file} and accept again with --ftguard-update, on the commit that it is to be held to"
    return [
        f"The interval contains the limit, {limit}: undecided. {since}",
        f"What to do: {measure.way_out(now, worst, limit, rule, accept_again)}",
    ]


def _better(now: PairRecord, change: Change, limit: Limit) -> list[str]:
    """Return that an improvement beyond the limit is lost again unseen unless it is accepted."""
    most = change.measured.upper if isinstance(change.measured, Interval) else change.measured
    if most is None or not most < -limit.value:
        return []
    seeds = "" if len(now.seeds) >= MINIMUM_SEEDS else f" and at least {MINIMUM_SEEDS} seeds"
    return [
        f"It has become better by more than the limit: accept it with --ftguard-update{seeds}, so that it is held to "
        "that."
    ]


def _changed(now: PairRecord, then: PairRecord) -> list[str]:
    """Return that a PASS is one of other settings than those that were accepted."""
    changed = settings_since(now, then)
    return [f"Settings changed since it was accepted: {'; '.join(changed)}."] if changed else []
