"""In a test of both variants, one whose partner has failed is not trained; a test that asks for it alone trains it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.plain.builders import unwrapped

EXECUTOR = """
import os
from dataclasses import replace
from pathlib import Path

from pytest_ftguard.running.executor import Answer, Failure
from tests.plain.builders import trial
from tests.plain.executors import FakeExecutor

HERE = Path(__file__).parent

class Made(FakeExecutor):
    def __init__(self, options):
        super().__init__()

    def train(self, job):
        spec = job.spec
        with (HERE / "trained.txt").open("a") as file:
            file.write(f"{spec.variant.kind} {spec.seed}\\n")
        if f"{spec.variant.kind} {spec.seed}" in os.environ.get("FAILS", ""):
            message = "its process was ended by SIGKILL, in phase 'train'. Perhaps"
            return Answer(failure=Failure(kind="crashed", message=message, log_tail="the log", phase="train"))
        nll = [20.0 + 0.01 * number for number in range(64)]
        return replace(trial(spec.variant, nll, seed=spec.seed), spec=spec)
"""
BOTH = """
from pytest_ftguard import assert_loss_gap, assert_memory_budget

def test_both({arguments}):
    try:
        assert_loss_gap(lora_variant, full_variant, at_most=3)
    finally:
        assert_memory_budget({spared}_variant, at_most="1 GB")
"""


@pytest.fixture
def failing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, warm_runs: None) -> pytest.Pytester:
    """A project whose trainings are made up: those in FAILS crash, and trained.txt lists all."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}:{Path(__file__).parents[2] / 'src'}")
    for name in ("m/config.json", "t", "v"):
        (pytester.path / name).parent.mkdir(exist_ok=True)
        (pytester.path / name).write_text("{}")
    pytester.makeini(
        f"[pytest]\nftguard_model = {pytester.path / 'm'}\nftguard_train = t\nftguard_validation = v\n"
        "ftguard_executor = made_up:Made\nftguard_seeds = 0, 1\nftguard_full_learning_rate = 1e-4\n"
        "ftguard_gain_factor = 0\n"
    )
    pytester.makepyfile(made_up=EXECUTOR)
    pytester.makeconftest("")
    return pytester


def trained(project: pytest.Pytester) -> list[str]:
    """What was trained, in order; the list is emptied."""
    path = project.path / "trained.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("first", "spared"), [("full", "lora"), ("lora", "full")])
def test_the_partner_of_a_failed_variant_is_not_trained(
    failing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, first: str, spared: str, workers: int
) -> None:
    """Neither gate gives a verdict, and both name the failure; it is so in each order of the fixtures."""
    monkeypatch.setenv("FAILS", f"{first} 0")
    failing.makepyfile(BOTH.format(arguments=f"{first}_variant, {spared}_variant", spared=spared))
    options = ["-n", str(workers)] if workers else []
    result = failing.runpytest_subprocess("--ftguard-json=r.json", *options)
    result.assert_outcomes(failed=1)
    assert trained(failing) == [f"{first} 0"]
    label = {"full": "full", "lora": "lora r=16"}
    unwrapped(result).fnmatch_lines(
        [
            "*peak memory INVALID*",
            f"{label[spared]}, seed 0, was not trained: its partner {label[first]}, seed 0, ended crashed"
            " (its process was ended by SIGKILL, in phase 'train'), so no gate can compare the two; a test that asks "
            f"for {spared}_variant alone trains it",
        ]
    )
    trials = json.loads((failing.path / "r.json").read_text())["trials"]
    assert sorted(trial["outcome"] for trial in trials) == ["crashed", "not_trained", "not_trained", "not_trained"]
    verdicts = json.loads((failing.path / "r.json").read_text())["verdicts"]
    assert [verdict["status"] for verdict in verdicts] == ["INVALID", "INVALID"]
    assert all("ended by SIGKILL" in verdict["message"] for verdict in verdicts)


def test_without_a_failure_both_are_trained(failing: pytest.Pytester) -> None:
    """The other side."""
    failing.makepyfile(BOTH.format(arguments="full_variant, lora_variant", spared="lora"))
    failing.runpytest_subprocess().assert_outcomes(passed=1)
    assert trained(failing) == ["full 0", "full 1", "lora 0", "lora 1"]


def test_a_test_of_one_variant_trains_it(failing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so after a test of both, whose verdict stays INVALID, and before one, which then uses what is there."""
    monkeypatch.setenv("FAILS", "full 1")
    source = BOTH.format(arguments="full_variant, lora_variant", spared="lora").partition("    finally")[0]
    failing.makepyfile(
        source
        + """
    except BaseException as error:
        (Path(__file__).parent / "error.txt").write_text(str(error))
        raise

def test_again(full_variant, lora_variant):
    assert [trial.measured.outcome for trial in lora_variant.trials] == ["not_trained"] * 2

def test_alone(lora_variant):
    assert_memory_budget(lora_variant, at_most="1 GB")

def test_afterwards(full_variant, lora_variant):
    assert full_variant.trials[1].measured.outcome == "crashed"
    assert lora_variant.ok

from pathlib import Path
"""
    )
    result = failing.runpytest_subprocess("--ftguard-json=r.json")
    result.assert_outcomes(passed=3, failed=1)
    assert trained(failing) == ["full 0", "full 1", "lora 0", "lora 1"]
    assert "partner full, seed 1, ended crashed" in (failing.path / "error.txt").read_text()
    outcomes = [trial["outcome"] for trial in json.loads((failing.path / "r.json").read_text())["trials"]]
    assert sorted(outcomes) == ["crashed", "ok", "ok", "ok"]
    result.stdout.no_fnmatch_line("lora*was not trained*")


def test_what_the_store_holds_is_used(failing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs nothing; the gate of the pair is INVALID all the same, and that of the other variant is judged."""
    failing.makepyfile(test_one="def test_alone(lora_variant):\n    assert lora_variant.ok")
    failing.runpytest_subprocess().assert_outcomes(passed=1)
    assert trained(failing) == ["lora 0", "lora 1"]
    monkeypatch.setenv("FAILS", "full 0")
    failing.makepyfile(test_one=BOTH.format(arguments="full_variant, lora_variant", spared="lora"))
    result = failing.runpytest_subprocess("--ftguard-json=r.json")
    result.assert_outcomes(failed=1)
    assert trained(failing) == ["full 0"]
    verdicts = json.loads((failing.path / "r.json").read_text())["verdicts"]
    assert [verdict["status"] for verdict in verdicts] == ["INVALID", "PASS"]


def test_a_direct_call_trains_as_asked(failing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls ftguard.train has decided."""
    monkeypatch.setenv("FAILS", "full 0")
    failing.makepyfile(
        """
        def test_both(full_variant, lora_variant, ftguard, ftguard_lora):
            assert not lora_variant.ok
            assert ftguard.train(ftguard_lora).ok
        """
    )
    failing.runpytest_subprocess().assert_outcomes(passed=1)
    assert trained(failing) == ["full 0", "lora 0", "lora 1"]


def test_a_variant_that_comes_from_elsewhere_spares_nothing(
    failing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a module that has a full_variant of its own, the failure of ours says nothing about it."""
    monkeypatch.setenv("FAILS", "full 0")
    failing.makepyfile(
        test_a="def test_full(full_variant):\n    assert not full_variant.ok",
        test_b="""
        import pytest

        @pytest.fixture
        def full_variant():
            return "read from a report"

        def test_both(full_variant, lora_variant):
            assert lora_variant.ok
        """,
    )
    failing.runpytest_subprocess().assert_outcomes(passed=2)
    assert trained(failing) == ["full 0", "lora 0", "lora 1"]


def test_a_plan_spares_nothing(failing: pytest.Pytester) -> None:
    """Nothing has failed where nothing was trained: both are listed."""
    failing.makepyfile(BOTH.format(arguments="full_variant, lora_variant", spared="lora"))
    result = failing.runpytest_subprocess("--ftguard-plan")
    result.stdout.fnmatch_lines(["plan: 4 trials to train, 0 cached*"])
    assert trained(failing) == []


def test_a_search_is_spared_too(failing: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the learning rate of what is not trained would cost as much as the training."""
    monkeypatch.setenv("FAILS", "full 0")
    failing.makepyfile(BOTH.format(arguments="full_variant, lora_variant", spared="lora"))
    failing.runpytest_subprocess("--ftguard-lora-search-learning-rate=yes").assert_outcomes(failed=1)
    assert trained(failing) == ["full 0"]
