"""The search for a learning rate: which rates are tried, which one is chosen, and what the summary says of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ftguard.comparison.grouping import by_baseline, trained_variants
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.reporting.json import json_report, read_report
from pytest_ftguard.reporting.notes import fairness_notes
from pytest_ftguard.reporting.progress import progress_line
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.results.progress import Progress
from pytest_ftguard.running.search import find_learning_rate
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.specs.short import search_workload
from tests.plain.builders import LORA, WORKLOAD, summary_lines, trained, trial

NLL = [20.0 + 0.01 * i for i in range(64)]


class Bench:
    """Trains nothing: the loss is a parabola over the logarithm of the rate, lowest at `best`."""

    def __init__(self, best: float, failing: float = math.inf) -> None:
        self.best = best
        self.failing = failing
        self.tried: list[float] = []
        self.workloads: list[Workload] = []

    def train(self, workload: Workload, variant: Variant) -> TrainedVariant:
        rate = variant.learning_rate
        assert rate is not None
        self.tried.append(rate)
        self.workloads.append(workload)
        if rate >= self.failing:
            return trained(variant, trial(variant, NLL, workload=workload, outcome="diverged", validation=None))
        loss = 20 + math.log(rate / self.best) ** 2
        return trained(variant, trial(variant, [loss] * 64, workload=workload))


@pytest.mark.parametrize(
    ("best", "tried", "chosen"),
    [
        (5e-5, [5e-5, 1.7e-5, 1.5e-4], 5e-5),
        (1e-4, [5e-5, 1.7e-5, 1.5e-4, 4.5e-4], 1.5e-4),
        (1e-5, [5e-5, 1.7e-5, 1.5e-4, 5.7e-6], 1.7e-5),
        (1.0, [5e-5, 1.7e-5, 1.5e-4, 4.5e-4, 1.4e-3], 1.4e-3),
        (1e-9, [5e-5, 1.7e-5, 1.5e-4, 5.7e-6, 1.9e-6], 1.9e-6),
    ],
)
def test_the_grid_is_small_and_grows_at_the_edge_where_the_best_is(
    best: float, tried: list[float], chosen: float
) -> None:
    """Three rates, a factor of three apart; up to two more in the direction that is better."""
    bench = Bench(best)
    found = find_learning_rate(bench.train, WORKLOAD, Full(learning_rate=5e-5))
    assert (bench.tried, found) == (tried, chosen)


@given(st.floats(1e-8, 1.0), st.floats(1e-7, 1e-1))
def test_the_chosen_rate_is_the_best_of_those_tried(best: float, first: float) -> None:
    """Whatever the first guess: at most five trials, none of them twice, and none that was tried was better."""
    bench = Bench(best)
    found = find_learning_rate(bench.train, WORKLOAD, LoRA(learning_rate=first))
    assert first in bench.tried
    assert len(set(bench.tried)) == len(bench.tried) <= 5
    assert found == min(bench.tried, key=lambda rate: (math.log(rate / best) ** 2, rate))


def test_a_rate_that_diverges_is_not_chosen() -> None:
    """It counts as the worst, and where every rate does the search goes down."""
    assert find_learning_rate(Bench(1.0, failing=1e-4).train, WORKLOAD, Full(learning_rate=5e-5)) == 5e-5
    bench = Bench(1.0, failing=0)
    find_learning_rate(bench.train, WORKLOAD, Full(learning_rate=5e-5))
    assert bench.tried == [5e-5, 1.7e-5, 1.5e-4, 5.7e-6, 1.9e-6]
    assert find_learning_rate(Bench(1.0, failing=1e-5).train, WORKLOAD, Full(learning_rate=5e-5)) == 5.7e-6


@pytest.mark.parametrize("outcome", ["crashed", "timed_out", "out_of_memory"])
def test_a_failure_that_is_not_the_rates_ends_the_search(outcome: str) -> None:
    """Otherwise a busy machine would choose the rate."""

    def train(workload: Workload, variant: Variant) -> TrainedVariant:
        return trained(variant, trial(variant, NLL, workload=workload, outcome=outcome, validation=None))

    with pytest.raises(ConfigurationError, match=f"cannot go on at 5e-05: .* ended {outcome}"):
        find_learning_rate(train, WORKLOAD, Full(learning_rate=5e-5))


def test_a_rate_that_changes_nothing_is_an_error() -> None:
    """A training function that does not use the rate would be given any of them as its best."""

    def train(workload: Workload, variant: Variant) -> TrainedVariant:
        return trained(variant, trial(variant, NLL, workload=workload))

    with pytest.raises(ConfigurationError, match=r"the same loss, 2\.0315, at each of 1.9e-06.*does not use"):
        find_learning_rate(train, WORKLOAD, Full(learning_rate=5e-5))


def test_a_search_for_one_side_only_is_pointed_out() -> None:
    """Whoever may choose among five has an advantage."""
    (note,) = [note for note in fairness_notes(trained_variants(searched())) if "searched" in note]
    assert "of full was searched and that of lora r=16 was not" in note


def test_the_trials_are_short_and_are_not_judged_on_the_gates_sequences() -> None:
    """A quarter of the steps, the first seed, for the purpose of a search; all else is as it will be."""
    work = replace(WORKLOAD, steps=101, seeds=(4, 5), most_seeds=8, reference="reference.txt")
    bench = Bench(5e-5)
    find_learning_rate(bench.train, work, Full(learning_rate=5e-5))
    expected = replace(WORKLOAD, steps=25, seeds=(4,), purpose="search")
    assert set(map(search_workload, [work])) == set(bench.workloads) == {expected}
    for steps, short in ((3, 3), (20, 20), (50, 20), (79, 20), (84, 21)):
        assert search_workload(replace(WORKLOAD, steps=steps)).steps == short


def searched() -> list[Trial]:
    short = search_workload(WORKLOAD)
    full = Full(learning_rate=3e-4, search_learning_rate=True)
    tries = [
        trial(replace(full, learning_rate=rate), [value] * 64, workload=short)
        for rate, value in ((1e-4, 26.0), (3e-4, 25.0))
    ]
    wild = trial(replace(full, learning_rate=9e-4), NLL, workload=short, outcome="diverged", validation=None, curve=())
    return [*tries, wild, trial(full, NLL), trial(LORA, NLL)]


def test_the_summary_says_what_was_tried_and_what_was_chosen() -> None:
    """One line for the search; its trials are no rows, and a rate that diverged is no failure."""
    text = "\n".join(summary_lines(searched(), [], []))
    assert "learning rates: full 0.0003, lora r=16 0.001" in text
    flat = " ".join(text.split())
    assert "searched for full, 25 steps, sequences that no gate uses: 0.0001 gives 2.600, 0.0003 gives 2.500, " in flat
    assert "0.0009 gives diverged" in flat
    assert "may lie beyond" not in flat
    assert "ended diverged" not in text
    assert sum(line.startswith("full") for line in text.splitlines()) == 1


def test_a_best_rate_at_the_edge_is_pointed_out() -> None:
    """The search has not found a minimum, so the reader is told to go on."""
    trials = [one for one in searched() if one.spec.variant.learning_rate != 9e-4]
    assert (
        "the best is the highest that was tried and a better one may lie beyond: set full_learning_rate = 0.0003"
        in " ".join("\n".join(summary_lines(trials, [], [])).split())
    )


def test_the_trials_of_a_search_are_no_results() -> None:
    """Neither a calibration nor a report of another run takes them for the variant."""
    trials = searched()
    assert [variant.label for variant in trained_variants(trials)] == ["full", "lora r=16"]
    assert [(full.label, len(others)) for full, others in by_baseline(trials)] == [("full", 1)]


def test_more_seeds_of_a_rate_that_was_found_are_the_same_variant() -> None:
    """A rate that was given for some seeds and found for others made the same trainings; another rate did not."""
    found = replace(LORA, search_learning_rate=True)
    other = replace(LORA, learning_rate=7e-4)
    trials = [
        trial(LORA, [20.0], seed=0),
        trial(found, [20.0], seed=1, workload=replace(WORKLOAD, seeds=(0, 1))),
        trial(other, [20.0], seed=0),
    ]
    assert [(one.variant, len(one.trials)) for one in trained_variants(trials)] == [(LORA, 2), (other, 1)]
    text = "\n".join(summary_lines(trials, [], []))
    assert "learning rates: lora r=16 learning_rate=0.001 0.001, lora r=16 learning_rate=0.0007 0.0007" in text
    assert "x 2 seeds" in text


def test_a_report_keeps_them_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """They are in the JSON with their purpose, and are not read back."""
    path = tmp_path_factory.mktemp("report") / "ftguard.json"
    path.write_text(json_report(searched(), []), encoding="utf-8")
    assert path.read_text().count('"purpose": "search"') == 2 * 3  # of the trial, and in its workload
    assert [variant.label for variant in read_report(path)] == ["full", "lora r=16"]


def test_a_rate_that_was_found_and_one_that_was_given_are_the_same_trial() -> None:
    """Nothing is trained twice for having been searched."""
    given_rate, found = (
        TrialSpec(workload=WORKLOAD, variant=Full(learning_rate=1e-4, search_learning_rate=flag), seed=0)
        for flag in (False, True)
    )
    assert given_rate.fingerprint == found.fingerprint


def test_the_progress_line_names_the_rate_that_is_tried() -> None:
    """Otherwise the same seed would seem to be trained again and again."""
    spec = TrialSpec(workload=search_workload(WORKLOAD), variant=LORA, seed=3)
    assert (
        "lora r=16  learning rate 0.001?  step 4/25" in progress_line(Progress(spec, "train", 4, None, 2.0, None)).text
    )
