"""A verdict is about a variant at a rate: what learned nothing has no gap, and a rate that nobody chose is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_ftguard.gates.convergence import assess_convergence
from pytest_ftguard.gates.forgetting import assess_forgetting
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, OF_GAIN, PERPLEXITY, Limit
from pytest_ftguard.gates.quality import assess_loss_gap, assess_perplexity_gap, assess_retention
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.reporting.notes import fairness_notes
from pytest_ftguard.results import CurvePoint, Parameters, TrainedVariant, Trial
from pytest_ftguard.specs import Full, LoRA, RateSource, Variant, rate_source, with_learning_rate
from tests.plain.builders import FULL, LORA, WORKLOAD, GivenSource, losses, trained, trial

N = 128
BASE_LOSS, FULL_LOSS = 3.0, 2.0
DEFAULT, GIVEN = RateSource("default", "settings"), RateSource("given", "settings")
SEARCHED, IN_A_TEST = RateSource("searched", "settings"), RateSource("default", "code")
FLAT = (CurvePoint(0, 3.0, (30.0,) * N), *(CurvePoint(step, 2.0, (20.0,) * N) for step in (25, 50, 100)))


def nll(loss: float, noise: float = 0.0) -> tuple[float, ...]:
    draw = np.random.default_rng(3).normal(0, 1, N)
    return tuple(float(10 * (loss + noise * e)) for e in draw - draw.mean())


def side(variant: Variant, *at: float, noise: float = 0.0, rate: RateSource = GIVEN, **changes: Any) -> TrainedVariant:
    work = replace(WORKLOAD, seeds=tuple(range(len(at))))
    trials = [
        trial(variant, nll(loss, noise), seed=seed, workload=work, **{"curve": FLAT, **changes})
        for seed, loss in enumerate(at)
    ]
    return replace(trained(variant, *trials), rate=rate)


def limit(value: float, unit: str = NATS_PER_TOKEN) -> Limit:
    return Limit(value, unit, Origin("ini", "ftguard_limit in pytest.ini"))


def judge(*at: float, baseline: tuple[float, ...] | None = None, at_most: float = 0.1, **changes: Any) -> Verdict:
    full = side(FULL, *(baseline or (FULL_LOSS,) * len(at)))
    return assess_loss_gap(side(LORA, *at, **changes), full, limit(at_most), Rule())


@pytest.mark.parametrize(
    ("at", "noise", "status"),
    [
        ((BASE_LOSS + 0.5,), 0.0, "INVALID"),
        ((BASE_LOSS,), 0.0, "INVALID"),
        ((BASE_LOSS - 0.001,), 0.0, "FAIL"),  # a small gain that is real
        ((BASE_LOSS - 0.01,), 0.04, "FAIL"),  # the bound is 0.0058 below the gain
        ((BASE_LOSS - 0.01,), 0.1, "INVALID"),  # and 0.0147 below it
        ((2.9, 2.86), 0.0, "FAIL"),  # two seeds apart show little of seeds, and are better than the base model
        ((2.1, 2.1, 3.5), 0.0, "INVALID"),  # one run is at fault, and the mean hides it
        ((2.9, 2.9, BASE_LOSS), 0.0, "INVALID"),
    ],
)
def test_a_candidate_that_is_not_better_than_the_base_model_is_invalid(
    at: tuple[float, ...], noise: float, status: str
) -> None:
    """It is a fault of the run, so it comes before FAIL; a real gain, however small, is judged."""
    assert judge(*at, noise=noise).status == status


def test_the_message_names_the_learning_rate_first() -> None:
    """Then what else may be wrong; a higher rank helps nobody there."""
    message = judge(BASE_LOSS + 0.5, rate=DEFAULT).message
    assert message.splitlines() == [
        "loss gap INVALID: lora r=16 is not better than the base model, limit 0.1 (ftguard_limit in pytest.ini)",
        "After 100 steps the loss is 0.5000 nats per token above the base model's. This is a fault of the run, not a "
        "gap.",
        "What to do: check its learning rate first: 0.001 (the default); search it: ftguard_lora_search_learning_rate "
        "= yes. Then check the format of the text (chat template), the target modules, and whether the steps are "
        "enough.",
    ]
    assert "rank" not in message
    assert (
        "What to do: the learning rate was searched, so check the format"
        in judge(BASE_LOSS + 0.5, rate=SEARCHED).message
    )
    seed = judge(2.1, 2.1, 3.5).message
    assert "lora r=16, seed 2, is not better than the base model, limit" in seed
    assert "After 100 steps the loss is 0.5000 nats" in seed
    doubtful = judge(2.99, noise=0.1).message
    assert "lora r=16 is not clearly better than the base model" in doubtful
    assert "the gain is 0.0100 nats per token, the lower bound -0.0" in doubtful


def test_every_gate_on_losses_refuses_a_candidate_that_learned_nothing() -> None:
    """Also those of one variant: what never learned has come to rest, and has forgotten nothing."""
    reference: dict[str, Any] = {
        "reference": losses(nll(1.0), digest="r"),
        "base_reference": losses(nll(1.0), digest="r"),
    }
    idle, full = side(LORA, BASE_LOSS, **reference), side(FULL, FULL_LOSS, **reference)
    learned = side(LORA, FULL_LOSS, **reference)
    gates: dict[str, Callable[[TrainedVariant], Verdict]] = {
        "loss gap": lambda c: assess_loss_gap(c, full, limit(9), Rule(gain_factor=0)),
        "perplexity gap": lambda c: assess_perplexity_gap(c, full, limit(99, PERPLEXITY), Rule(gain_factor=0)),
        "retention": lambda c: assess_retention(c, full, limit(0.01, OF_GAIN), Rule()),
        "convergence": lambda c: assess_convergence(c, limit(9), Rule()),
        "forgetting": lambda c: assess_forgetting(c, limit(9), Rule(), None),
        "forgetting against full": lambda c: assess_forgetting(c, limit(9), Rule(), full),
    }
    for name, gate in gates.items():
        assert gate(learned).status == "PASS", name
        assert gate(idle).status == "INVALID", name
        assert "lora r=16 is not better than the base model" in gate(idle).message, name


@pytest.mark.parametrize(("at", "status"), [(2.05, "PASS"), (2.2, "FAIL"), (2.1001, "INCONCLUSIVE")])
def test_a_rate_that_nobody_chose_stands_in_the_message_and_in_the_note(at: float, status: str) -> None:
    """Whatever the verdict is, both say how the rate is searched."""
    verdict = judge(at, noise=0.1 if status == "INCONCLUSIVE" else 0.0, rate=DEFAULT)
    assert verdict.status == status
    assert verdict.note == (
        "The learning rate of lora r=16, 0.001, is only a default. Another rate may change this verdict. Search the "
        "learning rate: ftguard_lora_search_learning_rate = yes."
    )
    *_, rate, todo = verdict.message.splitlines()
    assert verdict.note.startswith(rate)
    assert "search the learning rate: ftguard_lora_search_learning_rate = yes" in todo


@pytest.mark.parametrize("status", ["PASS", "FAIL"])
def test_convergence_and_forgetting_name_a_rate_that_nobody_chose_too(status: str) -> None:
    """Both rest on the rate of the variant, and forgetting against full on that of full as well."""
    texts: dict[str, Any] = {"reference": losses(nll(2.5)), "base_reference": losses(nll(2.4))}
    lora = side(LORA, 2.0, rate=DEFAULT, **texts)
    full = side(FULL, 2.0, rate=DEFAULT, **texts)
    at_most = limit(0.5 if status == "PASS" else -0.5)
    for verdict, names in (
        (assess_convergence(lora, at_most, Rule()), ["lora"]),
        (assess_forgetting(lora, at_most, Rule(), None), ["lora"]),
        (assess_forgetting(lora, at_most, Rule(), full), ["lora", "full"]),
    ):
        assert verdict.status == status, verdict.message
        assert verdict.note is not None
        assert any(verdict.note.startswith(line) for line in verdict.message.splitlines())
        assert all(f"ftguard_{name}_search_learning_rate = yes" in verdict.note for name in names)


def test_a_rate_that_was_chosen_is_not_remarked_on() -> None:
    """It was searched, or it is the user's own."""
    for rate in (GIVEN, SEARCHED, RateSource()):
        for at in (2.05, 2.2):
            assert judge(at, rate=rate).note is None


def test_both_rates_are_searched_by_one_sentence_in_the_way_that_works_in_this_test() -> None:
    """A variant that was built in a test has no ini key."""
    pair = side(LORA, 2.05, rate=IN_A_TEST), side(FULL, 2.0, rate=DEFAULT)
    note = assess_loss_gap(*pair, limit(0.1), Rule()).note
    assert note == (
        "The learning rates of lora r=16, 0.001, and of full, 0.0001, are only defaults. Other rates may change this "
        'verdict. Search both learning rates: LoRA(..., search_learning_rate="yes") and '
        "ftguard_full_search_learning_rate = yes."
    )


@pytest.mark.parametrize(
    ("rate", "advice"),
    [
        (DEFAULT, "What to do: search the learning rate: ftguard_lora_search_learning_rate = yes. If the gap"),
        (GIVEN, "if 0.001 may not be the best learning rate of lora r=16, search it first (ftguard_lora_search"),
        (
            RateSource("given", "code"),
            'search it first (LoRA(..., search_learning_rate="yes")). If the gap stays, give lora r=16 more capacity',
        ),
        (RateSource(), "try other rates first. If the gap stays, give lora r=16 more capacity (rank, target modules)"),
        (SEARCHED, "What to do: give lora r=16 more capacity (rank, target modules), or choose full fine-tuning."),
    ],
)
def test_a_higher_rank_is_advised_only_once_the_rate_is_settled(rate: RateSource, advice: str) -> None:
    """A rate that nobody chose comes first, and nothing is said of capacity."""
    message = judge(2.2, rate=rate).message
    assert advice in message
    assert ("rank" in message) is (rate != DEFAULT)


def test_a_pass_that_beats_full_says_so_in_its_note() -> None:
    """Nobody reads the message of a test that passes."""
    for rate, way in {
        GIVEN: "search full's learning rate (ftguard_full_search_learning_rate = yes), or train for more steps",
        SEARCHED: "undertrained: train for more steps",
        DEFAULT: "search its learning rate, or train for more steps",
    }.items():
        verdict = assess_loss_gap(side(LORA, 1.8), side(FULL, 2.0, rate=rate), limit(0.1), Rule())
        assert verdict.status == "PASS"
        assert "lora r=16 is better than full beyond noise, so full is probably undertrained: " in (verdict.note or "")
        assert f"{way}, before you rely on this PASS." in (verdict.note or "")
    assert "beyond noise" not in (judge(2.01, rate=DEFAULT).note or "")


def test_where_a_rate_comes_from_is_no_part_of_what_was_trained() -> None:
    """The same rate, given or by default, is the same training; more seeds come from the same place."""
    assert rate_source(Full(), "settings") == replace(DEFAULT, is_open=True)
    assert rate_source(Full(search_learning_rate="no"), "settings") == DEFAULT
    assert rate_source(Full(learning_rate=5e-5), "settings") == GIVEN
    assert rate_source(LoRA(search_learning_rate=True, learning_rate=1e-3), "settings") == SEARCHED
    assert with_learning_rate(Full(), Full(learning_rate=1.0)) == Full(learning_rate=5e-5)
    assert with_learning_rate(LoRA(), Full()) == LoRA(learning_rate=5e-4)
    assert with_learning_rate(LoRA(learning_rate=1.0), Full()).search == "no"
    one = side(LORA, 2.0, rate=DEFAULT)
    assert one == replace(one, rate=GIVEN)
    more = replace(one, source=GivenSource(more_seeds=lambda count: side(LORA, *[2.0] * count, rate=RateSource())))
    assert more.with_seeds(3).rate == DEFAULT


@pytest.mark.parametrize("search", [False, True])
def test_notes_do_not_advise_a_rank_at_a_rate_that_was_not_searched(search: bool) -> None:
    """And of a run that is worse than the base model they say nothing about capacity."""
    small = Parameters(10**9, 100)
    variant = replace(LORA, search_learning_rate=search)
    (note,) = [one for one in fairness_notes([side(variant, 2.0, parameters=small)]) if "million bits" in one]
    assert ("give it more capacity (rank, target modules)" in note) is search
    assert not any("million bits" in one for one in fairness_notes([side(variant, 3.1, parameters=small)]))


def test_a_search_of_one_side_names_no_setting() -> None:
    """What to set depends on how a variant was made, and the verdict says it; this only tells that it is not even."""
    notes = fairness_notes(
        [
            trained(full := replace(FULL, search_learning_rate="no"), one(full)),
            trained(ours := replace(LORA, search_learning_rate=True), one(ours)),
        ]
    )
    (note,) = [note for note in notes if "was searched" in note]
    assert note == (
        "the learning rate of lora r=16 was searched and that of full was not, which favours lora r=16 unless the "
        "other rate is known to be good"
    )


def one(variant: Variant) -> Trial:
    return trial(variant, nll(2.0))


def perplexity(gain: float, at_most: float, factor: float = 3.0) -> Verdict:
    """LoRA as good as full, which gained so much over the base model."""
    sides = side(LORA, BASE_LOSS - gain), side(FULL, BASE_LOSS - gain)
    return assess_perplexity_gap(*sides, limit(at_most, PERPLEXITY), Rule(gain_factor=factor))


@pytest.mark.parametrize("points", [0.5, 5.0, 50.0])
def test_a_margin_of_perplexity_is_turned_into_nats_exactly(points: float) -> None:
    """A candidate at the limit stands log(1 + points / perplexity) above full, also if that is far from linear."""
    # Full at log(10): three margins of gain are just enough, or just not.
    nats = math.log1p(points / 10)
    for excess, status in ((1e-6, "PASS"), (-1e-6, "INVALID")):
        base = losses([10 * (math.log(10) + 3 * nats + excess)] * N)
        ours, theirs = (side(variant, math.log(10), base_validation=base) for variant in (LORA, FULL))
        verdict = assess_perplexity_gap(ours, theirs, limit(points, PERPLEXITY), Rule())
        assert verdict.status == status, verdict.message


def test_a_baseline_with_too_little_gain_is_told_in_units_that_can_be_compared() -> None:
    """Points are compared with points and nats with nats; the limit that is advised passes."""
    verdict = perplexity(0.1, 1.0)
    assert verdict.status == "INVALID"
    assert (
        "Over the base model it gained at least +0.1000, which is less than 3 times the limit of 1 points of "
        "perplexity (0.05356 nats per token at full's perplexity of 18.17)"
    ) in verdict.message
    assert "full gained only +0.1000 nats per token (+1.911 points of perplexity), limit 1 (" in verdict.headline
    assert "set a limit of at most 0.61; otherwise" in verdict.message
    assert perplexity(0.1, 0.61).status == "PASS"
    assert perplexity(0.1, 0.62).status == "INVALID"
