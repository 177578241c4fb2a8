"""Gates on scores: what they decide, what they refuse, and what they say."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_ftguard import ConfigurationError, GateFailure, LimitExceeded
from pytest_ftguard.comparison.scores import every_slice
from pytest_ftguard.gates.scores import assert_accuracy_gap, assert_score, assert_score_gap
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import About, Answers, Scores, SequenceLosses, TrainedVariant, Trial
from pytest_ftguard.specs import Variant, Workload

from .builders import FULL, LORA, WORKLOAD, losses, trained, trial

WORK = replace(WORKLOAD, task="classification", seeds=(0, 1, 2), final=True)
COUNT = 400


def right(share: float, seed: int, count: int = COUNT) -> tuple[int, ...]:
    """Which examples are right: the easiest ones, and around the share by chance of the seed."""
    draw = random.Random(seed)
    return tuple(int(place / count + draw.uniform(-0.05, 0.05) < share) for place in range(count))


def classified(
    variant: Variant,
    shares: Sequence[float],
    *,
    base: float = 0.5,
    nll: float = 0.4,
    work: Workload = WORK,
    **parts: Any,
) -> TrainedVariant:
    """A variant with so much of its examples right, a share for each seed."""
    count = parts.pop("count", COUNT)
    labels = (0, *(1,) * (count - 1))

    def of(values: Sequence[int], loss: float, **more: Any) -> Any:
        answers = Answers(labels, (1 - values[0], *values[1:]))
        return losses([loss] * count, tokens=(1,) * count, answers=answers, **{**parts, **more})

    work = replace(work, seeds=tuple(range(len(shares))))
    return trained(
        variant,
        *(
            trial(
                variant,
                [],
                seed=seed,
                workload=work,
                validation=of(right(share, seed, count), nll + 0.001 * seed),
                base_validation=of(right(base, 99, count), 0.7),
            )
            for seed, share in enumerate(shares)
        ),
    )


def scored(variant: Variant, values: Sequence[Sequence[float]], **options: Any) -> TrainedVariant:
    """A variant with a score of its own for each seed and example."""
    work = replace(WORK, task="chat", score="mine:exact_match")
    made = classified(variant, [0.5] * len(values), count=len(values[0]), work=work, **options)
    trials = []
    for one, row in zip(made.trials, values, strict=True):
        assert one.measured.base_validation is not None
        found = replace(validation_of(one), answers=None, scores=Scores({"exact_match": tuple(row)}, 1.0))
        base = replace(
            one.measured.base_validation, answers=None, scores=Scores({"exact_match": (0.0,) * len(row)}, 1.0)
        )
        trials.append(one.remeasured(validation=found, base_validation=base))
    return trained(variant, *trials)


def validation_of(one: Trial) -> SequenceLosses:
    """What a trial measured on the validation examples."""
    assert one.measured.validation is not None
    return one.measured.validation


def gap(ours: TrainedVariant, theirs: TrainedVariant, at_most: str = "5 pp", **options: Any) -> Verdict:
    """The verdict of the gate on accuracy, whatever it is."""
    try:
        return assert_accuracy_gap(ours, theirs, at_most=at_most, **options)
    except GateFailure as error:
        (status,) = re.findall("FAIL|INCONCLUSIVE|INVALID", str(error).splitlines()[0])
        return Verdict(
            gate="accuracy_gap",
            status=status,
            candidate="",
            baseline=None,
            value=None,
            interval=None,
            limit=None,  # type: ignore[arg-type]
            reason=str(error),
        )


def test_a_small_fall_passes_and_is_told_in_percentage_points() -> None:
    """The gap is candidate minus baseline, so a fall is below 0, and the limit stands at the other end of it."""
    verdict = assert_accuracy_gap(classified(LORA, [0.8] * 3), classified(FULL, [0.81] * 3), at_most="5 pp")
    assert verdict.status == "PASS"
    assert verdict.value is not None
    assert -3 < verdict.value < 0.5
    assert (verdict.limit.value, verdict.limit.unit) == (-5.0, "percentage points")
    assert (verdict.score, verdict.slice) == ("accuracy", None)
    assert verdict.headline.startswith("accuracy gap PASS: ")
    assert "limit at least -5 pp (the argument at_most)" in verdict.headline
    assert "% accuracy" in verdict.message


def test_a_large_fall_fails() -> None:
    """The message has both accuracies and that of the base model."""
    with pytest.raises(LimitExceeded) as caught:
        assert_accuracy_gap(classified(LORA, [0.7] * 3), classified(FULL, [0.9] * 3), at_most="5 pp")
    assert "accuracy gap FAIL: -19.4 [" in str(caught.value)
    assert "the base model 5" in str(caught.value)


def test_a_fall_about_as_large_as_the_limit_is_undecided() -> None:
    """The message says how many examples or seeds would settle it."""
    verdict = gap(classified(LORA, [0.76, 0.77, 0.75]), classified(FULL, [0.8, 0.8, 0.81]))
    assert verdict.status == "INCONCLUSIVE"
    assert "would settle it" in verdict.reason


def test_two_models_with_the_same_answers_are_no_proof_that_no_answer_can_differ() -> None:
    """Of 64 examples without a difference up to 4.6 % may differ in truth, so a limit of 3 points is not passed."""
    same = [1.0] * 64
    ours, theirs = scored(LORA, [same]), scored(FULL, [same])
    with pytest.raises(GateFailure, match="score gap INCONCLUSIVE"):
        assert_score_gap(ours, theirs, at_most="3 pp")
    assert assert_score_gap(ours, theirs, at_most="6 pp").status == "PASS"


def test_everything_right_is_no_proof_that_everything_will_be() -> None:
    """64 of 64: the lower bound of Clopper and Pearson is 95.4 %."""
    every = scored(LORA, [[1.0] * 64])
    assert assert_score(every, at_least="95%").status == "PASS"
    with pytest.raises(GateFailure, match="INCONCLUSIVE"):
        assert_score(every, at_least=0.96)
    with pytest.raises(LimitExceeded):
        assert_score(scored(LORA, [[0.0] * 64]), at_least=0.05)


def test_a_full_variant_that_gained_little_makes_the_gate_invalid() -> None:
    """The message names the largest limit that its gain allows, and that limit works."""
    ours, theirs = classified(LORA, [0.6] * 3), classified(FULL, [0.6] * 3)
    verdict = gap(ours, theirs)
    assert verdict.status == "INVALID"
    assert "this test has no power: full gained only" in verdict.reason
    assert "times the accepted fall of 5 pp is needed" in verdict.reason


def test_a_fail_goes_before_a_gain_that_is_too_small() -> None:
    """A candidate beyond the limit is beyond it however little full gained."""
    assert gap(classified(LORA, [0.52] * 3), classified(FULL, [0.62] * 3), "2 pp").status == "FAIL"


def test_a_candidate_that_learned_nothing_is_invalid_even_if_its_gap_is_small() -> None:
    """Neither its loss nor its score is better than the base model's."""
    verdict = gap(classified(LORA, [0.5] * 3, nll=0.8), classified(FULL, [0.9] * 3))
    assert verdict.status == "INVALID"
    assert "is not better than the base model" in verdict.reason


def test_a_loss_that_rose_while_the_accuracy_rose_too_is_no_fault() -> None:
    """So does a classifier that is too sure of itself."""
    assert gap(classified(LORA, [0.9] * 3, nll=0.9), classified(FULL, [0.9] * 3, nll=0.9)).status == "PASS"


def test_a_score_that_always_gives_the_same_has_no_power() -> None:
    """Also on the base model, so full gained nothing."""
    made = [scored(one, [[0.0] * 100] * 3) for one in (LORA, FULL)]
    with pytest.raises(GateFailure, match=r"INVALID: this test has no power: full gained only \+0"):
        assert_score_gap(*made, at_most="2 pp")


@pytest.mark.parametrize("value", [0.7, 4.0, -2.0])
def test_a_score_that_is_the_same_everywhere_is_mended_as_advised(value: float) -> None:
    """Of the base model too, it shows nothing, whatever the limit; one that looks at the answers passes."""

    def constant(variant: Variant) -> TrainedVariant:
        same = Scores({"exact_match": (value,) * 100}, 1.0)
        return trained(
            variant,
            *(
                one.remeasured(
                    validation=replace(validation_of(one), scores=same),
                    base_validation=replace(validation_of(one), scores=same),
                )
                for one in scored(variant, [[1.0] * 100] * 3).trials
            ),
        )

    message = failure(lambda: assert_score(constant(LORA), at_least=value - 1))
    assert f"INVALID: exact_match is {value:g} for every example, of the base model too" in message
    assert "let the score look at what the model answers" in message
    with pytest.raises(LimitExceeded):
        assert_score(constant(LORA), at_least=value + 1)
    with pytest.raises(GateFailure, match="INVALID"):
        assert_score_gap(constant(LORA), constant(FULL), at_most=5)
    assert assert_score(scored(LORA, [[1.0] * 99 + [0.0]]), at_least=0.5).status == "PASS"


def test_a_score_that_is_no_number_is_invalid_and_its_rows_are_named() -> None:
    """NaN never passes, on either side or of the base model."""
    odd = [1.0] * 100
    odd[7] = math.nan
    about = About(tuple(f"q{place}" for place in range(100)))
    ours, theirs = scored(LORA, [odd], about=about), scored(FULL, [[1.0] * 100], about=about)
    with pytest.raises(GateFailure, match="INVALID: exact_match of lora r=16, seed 0, is no finite number for 1 of"):
        assert_score_gap(ours, theirs, at_most="2 pp")
    with pytest.raises(GateFailure, match="They are row q7"):
        assert_score(ours, at_least=0.5)


def test_a_score_that_failed_is_invalid_and_says_why() -> None:
    """The losses are still there, so gates on them go on."""
    ours = scored(LORA, [[1.0] * 100])
    broken = trained(
        LORA,
        *(
            one.remeasured(validation=replace(validation_of(one), scores=Scores({}, 1.0, "KeyError: 'x', row 3")))
            for one in ours.trials
        ),
    )
    with pytest.raises(GateFailure, match=r"the score of lora r=16, seed 0, failed[\s\S]*KeyError: 'x', row 3"):
        assert_score(broken, score="exact_match", at_least=0.5)


def test_a_gate_on_a_score_that_nobody_measured_says_how_to_measure_it() -> None:
    """And one with another name than those that were measured names these."""
    plain = classified(LORA, [0.8] * 3)
    assert "has no score 'f1'" in failure(lambda: assert_score(plain, score="f1", at_least=0.5))
    assert ", or name one that was measured: accuracy" in failure(lambda: assert_score(plain, score="f1", at_least=0.5))
    bare = trained(LORA, trial(LORA, [20.0] * 100))
    assert "set ftguard" not in failure(lambda: assert_score(bare, score="f1", at_least=0.5))
    assert "ftguard_score = module:function" in failure(lambda: assert_score(bare, score="f1", at_least=0.5))
    assert "ftguard_task = classification" in failure(lambda: assert_score(bare, score="accuracy", at_least=0.5))


def test_two_sources_of_one_score_are_not_compared() -> None:
    """Whatever its name: a task without classes may have an accuracy of the team's own."""

    def of(variant: Variant, code: str) -> TrainedVariant:
        def sourced(losses: SequenceLosses | None) -> SequenceLosses:
            assert losses is not None
            assert losses.scores is not None
            values = {"accuracy": losses.scores.values["exact_match"]}
            return replace(losses, scores=replace(losses.scores, values=values, code=code))

        made = scored(variant, [[1.0] * 100] * 3)
        trials = (
            one.remeasured(
                validation=sourced(one.measured.validation), base_validation=sourced(one.measured.base_validation)
            )
            for one in made.trials
        )
        return trained(variant, *trials)

    assert gap(of(LORA, "a"), of(FULL, "a"), "9 pp").status == "PASS"
    verdict = gap(of(LORA, "b"), of(FULL, "a"), "9 pp")
    assert verdict.status == "INVALID"
    assert "the source of the score was not the same for all trials" in verdict.reason


def test_rows_of_every_class_are_given_as_advised() -> None:
    """With one class a model that always gives it is always right."""

    def one_class(variant: Variant) -> TrainedVariant:
        made = classified(variant, [0.9] * 3, base=0.2)
        answers = Answers((1,) * COUNT, (1,) * COUNT)
        trials = (one.remeasured(validation=replace(validation_of(one), answers=answers)) for one in made.trials)
        return trained(variant, *trials)

    message = gap(one_class(LORA), one_class(FULL)).reason
    assert "INVALID: all 400 validation examples have one class" in message
    assert "give validation rows of every class" in message
    assert gap(classified(LORA, [0.9] * 3, base=0.2), classified(FULL, [0.9] * 3, base=0.2)).status == "PASS"


@pytest.mark.parametrize(("different", "status"), [(10, "PASS"), (11, "INVALID")])
def test_the_base_model_is_scored_alike_as_advised(different: int, status: str) -> None:
    """A tenth of its scores may differ, as on another machine; more are another way of scoring, or chance."""

    def based(one: Trial) -> Trial:
        base = one.measured.base_validation
        assert base is not None
        given = {"exact_match": tuple(float(place < different) for place in range(100))}
        return one.remeasured(base_validation=replace(base, scores=Scores(given, 1.0)))

    ours, theirs = scored(LORA, [[1.0] * 100]), scored(FULL, [[1.0] * 100])
    other = trained(LORA, *map(based, ours.trials))
    if status == "PASS":
        assert assert_score_gap(other, theirs, at_most="20 pp").status == "PASS"
        return
    message = failure(lambda: assert_score_gap(other, theirs, at_most="20 pp"))
    assert "INVALID: the base model was not scored alike for both variants" in message
    assert "Its exact_match differs for 11 of 100 examples" in message
    assert assert_score_gap(ours, theirs, at_most="20 pp").status == "PASS"


def failure(call: Any) -> str:
    """The message of a gate that fails."""
    with pytest.raises(GateFailure) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at_most": 2}, "must be percentage points"),
        ({"at_most": "2"}, "must be percentage points"),
        ({"at_most": "2%"}, "must be percentage points"),
        ({"at_most": "nan pp"}, "must be percentage points"),
        ({"at_most": "2 pp", "slice": "german"}, "slice='german'|takes a slice such as"),
        ({"at_most": "2 pp", "slice": "language=de", "each_slice": True}, "was given both"),
        ({"at_most": "2 pp", "each_slice": "language"}, "each_slice=True or False"),
    ],
)
def test_a_wrong_argument_is_an_error_of_usage(options: dict[str, Any], words: str) -> None:
    """The message names the value."""
    with pytest.raises(ConfigurationError, match=words):
        assert_accuracy_gap(classified(LORA, [0.8] * 3), classified(FULL, [0.8] * 3), **options)


def test_percentage_points_are_of_scores_from_0_to_1() -> None:
    """A score of another range is judged in its own unit."""
    ours, theirs = scored(LORA, [[4.0] * 99 + [5.0]]), scored(FULL, [[4.0] * 98 + [5.0] * 2])
    with pytest.raises(GateFailure, match="INVALID: exact_match lies between 0 and 5"):
        assert_score_gap(ours, theirs, at_most="2 pp")
    assert assert_score_gap(ours, theirs, at_most=0.5).status == "PASS"


def languages(count: int = COUNT) -> About:
    """Every fourth example is German."""
    values = tuple("de" if place % 4 == 0 else "en" for place in range(count))
    return About(tuple(str(place + 1) for place in range(count)), {"language": values})


def test_a_slice_is_judged_by_its_own_examples() -> None:
    """Its name stands in the title, and a slice that is not there is named as such."""
    about = languages()
    ours, theirs = (classified(one, [0.8] * 3, about=about, base=0.2) for one in (LORA, FULL))
    verdict = assert_accuracy_gap(ours, theirs, at_most="8 pp", slice="language=de")
    assert verdict.status == "PASS"
    assert verdict.slice == "language=de"
    assert verdict.headline.startswith("accuracy gap, language=de PASS")
    assert "rests on 100 validation examples in language=de" in verdict.message
    with pytest.raises(GateFailure, match=r"no validation example is in the slice language=fr[\s\S]*language=de"):
        assert_accuracy_gap(ours, theirs, at_most="8 pp", slice="language=fr")
    with pytest.raises(GateFailure, match="there are no slices by 'length'"):
        assert_accuracy_gap(ours, theirs, at_most="8 pp", slice="length=short")


def test_a_slice_with_few_examples_is_invalid() -> None:
    """64 are needed, as for all gates."""
    for count, status in ((63, "INVALID"), (64, "PASS")):
        values = tuple("few" if place < count else "many" for place in range(COUNT))
        about = About(tuple(map(str, range(COUNT))), {"size": values})
        ours, theirs = (classified(one, [0.99] * 3, about=about, base=0.0) for one in (LORA, FULL))
        assert gap(ours, theirs, at_most="9 pp", slice="size=few").status == status


def test_each_slice_must_pass_and_the_error_is_split_over_them() -> None:
    """A fall in one of them fails the gate, although all examples together pass."""
    about = languages()
    work = replace(WORK, slices=("language",))
    theirs = classified(FULL, [0.9] * 3, about=about, work=work, base=0.1)
    worse = []
    for one in classified(LORA, [0.9] * 3, about=about, work=work, base=0.1).trials:
        answers = validation_of(one).answers
        assert answers is not None
        predicted = tuple(0 if place % 12 == 0 else value for place, value in enumerate(answers.predicted))
        validation = replace(validation_of(one), answers=replace(answers, predicted=predicted))
        worse.append(one.remeasured(validation=validation))
    ours = trained(LORA, *worse)
    assert [str(one) for one in every_slice(ours)] == ["language=de", "language=en"]
    assert gap(ours, theirs, at_most="15 pp").status == "PASS"
    message = failure(lambda: assert_accuracy_gap(ours, theirs, at_most="15 pp", each_slice=True))
    assert "accuracy gap, language=de FAIL" in message
    assert "language=en" not in message
    assert "each bound is wrong in at most 2.5 % of cases" in message


def test_all_examples_are_no_slices() -> None:
    """If a variant from elsewhere has none, the gate on each slice is an error, and not one on all examples."""
    ours, theirs = classified(LORA, [0.9] * 3, base=0.1), classified(FULL, [0.9] * 3, base=0.1)
    assert ours.source is None
    assert gap(ours, theirs, "9 pp").status == "PASS"
    for side in (ours, replace(ours, workload=replace(WORK, slices=("language",)))):
        with pytest.raises(ConfigurationError, match="there are no slices of lora r=16, which was trained elsewhere"):
            assert_accuracy_gap(side, theirs, at_most="9 pp", each_slice=True)
    failed = trained(LORA, *(one.remeasured(outcome="crashed", validation=None) for one in ours.trials))
    assert "crashed" in failure(lambda: assert_accuracy_gap(failed, theirs, at_most="9 pp", each_slice=True))


def test_groups_of_examples_are_the_units() -> None:
    """Ten questions on each text are no ten texts: the interval is wider, and 64 groups are needed."""
    groups = tuple(place // 10 for place in range(1000))
    about = About(tuple(map(str, range(1000))), group="text")
    wide = [classified(one, [0.8] * 3, count=1000, base=0.2, about=about, documents=groups) for one in (LORA, FULL)]
    plain = [classified(one, [0.8] * 3, count=1000, base=0.2, about=about) for one in (LORA, FULL)]
    found = [assert_accuracy_gap(*pair, at_most="9 pp") for pair in (wide, plain)]
    assert "rests on 100 groups of validation examples" in found[0].message
    widths = [one.interval[1] - one.interval[0] for one in found if one.interval]
    assert widths[0] > widths[1]
    ours, theirs = (
        classified(one, [0.8] * 3, count=630, about=about_of(630), documents=groups[:630]) for one in (LORA, FULL)
    )
    assert "63 validation groups are too few" in gap(ours, theirs).reason


def about_of(count: int) -> About:
    """Examples in groups."""
    return About(tuple(map(str, range(count))), group="text")


def test_a_limit_that_is_advised_for_a_score_gives_an_answer() -> None:
    """Full gained about 10 points, so the gate has power at a limit of a third of that."""
    ours, theirs = classified(LORA, [0.66] * 3), classified(FULL, [0.66] * 3)
    message = gap(ours, theirs, "9 pp").reason
    found = re.search(r"set a limit of at most ([\d.]+ pp)(, at which this result fails)?;", message)
    assert found is not None
    assert gap(ours, theirs, found[1]).status == ("FAIL" if found[2] else "PASS")
    hopeless = gap(classified(LORA, [0.52] * 3), classified(FULL, [0.52] * 3)).reason
    assert "this test has no power" in hopeless
    assert "set a limit" not in hopeless


@pytest.mark.parametrize("of_pair", [True, False])
def test_doubt_about_a_score_is_settled_as_advised(of_pair: bool) -> None:
    """With as many examples as the message asks for, and the same share of them right, there is an answer."""

    def sides(count: int) -> tuple[TrainedVariant, TrainedVariant]:
        values = [float(place % 20 not in {3, 7, 11}) for place in range(count)]
        worse = [value if place % 40 not in {1, 20} else 1 - value for place, value in enumerate(values)]
        return scored(LORA, [worse]), scored(FULL, [values])

    def judge(count: int) -> Verdict:
        ours, theirs = sides(count)
        if of_pair:
            return assert_score_gap(ours, theirs, at_most="7 pp")
        return assert_score(ours, at_least=0.77)

    message = failure(lambda: judge(200))
    assert "INCONCLUSIVE" in message
    found = re.search(r"about (\d+) validation examples instead of 200", message)
    assert found is not None
    assert judge(40 * math.ceil(int(found[1]) / 40)).status == "PASS"
