"""Which examples a candidate lost most on, and how special a domain is: plain data for summary and report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_ftguard.comparison.examples import lost_most, pairs_to_compare
from pytest_ftguard.comparison.specialization import specialization_of
from pytest_ftguard.results import About, Answers, Scores, TrainedVariant
from pytest_ftguard.specs import Full, LoRA, Variant, key_of

from .builders import FULL, LORA, losses, trained, trial

COUNT = 8
NAMES = tuple(f"id-{place}" for place in range(COUNT))


def scored(
    variant: Variant, *seeds: Sequence[float], nll: Sequence[float] = (20.0,) * COUNT, named: bool = True
) -> TrainedVariant:
    """A variant with a score of its own for each seed and example."""
    about = About(NAMES) if named else None
    return trained(
        variant,
        *(
            trial(
                variant,
                [],
                seed=seed,
                validation=losses(nll, scores=Scores({"exact_match": tuple(values)}, 1.0), about=about),
            )
            for seed, values in enumerate(seeds)
        ),
    )


def found(candidate: TrainedVariant, baseline: TrainedVariant) -> list[str]:
    """The names of the examples that a candidate lost most on."""
    lost = lost_most(candidate, baseline)
    return [] if lost is None else [one.name for one in lost.examples]


RIGHT = (1.0,) * COUNT


def test_the_deepest_falls_of_the_score_come_first_and_ties_go_by_the_loss() -> None:
    """At most five are named; the gaps of loss and score are the mean over the seeds."""
    wrong, half = (0.0,) * 6 + (1.0, 1.0), (1.0, *(0.0,) * 5, 1.0, 1.0)
    nll = (99.0, 20.0, 20.0, 24.0, 20.0, 20.0, 20.0, 20.0)
    lost = lost_most(scored(LORA, wrong, half, wrong, nll=nll), scored(FULL, RIGHT, RIGHT, RIGHT))
    assert lost is not None
    assert (lost.score, lost.are_rows, lost.per) == ("exact_match", True, "token")
    assert [one.name for one in lost.examples] == ["id-3", "id-1", "id-2", "id-4", "id-5"]
    assert lost.examples[0].loss == pytest.approx(0.4)
    assert lost.examples[0].scores == {"exact_match": -1.0}


def test_examples_that_gained_or_stayed_are_not_named() -> None:
    """A candidate that is as good on all of them has lost most on none; nor has one that is better."""
    half = (0.5,) * COUNT
    assert lost_most(scored(LORA, half), scored(FULL, half)) is None
    assert lost_most(scored(LORA, RIGHT), scored(FULL, half)) is None
    assert found(scored(LORA, (0.0, *RIGHT[1:])), scored(FULL, half)) == ["id-0"]


@pytest.mark.parametrize(("fall", "names"), [(1.0, ["id-0"]), (0.9, [])])
def test_a_fall_is_clear_from_a_tenth_of_the_distance_between_the_scores_on(fall: float, names: list[str]) -> None:
    """Less is noise of the model's answer; the score may be of any unit."""
    theirs = (10.0, 0.0, *(5.0,) * 6)
    assert found(scored(LORA, (10.0 - fall, *theirs[1:])), scored(FULL, theirs)) == names


@pytest.mark.parametrize(("wrong", "names"), [(2, ["id-0"]), (1, [])])
def test_a_fall_is_clear_if_most_seeds_agree(wrong: int, names: list[str]) -> None:
    """One wrong answer of three is chance; two of three are not."""
    seeds = [(0.0, *RIGHT[1:])] * wrong + [RIGHT] * (3 - wrong)
    assert found(scored(LORA, *seeds), scored(FULL, *[RIGHT] * 3)) == names


@pytest.mark.parametrize(("rise", "names"), [(1.01, ["id-2", "id-0"]), (0.99, ["id-2"])])
def test_if_no_score_fell_the_loss_tells(rise: float, names: list[str]) -> None:
    """From a rise of 0.1 nats per token on; an example with a better score has not lost."""
    nll = (20.0 + rise, 50.0, 40.0, *(20.0,) * 5)
    candidate = scored(LORA, (0.5, 1.0, *(0.5,) * 6), nll=nll)
    lost = lost_most(candidate, scored(FULL, (0.5,) * COUNT))
    assert lost is not None
    assert lost.score is None
    assert [one.name for one in lost.examples] == names


def test_accuracy_tells_if_there_is_no_score_of_the_teams_own() -> None:
    """Its losses are a mean over examples."""
    labels = (1,) * COUNT

    def side(variant: Variant, *predicted: int) -> TrainedVariant:
        answers = Answers(labels, predicted)
        return trained(
            variant, trial(variant, [], validation=losses([1.0] * COUNT, tokens=(1,) * COUNT, answers=answers))
        )

    lost = lost_most(side(LORA, 1, 1, 0, 1, 1, 1, 1, 1), side(FULL, *labels))
    assert lost is not None
    assert (lost.score, lost.per, lost.are_rows) == ("accuracy", "example", False)
    assert [one.name for one in lost.examples] == ["3"]


def test_sequences_without_a_name_are_counted_from_1() -> None:
    """The first one is 1, as the first row of a file is."""
    assert found(scored(LORA, (0.0, *RIGHT[1:]), named=False), scored(FULL, RIGHT, named=False)) == ["1"]


def test_what_is_no_number_is_not_named_and_hides_no_other_example() -> None:
    """Neither as a score nor as a loss."""
    candidate = scored(LORA, (math.nan, 0.0, *RIGHT[2:]), nll=(math.nan, math.nan, *(20.0,) * 6))
    assert found(candidate, scored(FULL, RIGHT)) == ["id-1"]
    assert found(scored(LORA, (math.inf, *RIGHT[1:])), scored(FULL, RIGHT)) == []


def test_variants_without_a_pair_of_evaluations_have_lost_nothing() -> None:
    """They were evaluated on other examples or with other seeds, or a trial failed."""
    wrong = scored(LORA, (0.0, *RIGHT[1:]))
    (one,) = wrong.trials
    assert one.measured.validation is not None
    other = one.remeasured(validation=replace(one.measured.validation, digest="other"))
    failed = one.remeasured(outcome="crashed")
    again = replace(one, spec=replace(one.spec, seed=5))
    for changed in (other, failed, again):
        assert lost_most(trained(LORA, changed), scored(FULL, RIGHT)) is None
    assert lost_most(wrong, scored(FULL, RIGHT)) is not None


def test_a_candidate_is_next_to_the_baseline_of_its_gates() -> None:
    """Without a gate it is next to full fine-tuning, of several to the one with the lowest loss."""
    other, worse = LoRA(r=4, learning_rate=1e-3), Full(learning_rate=1e-5)
    variants = [
        trained(worse, trial(worse, [30.0] * COUNT)),
        *(trained(one, trial(one, [20.0] * COUNT)) for one in (FULL, LORA, other)),
    ]

    def pairs(*judged: tuple[Variant, Variant]) -> list[tuple[Variant, Variant]]:
        keys = [tuple(key_of(one, "trial") for one in pair) for pair in judged]
        return [(one.variant, theirs.variant) for one, theirs in pairs_to_compare(variants, keys)]

    assert pairs() == [(LORA, FULL), (other, FULL)]
    assert pairs((other, LORA)) == [(LORA, FULL), (other, LORA)]
    assert pairs((LORA, worse), (LORA, FULL)) == [(LORA, worse), (LORA, FULL), (other, FULL)]
    assert pairs((worse, FULL)) == [(worse, FULL), (LORA, FULL), (other, FULL)]
    assert list(pairs_to_compare(variants[2:], [])) == []


def test_a_domain_is_as_special_as_the_base_model_finds_it() -> None:
    """Its loss there minus that on the reference text, and what each seed of full gained over it."""
    parts: dict[str, Any] = {"base_reference": losses([28.0] * COUNT), "reference": losses([28.0] * COUNT)}
    full = trained(FULL, trial(FULL, [20.0] * COUNT, **parts), trial(FULL, [21.0] * COUNT, seed=1, **parts))
    lora = trained(LORA, trial(LORA, [22.0] * COUNT, **parts))
    special = specialization_of([lora, full])
    assert special is not None
    figures = (special.domain_loss, special.reference_loss, special.difference, *special.gains)
    assert figures == pytest.approx((3.0, 2.8, 0.2, 1.0, 0.9))
    assert special.per == "token"
    alone = specialization_of([lora])
    assert alone is not None
    assert alone.gains == ()
    assert specialization_of([trained(FULL, trial(FULL, [20.0] * COUNT))]) is None
    broken = {**parts, "base_reference": losses([math.nan] * COUNT)}
    assert specialization_of([trained(FULL, trial(FULL, [20.0] * COUNT, **broken))]) is None
