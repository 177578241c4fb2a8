"""What tests of accepted results share: a project with made-up trainings, which take no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_ftguard.running.lab import Lab

CONFTEST = """
from pathlib import Path
import numpy as np
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.running import lab
from tests.plain.builders import losses, trial

HERE = Path(__file__).parent

def train(self, workload, variant):
    trials = []
    gap = float((HERE / "gap.txt").read_text())
    for seed in workload.seeds:
        draw = np.random.default_rng([seed, variant.kind == "full"]).normal(0, 0.1, 64)
        nll = (20.0 + (10 * gap if variant.kind == "lora" else 0) + draw).tolist()
        text = (HERE / "text.txt").read_text()
        trials.append(
            trial(
                variant, nll, seed=seed, workload=workload,
                validation=losses(nll, digest=text), base_validation=losses([30.0] * 64, digest=text),
            )
        )
    self._results.update({one.fingerprint: one for one in trials})
    return TrainedVariant(workload, variant, tuple(trials))

lab.Lab.train = train
"""
INI = """
[pytest]
ftguard_model = m
ftguard_train = t
ftguard_validation = v
ftguard_full_learning_rate = 5e-5
ftguard_lora_learning_rate = 5e-4
ftguard_max_regression = 0.02
"""
TEST = """
from pytest_ftguard import assert_no_regression

def test_it(full_variant, lora_variant):
    assert_no_regression(lora_variant, full_variant)
"""


@pytest.fixture(autouse=True)
def ready(imported: None) -> None:
    """Runs of pytest within the test's own process find everything imported."""


@pytest.fixture
def made_up(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, warm_runs: None) -> pytest.Pytester:
    """A project with its gap in gap.txt, and its validation text in text.txt."""
    for name in ("train", "plan"):  # what the project's conftest.py replaces is put back after the test
        monkeypatch.setattr(Lab, name, getattr(Lab, name))
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{Path(__file__).parents[2] / 'src'}")
    monkeypatch.delenv("CI", raising=False)
    pytester.makeini(INI)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TEST)
    pytester.path.joinpath("gap.txt").write_text("0.1")
    pytester.path.joinpath("text.txt").write_text("text")
    return pytester
