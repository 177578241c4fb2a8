"""Gates decide tests, and the terminal, JSON and JUnit XML agree about it, without and with xdist."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from tests.plain.builders import unwrapped

TESTS = """
import pytest
from pytest_ftguard import LimitExceeded, LoRA, assert_loss_gap, assert_memory_budget

def test_generous(full_variant, lora_variant):
    assert assert_loss_gap(lora_variant, full_variant, at_most=5).status == "PASS"

def test_strict(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=0.0001)

@pytest.mark.xfail(strict=True, raises=LimitExceeded)
def test_known_gap(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=0.0001)

@pytest.mark.ftguard(max_memory="99%")
def test_memory(full_variant, lora_variant):
    assert_memory_budget(lora_variant, of=full_variant)

def test_no_limit(lora_variant):
    assert_memory_budget(lora_variant)

def test_swapped(full_variant, lora_variant):
    assert_loss_gap(full_variant, lora_variant, at_most=5)

def test_itself(lora_variant):
    assert_memory_budget(lora_variant, of=lora_variant, at_most="100%")

def test_nonsense(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most="60 bananas")

def test_spec(ftguard):
    ftguard.train(LoRA(r=0))
"""


@pytest.mark.torch
@pytest.mark.parametrize("workers", [0, 2])
def test_verdicts_reach_tests_and_files(project: pytest.Pytester, workers: int) -> None:
    """FAIL fails, a strict xfail of it passes, a helper without a limit fails, and every report says the same."""
    project.makepyfile(test_gates=TESTS)
    options = ["-n", str(workers), "--dist=load"] if workers else []
    project.mkdir("out")
    result = project.runpytest_inprocess("--ftguard-json=out/r.json", "--junitxml=junit.xml", *options)
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=6, xfailed=1)
    output = result.stdout.str()
    assert output.count("ftguard summary") == 1
    assert "lora r=4" in output
    assert "a gate without a limit is never green" in output
    assert "as the baseline: swap them, assert_loss_gap(" in output
    assert "such a gate cannot fail" in output
    assert "'60 bananas'" in output
    assert "LoRA.r must be a whole number of at least 1, got 0" in output
    assert "(the argument at_most)" in output
    assert "pytest_ftguard/" not in output  # no traceback into the plugin
    assert "<string>" not in output

    report: dict[str, Any] = json.loads((project.path / "out/r.json").read_text())
    assert report["schema"] == 1
    assert sorted(one["variant"] for one in report["trials"] if one["purpose"] == "gates") == ["full", "lora"]
    verdicts = {verdict["nodeid"].rpartition("::")[2]: verdict for verdict in report["verdicts"]}
    statuses = {name: verdict["status"] for name, verdict in verdicts.items()}
    assert statuses == {"test_generous": "PASS", "test_strict": "FAIL", "test_known_gap": "FAIL", "test_memory": "PASS"}
    assert verdicts["test_strict"]["interval"][0] > 0.0001
    assert verdicts["test_memory"]["limit_source"] == "marker"

    cases = {case.attrib["name"]: case for case in ET.parse(project.path / "junit.xml").iter("testcase")}
    assert cases["test_strict"].find("failure") is not None
    assert cases["test_generous"].find("failure") is None
    properties = {item.attrib["name"]: item.attrib["value"] for item in cases["test_strict"].iter("property")}
    assert properties["ftguard.loss_gap.status"] == "FAIL"
    assert float(properties["ftguard.loss_gap.value"]) == pytest.approx(verdicts["test_strict"]["value"])


@pytest.mark.torch
def test_each_variant_is_trained_once_and_can_be_loaded(project: pytest.Pytester) -> None:
    """`ftguard.train` of the session's variant trains nothing new, another rank does, and load() gives the model."""
    project.makepyfile(
        """
        from pytest_ftguard import Full, LoRA

        def test_train(ftguard, full_variant, lora_variant):
            assert ftguard.train(LoRA(r=4)).trials[0] is lora_variant.trials[0]
            other = ftguard.train(LoRA(r=2))
            assert other.trainable_parameters * 2 == lora_variant.trainable_parameters
            assert other.trials[0].measured.base_validation == full_variant.trials[0].measured.base_validation
            model, tokenizer = other.load()
            assert type(model).__name__ == "PeftModelForCausalLM"
            assert full_variant.trials[0].spec.variant.learning_rate == 1e-3
            assert lora_variant.trials[0].spec.variant.learning_rate == 1e-2
        """
    )
    result = project.runpytest_inprocess("--ftguard-json=r.json")
    result.assert_outcomes(passed=1)
    assert len(json.loads((project.path / "r.json").read_text())["trials"]) == 3


@pytest.mark.torch
@pytest.mark.parametrize(
    ("ini", "words"),
    [
        ("ftguard_train = nowhere.txt", "nowhere.txt"),
        ("ftguard_validation = empty.txt", "is empty"),
        ("ftguard_batch_size = 4000", "fewer than a batch of 4000"),
        ("ftguard_model = nobody/nothing", "'nobody/nothing'"),
        ("ftguard_lora_target_modules = c_attn, v_proj", "its linear layers end in c_attn, c_fc, c_proj"),
    ],
)
def test_a_mistake_in_what_is_trained_is_one_clear_message(project: pytest.Pytester, ini: str, words: str) -> None:
    """The test errs with the message, without a traceback, and the run fails."""
    project.path.joinpath("empty.txt").write_text("")
    project.makepyfile("def test_it(lora_variant): pass")
    name, _, value = ini.partition(" = ")
    result = project.runpytest_inprocess("-o", f"{name}={value}")
    assert result.ret == 1
    result.assert_outcomes(errors=1)
    assert result.stdout.str().count(words) <= 2  # in the section of failures, and in pytest's own summary
    assert words in result.stdout.str()
    assert "Traceback" not in result.stdout.str()
    assert "During handling" not in result.stdout.str()


@pytest.mark.torch
def test_a_trial_whose_process_is_killed_makes_its_gates_invalid(project: pytest.Pytester) -> None:
    """SIGKILL of the worker ends its trial only: the gate is INVALID and names the signal; other tests go on."""
    project.makepyfile(
        deadly="""
        import os, signal
        from pytest_ftguard.running.local.executor import LocalExecutor
        from pytest_ftguard.running.local.process import Worker
        from pytest_ftguard.running.local.workers import Workers

        class Killed(Worker):
            def run(self, job, on_event, is_quiet):
                def deadly(event):
                    if event.phase == "train" and job.spec.variant.kind == "lora":
                        os.killpg(self.pid, signal.SIGKILL)
                    on_event(event)
                return super().run(job, deadly, is_quiet)

        def make(options):
            return LocalExecutor(options, Workers(options.root, Killed))
        """
    )
    project.makepyfile(
        """
        from pytest_ftguard import assert_loss_gap, assert_memory_budget

        def test_gap(full_variant, lora_variant):
            assert_loss_gap(lora_variant, full_variant, at_most=99)

        def test_budget(lora_variant):
            assert_memory_budget(lora_variant, at_most="99 GB")

        def test_other(full_variant):
            assert full_variant.loss > 0
        """
    )
    result = project.runpytest_subprocess("--ftguard-executor=deadly:make", timeout=300)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*loss gap INVALID*", "*peak memory INVALID*", "*ended crashed*SIGKILL*"])


@pytest.mark.torch
def test_an_expected_failure_does_not_hide_a_crash(project: pytest.Pytester) -> None:
    """xfail(raises=LimitExceeded) stands for the known gap only: INVALID, refused training and no limit fail."""
    project.makepyfile(
        """
        import dataclasses, pytest
        from pytest_ftguard import LimitExceeded, assert_loss_gap

        known_gap = pytest.mark.xfail(strict=True, raises=LimitExceeded)

        @known_gap
        def test_invalid(full_variant, lora_variant):
            failed = dataclasses.replace(lora_variant.trials[0], outcome="crashed")
            assert_loss_gap(dataclasses.replace(lora_variant, trials=(failed,)), full_variant, at_most=0.0001)

        @known_gap
        def test_no_limit(full_variant, lora_variant):
            assert_loss_gap(lora_variant, full_variant)

        @known_gap
        def test_gap(full_variant, lora_variant):
            assert_loss_gap(lora_variant, full_variant, at_most=0.0001)
        """
    )
    project.runpytest_inprocess().assert_outcomes(failed=2, xfailed=1)


@pytest.mark.torch
def test_a_gate_that_is_asked_twice_has_two_sets_of_properties(project: pytest.Pytester) -> None:
    """The second verdict is numbered, and a rerun of the test forgets the properties of the run before."""
    project.makeconftest(
        """
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.hookimpl(trylast=True)
        def pytest_runtest_protocol(item, nextitem):  # as plugins that rerun tests do
            runtestprotocol(item, nextitem=nextitem, log=False)
            for report in runtestprotocol(item, nextitem=nextitem, log=False):
                item.ihook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    project.makepyfile(
        """
        from pytest_ftguard import assert_memory_budget

        def test_twice(full_variant, lora_variant):
            assert_memory_budget(lora_variant, "1 GB")
            assert_memory_budget(lora_variant, "99%", of=full_variant)
        """
    )
    project.runpytest_inprocess("--junitxml=junit.xml").assert_outcomes(passed=1)
    names = [item.attrib["name"] for item in ET.parse(project.path / "junit.xml").iter("property")]
    assert names.count("ftguard.memory_budget.status") == 1
    assert names.count("ftguard.memory_budget.2.status") == 1
    assert not [name for name in names if ".3." in name]


@pytest.mark.torch
def test_a_report_that_cannot_be_written_loses_no_verdict(project: pytest.Pytester) -> None:
    """The summary is printed, names the file, and the run is not green."""
    project.makepyfile(
        """
        import pathlib
        from pytest_ftguard import assert_memory_budget

        def test_budget(lora_variant):
            pathlib.Path("r.json").mkdir()  # after the check at the start
            assert_memory_budget(lora_variant, "1 GB")
        """
    )
    result = project.runpytest_inprocess("--ftguard-json=r.json", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    unwrapped(result).fnmatch_lines(["peak memory*PASS", "*r.json (set by the option --ftguard-json) was not written*"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert (project.path / "junit.xml").exists()


def test_a_report_below_a_file_is_refused_before_anything_is_trained(project: pytest.Pytester) -> None:
    """Hours of training are not lost to a path that never could be written."""
    result = project.runpytest_inprocess("--ftguard-json=train.txt/r.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "train.txt" in result.stderr.str()


@pytest.mark.torch
def test_a_text_that_changes_during_the_run_is_refused(project: pytest.Pytester) -> None:
    """Trials are told apart by paths, so another content under the same path would be a stale answer."""
    project.makepyfile(
        """
        import pathlib
        from pytest_ftguard import LoRA

        def test_first(lora_variant):
            pass

        def test_second(ftguard):
            path = pathlib.Path("train.txt")
            path.write_text(path.read_text() * 2)
            ftguard.train(LoRA(r=4))
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*train.txt', the workload's train, was changed after it was first used*"])


@pytest.mark.torch
def test_a_worker_that_died_while_it_waited_is_replaced(project: pytest.Pytester) -> None:
    """The next worker, killed before its turn, costs the trial that would have used it nothing but the imports."""
    project.makepyfile(
        deadly="""
        import os, signal
        from pytest_ftguard.running.local.executor import LocalExecutor
        from pytest_ftguard.running.local.process import Worker
        from pytest_ftguard.running.local.workers import Workers

        started = []

        class Started(Worker):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                started.append(self)

        def make(options):
            return LocalExecutor(options, Workers(options.root, Started))

        def kill_the_one_that_waits():
            (spare,) = (worker for worker in started if not worker.has_ended)
            os.killpg(spare.pid, signal.SIGKILL)
            while not spare.has_ended:
                pass
        """
    )
    project.makepyfile(
        """
        import deadly, pytest

        @pytest.fixture(scope="session")
        def without_spare(full_variant):
            deadly.kill_the_one_that_waits()

        def test_it(full_variant, without_spare, lora_variant):
            assert lora_variant.loss > 0
            assert len(deadly.started) == 3
        """
    )
    result = project.runpytest_subprocess("--ftguard-executor=deadly:make", timeout=300)
    result.assert_outcomes(passed=1)


@pytest.mark.torch
@pytest.mark.usefixtures("cold")
def test_timed_steps_wait_until_the_next_worker_has_imported(project: pytest.Pytester) -> None:
    """While the next worker still imports, on the same processor cores, no step is trained."""
    project.makepyfile(
        slow="""
        import time
        from pytest_ftguard.running.local.executor import LocalExecutor
        from pytest_ftguard.running.local.process import Worker
        from pytest_ftguard.running.local.workers import Workers

        asked, trained = [], []

        class Slow(Worker):
            def is_quiet(self):
                asked.append(time.monotonic())
                return super().is_quiet() and asked[-1] > asked[0] + 2

            def run(self, job, on_event, is_quiet):
                def watch(event):
                    if event.phase == "train":
                        trained.append(time.monotonic())
                    on_event(event)
                return super().run(job, watch, is_quiet)

        def make(options):
            return LocalExecutor(options, Workers(options.root, Slow))
        """
    )
    project.makepyfile(
        """
        from slow import asked, trained

        def test_it(full_variant):
            assert trained[0] > asked[0] + 2

        def test_other(lora_variant):
            pass
        """
    )
    project.runpytest_subprocess("--ftguard-executor=slow:make", timeout=300).assert_outcomes(passed=2)


@pytest.mark.torch
@pytest.mark.usefixtures("cold")
def test_what_launchers_leave_in_the_environment_does_not_reach_a_trial(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside `accelerate launch` or torchrun a trial is still one process in the precision that was asked for."""
    for name, value in {
        "ACCELERATE_MIXED_PRECISION": "fp16",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    project.makepyfile("def test_it(full_variant): assert full_variant.trials[0].measured.outcome == 'ok'")
    project.runpytest_subprocess("--ftguard-timeout=100 s", timeout=300).assert_outcomes(passed=1)
