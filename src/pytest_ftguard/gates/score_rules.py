"""How a gate on a score decides, and what it says: the gap between two variants, or the score of one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_ftguard.comparison.pairs import Comparison, compare
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.comparison.scores import (
    PairedScores,
    Slice,
    paired_scores,
    score_problems,
    score_problems_of_pair,
)
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.explain import Units
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.rates import (
    better_rate,
    how_to_search,
    rates_line,
    rates_note,
    undertrained,
    unsettled,
)
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.score_gain import in_unit, no_gain, no_score_learned, tells_nothing, unfit
from pytest_ftguard.gates.verdict import NOT_FINITE, Status, Verdict, decide, give, invalid
from pytest_ftguard.gates.way_out import way_out
from pytest_ftguard.results import ACCURACY, TrainedVariant
from pytest_ftguard.statistics import Interval, SeedNoise

__all__ = ["Judged", "assess_score", "assess_score_gap"]

_REASONS = {"PASS": explain.WITHIN, "FAIL": explain.BEYOND, "INCONCLUSIVE": explain.UNDECIDED}


@dataclass(frozen=True)
class Judged:
    """What a gate judges.

    Attributes:
        gate: The gate.
        score: Name of the score.
        chosen: The examples.
    """

    gate: str
    score: str
    chosen: Slice

    def mark(self, verdict: Verdict) -> Verdict:
        """Return a verdict that says what it is about."""
        return replace(verdict, score=self.score, slice=str(self.chosen) or None)


def assess_score_gap(
    candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule, *, judged: Judged
) -> Verdict:
    """Judge how far a candidate's score lies below that of the baseline.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against.
        limit: The least accepted gap, candidate minus baseline: below 0 if a fall is accepted.
        rule: How it is judged.
        judged: Which score, of which examples.
    """
    comparison = compare(candidate, baseline, same_learning_rate=rule.same_learning_rate)
    problems = score_problems_of_pair(comparison, judged.score, judged.chosen)
    if not problems:
        scores = paired_scores(judged.score, judged.chosen, candidate, baseline)
        problems = unfit(judged.score, scores.span, limit, "at_most=0.5")
    if problems:
        return judged.mark(invalid(judged.gate, candidate, baseline, limit, problems))
    return judged.mark(_Gap(comparison, scores, judged, limit, rule).verdict())


def assess_score(candidate: TrainedVariant, limit: Limit, rule: Rule, *, judged: Judged) -> Verdict:
    """Judge the score of one variant.

    Args:
        candidate: The variant that is judged.
        limit: The smallest accepted score.
        rule: How it is judged.
        judged: Which score, of which examples.
    """
    problems = score_problems(candidate, judged.score, judged.chosen)
    if problems:
        return judged.mark(invalid(judged.gate, candidate, None, limit, problems))
    scores = paired_scores(judged.score, judged.chosen, candidate)
    interval = scores.mean(rule.confidence)
    status = decide(judged.gate, interval, limit.value)
    if status == "INVALID":
        return judged.mark(invalid(judged.gate, candidate, None, limit, [NOT_FINITE]))
    if status != "FAIL" and (same := tells_nothing(judged.score, scores)):
        return judged.mark(invalid(judged.gate, candidate, None, limit, same))
    rule = replace(rule, seed_noise=None)
    units = _units(scores, judged, candidate)
    base = scores.mean_of(scores.base)
    reason = _REASONS[status]
    if status == "INCONCLUSIVE":
        reason += f" {explain.larger_noise(units, len(candidate.trials), interval, rule)}"
    passes_too = f"The base model has {_shown(base, judged)} and would pass too: this PASS shows no gain."
    known = [passes_too] if status == "PASS" and base >= limit.value else []
    verdict = give(
        judged.gate,
        status,
        candidate=candidate,
        baseline=None,
        measured=interval,
        limit=limit,
        at=rates_line(candidate),
        why=[
            f"After {candidate.workload.steps} steps {candidate.label} has {_shown(interval.value, judged)}, the base "
            f"model {_shown(base, judged)}. {reason}",
            explain.basis_of(units, len(candidate.trials), rule),
            *unsettled(candidate),
            *known,
        ],
        what_to_do=_what_to_do_alone(status, candidate, (interval, limit.value), rule, units),
        note=" ".join([*rates_note(candidate), *known]) or None,
        hangs_on=("candidate",) if status != "PASS" else (),
    )
    return judged.mark(verdict)


def _what_to_do_alone(
    status: Status, candidate: TrainedVariant, doubt: tuple[Interval, float], rule: Rule, units: Units
) -> str:
    if status == "PASS":
        return ""
    if status == "FAIL":
        way = None if candidate.rate.origin == "searched" or candidate.rate.why_not else how_to_search(candidate)
        search = f"search its learning rate ({way}), or " if way else ""
        return f"{search}train for more steps or on more data; look at the examples that it gets wrong"
    losses = candidate.trials[0].measured.validation
    assert losses is not None  # else there are no scores
    return way_out(doubt, rule, candidate, losses, "validation", of=units)


def _shown(value: float, judged: Judged) -> str:
    """Return a score as it is read: accuracy in percent."""
    return f"{100 * value:.1f} % accuracy" if judged.score == ACCURACY else f"{value:.4g} {judged.score}"


def _units(scores: PairedScores, judged: Judged, variant: TrainedVariant) -> Units:
    """Return what an interval rests on."""
    losses = variant.trials[0].measured.validation
    grouped = losses is not None and losses.documents is not None
    name = f"groups of {judged.chosen.noun}" if grouped else judged.chosen.noun
    return Units(len(scores.counts), name)


@dataclass(frozen=True)
class _Gap:
    """A gap in a score that can be judged.

    Attributes:
        comparison: The two variants.
        scores: Their scores.
        judged: Which score, of which examples.
        limit: The least accepted gap.
        rule: How it is judged.
    """

    comparison: Comparison
    scores: PairedScores
    judged: Judged
    limit: Limit
    rule: Rule

    def verdict(self) -> Verdict:
        gate, candidate, baseline = self.judged.gate, self.comparison.candidate, self.comparison.baseline
        rule = replace(self.rule, seed_noise=self._seed_noise)
        interval = in_unit(self.scores.gap(rule.confidence, rule.seed_noise), self.limit)
        status = decide(gate, interval, self.limit.value)
        if status == "INVALID":
            return invalid(gate, candidate, baseline, self.limit, [NOT_FINITE])
        if faults := self._learned_nothing(candidate):
            return invalid(gate, candidate, baseline, self.limit, faults + self._learned_nothing(baseline))
        assert self.scores.baseline is not None  # it is a pair
        gain = in_unit(self.scores.gain(self.scores.baseline, rule.confidence), self.limit)
        fall = replace(self.limit, value=max(0.0, -self.limit.value))
        if status != "FAIL" and not gain.lower > rule.gain_factor * fall.value:
            faults = self._learned_nothing(baseline) or [
                no_gain(baseline, gain, self.judged.score, rule=rule, fall=fall, status_at=self._status_at)
            ]
            return invalid(gate, candidate, baseline, self.limit, faults)
        units = _units(self.scores, self.judged, candidate)
        praise = undertrained(baseline)
        if status == "PASS":
            praise += [*better_rate(candidate), *explain.better(self.comparison, beyond_noise=interval.lower > 0)]
        why = [
            f"{self._standing()} {explain.reason(status, self.comparison, interval, rule, units)}",
            explain.basis(self.comparison, rule, units),
            *self._trend(),
            *unsettled(candidate, baseline),
            *praise,
        ]
        return give(
            gate,
            status,
            candidate=candidate,
            baseline=baseline,
            measured=interval,
            limit=self.limit,
            at=rates_line(candidate, baseline),
            why=why,
            what_to_do=explain.what_to_do(status, self.comparison, (interval, self.limit.value), rule, units),
            note=" ".join([*rates_note(candidate, baseline), *praise]) or None,
        )

    @property
    def _seed_noise(self) -> SeedNoise | None:
        # The examples of a slice are fewer, so its gap moves more from seed to seed than that of all.
        if self.rule.seed_noise is None or self.judged.chosen.column:
            return None
        return self.rule.seed_noise.of_score(self.judged.score)

    def _learned_nothing(self, variant: TrainedVariant) -> list[Problem]:
        """Return that a variant is better than the base model neither by its loss nor by its score."""
        side = self.scores.candidate if variant is self.comparison.candidate else self.scores.baseline
        assert side is not None  # it is a pair
        return no_score_learned(variant, side, self.scores, self.rule.confidence)

    def _status_at(self, fall: float) -> Status:
        return replace(self, limit=replace(self.limit, value=-fall)).verdict().status

    def _standing(self) -> str:
        """Return the scores of both, and of the base model."""
        candidate, baseline, scores = self.comparison.candidate, self.comparison.baseline, self.scores
        assert scores.baseline is not None  # it is a pair
        ours, theirs, base = map(scores.mean_of, (scores.candidate, scores.baseline, scores.base))
        return (
            f"After {candidate.workload.steps} steps {candidate.label} has {_shown(ours, self.judged)}, "
            f"{baseline.label} {_shown(theirs, self.judged)}, the base model {_shown(base, self.judged)}."
        )

    def _trend(self) -> list[str]:
        """Return that the gap in the loss is widening, if these are not the steps of production."""
        if self.comparison.candidate.workload.final:
            return []
        trend = self.comparison.trend(self.rule.confidence)
        if trend is None or not trend.per_doubling.lower > 0:
            return []
        return [
            f"The gap in the loss is widening, by {trend.per_doubling.value:.4f} nats per token with each doubling of "
            "the steps. The score was measured after the last step only, so it may follow."
        ]
