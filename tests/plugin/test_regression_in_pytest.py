"""A result is accepted, and later runs are held to it; most trainings are made up, so that they take no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.plain.builders import unwrapped

TEST = """
from pytest_ftguard import assert_no_regression

def test_it(full_variant, lora_variant):
    assert_no_regression(lora_variant, full_variant)
"""


def files(project: pytest.Pytester) -> list[Path]:
    return sorted(project.path.glob("ftguard_baselines/*"))


def test_missing_fails_accepting_passes_and_later_runs_are_held_to_it(made_up: pytest.Pytester) -> None:
    """Missing, broken, accepted, the same, worse, refused, and worse in small steps: there the anchor holds."""
    missing = made_up.runpytest_inprocess()
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(
        ["*there is no accepted result of this test, limit *", "*run it with --ftguard-update*", "regression *INVALID"]
    )
    assert files(made_up) == []
    warned = made_up.runpytest_inprocess("--ftguard-on-missing=warn")
    warned.assert_outcomes(passed=1, warnings=1)
    assert "ftguard_on_missing" not in warned.stdout.str()
    made_up.path.joinpath("gap.txt").write_text("nan")
    made_up.runpytest_inprocess("--ftguard-on-missing=warn").assert_outcomes(failed=1)
    made_up.path.joinpath("gap.txt").write_text("0.1")
    assert files(made_up) == []

    accepted = made_up.runpytest_inprocess("--ftguard-update")
    accepted.assert_outcomes(passed=1)
    unwrapped(accepted).fnmatch_lines(
        ["regression  -  * ACCEPTED", "1 result accepted in *ftguard_baselines: review and commit"]
    )
    (file,) = files(made_up)
    assert file.name.startswith("test_it.test_it-")
    first = file.read_text()
    again = made_up.runpytest_inprocess("--ftguard-update")
    again.assert_outcomes(passed=1)
    unwrapped(again).fnmatch_lines(["1 result accepted before in *ftguard_baselines: unchanged"])
    assert file.read_text() == first

    same = made_up.runpytest_inprocess("--ftguard-json=r.json", "--ftguard-max-regression=0")
    same.assert_outcomes(passed=1)
    (verdict,) = json.loads((made_up.path / "r.json").read_text())["verdicts"]
    assert (verdict["gate"], verdict["status"], verdict["value"], verdict["interval"]) == (
        "regression",
        "PASS",
        0,
        [0, 0],
    )

    made_up.path.joinpath("gap.txt").write_text("0.13")
    worse = made_up.runpytest_inprocess()
    worse.assert_outcomes(failed=1)
    worse.stdout.fnmatch_lines(["*regression FAIL: +0.0300 *", "*if it is intended, delete '*", "regression *FAIL"])
    refused = made_up.runpytest_inprocess("--ftguard-update")
    refused.assert_outcomes(failed=1)
    refused.stdout.fnmatch_lines(["*so every later run would fail*", "*to begin again, delete *"])
    assert file.read_text() == first
    made_up.path.joinpath("gap.txt").write_text("0.115")
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    made_up.path.joinpath("gap.txt").write_text("0.13")
    still = made_up.runpytest_inprocess()
    still.assert_outcomes(failed=1)
    still.stdout.fnmatch_lines(["*grown by +0.0150 * against the accepted result and +0.0300 * against the anchor, *"])
    content = json.loads(file.read_text())
    assert content["anchor"] == json.loads(first)["accepted"]


def test_other_validation_text_is_invalid_and_damage_is_named(made_up: pytest.Pytester) -> None:
    """Neither is green, and neither is overwritten by accepting."""
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    (file,) = files(made_up)
    text = file.read_text()
    made_up.path.joinpath("text.txt").write_text("other text")
    for options in ([], ["--ftguard-update"], ["--ftguard-on-missing=warn"]):
        result = made_up.runpytest_inprocess(*options)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*the validation sequences are not the same*"])
    assert file.read_text() == text
    for damaged, options in ((text[:-50], ["--ftguard-update"]), ('{"schema": 99}', ["--ftguard-on-missing=warn"])):
        file.write_text(damaged)
        result = made_up.runpytest_inprocess(*options)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"*{file.name}*delete it and accept again*"])
        assert "pytest_ftguard/" not in result.stdout.str()
        assert file.read_text() == damaged


def test_accepting_is_refused_where_it_should_not_happen(
    made_up: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed, CI, an ini file, a plan, a gate that did not pass: nothing is written."""
    one = made_up.runpytest_inprocess("--ftguard-update", "--ftguard-seeds=0")
    one.assert_outcomes(failed=1)
    one.stdout.fnmatch_lines(["*not accepted, because lora r=16 was trained with 1 seed, *", "*needs at least 3*"])
    ini = made_up.runpytest_inprocess("-o", "ftguard_update=true")
    assert ini.ret == pytest.ExitCode.USAGE_ERROR
    assert "a run that always accepts never fails" in ini.stderr.str()
    made_up.makepyfile(
        test_it="""
        import pytest
        from pytest_ftguard import assert_loss_gap, assert_no_regression

        def test_it(full_variant, lora_variant):
            with pytest.raises(AssertionError):
                assert_loss_gap(lora_variant, full_variant, at_most=0.001)
            assert_no_regression(lora_variant, full_variant)
        """
    )
    other = made_up.runpytest_inprocess("--ftguard-update")
    other.assert_outcomes(failed=1)
    other.stdout.fnmatch_lines(["*not accepted, because the gate loss_gap of this test ended FAIL, limit *"])
    made_up.makepyfile(test_it=TEST)
    made_up.runpytest_inprocess("--ftguard-update", "--ftguard-disable").assert_outcomes(skipped=1)
    monkeypatch.setenv("CI", "true")
    ci = made_up.runpytest_inprocess("--ftguard-update")
    ci.assert_outcomes(failed=1)
    ci.stdout.fnmatch_lines(["*because the environment variable CI is 'true', limit *", "*--ftguard-update-in-ci*"])
    assert files(made_up) == []
    made_up.runpytest_inprocess("--ftguard-update", "--ftguard-update-in-ci").assert_outcomes(passed=1)
    monkeypatch.setenv("CI", "false")
    made_up.runpytest_inprocess("--ftguard-update").assert_outcomes(passed=1)
    assert len(files(made_up)) == 1


MANY = """
import pytest
from pytest_ftguard import LoRA, assert_no_regression

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("rank", [2, 4, 8])
def test_rank(ftguard, full_variant, rank):
    assert_no_regression(ftguard.train(LoRA(r=rank)), full_variant)

@pytest.mark.ftguard(max_regression="5%")
def test_all(full_variant, lora_variant, ftguard):
    assert_no_regression(lora_variant, full_variant, metric="memory")
    assert_no_regression(lora_variant, full_variant, metric="time")
    assert_no_regression(lora_variant, full_variant, at_most=0.01)
    assert_no_regression(ftguard.train(LoRA(r=2)), full_variant, at_most=0.01)
"""


def test_xdist_workers_write_a_file_each_that_serves_every_metric(made_up: pytest.Pytester) -> None:
    """Accepted by two workers, with groups, and read without workers: names do not depend on how a test was run."""
    made_up.makepyfile(test_it=MANY)
    accepted = made_up.runpytest_inprocess("--ftguard-update", "-n", "2", "--dist=loadgroup")
    accepted.assert_outcomes(passed=4)
    unwrapped(accepted).fnmatch_lines(["5 results accepted in *"])
    names = [file.name for file in files(made_up)]
    assert len(names) == 5
    assert sum(name.endswith(".2.json") for name in names) == 1
    made_up.runpytest_inprocess("-p", "no:xdist", "-o", "markers=xdist_group").assert_outcomes(passed=4)
    made_up.runpytest_inprocess("-n", "2").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("metric='memory'", "max_regression is 0.02 (set by ftguard_max_regression in tox.ini)*a share such as*"),
        ("at_most='5%'", "max_regression is 5% (set by the argument at_most)*a number such as 0.01*"),
        ("metric='speed'", "takes the metric 'loss_gap', 'memory', 'time', got 'speed'*"),
        ("at_most=-1", "limit of the regression must be*"),
        ("on_missing='pass'", "it must be one of fail, warn*"),
    ],
)
def test_a_wrong_argument_is_one_clear_message(made_up: pytest.Pytester, call: str, words: str) -> None:
    """A limit of the wrong unit, an unknown metric, a limit below 0, a wrong choice."""
    made_up.makepyfile(test_it=TEST.replace("full_variant)\n", f"full_variant, {call})\n"))
    result = made_up.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{words}"])
    assert "pytest_ftguard/" not in result.stdout.str()


@pytest.mark.torch
def test_real_trainings_are_the_same_to_the_last_digit(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seeds are accepted; one of them, trained again, has not changed at all; on other text it is INVALID."""
    monkeypatch.delenv("CI", raising=False)
    project.makepyfile(test_it=TEST)
    limit = ["--ftguard-max-regression=0.001"]
    accepted = project.runpytest_inprocess("--ftguard-update", "--ftguard-seeds=0,1,2", *limit)
    accepted.assert_outcomes(passed=1)
    result = project.runpytest_inprocess("--ftguard-json=r.json", "--ftguard-no-cache", *limit)
    result.assert_outcomes(passed=1)
    verdicts: list[dict[str, Any]] = json.loads((project.path / "r.json").read_text())["verdicts"]
    assert [verdict["value"] for verdict in verdicts] == [0]
    validation = project.path / "validation.txt"
    validation.write_text(validation.read_text()[500:])
    changed = project.runpytest_inprocess(*limit)
    changed.assert_outcomes(failed=1)
    changed.stdout.fnmatch_lines(["*the validation sequences are not the same*", "regression *INVALID"])
