"""Each way in which a trial can fail, provoked for real: it ends its trial only and says what to try."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.plain.builders import unwrapped

pytestmark = pytest.mark.torch

TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=3)

def test_other():
    pass
"""
# For what a second variant would show no more of.
ONE = """
from pytest_ftguard import assert_memory_budget

def test_it(full_variant):
    assert_memory_budget(full_variant, at_most="99 GB")

def test_other():
    pass
"""


def test_a_full_memory_ends_the_trial_and_says_what_would_fit(project: pytest.Pytester) -> None:
    """The process may not have more than 4 GB, and the batch takes more: forecasts show the ways out."""
    text = (project.path / "train.txt").read_text() * 27
    (project.path / "train.txt").write_text(text)
    project.makepyfile(TEST)
    project.makeconftest(
        """
        import resource
        from pytest_ftguard.running.local.process import Worker

        real = Worker.run

        def run(self, *arguments):
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (4_096_000_000, 4_096_000_000))
            return real(self, *arguments)

        Worker.run = run
        """
    )
    options = ["-o", "ftguard_batch_size=4096", "-o", "ftguard_block_size=64", "-o", "ftguard_steps=4"]
    result = project.runpytest_subprocess(*options, "--ftguard-json=r.json")
    unwrapped(result).fnmatch_lines(
        [
            "*loss gap INVALID*",
            "*ended out_of_memory: the CPU's allocator could not get *B. Forecast of the peak memory: as it is: *GB; "
            "batch_size = 2048 with gradient_accumulation_steps=2: *; gradient_checkpointing=true: *",
        ]
    )
    result.assert_outcomes(passed=1, failed=1)
    trials = json.loads((project.path / "r.json").read_text())["trials"]
    assert [trial["outcome"] for trial in trials] == ["out_of_memory", "not_trained"]
    assert "gradient_checkpointing=true: " in trials[0]["error"]["message"]
    assert "LoRA" not in trials[0]["error"]["message"]  # nearly all are activations, of which it has as many


def test_a_kill_is_taken_for_a_lack_of_memory(project: pytest.Pytester) -> None:
    """The kernel leaves nothing but the signal, so the way out is foretold as well."""
    project.makepyfile(TEST)
    project.makepyfile(
        deadly="""
        import os, signal
        from pytest_ftguard.running.local.executor import LocalExecutor
        from pytest_ftguard.running.local.process import Worker
        from pytest_ftguard.running.local.workers import Workers

        class Killed(Worker):
            def run(self, job, on_event, is_quiet):
                def watch(event):
                    if event.phase == "load" and job.kind == "train" and job.spec.variant.kind == "full":
                        os.kill(self.pid, signal.SIGKILL)
                    on_event(event)
                return super().run(job, watch, is_quiet)

        def make(options):
            return LocalExecutor(options, Workers(options.root, Killed))
        """
    )
    result = project.runpytest_subprocess("--ftguard-executor=deadly:make")
    unwrapped(result).fnmatch_lines(["*ended crashed*SIGKILL*Forecast of the peak memory: as it is: 2.06 MB; *"])
    result.assert_outcomes(passed=1, failed=1)


def test_a_kill_by_the_kernel_is_told_from_another(project: pytest.Pytester) -> None:
    """Where the kernel's own count of such kills has grown, the outcome is out_of_memory."""
    project.makepyfile(
        ONE, ours="import os\ndef train(model, data, spec):\n    for batch in data:\n        os.kill(os.getpid(), 9)"
    )
    project.makeconftest(
        """
        import itertools
        from pytest_ftguard.running.local import process

        process.oom_kills = itertools.count(7).__next__
        """
    )
    result = project.runpytest_subprocess("--ftguard-training-function=ours:train")
    unwrapped(result).fnmatch_lines(
        ["*ended out_of_memory: its process was ended by SIGKILL, and the kernel killed*in phase 'train'*"]
    )
    result.assert_outcomes(passed=1, failed=1)


def test_a_crash_names_its_signal(project: pytest.Pytester) -> None:
    """A fault in native code ends its trial only: full reads the address 0, and LoRA's training is aborted."""
    project.makepyfile(
        """
        from pytest_ftguard import assert_memory_budget

        def test_full(full_variant):
            assert_memory_budget(full_variant, at_most="1 GB")

        def test_lora(lora_variant):
            assert_memory_budget(lora_variant, at_most="1 GB")

        def test_other():
            pass
        """,
        ours="""
        import ctypes, os

        def train(model, data, spec):
            for batch in data:
                if spec.variant.kind == "full":
                    ctypes.string_at(0)
                os.abort()
        """,
    )
    result = project.runpytest_inprocess("--ftguard-training-function=ours:train")
    for label, signal in (("full", "SIGSEGV"), ("lora r=4", "SIGABRT")):
        unwrapped(result).fnmatch_lines([f"*{label}, seed 0, ended crashed: its process was ended by {signal}*"])
    assert result.stdout.str().count("peak memory INVALID") >= 2
    result.assert_outcomes(passed=1, failed=2)


def test_a_divergence_names_its_step_and_the_setting(project: pytest.Pytester) -> None:
    """The first step whose loss is not finite, and the learning rate to lower."""
    project.makepyfile(TEST)
    result = project.runpytest_inprocess(
        "--ftguard-full-learning-rate=1e30", "--ftguard-training-args=optim=sgd\nmax_grad_norm=0.0"
    )
    unwrapped(result).fnmatch_lines(
        ["*full, seed 0, ended diverged: the * is * at step [123]; try a lower learning rate than * for full*"]
    )
    result.assert_outcomes(passed=1, failed=1)


def test_a_timeout_shows_where_the_trial_stood(project: pytest.Pytester) -> None:
    """It ends the trial, and tells phase, step and the stack of the main thread; the log's tail has the stacks."""
    project.makepyfile(
        """
        from pytest_ftguard import assert_memory_budget

        def test_budget(full_variant):
            assert full_variant.trials[0].measured.outcome == "timed_out"
            assert "most recent call first" in full_variant.trials[0].measured.error.log_tail
            assert_memory_budget(full_variant, at_most="99 GB")

        def test_other():
            pass
        """,
        ours="import time\ndef train(model, data, spec):\n    for batch in data:\n        time.sleep(600)",
    )
    result = project.runpytest_inprocess("--ftguard-training-function=ours:train", "--ftguard-timeout=4 s")
    unwrapped(result).fnmatch_lines(
        ["*it took longer than the timeout of 4 s, in phase 'train' at step 0*", '*ours.py", line 4*']
    )
    result.assert_outcomes(passed=1, failed=1)


def test_wrong_targets_are_found_before_the_weights_are_read(project: pytest.Pytester, tiny_model: Path) -> None:
    """A full and a partial miss are named although the weights are no numbers at all."""
    broken = project.mkdir("broken")
    for path in tiny_model.iterdir():
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            header = 8 + int.from_bytes(content[:8], "little")
            content = content[:header] + b"\xff" * (len(content) - header)
        (broken / path.name).write_bytes(content)
    project.makepyfile("def test_it(lora_variant):\n    pass")
    for targets, missing in (("q_prj", "'q_prj'"), ("c_attn, v_prj", "'v_prj'")):
        result = project.runpytest_inprocess(f"--ftguard-model={broken}", f"--ftguard-lora-target-modules={targets}")
        unwrapped(result).fnmatch_lines([f"*LoRA.target_modules names {missing}, which GPT2LMHeadModel does not have*"])
