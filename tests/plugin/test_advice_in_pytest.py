"""Advice about the workload names what changes this test: the key if the settings made it, or else the argument."""

from __future__ import annotations

import re

import pytest

# The noise of the sequences stays the same, however many there are, and so does that of the seeds.
CONFTEST = """
import numpy as np
import pytest
from pytest_ftguard import Workload
from pytest_ftguard.results import CurvePoint, TrainedVariant
from pytest_ftguard.running import lab
from tests.plain.builders import losses, trial

def spread(count):
    draw = np.random.default_rng(0).normal(0, 1, count)
    return (draw - draw.mean()) / max(draw.std(), 1e-9)

def train(self, workload, variant):
    count, ours = workload.validation_sequences, variant.kind == "lora"
    seeds = 0.05 * spread(len(workload.seeds))
    trials = [
        trial(
            variant, nll, seed=seed, workload=workload, curve=(CurvePoint(0, 3.0, (30.0, 30.0)),),
            validation=losses(nll, digest=str(count)), base_validation=losses([30.0] * count, digest=str(count)),
        )
        for seed, offset in zip(workload.seeds, seeds)
        for nll in [(20.0 + ours * (0.5 + offset + 0.9 * spread(count))).tolist()]
    ]
    return TrainedVariant(workload, variant, tuple(trials), source=self)

lab.Lab.train = train
"""
INI = """
[pytest]
ftguard_full_learning_rate = 1e-4
ftguard_lora_learning_rate = 1e-3
ftguard_max_loss_gap = 0.06
"""
WORK = """
ftguard_model = m
ftguard_train = t
ftguard_validation = v
"""
FIXTURE = """
@pytest.fixture(scope="session")
def ftguard_workload():
    return Workload(model="m", train="t", validation="v", {arguments})
"""
TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant)
"""
# What a message may advise: first more text, then the steps of production.
TOO_FEW, IN_DOUBT = "validation_sequences=40", "validation_sequences=64"


@pytest.fixture
def project(made_up: pytest.Pytester) -> pytest.Pytester:
    made_up.makepyfile(test_it=TEST)
    return made_up


def message(project: pytest.Pytester, arguments: str, *, by_fixture: bool) -> str:
    """What a failing run says, or "" if it passes; the workload has these arguments."""
    keys = "".join(f"ftguard_{one.replace('=', ' = ')}\n" for one in arguments.split("; "))
    project.makeconftest(CONFTEST + (FIXTURE.format(arguments=arguments.replace("; ", ", ")) if by_fixture else ""))
    project.makeini(INI + ("" if by_fixture else WORK + keys.replace("True", "true")))
    result = project.runpytest_inprocess()
    if result.ret == 0:
        return ""
    (todo,) = {line for line in result.stdout.str().splitlines() if "What to do: " in line and line.startswith("E ")}
    return todo


@pytest.mark.parametrize("by_fixture", [False, True])
def test_advice_is_followed_to_a_pass(project: pytest.Pytester, by_fixture: bool) -> None:
    """Too few sequences, then too noisy ones, then no trend: each message is followed to the letter."""
    found = message(project, TOO_FEW, by_fixture=by_fixture)
    enough = "Workload(..., validation_sequences=64)" if by_fixture else "ftguard_validation_sequences = 64"
    assert f"set {enough} and, if the validation text has fewer, give a longer one" in found
    assert ("ftguard_" in found) is not by_fixture

    found = message(project, IN_DOUBT, by_fixture=by_fixture)
    assert ("ftguard_" in found) is not by_fixture
    more = re.search(r"validation_sequences ?= ?(\d+)", found)
    assert more is not None, found
    settled = f"validation_sequences={more[1]}"

    found = message(project, settled, by_fixture=by_fixture)
    final = "Workload(..., final=True)" if by_fixture else "ftguard_final = true"
    assert f"If these are the steps of production, set {final}" in found, found
    assert message(project, f"{settled}; final=True", by_fixture=by_fixture) == ""


@pytest.mark.parametrize("by_option", [True, False])
def test_what_wins_over_the_ini_file_is_what_is_changed(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, by_option: bool
) -> None:
    """The option or the variable is named, because the key would change nothing."""
    project.makeconftest(CONFTEST)
    project.makeini(f"{INI}{WORK}ftguard_validation_sequences = 64")
    options = []
    if by_option:
        options.append("--ftguard-validation-sequences=40")
    else:
        monkeypatch.setenv("FTGUARD_VALIDATION_SEQUENCES", "40")
    place = (
        "option --ftguard-validation-sequences" if by_option else "environment variable FTGUARD_VALIDATION_SEQUENCES"
    )
    result = project.runpytest_inprocess(*options)
    result.stdout.fnmatch_lines([f"*What to do: set validation_sequences = 64 by the {place} and*"])
