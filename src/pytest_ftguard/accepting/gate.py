"""The gate across commits: a pair of variants now against what was accepted of it, and the accepting itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pytest_ftguard.accepting.missing import missing, renamed
from pytest_ftguard.accepting.record import AcceptedFile, History, PairRecord, record_pair
from pytest_ftguard.accepting.since import (
    differences_since,
    differing_work,
    effort_to_settle_change,
    gap_change,
    memory_growth,
    paired_seeds,
    settings_since,
    step_share,
    time_growth,
    timed_seeds,
    units_of,
)
from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.limits import GROWTH, NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.margin import margin_of
from pytest_ftguard.gates.memory import memory_problems
from pytest_ftguard.gates.rates import learned_nothing, unsettled
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.step_time import time_problems
from pytest_ftguard.gates.verdict import Status, Verdict, decide, give, invalid
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.statistics import Interval
from pytest_ftguard.units import decimals_apart, format_bytes

__all__ = ["METRICS", "MINIMUM_SEEDS", "Metric", "accept", "assess_regression", "pair_problems"]

Metric = Literal["loss_gap", "memory", "time"]
METRICS: Final[Mapping[str, str]] = {"loss_gap": NATS_PER_TOKEN, "memory": GROWTH, "time": GROWTH}
"""The unit of each metric's limit."""
MINIMUM_SEEDS: Final = 3
"""Fewer seeds show next to nothing of their noise, and whatever is accepted is what later commits are held to."""

# Which answer counts where the last accepted result and the anchor give two.
_GRAVITY: Final[tuple[Status, ...]] = ("PASS", "INCONCLUSIVE", "INVALID", "FAIL")
# What is so beside the anchor, which stays, would be so in every later run.
_REFUSED: Final = ("FAIL", "INVALID")
_LAST, _ANCHOR = "the accepted result", "the anchor, which was accepted first"


@dataclass(frozen=True)
class _Change:
    """How a pair stands to one result that was accepted.

    Attributes:
        against: Which one that is.
        then: The result.
        status: The answer.
        measured: By how much it has grown, in the limit's unit; None where nothing may be concluded.
        sentences: What was measured, or why nothing may be concluded.
    """

    against: str
    then: PairRecord
    status: Status
    measured: Interval | float | None
    sentences: tuple[str, ...]

    @property
    def gravity(self) -> tuple[int, float]:
        """How much this answer weighs beside another one."""
        value = self.measured.value if isinstance(self.measured, Interval) else self.measured
        return _GRAVITY.index(self.status), -math.inf if value is None else value


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
        rule: How it is judged; a calibrated noise is not used, for it is that of one gap and not of two.
        metric: What is judged.
        file: What was accepted.
        on_missing: What a missing accepted result does to the test, "fail" or "warn".
    """
    history, problems = file.history, pair_problems(candidate, baseline, limit, rule, metric)
    if history is None:
        problems.append(missing(file, on_missing))
    if problems or history is None:
        return invalid("regression", candidate, baseline, limit, problems)
    now = _record(candidate, baseline, rule)
    changes = [_change(now, history.accepted, _LAST, limit=limit, rule=rule, metric=metric)]
    if history.anchor != history.accepted:
        changes.append(_change(now, history.anchor, _ANCHOR, limit=limit, rule=rule, metric=metric))
    worst = max(changes, key=lambda change: change.gravity)
    passed = [*_better(now, changes[0], limit), *_changed(now, history.accepted)] if worst.status == "PASS" else []
    asked = [*passed, *_notes(now, history.accepted, limit, metric)]
    rates = unsettled(candidate, baseline) if metric == "loss_gap" else []
    advice = _advice(now, worst, changes[-1], limit=limit, rule=rule, metric=metric, file=file)
    lines = [
        f"regression {worst.status}: {_standing(now, history.accepted, metric)}",
        *rates,
        *(f"Against {change.against}: {' '.join(change.sentences)}" for change in changes),
        f"Allowed: a growth of at most {limit}, set by {limit.origin.name}. The accepted result is {file}.",
        *advice,
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
    history, seeds = file.history, len(candidate.trials)
    if seeds < MINIMUM_SEEDS:
        problems.append(
            f"{candidate.label} was trained with {seeds} seed{'s' if seeds != 1 else ''}, and what later commits are "
            f"held to needs at least {MINIMUM_SEEDS} (ftguard_seeds = 0, 1, 2)"
        )
    now = None if problems else _record(candidate, baseline, rule)
    notes = renamed(file, accepting=True)
    if now and history:
        change = _change(now, history.anchor, _ANCHOR, limit=limit, rule=rule, metric=metric)
        problems += _refused_by_anchor(change, limit, file)
        notes += _doubted_beside_anchor(change, limit, file)
    if problems or now is None:
        lines = ["regression INVALID: the result was not accepted.", *(f"- {problem}" for problem in problems)]
        updated = None
    else:
        updated = history.accept(now) if history else History(file.test, now, now)
        if history and updated != history:
            notes = [*_replaced(now, history.accepted, limit, rule, metric), *notes]
        lines = [f"regression PASS: {_accepted(now, history, updated, metric)}", f"The file is {file}.", *notes]
    verdict = give(
        "regression",
        "INVALID" if problems else "PASS",
        candidate=candidate,
        baseline=baseline,
        measured=None,
        limit=limit,
        message="\n".join(lines),
        note=None if problems else " ".join(notes) or None,
    )
    return verdict, updated


def _refused_by_anchor(change: _Change, limit: Limit, file: AcceptedFile) -> list[str]:
    if change.status not in _REFUSED:
        return []
    why = f"it is worse than {_ANCHOR}, by more than {limit}"
    if change.status == "INVALID":
        why = f"it cannot be compared with {_ANCHOR} ({' '.join(change.sentences).rstrip('.')})"
    return [f"{why}, so every later run would fail", f"to begin anew, delete {file} and accept again"]


def _doubted_beside_anchor(change: _Change, limit: Limit, file: AcceptedFile) -> list[str]:
    if change.status != "INCONCLUSIVE":
        return []
    return [
        f"Beside {_ANCHOR}, this result is INCONCLUSIVE: it may be worse by more than {limit}, and later runs like it "
        "will be INCONCLUSIVE too (they fail, or warn with on_inconclusive = warn). What to do: delete "
        f"{file} and accept anew, which makes this result the anchor; or, if it must not be worse, restore the file "
        "and find what has changed."
    ]


def _replaced(now: PairRecord, then: PairRecord, limit: Limit, rule: Rule, metric: Metric) -> list[str]:
    """Return how a result that is accepted stands to the one whose place it takes."""
    change = _change(now, then, _LAST, limit=limit, rule=rule, metric=metric)
    standing = _standing(now, then, metric)
    worse = [f"It is worse than {_LAST} by more than {limit}: commit it only if that is meant."]
    return [standing[0].upper() + standing[1:], *(worse if change.status == "FAIL" else [])]


def _accepted(now: PairRecord, history: History | None, updated: History, metric: Metric) -> str:
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
    # Learning rates change neither memory nor time.
    comparison = compare(candidate, baseline, same_learning_rate=rule.same_learning_rate or metric != "loss_gap")
    problems = list(comparison.loss_problems)
    if metric == "memory":
        problems += memory_problems(candidate, baseline)
    elif metric == "time":
        problems += time_problems(candidate, baseline)
    elif not problems:
        # If full fine-tuning learns nothing either, a gap that has not grown says nothing.
        gain, margin = comparison.losses.gain(rule.confidence), margin_of(limit, baseline)
        problems += learned_nothing(candidate, rule.confidence)
        if not gain.lower > rule.gain_factor * margin.nats:
            problems += learned_nothing(baseline, rule.confidence) or [explain.no_gain(baseline, gain, rule, margin)]
    return list(dict.fromkeys(problems))


def _change(now: PairRecord, then: PairRecord, against: str, *, limit: Limit, rule: Rule, metric: Metric) -> _Change:
    differing = differing_work(now, then)
    if differing:
        return _Change(against, then, "INVALID", None, ("not the same work:", "; ".join(differing) + "."))
    if metric == "memory":
        return _memory_change(now, then, against, limit)
    interval = (
        gap_change(now, then, rule.confidence) if metric == "loss_gap" else time_growth(now, then, rule.confidence)
    )
    if interval is None:
        unmeasured = "the time of a step was not measured in both, with at least two seeds in common."
        return _Change(against, then, "INVALID", None, (unmeasured,))
    status = decide("regression", interval, limit.value)
    if status == "INVALID":
        return _Change(against, then, status, None, ("the change or its bounds are not finite numbers.",))
    if metric == "loss_gap" and now.differences == then.differences and now.seeds == then.seeds:
        same = "both are the same to the last digit, for every seed and sequence, so there is nothing to be unsure of."
        return _Change(against, then, status, interval, (same,))
    what = "the loss gap has grown" if metric == "loss_gap" else "the share of a step's time has grown"
    value, lower, upper = _texts((interval.value, interval.lower, interval.upper), limit)
    sentence = (
        f"{what} by {value}. Judging from {_basis(now, then, metric)}, the true growth lies between {lower} and "
        f"{upper} ({explain.ends_err(rule.confidence)})."
    )
    return _Change(against, then, status, interval, (sentence,))


def _memory_change(now: PairRecord, then: PairRecord, against: str, limit: Limit) -> _Change:
    growth = memory_growth(now, then)
    if growth is None or not math.isfinite(growth.value):
        unmeasured = "the peaks of memory were not measured in both, or not in the same way."
        return _Change(against, then, "INVALID", None, (unmeasured,))
    status: Status = "PASS" if growth.value <= limit.value else "FAIL"
    (ratio,) = _texts((growth.ratio,), limit)
    sentences = [f"the share of {now.baseline.variant.label}'s peak has grown by {ratio}"]
    if growth.absolute is None:
        sentences.append("and bytes are not compared, because machine or versions are not the same.")
    else:
        (absolute,) = _texts((growth.absolute,), limit)
        sentences.append(f"and the peak itself, on the same machine, by {absolute}.")
    return _Change(against, then, status, growth.value, tuple(sentences))


def _texts(values: Sequence[float], limit: Limit) -> list[str]:
    """Return numbers with their sign, and as many digits as it takes to see on which side of the limit they are."""
    if limit.unit == GROWTH:
        shares = [100 * value for value in values]
        return [f"{share:+.{decimals_apart(shares, 100 * limit.value, 1)}f}%" for share in shares]
    return [f"{value:+.{decimals_apart(values, limit.value, 4)}f}" for value in values]


def _basis(now: PairRecord, then: PairRecord, metric: Metric) -> str:
    shared = paired_seeds(now, then)
    if metric == "time":
        return f"the {len(set(now.seeds) & set(then.seeds))} seeds in common"
    units = "{} {}".format(*units_of(now))
    if len(shared) == 1:
        return f"{units} and the one seed in common, which says nothing of other seeds"
    if shared:
        return f"{units} and {len(shared)} seeds, each paired with the same one then"
    return f"{units}, {len(now.seeds)} seeds now and {len(then.seeds)} others then"


def _standing(now: PairRecord, then: PairRecord, metric: Metric) -> str:
    """Return where the pair stands, and where it stood, by the seeds from which the growth is judged."""
    label, reference = now.candidate.variant.label, now.baseline.variant.label
    was = "" if then.candidate.variant.label == label else f" ({then.candidate.variant.label})"
    # A peak of memory is the largest over all seeds of its record.
    shared = () if metric == "memory" else paired_seeds(now, then) if metric == "loss_gap" else timed_seeds(now, then)
    some = bool(shared) and not set(shared) == set(now.seeds) == set(then.seeds)
    seeds = f", over the seed{'s' if len(shared) > 1 else ''} in common," if some else ""
    if metric == "loss_gap":
        gap, before = (record.gap(shared or record.seeds) for record in (now, then))
        return (
            f"the loss gap of {label} against {reference}{seeds} is {gap:+.4f} nats per token, and was {before:+.4f}"
            f"{was} when it was accepted."
        )
    what = "the peak memory" if metric == "memory" else "a step"
    ours, theirs = (
        _peak(record) if metric == "memory" else _step(record, shared or record.seeds) for record in (now, then)
    )
    return f"{what} of {label}{seeds} is {ours} of {reference}'s, and was {theirs}{was} when it was accepted."


def _peak(record: PairRecord) -> str:
    ours, theirs = record.candidate.peak_bytes, record.baseline.peak_bytes
    return f"{format_bytes(ours)}, {100 * ours / theirs:.1f}%" if ours and theirs else "unmeasured"


def _step(record: PairRecord, seeds: tuple[int, ...]) -> str:
    share = step_share(record, seeds)
    return "unmeasured" if share is None else f"{100 * share:.1f}%"


def _how_to_accept(now: PairRecord, anchored: _Change, file: AcceptedFile) -> str:
    """Return how this result can be accepted: what the anchor forbids is accepted only in a new file.

    Args:
        now: The result.
        anchored: How it stands to the anchor, which may be what was accepted last.
        file: What was accepted.
    """
    how = f"delete {file} and accept anew" if anchored.status in _REFUSED else "accept it"
    seeds = "" if len(now.seeds) >= MINIMUM_SEEDS else f", trained with at least {MINIMUM_SEEDS} seeds"
    return f"{how} with --ftguard-update{seeds}"


def _advice(
    now: PairRecord,
    worst: _Change,
    anchored: _Change,
    *,
    limit: Limit,
    rule: Rule,
    metric: Metric,
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
        chance = "" if metric == "memory" else "The whole interval is beyond the limit. "
        return [f"{chance}{since}", f"What to do: find the change that caused it; or, if it is meant, {accepting}."]
    if worst.status == "INVALID":
        return [f"What to do: undo what differs; or, if it is meant, {accepting}, on this commit once it was reviewed."]
    return [
        f"The interval contains the limit, {limit}: undecided. {since}",
        f"What to do: {_way_out(now, worst, limit, rule, file)}",
    ]


def _way_out(now: PairRecord, change: _Change, limit: Limit, rule: Rule, file: AcceptedFile) -> str:
    """Return what brings the ends closer, with a number where one can be foretold."""
    # The anchor stays what it is when another result is accepted, so its own noise is left only with the file.
    anew = f"delete {file} and accept anew with --ftguard-update, on the commit that it is to be held to"
    if limit.unit == GROWTH or not isinstance(change.measured, Interval):
        return (
            "a machine with nothing else to do (with --ftguard-no-cache where seconds come from the store), more steps "
            f"and more seeds bring the ends closer, once the accepted result was measured like that too: {anew}."
        )
    then = change.then
    effort = effort_to_settle_change(now, then, change.measured, limit.value, rule.confidence)
    if effort is None:
        return (
            f"train with the seeds of {change.against} (ftguard_seeds = {', '.join(map(str, then.seeds))}): pairs of "
            "the same seed mostly have less noise. Other seeds leave that of those then as it is, however many there "
            "are."
        )
    paired = len(paired_seeds(now, then))
    return explain.way_out_of_growth(effort, paired, len(then.seeds), units_of(now), anew)


def _better(now: PairRecord, change: _Change, limit: Limit) -> list[str]:
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


def _notes(now: PairRecord, then: PairRecord, limit: Limit, metric: Metric) -> list[str]:
    """Return what does not decide but should be known."""
    shared = sorted(set(now.seeds) & set(then.seeds))
    if metric != "loss_gap" or not shared:
        return []
    ours, theirs = (dict(zip(record.seeds, record.baseline.losses, strict=True)) for record in (now, then))
    moved = sum(ours[seed] - theirs[seed] for seed in shared) / len(shared)
    if abs(moved) <= limit.value:
        return []
    return [
        f"Note: the loss of {now.baseline.variant.label} itself has moved by {moved:+.4f} nats per token, which is "
        "more than the limit: find out why before you rely on the gap."
    ]
