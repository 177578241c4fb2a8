"""Before a verdict hangs on a default learning rate it is searched: once, for all later runs, and counted by a plan."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.plain.builders import unwrapped

pytestmark = pytest.mark.torch

TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most={limit})
"""


def report(project: pytest.Pytester) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.path / "r.json").read_text())
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fail_at_a_default_is_searched_once_and_later_runs_start_from_what_was_found(
    project: pytest.Pytester, workers: int
) -> None:
    """A second run trains nothing, and a plan then adds nothing."""
    project.makepyfile(TEST.format(limit=-5))
    options = ["--ftguard-json=r.json", *(["-n", str(workers)] if workers else [])]
    plan = project.runpytest_inprocess("--ftguard-plan")
    unwrapped(plan).fnmatch_lines(
        [
            "lora r=4: if a gate on losses does not pass at its default learning rate, 0.01, a search adds at most 5 "
            "trials of 10 steps and 3 trials of 10 steps, and 1 training at the rate that it finds"
        ]
    )
    first = project.runpytest_inprocess(*options)
    first.assert_outcomes(failed=1)
    found = report(project)
    (verdict,) = found["verdicts"]
    assert (verdict["status"], verdict["candidate_rate_origin"]) == ("FAIL", "searched")
    assert (verdict["baseline_learning_rate"], verdict["baseline_rate_origin"]) == (1e-3, "given")
    searches = [one for one in found["trials"] if one["purpose"] == "search"]
    assert {one["variant"] for one in searches} == {"lora"}
    assert {one["seed"] for one in searches} == {2**32 - 1}
    second = project.runpytest_inprocess(*options)
    second.assert_outcomes(failed=1)
    again = report(project)
    assert all(one["cached"] for one in again["trials"])
    (repeated,) = again["verdicts"]
    assert (repeated["value"], repeated["candidate_learning_rate"]) == (
        verdict["value"],
        verdict["candidate_learning_rate"],
    )
    project.runpytest_inprocess("--ftguard-plan").stdout.fnmatch_lines(["plan: 0 trials to train, 2 cached;*"])


def test_a_pass_at_a_default_of_full_is_searched(project: pytest.Pytester) -> None:
    """Full may have been undertrained; LoRA's rate is given, so it stays."""
    ini = (project.path / "tox.ini").read_text()
    (project.path / "tox.ini").write_text(
        ini.replace("ftguard_full_learning_rate = 1e-3", "ftguard_lora_learning_rate = 2e-3")
    )
    project.makepyfile(TEST.format(limit=3))
    result = project.runpytest_inprocess("--ftguard-json=r.json", "-o", "ftguard_gain_factor=0")
    result.assert_outcomes(passed=1)
    (verdict,) = report(project)["verdicts"]
    assert verdict["baseline_rate_origin"] == "searched"
    assert verdict["baseline_learning_rate"] > 5e-5
    assert (verdict["candidate_learning_rate"], verdict["candidate_rate_origin"]) == (2e-3, "given")
    assert "full was undertrained at its default learning rate of 5e-05: a search found" in verdict["note"]
    unwrapped(result).fnmatch_lines(["*full was undertrained at its default learning rate of 5e-05: *"])


def test_rates_that_were_given_are_not_searched(project: pytest.Pytester) -> None:
    """They are the user's, and the message says so in its second line."""
    project.makepyfile(TEST.format(limit=-5))
    result = project.runpytest_inprocess("--ftguard-lora-learning-rate=2e-3", "--ftguard-json=r.json")
    result.assert_outcomes(failed=1)
    assert {one["purpose"] for one in report(project)["trials"]} == {"gates"}
    result.stdout.fnmatch_lines(["*loss gap FAIL: *", "*At the learning rates given: lora r=4 0.002, full 0.001."])


def test_a_text_without_sequences_to_spare_does_not_hinder_a_verdict(project: pytest.Pytester) -> None:
    """Nobody asked for the search: the rate stays, and the message says why."""
    project.makepyfile(TEST.format(limit=-5))
    result = project.runpytest_inprocess("--ftguard-validation-sequences=9999")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*loss gap FAIL: *", "*lora r=4 0.01 (the default)*", "*It could not be searched: *0 are left*"]
    )
