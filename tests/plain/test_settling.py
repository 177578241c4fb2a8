"""Learning rates that nobody chose are searched before a verdict hangs on them: which, when, and at most once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.asking import look
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.settling import settle_one, settle_pair
from pytest_ftguard.gates.verdict import Verdict, give, invalid
from pytest_ftguard.reporting.json import json_report, read_report
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.running.search import RateSearch, SearchFailedError
from pytest_ftguard.specs import Full, LoRA, RateSource, Variant
from tests.plain.builders import WORKLOAD, GivenSource, trial
from tests.plain.builders import trained as of_trials

WORK = replace(WORKLOAD, seeds=(0,), final=True)
FULL, LORA = Full(learning_rate=5e-5), LoRA(learning_rate=5e-4)
LIMIT = Limit(0.1, NATS_PER_TOKEN, Origin("argument", "the argument at_most"))
OPEN = RateSource("default", "settings", is_open=True)
BASE = [30.0] * 64


class Searching(GivenSource):
    """Trains nothing: each side has a best rate, which the search finds, and a loss at each rate.

    Args:
        losses: Loss of a variant, in nats per token, by its kind and rate; NaN if it diverges.
        best: The rate that the search finds, by kind.
    """

    def __init__(self, losses: Mapping[tuple[str, float], float], best: Mapping[str, float]) -> None:
        super().__init__()
        self.losses, self.best = losses, best
        self.searched: list[str] = []
        self.completed: list[str] = []

    def train(self, variant: Variant, rate: RateSource = OPEN) -> TrainedVariant:
        loss = self.losses[variant.kind, variant.learning_rate or 0]
        changes: dict[str, Any] = {"outcome": "diverged", "validation": None} if math.isnan(loss) else {}
        one = trial(variant, [10 * loss + 0.01 * math.sin(i) for i in range(64)], workload=WORK, **changes)
        return replace(of_trials(variant, one), source=self, rate=rate)

    def settle(self, trained: TrainedVariant) -> TrainedVariant:
        kind, first = trained.variant.kind, trained.variant.learning_rate
        self.searched.append(kind)
        found = replace(trained.variant, learning_rate=self.best[kind], search_learning_rate="yes")
        return self.train(found, RateSource("searched", "settings", first=first))

    def complete(self, trained: TrainedVariant) -> TrainedVariant:
        self.completed.append(trained.variant.kind)
        return self.train(trained.variant)


def asked(source: Searching, **rates: RateSource) -> Verdict:
    candidate, baseline = (source.train(one, rates.get(one.kind, OPEN)) for one in (LORA, FULL))
    return look(assess_loss_gap, candidate, baseline, LIMIT, Rule(gain_factor=1))


def test_a_fail_of_a_candidate_first_searches_its_rate() -> None:
    """The gap at a bad default is no gap of the method; the PASS that follows searches full's rate as well."""
    source = Searching(
        {("lora", 5e-4): 2.2, ("lora", 1.6e-4): 2.02, ("full", 5e-5): 2.0}, {"lora": 1.6e-4, "full": 5e-5}
    )
    verdict = asked(source)
    assert (verdict.status, source.searched) == ("PASS", ["lora", "full"])
    assert verdict.message.splitlines()[1] == (
        "At the learning rates: lora r=16 0.00016 (searched, in place of 0.0005), full 5e-05 (the default, and a "
        "search found none better)."
    )
    assert verdict.note == (
        "This holds for lora r=16 at the learning rate 0.00016, which a search found in place of its default of "
        "0.0005: train it at that rate."
    )
    assert (verdict.candidate_learning_rate, verdict.candidate_rate_origin) == (1.6e-4, "searched")
    assert (verdict.baseline_learning_rate, verdict.baseline_rate_origin) == (5e-5, "searched")


def test_a_fail_that_stays_leaves_full_alone() -> None:
    """A better rate of full could only make the gap larger."""
    source = Searching(
        {("lora", 5e-4): 2.3, ("lora", 1.6e-4): 2.2, ("full", 5e-5): 2.0}, {"lora": 1.6e-4, "full": 5e-5}
    )
    assert (asked(source).status, source.searched) == ("FAIL", ["lora"])


def test_a_pass_first_searches_full() -> None:
    """It may only have passed because full was undertrained; then the candidate gets its search too, and may fail."""
    source = Searching(
        {("lora", 5e-4): 2.2, ("lora", 1.6e-4): 2.15, ("full", 5e-5): 2.2, ("full", 5e-4): 2.0},
        {"lora": 1.6e-4, "full": 5e-4},
    )
    verdict = asked(source)
    assert (verdict.status, source.searched) == ("FAIL", ["full", "lora"])
    undertrained = (
        "full was undertrained at its default learning rate of 5e-05: a search found 0.0005, and this verdict is at "
        "that rate."
    )
    assert undertrained in verdict.message.splitlines()
    assert undertrained in (verdict.note or "")


@pytest.mark.parametrize("found", [2.05, math.nan])
def test_a_baseline_that_is_worse_at_the_rate_that_was_found_keeps_its_default(found: float) -> None:
    """Half of the steps may choose wrongly, and a worse baseline would let the candidate pass."""
    source = Searching(
        {("lora", 5e-4): 2.1, ("lora", 1.6e-4): 2.099, ("full", 5e-5): 2.0, ("full", 1.6e-5): found},
        {"lora": 1.6e-4, "full": 1.6e-5},
    )
    verdict = asked(source)
    assert (source.searched, verdict.baseline_learning_rate) == (["full"], 5e-5)
    assert "undertrained" not in verdict.message
    assert verdict.value == pytest.approx(0.1)


def test_a_search_does_not_make_one_training_of_both_sides() -> None:
    """Their gap would be 0 whatever they are."""
    source = Searching({("lora", 5e-4): 2.2, ("lora", 1.6e-3): 2.0}, {"lora": 1.6e-3})
    baseline = source.train(LoRA(learning_rate=1.6e-3), RateSource("given", "code"))
    verdict = look(assess_loss_gap, source.train(LORA), baseline, LIMIT, Rule(gain_factor=1))
    assert (verdict.status, verdict.candidate_learning_rate) == ("FAIL", 5e-4)
    assert "It could not be searched: the search came to 0.0016, at which it is the other side's training." in (
        verdict.message
    )


def test_a_candidate_that_learned_nothing_or_diverged_at_its_default_is_searched() -> None:
    """It is INVALID at that rate, which another one may help."""
    for broken in (3.2, math.nan):
        source = Searching(
            {("lora", 5e-4): broken, ("lora", 1.6e-4): 2.02, ("full", 5e-5): 2.0}, {"lora": 1.6e-4, "full": 5e-5}
        )
        assert (asked(source).status, source.searched) == ("PASS", ["lora", "full"])


def test_a_full_that_learned_too_little_is_searched() -> None:
    """A test without power at full's default may have it at a better rate."""
    source = Searching(
        {("lora", 5e-4): 2.9, ("full", 5e-5): 2.95, ("full", 5e-4): 2.0, ("lora", 1.6e-3): 2.05},
        {"lora": 1.6e-3, "full": 5e-4},
    )
    assert (asked(source).status, source.searched) == ("PASS", ["full", "lora"])


@pytest.mark.parametrize("rate", [RateSource("given", "settings"), RateSource("default", "settings"), RateSource()])
def test_a_rate_that_is_not_open_is_not_searched(rate: RateSource) -> None:
    """It is the user's own, or nobody may search it; the second line says at which rates a verdict holds."""
    source = Searching({("lora", 5e-4): 2.2, ("full", 5e-5): 2.0}, {})
    verdict = asked(source, lora=rate, full=rate)
    assert (verdict.status, source.searched) == ("FAIL", [])
    second = verdict.message.splitlines()[1]
    if rate.origin == "given":
        assert second == "At the learning rates given: lora r=16 0.0005, full 5e-05."
    else:
        assert second == "At the learning rates: lora r=16 0.0005 (the default), full 5e-05 (the default)."


def test_a_rate_that_cannot_be_searched_stays_and_says_why() -> None:
    """A text may have no sequences to spare, and that is no reason to give no verdict."""

    class Refusing(Searching):
        def settle(self, trained: TrainedVariant) -> TrainedVariant:
            self.searched.append(trained.variant.kind)
            return replace(trained, rate=replace(trained.rate, is_open=False, why_not="the text is too short"))

    source = Refusing({("lora", 5e-4): 2.2, ("full", 5e-5): 2.0}, {})
    verdict = asked(source)
    assert (verdict.status, source.searched) == ("FAIL", ["lora"])
    assert "It could not be searched: the text is too short." in verdict.message
    assert "try other learning rates first" in verdict.message
    assert "search_learning_rate" not in verdict.message  # advice that cannot work


@pytest.mark.parametrize("error", [SearchFailedError("it crashed"), ConfigurationError("the text is too short")])
def test_a_search_that_a_machine_has_broken_leaves_no_verdict(error: ConfigurationError) -> None:
    """A rate that could not be searched keeps its verdict; a crash in the search must not."""

    def search(*_: Any) -> float:
        raise error

    open_side = replace(of_trials(LORA, trial(LORA, BASE, workload=WORK)), rate=OPEN)
    rates = RateSearch(lambda *_: open_side, lambda *_: False)
    if isinstance(error, SearchFailedError):
        with pytest.raises(SearchFailedError):
            rates.settle(open_side, search)
    else:
        assert rates.settle(open_side, search).rate.why_not == "the text is too short"


def test_a_report_gives_what_was_judged_and_says_where_its_rate_is_from(tmp_path: Path) -> None:
    """The first guess of a search is not the variant that the run has judged; a default stays one."""
    guess, found = Full(learning_rate=5e-5), Full(learning_rate=5e-4, search_learning_rate="yes")
    given = LoRA(learning_rate=1e-3, search_learning_rate="no")
    trials = [trial(one, [20.0] * 64, workload=WORK) for one in (guess, found, given)]
    (tmp_path / "r.json").write_text(json_report(trials, []))
    assert [(one.variant, one.rate.origin) for one in read_report(tmp_path / "r.json")] == [
        (found, "searched"),
        (given, "given"),
    ]
    (tmp_path / "r.json").write_text(json_report(trials[:1], []))
    (alone,) = read_report(tmp_path / "r.json")
    assert (alone.variant, alone.rate.origin, alone.rate.is_open) == (guess, "default", False)


def test_the_same_rate_of_both_is_no_mistake_if_a_search_found_it() -> None:
    """Given by hand it holds LoRA back; found by a search it is LoRA's best."""
    source = Searching({("lora", 5e-4): 2.2, ("lora", 5e-5): 2.02, ("full", 5e-5): 2.0}, {"lora": 5e-5, "full": 5e-5})
    assert asked(source).status == "PASS"


def test_a_partner_that_was_not_trained_is_trained_once_the_other_side_is_settled() -> None:
    """Nothing is compared with a failed variant, so its partner had waited."""
    source = Searching(
        {("lora", 5e-4): math.nan, ("lora", 1.6e-4): 2.02, ("full", 5e-5): 2.0}, {"lora": 1.6e-4, "full": 5e-5}
    )
    waiting = trial(FULL, BASE, workload=WORK, outcome="not_trained", validation=None)
    baseline = replace(of_trials(FULL, waiting), source=source, rate=OPEN)
    verdict = look(assess_loss_gap, source.train(LORA), baseline, LIMIT, Rule(gain_factor=1))
    assert (verdict.status, source.searched, source.completed) == ("PASS", ["lora", "full"], ["full"])


def test_what_another_rate_does_not_help_is_not_searched() -> None:
    """An INVALID with any other cause stays what it is."""
    source = Searching({("lora", 5e-4): 2.2, ("full", 5e-5): 2.0}, {})
    candidate, baseline = source.train(LORA), source.train(FULL)

    def refuse(problems: list[Problem | str], candidate: TrainedVariant, baseline: TrainedVariant) -> Verdict:
        return invalid("loss_gap", candidate, baseline, LIMIT, problems)

    cases: list[list[Problem | str]] = [["a crash"], [Problem("it diverged", rate_of=LORA), "a crash"], []]
    for problems in cases:
        verdict, *_ = settle_pair(partial(refuse, problems), candidate, baseline)
        assert (verdict.status, source.searched) == ("INVALID", [])


def test_a_plan_searches_nothing() -> None:
    """What was only planned has no source."""
    planned = replace(of_trials(LORA, trial(LORA, BASE, workload=WORK, outcome="planned")), rate=OPEN)
    assert not planned.settled().rate.is_open


@pytest.mark.parametrize("status", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_a_gate_on_one_variant_settles_it_whatever_the_answer(status: Any) -> None:
    """A variant that hardly moved forgets nothing and has come to rest."""
    source = Searching({("lora", 5e-4): 2.2, ("lora", 1.6e-4): 2.0}, {"lora": 1.6e-4})

    def ask(one: TrainedVariant) -> Verdict:
        return give(
            "convergence", status, candidate=one, baseline=None, measured=one.loss, limit=LIMIT, hangs_on=["candidate"]
        )

    assert settle_one(ask, source.train(LORA)).candidate_learning_rate == 1.6e-4
    assert settle_one(ask, source.train(LORA, RateSource())).candidate_learning_rate == 5e-4
    assert source.searched == ["lora"]
