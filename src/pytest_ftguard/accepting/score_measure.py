"""A regression of a score: by how much it, or the gap in it, has fallen since it was accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pytest_ftguard.accepting.metrics import Change, Measure
from pytest_ftguard.accepting.record import PairRecord
from pytest_ftguard.accepting.sentences import counts, earlier_label, over, units_and_seeds, way_out_of_change
from pytest_ftguard.accepting.since import paired_seeds, score_fall, surroundings_since
from pytest_ftguard.comparison.pairs import Comparison
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.comparison.scores import Slice, paired_scores, score_problems_of_pair
from pytest_ftguard.gates.limits import POINTS, Limit
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.score_gain import in_unit, no_gain, no_score_learned, unfit
from pytest_ftguard.gates.verdict import Status
from pytest_ftguard.results import ACCURACY, TrainedVariant
from pytest_ftguard.statistics import Interval

__all__ = ["ScoreFall"]

_EXAMPLE, _UNITS = "at_most=0.5", "examples"


@dataclass(frozen=True)
class ScoreFall(Measure):
    """How a score is judged.

    Attributes:
        score: Its name.
    """

    score: str
    depends_on_rates: ClassVar[bool] = True
    moved: ClassVar[tuple[str, str]] = ("fallen", "fall")

    def problems(
        self, comparison: Comparison, limit: Limit, rule: Rule, status_at: Callable[[float], Status]
    ) -> list[Problem]:
        """Return why it can be neither judged nor accepted; one variant alone is next to itself."""
        if comparison.loss_problems:
            return []
        candidate, baseline = comparison.candidate, comparison.baseline
        if problems := score_problems_of_pair(comparison, self.score, Slice()):
            return problems
        scores = paired_scores(self.score, Slice(), candidate, baseline)
        if problems := unfit(self.score, scores.span, limit, _EXAMPLE):
            return problems
        assert scores.baseline is not None  # it is a pair
        problems = no_score_learned(candidate, scores.candidate, scores, rule.confidence)
        gain = in_unit(scores.gain(scores.baseline, rule.confidence), limit)
        # If full fine-tuning learns nothing either, a gap that has not fallen says nothing.
        if not gain.lower > rule.gain_factor * limit.value:
            problems += no_score_learned(baseline, scores.baseline, scores, rule.confidence) or [
                no_gain(baseline, gain, self.score, rule=rule, fall=limit, status_at=status_at)
            ]
        return list(dict.fromkeys(problems))

    def change(self, now: PairRecord, then: PairRecord, limit: Limit, rule: Rule) -> tuple[Interval | float | str, str]:
        """Return by how much it has fallen, in the unit of the limit."""
        ours, theirs = now.scores.get(self.score), then.scores.get(self.score)
        if ours is None or theirs is None:
            return f"no {self.score} was accepted", ""
        if ours.source != theirs.source:
            why = "What gives it is another function, or its source has changed, so the two are not comparable."
            return f"{self.score} is not what was accepted under that name", why
        if unfit(self.score, theirs.span, limit, _EXAMPLE):
            low, high = theirs.span
            return f"{self.score} lay between {low:g} and {high:g} when it was accepted, and not from 0 to 1", ""
        moved = _scale(limit) * (ours.base - theirs.base)
        if not abs(moved) <= limit.value:
            why = (
                f"It moved by {limit.texts(moved)[0]}, which is more than the limit, and was not trained: the rows, "
                "what they are held against, or a library has changed, and so has what is measured."
            )
            return f"the base model has another {self.score} than when it was accepted", why
        same = ours == theirs and now.differences == then.differences and now.base.nll == then.base.nll
        if same and now.seeds == then.seeds:
            exact = "Both are the same to the last digit, for every seed and example, so nothing is uncertain."
            return Interval(0.0, 0.0, 0.0, 0.0, 0.0, float("inf")), exact
        return in_unit(score_fall(self.score, now, then, rule.confidence), limit), counts(
            units_and_seeds(now, then, _UNITS), rule
        )

    def standing(self, now: PairRecord, then: PairRecord) -> str:
        """Return what it is now and what it was."""
        shared = paired_seeds(now, then)
        pair = now.baseline is not None
        what = f"{self.score} gap" if pair else self.score
        against = f" against {now.reference.variant.label}" if pair else ""
        value = self._shown(now, shared or now.seeds, signed=pair)
        before = self._shown(then, shared or then.seeds, signed=pair)
        was = f"and was {before}{earlier_label(now, then)} when it was accepted" if before else "and none was accepted"
        return (
            f"The {what} of {now.candidate.variant.label}{against}{over(shared, now, then)} is "
            f"{value or 'unmeasured'}, {was}."
        )

    def _shown(self, record: PairRecord, seeds: tuple[int, ...], *, signed: bool) -> str:
        score = record.scores.get(self.score)
        if score is None:
            return ""
        mean = score.mean([place for place, seed in enumerate(record.seeds) if seed in seeds])
        if self.score != ACCURACY:
            return f"{mean:+.4g}" if signed else f"{mean:.4g}"
        return f"{100 * mean:+.2f} percentage points" if signed else f"{100 * mean:.2f} %"

    def way_out(
        self, now: PairRecord, change: Change, limit: Limit, rule: Rule, accept_again: str, *, candidate: TrainedVariant
    ) -> str:
        """Return what makes the interval narrower, with a number if it can be computed."""
        assert isinstance(change.measured, Interval)  # nothing else is undecided
        doubt, what = (change.measured, limit.value), (self.moved[1], _UNITS)
        return way_out_of_change(
            now, change.then, doubt, rule, accept_again, against=change.against, of=candidate, what=what
        )

    def notes(self, now: PairRecord, then: PairRecord, limit: Limit) -> list[str]:
        """Return how far the base model moved, which nobody trained, if that is in another environment."""
        ours, theirs, changed = now.scores.get(self.score), then.scores.get(self.score), surroundings_since(now, then)
        if ours is None or theirs is None or ours.base == theirs.base or not changed:
            return []
        (moved,) = limit.texts(_scale(limit) * (ours.base - theirs.base))
        return [
            f"Another environment than when it was accepted: {'; '.join(changed)}.",
            f"The {self.score} of the base model, which was not trained, moved by {moved} with these: this much is "
            "measurement noise.",
        ]


def _scale(limit: Limit) -> float:
    return 100.0 if limit.unit == POINTS else 1.0
