"""A plan trains nothing and says what would be trained; a training that cannot fit is not started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.plain.builders import unwrapped

from pytest_ftguard import ConfigurationError, read_report

pytestmark = pytest.mark.torch

TEST = """
import pytest

from pytest_ftguard import ConfigurationError, read_report
from pytest_ftguard import LoRA, assert_loss_gap, assert_memory_budget

def test_gates(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=3)
    assert_memory_budget(lora_variant, "90%", of=full_variant)
    assert_memory_budget(lora_variant, "1 MB")
    assert lora_variant.load()

@pytest.mark.xfail(strict=True)
def test_more(ftguard, full_variant):
    raise RuntimeError(ftguard.train(LoRA(r=2)).loss)

def test_other():
    raise RuntimeError("not run under a plan")
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plan_lists_the_trials_and_trains_nothing(project: pytest.Pytester, workers: int) -> None:
    """Exit 0, whatever the tests do; forecasts, shares and budgets are shown, also under xdist."""
    project.makepyfile(TEST)
    options = ["-n", str(workers)] if workers else []
    result = project.runpytest_inprocess("--ftguard-plan", "--ftguard-seeds=0,1", "--ftguard-json=p.json", *options)
    assert result.ret == 0
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(
        [
            "plan: 6 trials to train, 0 cached; nothing was trained",
            "full * 2 * 39,808 * MB",
            "lora r=4 * 2 * 4,096 * MB *%",
            "lora r=4: 8*% of full within the budget of 90% (argument)",
            "    *::test_gates",
            "lora r=4: 1.7* MB BREAKS the budget of 1* MB (argument)",
        ]
    )
    report = json.loads((project.path / "p.json").read_text())
    assert {trial["outcome"] for trial in report["trials"]} == {"planned"}
    assert all(trial["memory"]["forecast_bytes"] > 1e6 for trial in report["trials"])
    assert report["verdicts"] == []


def test_what_the_plan_foretells_is_what_the_training_takes(project: pytest.Pytester) -> None:
    """The forecast and the measured peak differ by less than a hundredth."""
    project.makepyfile("def test_it(full_variant, lora_variant):\n    pass")
    peaks = {}
    for name, options in (("plan", ["--ftguard-plan"]), ("run", [])):
        project.runpytest_inprocess(*options, f"--ftguard-json={name}.json")
        trials = json.loads((project.path / f"{name}.json").read_text())["trials"]
        key = "forecast_bytes" if options else "peak_bytes"
        peaks[name] = {trial["label"]: trial["memory"][key] for trial in trials}
    assert peaks["plan"] == pytest.approx(peaks["run"], rel=0.01)


def test_wrong_targets_fail_a_plan_too(project: pytest.Pytester) -> None:
    """A plan is there to find mistakes before the GPU is paid for."""
    project.makepyfile(TEST)
    result = project.runpytest_inprocess("--ftguard-plan", "--ftguard-lora-target-modules=q_prj")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*LoRA.target_modules names 'q_prj'*"])


@pytest.mark.parametrize("role", ["train", "validation", "reference"])
def test_a_missing_text_fails_a_plan_too(project: pytest.Pytester, role: str) -> None:
    """So does the training, with the same name; nothing is forecast for it."""
    project.makepyfile("def test_it(full_variant):\n    pass")
    result = project.runpytest_inprocess("--ftguard-plan", f"--ftguard-{role}=nowhere.txt")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*the {role} text '*nowhere.txt' cannot be read: there is no such file; give *"])


def test_a_budget_that_must_break_fails_before_the_training(project: pytest.Pytester) -> None:
    """Full fine-tuning is not held against it; if the forecast is switched off the training decides."""

    def write(budget: str) -> None:
        project.makepyfile(
            test_it=f"""
            import pytest
            from pytest_ftguard import assert_memory_budget

            def test_full(full_variant):
                assert full_variant.ok

            @pytest.mark.ftguard(max_memory="{budget}")
            def test_lora(lora_variant):
                assert_memory_budget(lora_variant)
            """
        )

    write("1 MB")
    hopeless = project.runpytest_inprocess("--ftguard-json=r.json")
    hopeless.assert_outcomes(passed=1, errors=1)
    hopeless.stdout.fnmatch_lines(
        [
            "ftguard: lora r=4 was not trained: its peak memory is forecast at 1.7* MB, clearly above the budget of "
            "1* MB (the marker ftguard(max_memory=...)). Set ftguard_forecast = no to train it anyway"
        ]
    )
    assert [trial["label"] for trial in json.loads((project.path / "r.json").read_text())["trials"]] == ["full"]
    tried = project.runpytest_inprocess("--ftguard-forecast=no")
    tried.assert_outcomes(passed=1, failed=1)
    tried.stdout.fnmatch_lines(["*peak memory FAIL*"])
    write("1.7 MB")
    close = project.runpytest_inprocess("--ftguard-no-cache")
    close.assert_outcomes(passed=1, failed=1)


def test_one_tests_budget_does_not_take_the_variant_from_the_others(project: pytest.Pytester) -> None:
    """A session variant is trained where any test has a use for it; the test with the small budget fails alone."""
    project.makepyfile(
        """
        import pytest
        from pytest_ftguard import assert_memory_budget

        @pytest.mark.ftguard(max_memory="100 KB")
        def test_small(lora_variant):
            assert_memory_budget(lora_variant)

        @pytest.mark.ftguard(max_memory="1 GB")
        def test_large(lora_variant):
            assert_memory_budget(lora_variant)
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*peak memory FAIL*"])


def test_a_budget_of_the_settings_refuses_no_training(project: pytest.Pytester) -> None:
    """Which tests will ask for memory is not known before: those that do fail afterwards."""
    project.makepyfile(
        """
        from pytest_ftguard import assert_loss_gap, assert_memory_budget

        def test_loss(full_variant, lora_variant):
            assert_loss_gap(lora_variant, full_variant, at_most=3)

        def test_memory(lora_variant):
            assert_memory_budget(lora_variant)
        """
    )
    result = project.runpytest_inprocess("--ftguard-max-memory=100 KB")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["peak memory * FAIL"])


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has the device")
def test_a_plan_needs_no_device(project: pytest.Pytester) -> None:
    """For a GPU that is not here the trials are listed with their forecast, and the heading says what was assumed."""
    project.makepyfile("def test_it(full_variant, lora_variant): pass")
    result = project.runpytest_inprocess("--ftguard-plan", "--ftguard-device=cuda", "--ftguard-precision=auto")
    assert result.ret == 0
    unwrapped(result).fnmatch_lines(["plan: 2 trials to train, 0 cached; *", "* | cuda, which is not here, bf16"])
    result.stdout.fnmatch_lines(["full * MB", "lora r=4 * MB *%"])


def test_a_plan_says_what_will_not_fit(project: pytest.Pytester) -> None:
    """As the run would, which does not start it."""
    giant = {"model_type": "gpt2", "n_embd": 2**18, "n_layer": 1, "n_head": 2, "vocab_size": 384, "n_positions": 64}
    project.mkdir("giant").joinpath("config.json").write_text(json.dumps(giant))
    project.makepyfile("def test_it(full_variant): pass")
    result = project.runpytest_inprocess("--ftguard-plan", "--ftguard-model=giant")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["full: it will not fit: * has * free, and its*"])


def test_a_mistake_in_a_test_fails_the_plan(project: pytest.Pytester) -> None:
    """A share of nothing, or a helper without a limit, would fail the run as well, after it has trained."""
    project.makepyfile(
        """
        from pytest_ftguard import assert_loss_gap, assert_memory_budget

        def test_share(lora_variant):
            assert_memory_budget(lora_variant, at_most="60%")

        def test_no_limit(full_variant, lora_variant):
            assert_loss_gap(lora_variant, full_variant)
        """
    )
    result = project.runpytest_inprocess("--ftguard-plan")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*is a share of another variant's peak*"])


def test_a_plan_says_where_a_test_stopped_and_is_no_report(project: pytest.Pytester) -> None:
    """A fixture of the user's that needs the trained model skips its test; results of a plan cannot be read back."""
    project.makepyfile(
        """
        import pytest
        from pytest_ftguard import read_report

        @pytest.fixture
        def loaded(lora_variant):
            return lora_variant.load()

        def test_loaded(loaded):
            pass

        def test_body(full_variant):
            raise NameError("undefined")
        """
    )
    options = ["--ftguard-json=p.json", "--ftguard-calibrate=10", "--ftguard-calibration=c.json"]
    result = project.runpytest_inprocess("--ftguard-plan", "--ftguard-require-gpu", "-rs", *options)
    assert result.ret == 0
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*stopped at FtguardError: lora r=4, seed 0, has no trained model*"])
    result.stdout.fnmatch_lines(["*stopped at NameError: undefined*"])
    with pytest.raises(ConfigurationError, match="is that of a plan"):
        read_report(project.path / "p.json")
