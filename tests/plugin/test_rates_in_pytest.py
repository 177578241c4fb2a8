"""A verdict at a rate that nobody chose says how to search it, and the advice works in the very test that it is for."""

from __future__ import annotations

import json

import pytest
from tests.plugin.conftest import CONFTEST

# Each variant has a best rate, so that a search finds something.
RATES = (
    CONFTEST.replace("import numpy as np", "import math\nimport numpy as np")
    .replace("nll = (20.0 +", "nll = (20.0 + abs(math.log10(variant.learning_rate / 1e-3)) +")
    .replace("tuple(trials))", "tuple(trials), source=self)")
)
INI = """
[pytest]
ftguard_model = m
ftguard_train = t
ftguard_validation = v
ftguard_final = true
ftguard_max_loss_gap = 0.25
"""
NEVER = "ftguard_lora_search_learning_rate = no\nftguard_full_search_learning_rate = no\n"
TEST = """
from pytest_ftguard import LoRA, assert_loss_gap

def test_it(ftguard, full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant)
    assert_loss_gap(ftguard.train(LoRA(r=8)), full_variant)
"""
FULL = """
import pytest
from pytest_ftguard import Full

@pytest.fixture(scope="session")
def ftguard_full():
    return Full({arguments})
"""


def notes(project: pytest.Pytester, *options: str) -> str:
    result = project.runpytest_inprocess(*options)
    result.assert_outcomes(passed=1)
    return " ".join(result.stdout.str().split())


def test_the_advice_about_a_default_rate_works_when_it_is_followed(made_up: pytest.Pytester) -> None:
    """Each variant's way is named: the key of what was made of settings, the argument of what a test has built."""
    made_up.makeconftest(RATES)
    made_up.makeini(INI + NEVER)
    made_up.makepyfile(test_it=TEST.replace("r=8", "r=8, search_learning_rate='no'"))
    found = notes(made_up)
    assert "The learning rates of lora r=16, 0.0005, and of full, 5e-05, are only defaults." in found
    keys = "ftguard_lora_search_learning_rate = yes", "ftguard_full_search_learning_rate = yes"
    assert f"Search both learning rates: {' and '.join(keys)}." in found
    assert f'Search both learning rates: LoRA(..., search_learning_rate="yes") and {keys[1]}.' in found
    made_up.makeini(INI + "\n".join(keys))
    made_up.makepyfile(test_it=TEST.replace("r=8", "r=8, search_learning_rate='yes'"))
    found = notes(made_up)
    assert "only a default" not in found
    assert "only defaults" not in found
    assert "was searched and that of" not in found


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (
            "search_learning_rate='no'",
            'Search both learning rates: LoRA(..., search_learning_rate="yes") and Full(..., search_learning_rate',
        ),
        (
            "learning_rate=5e-5",
            "lora r=8, 0.0005, is only a default. Another rate may change this verdict. Search the learning rate: Lo",
        ),
    ],
)
def test_what_a_fixture_gives_is_told_from_what_the_settings_give(
    made_up: pytest.Pytester, arguments: str, note: str
) -> None:
    """No key would change an overridden fixture, and a rate that was given is the user's own, whatever it is."""
    made_up.makeconftest(RATES + FULL.format(arguments=arguments))
    made_up.makeini(INI + NEVER.partition("\n")[0])
    made_up.makepyfile(test_it=TEST.replace("r=8", "r=8, search_learning_rate='no'"))
    found = notes(made_up)
    assert note in found
    assert "ftguard_full_search" not in found


ACCEPTING = """
from pytest_ftguard import assert_no_regression

def test_it(full_variant, lora_variant):
    assert_no_regression(lora_variant, full_variant, at_most=0.02)
"""


def test_what_is_accepted_is_at_settled_rates_and_later_runs_are_judged_at_them(made_up: pytest.Pytester) -> None:
    """A gap at a bad rate is no standard; what was accepted at a default, by an earlier version, is judged at it."""
    made_up.makeconftest(RATES)
    made_up.makeini(INI)
    made_up.makepyfile(test_it=ACCEPTING)
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    (file,) = (made_up.path / "ftguard_baselines").glob("*.json")
    accepted = json.loads(file.read_text())["accepted"]
    rates = {side: accepted[side]["variant"]["learning_rate"] for side in ("candidate", "baseline")}
    assert rates == {"candidate": pytest.approx(1e-3, rel=1), "baseline": pytest.approx(1e-3, rel=1)}
    assert rates["baseline"] != 5e-5
    made_up.runpytest_inprocess().assert_outcomes(passed=1)
    file.unlink()
    made_up.makeini(INI + NEVER)
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    made_up.makeini(INI)
    result = made_up.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    assert "learning rates: full 5e-05, lora r=16 0.0005" in result.stdout.str()
