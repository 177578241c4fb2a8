"""A score across commits: by how much it, or the gap in it, has fallen since it was accepted."""

from __future__ import annotations

import json
import math
import re
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.accepting import gate
from pytest_ftguard.accepting.asked import Asked
from pytest_ftguard.accepting.helper import assert_no_regression
from pytest_ftguard.accepting.history import AcceptedFile, History, read_history, write_history
from pytest_ftguard.accepting.record import PairRecord, record_one, record_pair
from pytest_ftguard.current import active_test
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.limits import Limit, parse_regression_limit
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin, Setting
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import About, Answers, Scores, TrainedVariant, Trial
from tests.plain.builders import ENVIRONMENT, FULL, LORA, trained
from tests.plain.test_score_gates import COUNT, classified, scored, validation_of

PLACE, TEST = Path("accepted.json"), "t.py::test"
Pair = tuple[TrainedVariant, TrainedVariant | None]


def each(variant: TrainedVariant, change: Any) -> TrainedVariant:
    """A variant of which each trial is changed."""
    return trained(variant.variant, *map(change, variant.trials))


def answering(variant: TrainedVariant, wrong: int) -> TrainedVariant:
    """A variant that answers so many more of the examples wrongly, which are spread evenly over all."""

    def change(one: Trial) -> Trial:
        answers = validation_of(one).answers
        assert answers is not None
        places = [place for place, value in enumerate(answers.predicted) if value == 1]
        fallen = {places[len(places) * number // wrong] for number in range(wrong)} if wrong else set()
        predicted = tuple(0 if place in fallen else value for place, value in enumerate(answers.predicted))
        return one.remeasured(validation=replace(validation_of(one), answers=Answers(answers.labels, predicted)))

    return each(variant, change)


def classifiers(wrong: int = 0, nll: float = 0.4, **options: Any) -> tuple[TrainedVariant, TrainedVariant]:
    """LoRA with so many answers wrong that were right, and with such losses; and full."""
    lora = answering(classified(LORA, [0.8] * 3, base=0.2, nll=nll, **options), wrong)
    return lora, classified(FULL, [0.82] * 3, base=0.2, **options)


def matching(right: int, *, base: float = 0.0, code: str | None = "source", **options: Any) -> Pair:
    """LoRA and full with an exact match of so many of 200 examples, and of 180 of them."""

    def side(variant: Any, count: int) -> TrainedVariant:
        values = [float(place * 7 % 200 < count) for place in range(200)]
        return each(scored(variant, [values] * 3, **options), sourced)

    def sourced(one: Trial) -> Trial:
        before = one.measured.base_validation
        assert before is not None
        own = validation_of(one).scores
        assert own is not None
        given = {"exact_match": tuple(float(place < 200 * base) for place in range(200))}
        return one.remeasured(
            validation=replace(validation_of(one), scores=replace(own, code=code)),
            base_validation=replace(before, scores=Scores(given, 1.0, code=code)),
        )

    return side(LORA, right), side(FULL, 180)


def recorded(pair: Pair) -> PairRecord:
    return record_one(pair[0]) if pair[1] is None else record_pair(pair[0], pair[1])


def held(*records: PairRecord) -> AcceptedFile:
    """A file with the first record as its anchor; it has been written and read."""
    if not records:
        return AcceptedFile(PLACE, TEST, None)
    history = read_history(write_history(History(TEST, records[-1], records[0])), PLACE)
    return AcceptedFile(PLACE, TEST, history)


def asked(
    now: Pair, then: AcceptedFile, at_most: float | str, score: str = "accuracy", rule: Rule | None = None
) -> Asked:
    origin = Origin("argument", "the argument at_most")
    limit = Limit.of(Setting(parse_regression_limit(at_most, origin), origin))
    if limit.unit == "nats per token":
        limit = replace(limit, unit="of the score")
    metric: Any = "loss" if now[1] is None else "loss_gap"
    return Asked(
        candidate=now[0],
        baseline=now[1],
        limit=limit,
        rule=rule or Rule(gain_factor=0),
        metric=metric,
        file=then,
        score=score,
    )


def judge(now: Pair, then: Pair, at_most: float | str, score: str = "accuracy", rule: Rule | None = None) -> Verdict:
    return gate.assess_regression(asked(now, held(recorded(then)), at_most, score, rule))


@pytest.mark.parametrize(("wrong", "status"), [(0, "PASS"), (4, "PASS"), (20, "INCONCLUSIVE"), (60, "FAIL")])
def test_a_fall_of_the_accuracy_gap_is_judged_by_its_interval(wrong: int, status: str) -> None:
    """Of 400 examples with a limit of 5 points: 4 are one point, 20 are five, 60 are fifteen."""
    verdict = judge(classifiers(wrong), classifiers(0, nll=0.41), "5 pp")
    assert verdict.status == status, verdict.message
    assert verdict.value == pytest.approx(wrong / 4)
    assert (verdict.limit.unit, verdict.score) == ("percentage points", "accuracy")
    assert verdict.title == "accuracy regression"
    assert f"accuracy regression {status}: " in verdict.headline
    assert "limit 5 pp (the argument at_most)" in verdict.headline


def test_both_gaps_are_told_in_percentage_points() -> None:
    """As the loss gap is, with what has changed since."""
    message = judge(classifiers(60), classifiers(), "5 pp").message
    assert "The accuracy gap of lora r=16 against full is -17.17 percentage points, and was -2.17 percentage" in message
    assert "The whole interval is beyond the limit. No setting of the candidate and no version changed." in message
    assert "400 examples and 3 seeds, each paired with the same one then" in message


def test_the_same_training_again_is_exactly_the_same() -> None:
    """0 within [0, 0], which even a limit of 0 allows."""
    verdict = judge(classifiers(), classifiers(), "0 pp")
    assert (verdict.status, verdict.value, verdict.interval) == ("PASS", 0.0, (0.0, 0.0))
    assert "the same to the last digit" in verdict.message


def test_another_training_with_the_same_answers_may_still_differ_elsewhere() -> None:
    """If no answer of 400 differs, up to about 0.75 % may in truth: no limit below that is passed."""
    now, then = classifiers(nll=0.41), classifiers()
    assert judge(now, then, "0.5 pp").status == "INCONCLUSIVE"
    assert judge(now, then, "2 pp").status == "PASS"


@pytest.mark.parametrize(("wrong", "at_most"), [(8, "3 pp"), (16, "5.5 pp"), (4, "2 pp")])
def test_a_fall_in_doubt_is_settled_by_what_is_advised(wrong: int, at_most: str) -> None:
    """So many examples in both results, of which as large a share has fallen."""
    message = judge(classifiers(wrong), classifiers(nll=0.41), at_most).message
    assert "INCONCLUSIVE" in message
    assert "would settle it if the fall stays the same" in message
    found = re.search(r"about (\d+) validation examples instead of 400", message)
    assert found is not None
    count = int(found[1])
    now, then = classifiers(round(wrong * count / 400), count=count), classifiers(nll=0.41, count=count)
    assert judge(now, then, at_most).status == "PASS"


def test_a_better_gap_passes_and_asks_to_be_accepted() -> None:
    """A rise is a fall below 0."""
    verdict = judge(classifiers(), classifiers(60), "5 pp")
    assert verdict.status == "PASS"
    assert verdict.value is not None
    assert verdict.value < -10
    assert "It has become better by more than the limit: accept it with --ftguard-update" in verdict.message


def test_many_small_falls_are_caught_by_the_anchor() -> None:
    """Each is within the limit, and their sum is not."""
    records = [recorded(classifiers(wrong)) for wrong in (0, 20)]
    verdict = gate.assess_regression(asked(classifiers(40), held(*records), "8 pp"))
    assert verdict.status in ("FAIL", "INCONCLUSIVE"), verdict.message
    assert "It has fallen by " in verdict.message
    assert "against the anchor" in verdict.message


def test_one_variant_is_held_to_its_own_score() -> None:
    """What makes full fine-tuning and LoRA worse alike leaves the gap as it was."""
    (lora, full), before = classifiers(60), classifiers()
    worse = answering(full, 60)
    assert judge((worse, None), (before[1], None), "5 pp").status == "FAIL"
    assert judge((lora, worse), before, "5 pp").status == "PASS"
    message = judge((worse, None), (before[1], None), "5 pp").message
    assert "The accuracy of full is 67.42 %, and was 82.42 % when it was accepted." in message


@pytest.mark.parametrize(
    ("right", "at_most", "status"), [(170, 0.02, "PASS"), (140, 0.02, "FAIL"), (140, "2 pp", "FAIL")]
)
def test_a_score_of_the_teams_own_is_judged_in_its_unit_or_in_points(
    right: int, at_most: float | str, status: str
) -> None:
    """Its gap was -0.05."""
    verdict = judge(matching(right), matching(170), at_most, "exact_match")
    assert verdict.status == status, verdict.message
    assert verdict.value == pytest.approx((170 - right) / 200 * (100 if verdict.limit.unit != "of the score" else 1))
    assert verdict.title == "exact_match regression"
    assert "The exact_match gap of lora r=16 against full is " in verdict.message


def test_groups_are_the_units_of_a_fall() -> None:
    """Ten questions on each text are no ten texts."""
    about = About(tuple(map(str, range(1000))), group="text")
    groups = tuple(place // 10 for place in range(1000))
    widths = []
    for documents in (groups, None):
        options: dict[str, Any] = {"count": 1000, "about": about, "documents": documents}
        verdict = judge(classifiers(50, **options), classifiers(nll=0.41, **options), "9 pp")
        assert verdict.interval is not None
        widths.append(verdict.interval[1] - verdict.interval[0])
        assert ("100 documents" in verdict.message) is (documents is not None)
    assert widths[0] != pytest.approx(widths[1])


def test_seeds_that_are_not_paired_add_their_noise() -> None:
    """Each side has a seed that the other lacks."""

    def with_seeds(pair: tuple[TrainedVariant, TrainedVariant], *places: int) -> Pair:
        ours, theirs = (trained(side.variant, *(side.trials[place] for place in places)) for side in pair)
        return ours, theirs

    four = [classified(LORA, [0.8] * 4, base=0.2), classified(FULL, [0.82] * 4, base=0.2)]
    verdict = judge(with_seeds((four[0], four[1]), 0, 1, 2), with_seeds((four[0], four[1]), 1, 2, 3), "9 pp")
    assert verdict.status == "PASS", verdict.message
    assert "3 seeds now and 3 others then" in verdict.message
    one = judge(with_seeds((four[0], four[1]), 1), with_seeds((answering(four[0], 3), four[1]), 1, 2, 3), "9 pp")
    assert "the one seed in common, which says nothing of other seeds" in one.message


def broken(value: float) -> Pair:
    def change(one: Trial) -> Trial:
        own = validation_of(one).scores
        assert own is not None
        values = {"exact_match": (value, *own.values["exact_match"][1:])}
        return one.remeasured(validation=replace(validation_of(one), scores=replace(own, values=values)))

    lora, full = matching(170)
    return each(lora, change), full


def failed() -> Pair:
    lora, full = matching(170)

    def change(one: Trial) -> Trial:
        return one.remeasured(validation=replace(validation_of(one), scores=Scores({}, 1.0, "KeyError: 'x'", "source")))

    return each(lora, change), full


def unscored() -> Pair:
    lora, full = matching(170)
    assert full is not None

    def change(one: Trial) -> Trial:
        base = one.measured.base_validation
        assert base is not None
        return one.remeasured(
            validation=replace(validation_of(one), scores=None), base_validation=replace(base, scores=None)
        )

    return each(lora, change), each(full, change)


INVALID: dict[str, tuple[Any, Any, str]] = {
    "none was accepted": (lambda: matching(170), unscored, "no exact_match was accepted"),
    "another source": (
        lambda: matching(170),
        lambda: matching(170, code="other"),
        "exact_match is not what was accepted under that name",
    ),
    "another base": (
        lambda: matching(170, base=0.4),
        lambda: matching(170, base=0.35),
        "the base model has another exact_match than when it was accepted",
    ),
    "other examples": (
        lambda: matching(170),
        lambda: matching(170, digest="other"),
        "not the same work as the accepted result",
    ),
    "other groups": (
        lambda: matching(170),
        lambda: matching(170, documents=tuple(place // 2 for place in range(200))),
        "not the same work as the accepted result",
    ),
    "NaN": (lambda: broken(math.nan), lambda: matching(170), "is no finite number for 1 of 200"),
    "infinity": (lambda: broken(math.inf), lambda: matching(170), "is no finite number for 1 of 200"),
    "failed": (failed, lambda: matching(170), "the score of lora r=16, seed 0, failed"),
    "unmeasured": (unscored, lambda: matching(170), "no exact_match of lora r=16, seed 0, was measured"),
    "beyond 1": (lambda: broken(5.0), lambda: matching(170), "exact_match lies between 0 and 5"),
    "then beyond 1": (lambda: matching(170), lambda: broken(5.0), "exact_match lay between 0 and 5 when"),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_cannot_be_compared_is_invalid(name: str) -> None:
    """Whatever the limit, and the message says why; the pair against itself passes."""
    now, then, words = INVALID[name]
    limit = "3 pp" if name == "another base" else "99 pp"
    verdict = judge(now(), then(), limit, "exact_match")
    assert verdict.status == "INVALID", verdict.message
    assert words in verdict.message
    assert (verdict.value, verdict.score) == (None, "exact_match")
    assert judge(matching(170), matching(170), limit, "exact_match").status == "PASS"


def test_other_groups_are_named() -> None:
    """The text is the same, and so are its tokens."""
    then = matching(170, documents=tuple(place // 2 for place in range(200)))
    message = judge(matching(170), then, "9 pp", "exact_match").message
    assert "they belong together in other groups or documents" in message


def test_another_function_with_the_same_name_of_a_score_is_another_source() -> None:
    """Both stand in one module, so its digest is the same."""
    lora, full = matching(170)
    then = recorded((lora, full))
    other = replace(then, scores={"exact_match": replace(then.scores["exact_match"], function="mine:other")})
    assert gate.assess_regression(asked((lora, full), held(other), "9 pp", "exact_match")).status == "INVALID"


def test_full_that_gained_little_makes_it_invalid() -> None:
    """And the limit that the message names gives an answer."""
    verdict = judge(matching(170), matching(170), "40 pp", "exact_match", Rule())
    assert verdict.status == "INVALID"
    assert "this test has no power: full gained only +90 pp exact_match" in verdict.message
    assert "set a limit of at most 28 pp; otherwise" in verdict.message
    assert judge(matching(170), matching(170), "28 pp", "exact_match", Rule()).status == "PASS"


def test_the_base_model_may_move_within_the_limit_and_that_is_told() -> None:
    """On another machine, where its move is the noise of measuring."""
    now, then = matching(170, base=0.4), matching(170, base=0.39)

    def moved(one: Trial) -> Trial:
        return one.remeasured(environment=replace(ENVIRONMENT, device_name="another processor"))

    there = (each(then[0], moved), each(then[1], moved)) if then[1] else then
    verdict = judge(now, there, "5 pp", "exact_match")
    assert verdict.status == "PASS", verdict.message
    assert "The exact_match of the base model, which was not trained, moved by +1.0 with these" in verdict.message


def test_an_accepted_file_holds_short_scores_and_is_read_as_it_was_written() -> None:
    """Whole numbers without a fraction; the ids and scores of the base model's examples are not in it."""
    about = About(tuple(f"question {place}" for place in range(200)))
    record = recorded(matching(170, about=about))
    text = write_history(History(TEST, record, record))
    history = read_history(text, PLACE)
    assert history.accepted == record
    assert "question 7" not in text
    assert '"scores": "exact_match gap -0.05, exact_match of the base model 0",' in text
    content = json.loads(text)["accepted"]
    rows = content["scores"]["exact_match"].pop("differences")
    assert content["scores"]["exact_match"] == {
        "function": "mine:exact_match",
        "code": "source",
        "base": 0.0,
        "span": [0.0, 1.0],
    }
    assert {value for row in rows for value in row} == {0, -1}
    assert len(text) < 12_000


def test_a_file_without_scores_is_what_earlier_versions_wrote() -> None:
    """No new key is in it, and such a file is still read."""
    record = recorded(unscored())
    content = json.loads(write_history(History(TEST, record, record)))["accepted"]
    assert not {"scores", "group"} & set(content)
    assert not {"scores", "about"} & set(content["base"])
    assert "scores" not in json.loads(write_history(History(TEST, record, record)))["headline"]
    assert held(record).history == History(TEST, record, record)


@pytest.mark.parametrize(
    "damage",
    [
        {"differences": [[0.0] * 200] * 2},
        {"differences": [[0.0] * 199] * 3},
        {"span": [1.0, 0.0]},
        {"span": "wide"},
        {"differences": [["a"] * 200] * 3},
        {"more": 1},
    ],
)
def test_damaged_scores_are_refused(damage: dict[str, Any]) -> None:
    """With the remedy that all damaged files have."""
    record = recorded(matching(170))
    content = json.loads(write_history(History(TEST, record, record)))
    content["accepted"]["scores"]["exact_match"] |= damage
    with pytest.raises(ConfigurationError, match="is not a file of accepted results"):
        read_history(json.dumps(content), PLACE)


def test_a_result_is_accepted_with_its_scores_or_not_at_all() -> None:
    """What could not be judged later is refused, and an anchor without the score too."""
    sound, _ = gate.accept(asked(matching(170), held(), "5 pp", "exact_match"), [])
    assert sound.status == "PENDING"
    for pair in (broken(math.nan), failed(), unscored()):
        refused, history = gate.accept(asked(pair, held(), "5 pp", "exact_match"), [])
        assert (refused.status, history) == ("INVALID", None)
        assert "not accepted, because" in refused.message
    old = held(recorded(unscored()))
    refused, history = gate.accept(asked(matching(170), old, "5 pp", "exact_match"), [])
    assert history is None
    assert "it cannot be compared with the anchor" in refused.message
    assert "No exact_match was accepted." in refused.message


def test_a_gate_on_the_loss_accepts_what_scores_it_can() -> None:
    """A score that is no number is left out, and the loss is judged as ever."""
    loss = Limit(0.5, "nats per token", Origin("argument", "the argument at_most"))
    for pair, names in ((matching(170), {"exact_match"}), (broken(math.nan), set()), (failed(), set())):
        asked_for = replace(asked(pair, held(), "5 pp"), score=None, limit=loss)
        verdict, history = gate.accept(asked_for, [])
        assert verdict.status == "PENDING"
        assert history is not None
        assert set(history.accepted.scores) == names


class _Running:
    """A test that is running, with one accepted file and no settings."""

    def __init__(self, file: AcceptedFile, setting: Setting | None = None) -> None:
        self.file, self._setting = file, setting
        self.verdicts: list[Verdict] = []
        self.is_planned = self.is_over = False
        self.accepted = self

    def find(self, *_: Any) -> AcceptedFile:
        return self.file

    def setting(self, name: str) -> Setting | None:
        return self._setting if name == "max_regression" else None

    def record(self, verdict: Verdict, _: Any) -> None:
        self.verdicts.append(verdict)


def call(file: AcceptedFile, *sides: Any, setting: Setting | None = None, **options: Any) -> Verdict:
    """The verdict of the helper itself."""

    def run() -> Verdict:
        active_test.set(_Running(file, setting))  # type: ignore[arg-type]
        return assert_no_regression(*sides, on_inconclusive="fail", confidence=0.95, **options)

    return copy_context().run(run)


def test_a_limit_in_percentage_points_is_one_of_the_accuracy() -> None:
    """Of a pair and of one variant; another score is named."""
    pair = classifiers()
    verdict = call(held(recorded(pair)), *pair, at_most="1 pp")
    assert (verdict.status, verdict.score, verdict.limit.value) == ("PASS", "accuracy", 1.0)
    alone = call(held(recorded((pair[0], None))), pair[0], at_most="1 pp")
    assert (alone.status, alone.score) == ("PASS", "accuracy")
    own = matching(170)
    for at_most in (0.01, "1 pp"):
        found = call(held(recorded(own)), *own, at_most=at_most, score="exact_match")
        assert (found.status, found.score) == ("PASS", "exact_match")


def test_a_number_that_holds_for_all_tests_is_no_limit_of_a_score() -> None:
    """It was set in nats per token; that of a marker is of its own test."""
    pair = matching(170)
    file = held(recorded(pair))
    for kind, passes in (("marker", True), ("ini", False), ("command line", False)):
        origin = Origin(kind, f"the {kind}")
        setting = Setting(parse_regression_limit(0.01, origin), origin)
        if passes:
            assert call(file, *pair, setting=setting, score="exact_match").status == "PASS"
            continue
        with pytest.raises(ConfigurationError, match="a limit for the score 'exact_match' is percentage points"):
            call(file, *pair, setting=setting, score="exact_match")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score": ""}, "takes the name of a score"),
        ({"score": 3}, "takes the name of a score"),
        ({"score": "exact_match", "metric": "memory"}, "judges a score or the metric 'memory'"),
        ({"score": "exact_match", "at_most": "1%"}, "is percentage points"),
        ({"metric": "memory", "at_most": "1 pp"}, "a limit for the metric 'memory' is a share"),
        ({"at_most": "-1 pp"}, "limit of the regression must be"),
        ({"at_most": "1pp more"}, "limit of the regression must be"),
    ],
)
def test_a_wrong_argument_is_an_error_of_usage(options: dict[str, Any], words: str) -> None:
    """The message names it."""
    pair = matching(170)
    with pytest.raises(ConfigurationError, match=words):
        call(held(recorded(pair)), *pair, **{"at_most": "1 pp", **options})


def test_no_accepted_score_of_the_examples_is_a_missing_one() -> None:
    """Without any file the message is that of all missing results."""
    assert "there is no accepted result" in gate.assess_regression(asked(classifiers(), held(), "1 pp")).message
    assert COUNT == 400
