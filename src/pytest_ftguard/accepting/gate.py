"""The gate across commits: a pair of variants now against what was accepted of it, and the accepting itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pytest_ftguard.accepting.asked import ANCHOR, LAST, Asked
from pytest_ftguard.accepting.history import AcceptedFile, History
from pytest_ftguard.accepting.metrics import Change, Measure
from pytest_ftguard.accepting.missing import missing
from pytest_ftguard.accepting.record import PairRecord
from pytest_ftguard.accepting.since import differences_since, settings_since
from pytest_ftguard.comparison.changing import how_to_set, seeds_in_all
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.rates import rates_line, rates_note, unsettled
from pytest_ftguard.gates.setting import Setting
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.statistics import Interval

__all__ = ["MINIMUM_SEEDS", "accept", "assess_regression"]


MINIMUM_SEEDS: Final = 3
"""Fewer seeds show next to nothing of their noise, and whatever is accepted is what later commits are held to."""

# What the anchor, which stays, does not allow would fail in every later run.
_REFUSED: Final = ("FAIL", "INVALID")


def assess_regression(asked: Asked, on_missing: Setting | None = None) -> Verdict:
    """Judge by how much a pair has become worse since it was accepted: last, and for the first time.

    Args:
        asked: What is asked.
        on_missing: What a missing accepted result does to the test, if somebody has set it.
    """
    history, problems = asked.file.history, asked.problems()
    problems += [] if history else [missing(asked.file, on_missing, _first_seeds(asked))]
    if problems or history is None:
        return asked.invalid(problems)
    now = asked.record()
    held = {LAST: history.accepted, **({ANCHOR: history.anchor} if history.anchor != history.accepted else {})}
    changes = [asked.change_since(now, then, name) for name, then in held.items()]
    worst = max(changes, key=lambda change: change.gravity)
    standing = f"{asked.measure.standing(now, history.accepted)} The accepted result is {asked.file}."
    todo = _what_to_do(asked, now, worst, changes[-1])
    if worst.status == "INVALID":
        noise = asked.measure.notes(now, worst.then, asked.limit) if asked.baseline is None else []
        return asked.invalid([Problem(worst.reason, worst.basis, todo)], why=[standing, *noise])
    passed = [*_better(asked, now, changes[0]), *_changed(now, history.accepted)]
    passed = passed if worst.status == "PASS" else []
    notes = [*passed, *asked.measure.notes(now, history.accepted, asked.limit)]
    sides = asked.sides if asked.measure.depends_on_rates else ()
    why = [
        standing,
        *_against(changes, worst, asked),
        *_why(now, worst, asked.measure),
    ]
    shown = notes if worst.status == "PASS" else []
    return asked.give(
        worst.status,
        worst.measured,
        [*why, *unsettled(*sides), *notes],
        todo,
        notes=[*shown, *rates_note(*sides)],
        at=rates_line(*sides) if sides else "",
    )


def _against(changes: Sequence[Change], worst: Change, asked: Asked) -> list[str]:
    """Return what the worst growth rests on, and how large each is if there are two."""
    if len(changes) == 1:
        return [worst.basis]
    grown = " and ".join(f"{_grown(change, asked.limit)} against {change.against}" for change in changes)
    return [f"It has {asked.measure.moved[0]} by {grown}.", worst.basis]


def _grown(change: Change, limit: Limit) -> str:
    if isinstance(change.measured, Interval):
        value, lower, upper = limit.texts(change.measured.value, change.measured.lower, change.measured.upper)
        return f"{value} [{lower}, {upper}]"
    return f"an unknown amount ({change.reason})" if change.measured is None else limit.texts(change.measured)[0]


def _why(now: PairRecord, worst: Change, measure: Measure) -> list[str]:
    """Return why the answer is what it is: where the interval lies, and what else has changed."""
    if worst.status == "PASS":
        return []
    changed = "; ".join(differences_since(now, worst.then))
    since = f"Changed since then: {changed}." if changed else "No setting of the candidate and no version changed."
    where = measure.beyond if worst.status == "FAIL" else explain.UNDECIDED
    return [f"{where} {since}".strip()]


def _what_to_do(asked: Asked, now: PairRecord, worst: Change, anchored: Change) -> str:
    """Return what to do, the cheapest first; "" for a PASS."""
    accepting = _how_to_accept(asked, now, anchored)
    match worst.status:
        case "FAIL":
            return f"find the change that caused it; or, if it is intended, {accepting}"
        case "INVALID":
            undo = "undo what differs; or, if it is intended, " if worst.basis else ""
            return f"{undo}{accepting} on this commit, once it is reviewed"
        case "INCONCLUSIVE":
            # The anchor stays if another result is accepted, so its own noise is left only with the file.
            again = (
                f"delete {asked.file} and accept again with --ftguard-update, on the commit that later ones are to be "
                "held to"
            )
            return asked.measure.way_out(now, worst, asked.limit, asked.rule, again, candidate=asked.candidate)
    return ""


def _how_to_accept(asked: Asked, now: PairRecord, anchored: Change) -> str:
    """Return how a result can be accepted: what the anchor forbids is accepted only in a new file.

    Args:
        asked: What is asked.
        now: The result.
        anchored: How it stands to the anchor, which may be what was accepted last.
    """
    how = f"delete {asked.file} and accept again" if anchored.status in _REFUSED else "accept it"
    return f"{how} with --ftguard-update{_with_seeds(asked, now)}"


def _with_seeds(asked: Asked, now: PairRecord) -> str:
    """Return that a result needs more seeds to be accepted, and how it gets them; "" if it has enough."""
    if len(now.seeds) >= MINIMUM_SEEDS:
        return ""
    how = how_to_set(asked.candidate, seeds=_enough_seeds(asked))
    return f", trained with at least {MINIMUM_SEEDS} seeds ({how})"


def _first_seeds(asked: Asked) -> str:
    """Return how a test without an accepted result gets enough seeds to have one; "" if it has them."""
    seeds = asked.candidate.workload.seeds
    if len(seeds) >= MINIMUM_SEEDS:
        return ""
    return how_to_set(asked.candidate, seeds=seeds_in_all(seeds, MINIMUM_SEEDS))


def _better(asked: Asked, now: PairRecord, change: Change) -> list[str]:
    """Return that an improvement beyond the limit can be lost again unseen unless it is accepted."""
    most = change.measured.upper if isinstance(change.measured, Interval) else change.measured
    if most is None or not most < -asked.limit.value:
        return []
    return [
        f"It has become better by more than the limit: accept it with --ftguard-update{_with_seeds(asked, now)}, so "
        "that later commits are held to it."
    ]


def _changed(now: PairRecord, then: PairRecord) -> list[str]:
    """Return that a PASS is one of other settings than those that were accepted."""
    changed = settings_since(now, then)
    return [f"Settings changed since it was accepted: {'; '.join(changed)}."] if changed else []


def accept(asked: Asked, refusals: Sequence[Problem]) -> tuple[Verdict, History | None]:
    """Accept what a pair of variants measured, or refuse to.

    Args:
        asked: What is asked; the limit is the one that later commits are held to.
        refusals: Why nothing may be accepted here and now, whatever was measured.

    Returns:
        A verdict, PENDING or INVALID, and what the file is to hold, which it may hold already; None if it is refused.
    """
    problems = [*refusals, *asked.problems(), *_few_seeds(asked)]
    if problems:
        return _refused(asked, problems), None
    now, history = asked.record(), asked.file.history
    notes: list[str] = []
    if history is not None:
        anchored = asked.change_since(now, history.anchor, ANCHOR)
        if anchored.status in _REFUSED:
            return _refused(asked, [_forbidden_by_anchor(anchored, asked.file)]), None
        notes += _replaced(asked, now, history.accepted) if now != history.accepted else []
        notes += _doubted_by_anchor(asked) if anchored.status == "INCONCLUSIVE" else []
    updated = history.accept(now) if history else History(asked.file.test, now, now)
    why = [f"{_accepted(history, updated)} The file is {asked.file}.", *notes]
    return asked.give("PENDING", None, why, notes=notes), updated


def _refused(asked: Asked, problems: Sequence[Problem]) -> Verdict:
    first, *others = problems
    return asked.invalid([replace(first, what=f"not accepted, because {first.what}"), *others])


def _enough_seeds(asked: Asked) -> tuple[int, ...]:
    """Return seeds that can be accepted: those that were, so that there are some in common."""
    history, seeds = asked.file.history, asked.candidate.workload.seeds
    return history.anchor.seeds if history else seeds_in_all(seeds, MINIMUM_SEEDS)


def _few_seeds(asked: Asked) -> list[Problem]:
    seeds = len(asked.candidate.trials)
    if seeds >= MINIMUM_SEEDS:
        return []
    return [
        Problem(
            f"{asked.candidate.label} was trained with {seeds} seed{'s' if seeds != 1 else ''}",
            why=f"What later commits are held to needs at least {MINIMUM_SEEDS}.",
            remedy=f"set {how_to_set(asked.candidate, seeds=_enough_seeds(asked))}",
        )
    ]


def _forbidden_by_anchor(change: Change, file: AcceptedFile) -> Problem:
    """Return why a result is not accepted that every later run would fail, because the anchor stays."""
    what = "it is worse than the anchor by more than the limit"
    why = "The anchor is what was accepted first, and it stays, so every later run would fail."
    if change.status == "INVALID":
        what = "it cannot be compared with the anchor"
        why = f"{change.basis or f'{change.reason[0].upper()}{change.reason[1:]}.'} {why}"
    return Problem(what, why, f"to begin again, delete {file} and accept again")


def _doubted_by_anchor(asked: Asked) -> list[str]:
    return [
        f"Compared with {ANCHOR}, this result is INCONCLUSIVE: it may be worse by more than {asked.limit}, and later "
        f"runs like it will be INCONCLUSIVE too. If it may be worse, delete {asked.file} and accept again, which makes "
        "this result the anchor. If not, restore the file and find what has changed."
    ]


def _replaced(asked: Asked, now: PairRecord, then: PairRecord) -> list[str]:
    """Return how a result that is accepted stands to the one that it replaces."""
    worse = [f"It is worse than {LAST} by more than {asked.limit}: commit it only if that is intended."]
    is_worse = asked.change_since(now, then, LAST).status == "FAIL"
    return [asked.measure.standing(now, then), *(worse if is_worse else [])]


def _accepted(history: History | None, updated: History) -> str:
    if updated == history:
        return "This very result was accepted before: nothing changes."
    if history is None:
        return "This is the first result of this test, and nothing was compared: review and commit it."
    return "It takes the place of the last accepted result: review and commit it."
