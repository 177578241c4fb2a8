"""A run calibrates, and later runs use what it found; the trainings are made up, so no torch is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import WITHIN
from tests.plain.builders import unwrapped

from pytest_ftguard import read_report
from pytest_ftguard.running.lab import Lab

CONFTEST = """
import dataclasses
import numpy as np
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.running import lab
from tests.plain.builders import GivenSource, trial

def train(self, workload, variant):
    trials = []
    for seed in workload.seeds:
        gap = 0.0 if variant.kind == "full" else 0.02 + np.random.default_rng(seed).normal(0, 0.01)
        nll = tuple((20.0 + 10 * gap + np.random.default_rng(99).normal(0, 0.1, 64)).tolist())
        trials.append(trial(variant, nll, seed=seed, workload=workload, content=f"{variant} {seed}"))
    self._results.update({one.fingerprint: one for one in trials})
    def more_seeds(count):
        return train(self, dataclasses.replace(workload, seeds=tuple(range(count))), variant)

    return TrainedVariant(workload, variant, tuple(trials), source=GivenSource(more_seeds=more_seeds))

lab.Lab.train = train
"""
INI = """
[pytest]
ftguard_model = m
ftguard_train = t
ftguard_validation = v
ftguard_seeds = 0, 1
ftguard_full_learning_rate = 5e-5
ftguard_lora_learning_rate = 5e-4
ftguard_calibration = calibration.json
"""
TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=0.02, on_inconclusive="warn")
"""


@pytest.fixture
def made_up(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setattr(Lab, "train", Lab.train)  # the project's conftest.py replaces it
    monkeypatch.setenv("PYTEST_ADDOPTS", WITHIN)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.makeini(INI)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TEST)
    return pytester


@pytest.mark.parametrize("workers", [0, 2])
def test_a_calibration_is_written_and_used(made_up: pytest.Pytester, workers: int) -> None:
    """Without it the two seeds speak for themselves; with it the verdict says that it was used."""
    options = ["-n", str(workers)] if workers else []
    before = made_up.runpytest_inprocess()
    before.stdout.fnmatch_lines(["*The interval rests on 64 sequences and 2 seeds*"])
    calibrated = made_up.runpytest_inprocess("--ftguard-calibrate=12", *options)
    calibrated.assert_outcomes(passed=1, warnings=1)
    unwrapped(calibrated).fnmatch_lines(
        ["calibrated lora r=16 against full: 0.0* over 12 seeds, written to *calibration.json"]
    )
    written = json.loads((made_up.path / "calibration.json").read_text())["calibrations"]
    assert [one["degrees_of_freedom"] for one in written] == [11]
    after = made_up.runpytest_inprocess()
    after.stdout.fnmatch_lines(["*rests on 64 sequences and the noise of seeds that was calibrated on 12 of them*"])


APART = """
import pytest
from pytest_ftguard import Full, LoRA, Workload

@pytest.fixture(scope="session")
def ftguard_workload(tmp_path_factory):
    return Workload(model="m", train=str(tmp_path_factory.mktemp("text") / "t"), validation="v")

def trained(ftguard, rank):
    # The twin that shows that both texts are the same comes last.
    return ftguard.train(LoRA(r=rank)).ok and ftguard.train(Full()).ok

@pytest.mark.xdist_group("one")
def test_one(ftguard):
    assert trained(ftguard, 2)

@pytest.mark.xdist_group("other")
def test_other(ftguard):
    assert trained(ftguard, 4)
"""


@pytest.mark.parametrize("options", [[], ["-n2", "--dist=loadgroup"]])
def test_workers_with_texts_of_their_own_calibrate_as_one_process(made_up: pytest.Pytester, options: list[str]) -> None:
    """Both have full, which is kept once, and each has a LoRA of its own."""
    made_up.makepyfile(APART)
    result = made_up.runpytest_inprocess("--ftguard-calibrate=10", "--ftguard-json=r.json", *options)
    result.assert_outcomes(passed=2)
    written = json.loads((made_up.path / "calibration.json").read_text())["calibrations"]
    assert len(written) == 2
    trials = json.loads((made_up.path / "r.json").read_text())["trials"]
    assert len(trials) == 30
    assert len({trial["workload"]["train"] for trial in trials}) == 1
    assert {variant.label: len(variant.trials) for variant in read_report(made_up.path / "r.json")} == {
        "full": 10,
        "lora r=2": 10,
        "lora r=4": 10,
    }


def test_doubt_is_settled_by_more_seeds_where_the_workload_allows_it(made_up: pytest.Pytester) -> None:
    """Three seeds, then five, then eight, each look with a third of the error; a clear case stops at three."""
    made_up.makepyfile(
        """
        from pytest_ftguard import assert_loss_gap

        def test_clear(full_variant, lora_variant):
            verdict = assert_loss_gap(lora_variant, full_variant, at_most=0.2)
            assert "3 seeds. This was look 1 of at most 3: " in verdict.message

        def test_doubt(full_variant, lora_variant):
            verdict = assert_loss_gap(lora_variant, full_variant, at_most=0.021, on_inconclusive="warn")
            assert "8 seeds. This was look 3 of at most 3: " in verdict.message
            assert "each bound is wrong in at most 1.67 % of cases" in verdict.message
            assert len(lora_variant.trials) == 3
        """
    )
    result = made_up.runpytest_inprocess("--ftguard-seeds=3..8", "--ftguard-json=r.json")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*x 8 seeds*"])
    assert len(json.loads((made_up.path / "r.json").read_text())["trials"]) == 16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ftguard-calibrate=9"], "at least 10 seeds"),
        (["--ftguard-seeds=8..3"], '"3..8"'),
        (["--ftguard-calibrate=10", "-c", "none.ini"], "set ftguard_calibration"),
    ],
)
def test_a_calibration_that_cannot_be_is_a_usage_error(
    made_up: pytest.Pytester, arguments: list[str], words: str
) -> None:
    """Too few seeds, and no file to write to, are known before anything is trained."""
    (made_up.path / "none.ini").write_text("[pytest]\n")
    result = made_up.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words in result.stderr.str()


def test_a_damaged_calibration_is_named(made_up: pytest.Pytester) -> None:
    """A file cut short fails the test with one message, and is not overwritten."""
    (made_up.path / "calibration.json").write_text('{"schema": 1, "calib')
    result = made_up.runpytest_inprocess("--ftguard-calibrate=10")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "ftguard_calibration in tox.ini) is not a file of calibrations" in result.stdout.str()
    assert (made_up.path / "calibration.json").read_text() == '{"schema": 1, "calib'
