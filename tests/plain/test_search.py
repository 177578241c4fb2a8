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
from pytest_ftguard.specs.short import search_workloads
from tests.plain.builders import LORA, WORKLOAD, plan_lines, summary_lines, trained, trial

NLL = [20.0 + 0.01 * i for i in range(64)]


class Bench:
    """Trains nothing: the loss is a parabola over the logarithm of the rate, lowest at `best`.

    Trials of the second round have their lowest loss at `best_longer`.
    """

    def __init__(self, best: float, failing: float = math.inf, best_longer: float | None = None) -> None:
        self.best = {"short": best, "longer": best_longer or best}
        self.failing = failing
        self.tried: dict[str, list[float]] = {"short": [], "longer": []}
        self.workloads: list[Workload] = []
        self.noise = 0.0

    def train(self, workload: Workload, variant: Variant) -> TrainedVariant:
        rate = variant.learning_rate
        assert rate is not None
        length = "short" if workload.steps == 10 else "longer"
        self.tried[length].append(rate)
        self.workloads.append(workload)
        if rate >= self.failing:
            return trained(variant, trial(variant, NLL, workload=workload, outcome="diverged", validation=None))
        loss = 20 + math.log(rate / self.best[length]) ** 2
        wobble = [self.noise * math.sin(number * math.log(rate)) for number in range(64)]
        return trained(variant, trial(variant, [loss + one for one in wobble], workload=workload))


@pytest.mark.parametrize(
    ("best", "short", "longer", "chosen"),
    [
        (5e-5, [5e-5, 1.6e-5, 1.6e-4], [5e-5, 1.6e-5], 5e-5),
        (1e-4, [5e-5, 1.6e-5, 1.6e-4, 5e-4], [1.6e-4, 5e-5], 1.6e-4),
        (1e-5, [5e-5, 1.6e-5, 5e-6], [1.6e-5, 5e-6], 1.6e-5),
        (1.0, [5e-5, 1.6e-5, 1.6e-4, 5e-4, 1.6e-3], [1.6e-3, 5e-4], 1.6e-3),
        (1e-9, [5e-5, 1.6e-5, 5e-6, 1.6e-6, 5e-7], [5e-7, 1.6e-7], 1.6e-7),
    ],
)
def test_the_search_goes_to_where_rates_are_better(
    best: float, short: list[float], longer: list[float], chosen: float
) -> None:
    """Half a decade at a time, first down, or else up; five short trials at the most, then two longer ones."""
    bench = Bench(best)
    found = find_learning_rate(bench.train, WORKLOAD, Full(learning_rate=5e-5))
    assert (bench.tried, found) == ({"short": short, "longer": longer}, chosen)


@given(st.floats(1e-8, 1.0), st.floats(1e-7, 1e-1), st.floats(0.05, 1.0))
def test_no_rate_that_was_tried_for_longer_is_better(best: float, first: float, falls: float) -> None:
    """Whatever the first guess: at most five short trials and two longer ones, and none of them twice."""
    bench = Bench(best, best_longer=falls * best)
    found = find_learning_rate(bench.train, WORKLOAD, LoRA(learning_rate=first))
    assert first in bench.tried["short"]
    for length, most in (("short", 5), ("longer", 2)):
        assert len(set(bench.tried[length])) == len(bench.tried[length]) <= most
    best_of_longer = min(bench.tried["longer"], key=lambda rate: math.log(rate / (falls * best)) ** 2)
    assert found in (best_of_longer, first)


def test_a_rate_that_only_short_trials_favour_is_left() -> None:
    """At half of the steps the next lower rate is better, so it is taken."""
    bench = Bench(5e-5, best_longer=6e-6)
    assert find_learning_rate(bench.train, WORKLOAD, Full(learning_rate=5e-5)) == 1.6e-5
    assert bench.tried == {"short": [5e-5, 1.6e-5, 1.6e-4], "longer": [5e-5, 1.6e-5]}


@pytest.mark.parametrize(("noise", "chosen"), [(0.5, 1.6e-4), (20.0, 5e-5)])
def test_the_first_guess_stays_unless_another_rate_is_better_beyond_the_noise(noise: float, chosen: float) -> None:
    """The best of a few noisy losses is often no better at all."""
    bench = Bench(1.1e-4)
    bench.noise = noise
    assert find_learning_rate(bench.train, WORKLOAD, Full(learning_rate=5e-5)) == chosen


def test_a_rate_that_diverges_is_not_chosen() -> None:
    """It counts as the worst, and if every rate does the search goes down."""
    assert find_learning_rate(Bench(1.0, failing=1e-4).train, WORKLOAD, Full(learning_rate=5e-5)) == 5e-5
    bench = Bench(1.0, failing=0)
    assert find_learning_rate(bench.train, WORKLOAD, Full(learning_rate=5e-5)) == 5e-7
    assert bench.tried == {"short": [5e-5, 1.6e-5, 5e-6, 1.6e-6, 5e-7], "longer": []}
    assert find_learning_rate(Bench(1.0, failing=1e-5).train, WORKLOAD, Full(learning_rate=5e-5)) == 5e-6


@pytest.mark.parametrize("outcome", ["crashed", "timed_out", "out_of_memory"])
def test_a_failure_that_is_not_the_rates_ends_the_search(outcome: str) -> None:
    """Otherwise a busy machine would choose the rate."""

    def train(workload: Workload, variant: Variant) -> TrainedVariant:
        return trained(variant, trial(variant, NLL, workload=workload, outcome=outcome, validation=None))

    with pytest.raises(ConfigurationError, match=f"cannot go on at 5e-05: .* ended {outcome}"):
        find_learning_rate(train, WORKLOAD, Full(learning_rate=5e-5))


@pytest.mark.parametrize(
    ("losses", "short", "chosen"),
    [
        # Far below the valley all rates are alike, to the last digit or within the noise.
        ({-1: 4.0, 0: 4.0, 1: 3.5, 2: 3.0, 3: 3.4}, [0, -1, 1, 2, 3], 2),
        ({-2: 4.0005, -1: 4.0, 0: 4.001, 1: 3.5, 2: 3.0, 3: 3.4}, [0, -1, 1, 2, 3], 2),
        # Far above it they are in no order: a higher one that looks better leads away from it.
        ({-2: 2.7, -3: 3.0, -1: 3.5, 0: 3.6, 1: 3.4}, [0, -1, -2, -3], -2),
        ({-2: 2.7, -3: 3.0, -1: 3.5, 0: math.inf, 1: math.inf}, [0, -1, -2, -3], -2),
        ({-4: 5.0, -3: math.inf, -2: math.inf, -1: math.inf, 0: math.inf}, [0, -1, -2, -3, -4], -4),
    ],
)
def test_the_search_leaves_a_guess_that_is_far_off(losses: dict[int, float], short: list[int], chosen: int) -> None:
    """It goes up from where nothing is learned, and down from where trainings break."""
    tried: list[int] = []

    def train(workload: Workload, variant: Variant) -> TrainedVariant:
        assert variant.learning_rate is not None
        notch = round(2 * math.log10(variant.learning_rate / 1e-3))
        if workload.steps == 10:
            tried.append(notch)
        if math.isinf(losses.get(notch, 9.0)):
            return trained(variant, trial(variant, NLL, workload=workload, outcome="diverged", validation=None))
        noise = [0.2 * math.sin(number * (notch + 7)) for number in range(64)]
        return trained(variant, trial(variant, [10 * losses.get(notch, 9.0) + one for one in noise], workload=workload))

    rate = find_learning_rate(train, WORKLOAD, Full(learning_rate=1e-3))
    assert tried == short
    assert rate == pytest.approx(1e-3 * 10 ** (chosen / 2), rel=0.03)


def test_a_rate_that_changes_nothing_is_an_error() -> None:
    """A training function that does not use the rate would be given any of them as its best."""

    def train(workload: Workload, variant: Variant) -> TrainedVariant:
        return trained(variant, trial(variant, NLL, workload=workload))

    with pytest.raises(ConfigurationError, match=r"the same loss, 2\.0315, at each of 1.6e-05, .*does not use"):
        find_learning_rate(train, WORKLOAD, Full(learning_rate=5e-5))


def test_a_search_for_one_side_only_is_pointed_out() -> None:
    """Whoever may choose among five has an advantage."""
    (note,) = [note for note in fairness_notes(trained_variants(searched())) if "searched" in note]
    assert "of full was searched and that of lora r=16 was not" in note


def test_a_guess_that_looks_as_good_in_short_trials_is_compared_in_longer_ones() -> None:
    """Within the noise of a short trial two rates are alike; half of the steps tell them apart."""
    bench = Bench(2.75e-5, best_longer=1.2e-5)
    bench.noise = 0.5
    assert find_learning_rate(bench.train, WORKLOAD, Full(learning_rate=5e-5)) == 1.6e-5
    assert bench.tried["longer"] == [1.6e-5, 5e-5]


def test_the_trials_are_short_and_are_not_judged_on_the_gates_sequences() -> None:
    """A tenth of the steps, then half of them; a seed that no gate judges, and all else as it will be."""
    work = replace(WORKLOAD, steps=201, seeds=(4, 5), most_seeds=8, reference="reference.txt")
    bench = Bench(5e-5)
    find_learning_rate(bench.train, work, Full(learning_rate=5e-5))
    expected = {replace(WORKLOAD, steps=steps, seeds=(2**32 - 1,), purpose="search") for steps in (20, 100)}
    assert set(search_workloads(work)) == set(bench.workloads) == expected
    for steps, rounds in ((3, [3, 3]), (10, [10, 10]), (40, [10, 20]), (100, [10, 50]), (119, [11, 59])):
        assert [one.steps for one in search_workloads(replace(WORKLOAD, steps=steps))] == rounds


def searched() -> list[Trial]:
    short, longer = search_workloads(WORKLOAD)
    full = Full(learning_rate=3e-4, search_learning_rate=True)
    tries = [
        trial(replace(full, learning_rate=rate), [value] * 64, workload=short)
        for rate, value in ((1e-4, 26.0), (3e-4, 25.0))
    ]
    wild = trial(replace(full, learning_rate=9e-4), NLL, workload=short, outcome="diverged", validation=None, curve=())
    again = [
        trial(replace(full, learning_rate=rate), [value] * 64, workload=longer)
        for rate, value in ((1e-4, 24.0), (3e-4, 23.0))
    ]
    return [*tries, wild, *again, trial(full, NLL), trial(replace(LORA, search_learning_rate="no"), NLL)]


def test_the_summary_says_what_was_tried_and_what_was_chosen() -> None:
    """One line for the search; its trials are no rows, and a rate that diverged is no failure."""
    text = "\n".join(summary_lines(searched(), [], []))
    assert "learning rates: full 0.0003, lora r=16 0.001" in text
    flat = " ".join(text.split())
    assert (
        "searched for full, on sequences that no gate uses, 10 steps: 0.0001 gives 2.600, 0.0003 gives 2.500, " in flat
    )
    assert "; 50 steps: 0.0001 gives 2.400, 0.0003 gives 2.300" in flat
    assert "0.0009 gives diverged" in flat
    assert "may lie beyond" not in flat
    assert "ended diverged" not in text
    assert sum(line.startswith("full") for line in text.splitlines()) == 1


def test_a_best_rate_at_the_edge_is_pointed_out() -> None:
    """The search has not found a minimum, so the reader is told to go on."""
    trials = [one for one in searched() if one.spec.variant.learning_rate != 9e-4]
    assert (
        "a better one may lie beyond: search again, with learning_rate = 0.0003 and search_learning_rate = yes"
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
    text = "\n".join(summary_lines(trials, [], [])).replace("\n      ", " ")
    assert "learning rates: lora r=16 learning_rate=0.001 0.001, lora r=16 learning_rate=0.0007 0.0007" in text
    assert "x 2 seeds" in text


def test_a_report_keeps_them_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """They are in the JSON with their purpose, and are not read back."""
    path = tmp_path_factory.mktemp("report") / "ftguard.json"
    path.write_text(json_report(searched(), []), encoding="utf-8")
    assert path.read_text().count('"purpose": "search"') == 2 * 5  # of the trial, and in its workload
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
    spec = TrialSpec(workload=search_workloads(WORKLOAD)[0], variant=LORA, seed=3)
    assert (
        "lora r=16  learning rate 0.001?  step 4/10" in progress_line(Progress(spec, "train", 4, None, 2.0, None)).text
    )


def test_a_plan_says_what_a_search_may_add() -> None:
    """The trials of a search take time too, and the rate that it finds is not known yet."""
    planned = trial(Full(learning_rate=5e-5, search_learning_rate=True), NLL, outcome="planned")
    text = " ".join("\n".join(plan_lines([planned, trial(LORA, NLL, outcome="planned")])).split())
    assert (
        "full: its learning rate is searched first, with at most 5 trials of 10 steps and 3 trials of 50 steps" in text
    )
    assert "lora r=16: its learning rate is searched" not in text


def test_a_search_that_begins_at_the_edge_of_the_last_one_finds_what_lies_beyond() -> None:
    """The advice of the summary works."""
    bench = Bench(0.5)
    rate = 5e-5
    for _ in range(4):
        rate = find_learning_rate(bench.train, WORKLOAD, Full(learning_rate=rate))
    assert 0.3 < rate < 0.9


def test_a_search_that_only_diverged_begins_at_a_much_lower_rate_as_advised() -> None:
    """It finds the best one; what it finds is no line of that kind any more."""

    def line(first: float) -> tuple[float, str]:
        bench, tried = Bench(1e-9, failing=1e-7), list[Trial]()

        def train(workload: Workload, variant: Variant) -> TrainedVariant:
            made = bench.train(workload, replace(variant, search_learning_rate="yes"))
            tried.extend(made.trials)
            return made

        rate = find_learning_rate(train, WORKLOAD, Full(learning_rate=first))
        full = Full(learning_rate=rate, search_learning_rate="yes")
        return rate, " ".join("\n".join(summary_lines([*tried, trial(full, NLL)], [], [])).split())

    assert "all diverged, so start the search from a much lower rate" in line(5e-5)[1]
    rate, text = line(1e-9)
    assert "all diverged" not in text
    assert rate == pytest.approx(1e-9, rel=0.5)


class LateBench(Bench):
    """As `Bench`, but the longer trials diverge from a rate on."""

    def __init__(self, best: float, failing_longer: float) -> None:
        super().__init__(best)
        self.failing_longer = failing_longer

    def train(self, workload: Workload, variant: Variant) -> TrainedVariant:
        self.failing = math.inf if workload.steps == 10 else self.failing_longer
        return super().train(workload, variant)


@pytest.mark.parametrize(
    ("failing", "longer", "chosen"),
    [
        (1e-3, [1.6e-3, 5e-4], 5e-4),
        (4e-4, [1.6e-3, 5e-4, 1.6e-4], 1.6e-4),
        (1e-5, [1.6e-3, 5e-4, 1.6e-4], 5e-5),
    ],
)
def test_a_rate_that_diverges_only_in_longer_trials_is_left(failing: float, longer: list[float], chosen: float) -> None:
    """The search goes down until one does not; if none was found, the first guess is below all that diverged."""
    bench = LateBench(1.0, failing)
    assert find_learning_rate(bench.train, WORKLOAD, Full(learning_rate=5e-5)) == chosen
    assert bench.tried["longer"] == longer
