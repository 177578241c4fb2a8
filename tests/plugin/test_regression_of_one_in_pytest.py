"""A variant is held to its own accepted loss, so what makes every variant worse fails; trainings are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.plain.builders import unwrapped
from tests.plugin.conftest import CONFTEST

TEST = """
from pytest_ftguard import assert_no_regression

def test_full(full_variant):
    assert_no_regression(full_variant)

def test_pair(full_variant, lora_variant):
    assert_no_regression(lora_variant, full_variant)
"""
JSON = "--ftguard-json=r.json"


@pytest.fixture
def both(made_up: pytest.Pytester) -> pytest.Pytester:
    """The project, with a level.txt that moves the losses of both variants."""
    level = 'nll = (20.0 + 10 * float((HERE / "level.txt").read_text())'
    assert "nll = (20.0" in CONFTEST
    made_up.makeconftest(CONFTEST.replace("nll = (20.0", level))
    made_up.makepyfile(test_it=TEST)
    set_level(made_up, 0.0)
    return made_up


def set_level(project: pytest.Pytester, level: float) -> None:
    project.path.joinpath("level.txt").write_text(str(level))


def files(project: pytest.Pytester) -> list[Path]:
    return sorted(project.path.glob("ftguard_baselines/*"))


def verdict_of(project: pytest.Pytester, test: str) -> dict[str, Any]:
    verdicts: list[dict[str, Any]] = json.loads((project.path / "r.json").read_text())["verdicts"]
    (found,) = [one for one in verdicts if one["nodeid"].endswith(test)]
    return found


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_what_makes_both_worse_is_caught_by_the_variant_alone(both: pytest.Pytester, workers: list[str]) -> None:
    """Missing fails; accepted and the same passes; the pair passes what the single variant fails."""
    both.runpytest_inprocess(*workers).assert_outcomes(failed=2)
    warned = both.runpytest_inprocess("--ftguard-on-missing=warn", *workers)
    warned.assert_outcomes(passed=2, warnings=2)
    accepted = both.runpytest_inprocess("--ftguard-update", *workers)
    accepted.assert_outcomes(passed=2)
    assert len(files(both)) == 2
    assert unwrapped(accepted).str().count("ACCEPTED") == 2
    both.runpytest_inprocess(*workers).assert_outcomes(passed=2)
    set_level(both, 0.5)
    worse = both.runpytest_inprocess(JSON, "--junitxml=j.xml", *workers)
    worse.assert_outcomes(failed=1, passed=1)
    found = verdict_of(both, "::test_full")
    assert (found["status"], found["candidate"], found["baseline"]) == ("FAIL", "full", None)
    assert found["value"] == pytest.approx(0.5, abs=1e-3)
    assert "it is higher." in found["message"]
    assert verdict_of(both, "::test_pair")["status"] == "PASS"
    assert 'name="ftguard.regression.status" value="FAIL"' in (both.path / "j.xml").read_text()
    set_level(both, -0.5)
    better = both.runpytest_inprocess(JSON, *workers)
    better.assert_outcomes(passed=2)
    found = verdict_of(both, "::test_full")
    assert found["value"] == pytest.approx(-0.5, abs=1e-3)
    assert "It has become better by more than the limit" in found["note"]


def test_what_is_worse_than_the_anchor_is_not_accepted(both: pytest.Pytester) -> None:
    """The file stays as it is."""
    both.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=2)
    before = [file.read_text() for file in files(both)]
    set_level(both, 0.5)
    refused = both.runpytest_inprocess("--ftguard-update", "-k", "test_full")
    refused.assert_outcomes(failed=1)
    unwrapped(refused).fnmatch_lines(["*not accepted, because it is worse than the anchor by more than the limit*"])
    assert [file.read_text() for file in files(both)] == before


def test_other_examples_are_invalid(both: pytest.Pytester) -> None:
    """A loss on another text is no growth."""
    both.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=2)
    both.path.joinpath("text.txt").write_text("other")
    result = both.runpytest_inprocess("-k", "test_full")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the validation sequences are not the same*", "regression *INVALID"])


def test_the_file_of_a_pair_is_not_that_of_one_variant(both: pytest.Pytester) -> None:
    """Whoever leaves out the baseline later asks another question."""
    both.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=2)
    both.makepyfile(test_it=TEST.replace("(lora_variant, full_variant)", "(lora_variant)"))
    result = both.runpytest_inprocess("-k", "test_pair")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*lora r=16 by itself is judged now, and lora r=16 against full was accepted*"])


@pytest.mark.torch
def test_real_trainings_of_one_variant_are_the_same_to_the_last_digit(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoRA is not even trained; a plan says which result is missing."""
    monkeypatch.delenv("CI", raising=False)
    project.makepyfile(test_it=TEST.partition("def test_pair")[0])
    limit = ["--ftguard-max-regression=0.001"]
    plan = project.runpytest_inprocess("--ftguard-plan", *limit)
    unwrapped(plan).fnmatch_lines(["*has no accepted result*so it would fail without --ftguard-update*"])
    project.runpytest_inprocess("--ftguard-update", "--ftguard-seeds=0,1,2", *limit).assert_outcomes(passed=1)
    result = project.runpytest_inprocess(JSON, "--ftguard-no-cache", *limit)
    result.assert_outcomes(passed=1)
    content = json.loads((project.path / "r.json").read_text())
    assert [verdict["value"] for verdict in content["verdicts"]] == [0]
    assert {trial["label"] for trial in content["trials"]} == {"full"}
