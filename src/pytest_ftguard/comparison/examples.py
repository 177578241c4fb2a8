"""The examples on which a candidate lost most against its baseline, by their names and never by their texts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pytest_ftguard.comparison.means import loss_is_per, main_score, mean
from pytest_ftguard.comparison.same_work import same_sequences
from pytest_ftguard.results import SequenceLosses, TrainedVariant
from pytest_ftguard.specs import key_of

__all__ = ["Lost", "LostExample", "best_full", "lost_most", "pairs_to_compare"]

_MOST: Final = 5
# Of the loss per token or, of classes, per example. Two trainings of one variant are seldom so far apart.
_CLEAR_RISE: Final = 0.1
# As a share of the distance between the lowest and the highest score of an example.
_CLEAR_FALL: Final = 0.1


@dataclass(frozen=True)
class LostExample:
    """An example on which a candidate lost.

    Attributes:
        name: Its `id` or the number of its row or, if the data are no rows, of its sequence, counted from 1.
        loss: How much higher the candidate's loss is, in nats per token or, of classes, per example; mean over the
            seeds.
        scores: Candidate minus baseline for each score that both have: below 0 the candidate is worse.
    """

    name: str
    loss: float
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Lost:
    """The examples on which a candidate lost most.

    Attributes:
        score: The score that fell most on these examples; None if they are those with the highest rise of the loss.
        examples: The examples, the worst first.
        are_rows: Whether their names are those of rows, and not the numbers of sequences.
        per: What the losses are a mean over: "token" or, of classes, "example".
    """

    score: str | None
    examples: tuple[LostExample, ...]
    are_rows: bool
    per: Literal["token", "example"]


def pairs_to_compare(
    variants: Sequence[TrainedVariant], judged: Collection[tuple[str, ...]]
) -> Iterator[tuple[TrainedVariant, TrainedVariant]]:
    """Yield each candidate with the baseline of its gates or, if no gate has judged it, with full fine-tuning.

    Args:
        variants: The variants of one workload.
        judged: The `keys` of verdicts: what tells candidate and baseline from other variants.
    """
    of_key = {key_of(one.variant, "trial"): one for one in reversed(variants)}
    full = best_full(variants)
    for candidate in variants:
        ours = key_of(candidate.variant, "trial")
        asked = dict.fromkeys(keys[1] for keys in judged if len(keys) > 1 and keys[0] == ours and keys[1] in of_key)
        baselines = [of_key[key] for key in asked]
        if not baselines and full is not None and candidate.variant.kind != "full":
            baselines = [full]
        yield from ((candidate, baseline) for baseline in baselines if baseline is not candidate)


def best_full(variants: Sequence[TrainedVariant]) -> TrainedVariant | None:
    """Return full fine-tuning, of several the one with the lowest loss; None if none has a loss."""
    losses = {
        number: one.loss
        for number, one in enumerate(variants)
        if one.variant.kind == "full" and one.loss is not None and math.isfinite(one.loss)
    }
    return variants[min(losses, key=losses.__getitem__)] if losses else None


def lost_most(candidate: TrainedVariant, baseline: TrainedVariant) -> Lost | None:
    """Return up to five examples on which a candidate lost most; None if it clearly lost on none.

    It lost on an example by its score if the score fell in most seeds, and in their mean by a tenth of the distance
    between the lowest and the highest score. If the score fell on no example, or there is none, it lost if the loss
    rose in most seeds, and in their mean by 0.1.

    Args:
        candidate: The variant that is judged.
        baseline: The variant that it is judged against, on the same examples.
    """
    pairs = _pairs(candidate, baseline)
    if not pairs:
        return None
    rises = _Gaps.of([(_losses(ours), _losses(theirs)) for ours, theirs in pairs])
    scored = [(ours.scored, theirs.scored) for ours, theirs in pairs]
    names = [name for name in scored[0][0] if all(name in side for pair in scored for side in pair)]
    gaps = {name: _Gaps.of([(ours[name], theirs[name]) for ours, theirs in scored]) for name in names}
    score = main_score([candidate, baseline])
    main = gaps.get(score) if score is not None else None
    worst: list[int] = []
    if main is not None:
        worst = sorted(
            main.clear(-1, _CLEAR_FALL * main.reach), key=lambda place: (main.means[place], rises.rank(place))
        )
    by_score = bool(worst)
    if not by_score:
        # The loss says nothing of an answer that has become better.
        better = set() if main is None else {place for place, gap in enumerate(main.means) if gap > 0}
        worst = sorted(set(rises.clear(1, _CLEAR_RISE)) - better, key=rises.rank)
    if not worst:
        return None
    first = pairs[0][0]
    about = first.about
    found = (
        LostExample(
            about.names[place] if about else str(place + 1),
            rises.means[place],
            {name: one.means[place] for name, one in gaps.items()},
        )
        for place in worst[:_MOST]
    )
    return Lost(score if by_score else None, tuple(found), are_rows=about is not None, per=loss_is_per(first))


@dataclass(frozen=True)
class _Gaps:
    """Candidate minus baseline on each example.

    Attributes:
        of_seeds: The gaps of each example, one for each seed.
        means: Their mean over the seeds.
        reach: Distance between the lowest and the highest finite value of an example on either side.
    """

    of_seeds: Sequence[Sequence[float]]
    means: Sequence[float]
    reach: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> _Gaps:
        """Return the gaps of both sides' values, a pair for each seed."""
        values = [value for pair in pairs for side in pair for value in side if math.isfinite(value)]
        rows = [[ours - theirs for ours, theirs in zip(*pair, strict=True)] for pair in pairs]
        of_seeds = list(zip(*rows, strict=True))
        return cls(of_seeds, list(map(mean, of_seeds)), max(values) - min(values) if values else 0.0)

    def clear(self, sign: int, least: float) -> Iterator[int]:
        """Yield the places of the gaps that are on one side of 0 in most seeds, and so large in their mean."""
        for place, gaps in enumerate(self.of_seeds):
            in_mean = sign * self.means[place]
            is_most = 2 * sum(sign * gap > 0 for gap in gaps) > len(gaps)
            if math.isfinite(in_mean) and in_mean >= least and is_most:
                yield place

    def rank(self, place: int) -> tuple[float, int]:
        """Return what places are sorted by: the highest gap comes first, one that is no finite number last."""
        gap = self.means[place]
        return (-gap if math.isfinite(gap) else math.inf, place)


_Pairs = Sequence[tuple[SequenceLosses, SequenceLosses]]


def _pairs(candidate: TrainedVariant, baseline: TrainedVariant) -> _Pairs:
    """Return both sides' losses for each seed; none if they are not of the same examples, or not all ended `ok`."""
    if not (candidate.ok and baseline.ok):
        return []
    theirs = {trial.spec.seed: trial.measured.validation for trial in baseline.trials}
    found = []
    for trial in candidate.trials:
        one, other = trial.measured.validation, theirs.get(trial.spec.seed)
        if one is not None and other is not None:
            found.append((one, other))
    sides = [side for pair in found for side in pair]
    return found if all(same_sequences(side, sides[0]) for side in sides) else []


def _losses(losses: SequenceLosses) -> list[float]:
    pairs = zip(losses.nll, losses.tokens, strict=True)
    return [nll / tokens if tokens else math.nan for nll, tokens in pairs]
