"""Nothing is trained twice: not by the next run, not by another process at the same time, not by xdist's workers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from tests.plain.builders import unwrapped
from tests.warm import PLACE

pytestmark = pytest.mark.torch

GATES = """
from pytest_ftguard import assert_loss_gap, assert_memory_budget

def test_loss(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=3)

def test_memory(full_variant, lora_variant):
    assert_memory_budget(lora_variant, at_most="99%", of=full_variant)
"""


@pytest.fixture
def gates(project: pytest.Pytester) -> pytest.Pytester:
    """The project, with a gate on the loss and one on memory."""
    project.makepyfile(GATES)
    return project


def report(folder: Path, name: str = "r.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def cached(folder: Path, name: str = "r.json") -> dict[str, bool]:
    return {trial["label"]: trial["cached"] for trial in report(folder, name)["trials"]}


def without_cached(values: dict[str, Any]) -> dict[str, Any]:
    """The report as it would be had everything been trained in it, in any order."""
    trials = [{**trial, "cached": None} for trial in values["trials"]]
    return {**values, "trials": sorted(trials, key=json.dumps), "verdicts": sorted(values["verdicts"], key=json.dumps)}


def test_a_second_run_trains_nothing_and_needs_no_torch(
    gates: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts and report are the same but for the word cached, in a process that could not import torch."""
    first = gates.runpytest_subprocess("--ftguard-json=first.json")
    first.assert_outcomes(passed=2)
    assert cached(gates.path, "first.json") == {"full": False, "lora r=4": False}
    no_torch = gates.mkdir("no_torch")
    (no_torch / "torch.py").write_text("raise ImportError('torch is not to be imported')")
    gates.makeconftest(f"import sys; sys.path.insert(0, {str(no_torch)!r})")
    monkeypatch.delenv(PLACE, raising=False)  # a process that the server forks would have imported it
    again = gates.runpytest_subprocess("--ftguard-json=again.json")
    again.assert_outcomes(passed=2)
    again.stdout.fnmatch_lines(["full (cached) *", "lora r=4 (cached) *"])
    assert cached(gates.path, "again.json") == {"full": True, "lora r=4": True}
    assert without_cached(report(gates.path, "again.json")) == without_cached(report(gates.path, "first.json"))


def test_a_variant_of_which_some_seeds_are_cached_stands_in_one_row(gates: pytest.Pytester) -> None:
    """With how many they are: another row would look like another variant."""
    gates.runpytest_inprocess("--ftguard-seeds=0,1")
    more = gates.runpytest_inprocess("--ftguard-seeds=0,1,2")
    more.stdout.fnmatch_lines(["variant *", "base model *", "full (2 of 3 cached) *", "lora r=4 (2 of 3 cached) *"])
    assert sum("lora r=4 (2 of" in line for line in more.outlines) == 1
    planned = gates.runpytest_inprocess("--ftguard-seeds=0,1,2,3", "--ftguard-plan")
    planned.stdout.fnmatch_lines(["full (3 of 4 cached) * 4 *"])


def test_only_what_has_changed_is_trained_and_the_difference_is_named(gates: pytest.Pytester) -> None:
    """Another rank trains LoRA alone; another text trains both."""
    gates.runpytest_inprocess()
    rank = gates.runpytest_inprocess("--ftguard-lora-r=2", "--ftguard-json=r.json")
    rank.assert_outcomes(passed=2)
    assert cached(gates.path) == {"full": True, "lora r=2": False}
    rank.stdout.fnmatch_lines(
        [
            "trained, not taken from the store: lora r=2, seed 0; the nearest there differs",
            "      in: lora_r (4 -> 2)",
        ],
        consecutive=True,
    )
    with (gates.path / "train.txt").open("a") as text:
        text.write("and a little more " * 50)
    changed = gates.runpytest_inprocess("--ftguard-json=r.json")
    assert cached(gates.path) == {"full": False, "lora r=4": False}
    changed.stdout.fnmatch_lines(
        ["trained, not taken from the store: full, seed 0; the nearest there differs in:", "      train text"],
        consecutive=True,
    )


@pytest.mark.parametrize("option", ["--ftguard-no-cache", "--ftguard-protected"])
def test_where_the_store_is_not_to_be_believed_everything_is_trained(gates: pytest.Pytester, option: str) -> None:
    """Not stored at all without a cache; in protected mode it is written, and read by whoever trusts it."""
    gates.runpytest_inprocess(option, "--ftguard-json=r.json")
    assert cached(gates.path) == {"full": False, "lora r=4": False}
    assert (gates.path / ".ftguard_cache").exists() is (option == "--ftguard-protected")
    gates.runpytest_inprocess(option, "--ftguard-json=r.json")
    assert cached(gates.path) == {"full": False, "lora r=4": False}


def test_a_damaged_entry_is_named_set_aside_and_trained_again(gates: pytest.Pytester) -> None:
    """The other entry is still used, and the verdicts stand."""
    gates.runpytest_inprocess()
    entries = sorted((gates.path / ".ftguard_cache" / "results").rglob("*.json"))
    assert len(entries) == 2
    content = entries[0].read_bytes()
    entries[0].write_bytes(content[:-200] + bytes([content[-200] ^ 1]) + content[-199:])
    result = gates.runpytest_inprocess("--ftguard-json=r.json")
    result.assert_outcomes(passed=2)
    unwrapped(result).fnmatch_lines(
        ["note: the stored result*is damaged*it was moved to*and its trial is trained again"]
    )
    assert sorted(cached(gates.path).values()) == [False, True]


def test_signed_results_are_checked_with_the_key(gates: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Required without a key is an error of usage; unsigned ones are named and trained again, signed ones are used."""
    refused = gates.runpytest_inprocess("--ftguard-require-signed")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*require_signed*set by the option*FTGUARD_SIGNING_KEY*"])
    gates.runpytest_inprocess()
    monkeypatch.setenv("FTGUARD_SIGNING_KEY", "secret")
    unsigned = gates.runpytest_inprocess("--ftguard-require-signed", "--ftguard-json=r.json")
    unwrapped(unsigned).fnmatch_lines(["note: the stored result*is not used: it has no valid signature by this key*"])
    assert cached(gates.path) == {"full": False, "lora r=4": False}
    gates.runpytest_inprocess("--ftguard-require-signed", "--ftguard-json=r.json")
    assert cached(gates.path) == {"full": True, "lora r=4": True}


TIME = """
from pytest_ftguard import assert_time_budget

def test_time(full_variant, lora_variant):
    assert_time_budget(lora_variant, at_most="10000000%", of=full_variant)

def test_time_again(full_variant, lora_variant):
    assert_time_budget(lora_variant, at_most="0.01%", of=full_variant)
"""


SHORT = """
from pytest_ftguard.specs import short

short._SECONDS = 0.0
"""


def purposes(folder: Path) -> dict[tuple[str, str], list[int]]:
    """Steps of each trial that was trained in the run, by label and purpose."""
    found: dict[tuple[str, str], list[int]] = {}
    for trial in report(folder)["trials"]:
        if not trial["cached"]:
            found.setdefault((trial["label"], trial["purpose"]), []).append(trial["workload"]["steps"])
    return found


def steps_of(result: pytest.RunResult) -> list[str]:
    """The lines of the summary that tell verdicts on the time of a step."""
    return [line for line in result.outlines if line.startswith("step time ")]


def test_a_time_gate_profits_from_the_store(gates: pytest.Pytester) -> None:
    """After a change of LoRA alone, full's training is not repeated: both are timed by short trials, once."""
    options = ["--ftguard-seeds=0,1", "--ftguard-steps=60", "--ftguard-json=r.json"]
    gates.makeconftest(SHORT)
    gates.makepyfile(GATES + TIME)
    first = gates.runpytest_inprocess(*options)
    first.assert_outcomes(passed=3, failed=1)
    first.stdout.no_fnmatch_line("*timed again*")
    changed = gates.runpytest_inprocess(*options, "--ftguard-lora-r=2")
    changed.assert_outcomes(passed=3, failed=1)
    lines = ["step time *%*PASS", "step time *%*FAIL"]
    changed.stdout.fnmatch_lines(lines)
    changed.stdout.fnmatch_lines(
        [
            "timed again: lora r=2 and full, in turns, 40 steps x 2 seeds each, because their",
            "*steps were timed in diff*",
        ]
    )
    changed.stdout.fnmatch_lines(
        ["*timed again in this run, in turns, by short trials of 40 steps, because their steps*"]
    )
    changed.stdout.no_fnmatch_line("* 40 steps of *")  # no table of its own
    changed.stdout.no_fnmatch_line("trained, not taken from the store: *full*")
    assert purposes(gates.path) == {
        ("lora r=2", "gates"): [60, 60],
        ("lora r=2", "timing"): [40, 40],
        ("full", "timing"): [40, 40],
    }
    unchanged = gates.runpytest_inprocess(*options, "--ftguard-lora-r=2")
    unchanged.assert_outcomes(passed=3, failed=1)
    unchanged.stdout.fnmatch_lines(["timed in an earlier run: lora r=2 and full, in turns, 40 steps x 2 seeds each,*"])
    assert purposes(gates.path) == {}
    assert steps_of(changed) == steps_of(unchanged)


def test_a_plan_times_nothing(gates: pytest.Pytester) -> None:
    """Nor do the workers of xdist on the processor, whose tests would disturb it."""
    gates.makepyfile(GATES + TIME)
    gates.runpytest_inprocess("--ftguard-seeds=0,1")
    planned = gates.runpytest_inprocess("--ftguard-seeds=0,1", "--ftguard-lora-r=2", "--ftguard-plan")
    planned.stdout.fnmatch_lines(["plan: 2 trials to train, 2 cached; *"])
    planned.stdout.no_fnmatch_line("*timed again*")
    parallel = gates.runpytest_inprocess("--ftguard-seeds=0,1", "--ftguard-lora-r=2", "-n2", "--ftguard-json=r.json")
    parallel.assert_outcomes(passed=2, failed=2)
    parallel.stdout.fnmatch_lines(["*They were not timed again in this run: 2 workers of xdist run tests*"])
    assert purposes(gates.path) == {("lora r=2", "gates"): [12, 12]}


def test_seconds_of_another_machine_are_not_those_of_this_one(
    gates: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other threads the losses and live tensors still serve; for the time gate both are timed again here."""
    gates.makepyfile(GATES + TIME)
    options = ["--ftguard-seeds=0,1", "--ftguard-json=r.json"]
    # Two threads may wait for each other for long where other tests run, so what is judged is timed with one.
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    gates.runpytest_subprocess(*options, "-k", "not test_time").assert_outcomes(passed=2, deselected=2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    elsewhere = gates.runpytest_subprocess(*options)
    elsewhere.assert_outcomes(passed=3, failed=1)
    elsewhere.stdout.fnmatch_lines(["*because the steps were timed on another machine (lora r=4, full)."])
    elsewhere.stdout.fnmatch_lines(["step time * FAIL"])
    assert purposes(gates.path) == {("lora r=4", "timing"): [12, 12], ("full", "timing"): [12, 12]}
    threads = {
        (trial["purpose"], trial["cached"], trial["environment"]["threads"]) for trial in report(gates.path)["trials"]
    }
    assert threads == {("gates", True, 2), ("timing", False, 1)}


def test_processes_at_the_same_time_train_once(gates: pytest.Pytester) -> None:
    """Four runs that want the same wait for the one that trains it, and get its results."""
    commands = [[sys.executable, "-m", "pytest", "-q", f"--ftguard-json=r{number}.json"] for number in range(4)]
    runs = [gates.popen(command, stderr=subprocess.STDOUT) for command in commands]
    for run in runs:
        assert run.stdout is not None
        with run.stdout as output:
            text = output.read().decode()
        assert run.wait(300) == 0, text
    reports = [report(gates.path, f"r{number}.json") for number in range(4)]
    for label in ("full", "lora r=4"):
        trials = [trial for one in reports for trial in one["trials"] if trial["label"] == label]
        assert [trial["cached"] for trial in trials].count(False) == 1
        assert len({json.dumps(trial["validation"]) for trial in trials}) == 1


SAME = """
from dataclasses import replace
from pathlib import Path
import pytest
from pytest_ftguard import Full

@pytest.fixture(scope="session")
def ftguard_workload(pytestconfig, tmp_path_factory):
    from pytest_ftguard import Workload
    here = pytestconfig.rootpath
    text = tmp_path_factory.mktemp("text") / "own.txt"
    text.write_text((here / "train.txt").read_text())
    return Workload(
        model=pytestconfig.getini("ftguard_model"), train=str(text), validation=str(here / "validation.txt"),
        steps=3, block_size=32, batch_size=4, seeds=(0,), final=True,
    )

@pytest.mark.parametrize("final", [True, False])
def test_final(ftguard, ftguard_workload, final):
    assert ftguard.train(Full(learning_rate=1e-3), replace(ftguard_workload, final=final)).ok

def test_copy(ftguard, ftguard_workload, tmp_path):
    (tmp_path / "copy.txt").write_text(Path(ftguard_workload.train).read_text())
    copied = replace(ftguard_workload, train=str(tmp_path / "copy.txt"))
    assert ftguard.train(Full(learning_rate=1e-3), copied).ok

def test_own(ftguard):
    assert ftguard.train(Full(learning_rate=1e-3)).ok
"""


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_workloads_that_train_the_same_are_each_reported(project: pytest.Pytester, workers: list[str]) -> None:
    """Each has its table and its trials in the report, and there was one training; workers of xdist add none."""
    project.makepyfile(SAME)
    result = project.runpytest_inprocess("--ftguard-json=r.json", *workers)
    result.assert_outcomes(passed=4)
    trials = report(project.path)["trials"]
    named = [(Path(trial["workload"]["train"]).name, trial["workload"]["final"]) for trial in trials]
    assert sorted(named) == [("copy.txt", True), ("own.txt", False), ("own.txt", True)]
    assert len({trial["fingerprint"] for trial in trials}) == 1
    assert len(list((project.path / ".ftguard_cache" / "results").rglob("*.json"))) == 1
    result.stdout.fnmatch_lines_random(["* on copy |*", "* on own | 3 steps of *", "* on own | 3 steps (final) of *"])


COUNTED = """
import pathlib
import torch

def train(model, data, spec):
    with pathlib.Path("calls.txt").open("a") as calls:
        calls.write(f"{spec.variant.kind}\\n")
    if spec.variant.kind == "lora":
        raise RuntimeError("broken on purpose")
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.variant.learning_rate)
    for batch in data:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
"""


@pytest.mark.parametrize("options", [[], ["--ftguard-no-cache"]])
def test_workers_share_what_was_trained_and_what_has_failed(project: pytest.Pytester, options: list[str]) -> None:
    """Whichever worker asks, each variant is trained once in the run, with a store and without one."""
    (project.path / "counted.py").write_text(COUNTED.replace('"calls.txt"', repr(str(project.path / "calls.txt"))))
    names = [(kind, number) for kind in ("full", "lora") for number in range(3)]
    project.makepyfile("\n".join(f"def test_{k}_{n}({k}_variant):\n    assert {k}_variant.ok\n" for k, n in names))
    options = [*options, "--ftguard-training-function=counted:train", "--ftguard-json=r.json", "-p", "no:cacheprovider"]
    result = project.runpytest_inprocess("-n", "2", "-o", "pythonpath=.", *options)
    result.assert_outcomes(passed=3, failed=3)
    assert sorted((project.path / "calls.txt").read_text().split()) == ["full", "lora"]
    assert cached(project.path) == {"full": False, "lora r=4": False}
    again = project.runpytest_inprocess("-o", "pythonpath=.", *options)
    again.assert_outcomes(passed=3, failed=3)
    # A failure is worth another try.
    repeated = ["full", "lora"] if "--ftguard-no-cache" in options else ["lora"]
    assert sorted((project.path / "calls.txt").read_text().split()) == sorted(["full", "lora", *repeated])


def test_the_number_of_workers_changes_no_verdict(gates: pytest.Pytester) -> None:
    """Without xdist and with two workers the losses, verdicts and memory are the same, in any order."""
    reports = []
    for name, options in {"none": [], "two": ["-n", "2"]}.items():
        result = gates.runpytest_inprocess("--ftguard-no-cache", f"--ftguard-json={name}.json", *options)
        result.assert_outcomes(passed=2)
        values = without_cached(report(gates.path, f"{name}.json"))
        for trial in values["trials"]:
            del trial["time"], trial["memory"]["phases"]
        reports.append(values)
    assert reports[0] == reports[1]


OFTEN = """
from pytest_ftguard.running import bench

bench.CHECKPOINT_SECONDS = 0.0
"""


def test_a_killed_run_goes_on_when_it_is_repeated(project: pytest.Pytester) -> None:
    """Whatever kills pytest in the midst of a training, the next run ends with the losses of an uninterrupted one."""
    project.makepyfile("def test_it(full_variant):\n    assert full_variant.ok\n")
    project.makeconftest(OFTEN)
    options = ["--ftguard-steps=120", "--ftguard-json=r.json"]
    project.runpytest_subprocess("--ftguard-no-cache", *options).assert_outcomes(passed=1)
    (whole,) = report(project.path)["trials"]
    killed = subprocess.Popen([sys.executable, "-m", "pytest", "-q", *options], cwd=project.path)
    checkpoints = project.path / ".ftguard_cache" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*/*/ftguard_measured.json")):
        assert time.monotonic() < deadline, "no checkpoint was made"
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    project.makeconftest("")  # one that made a checkpoint at each step would take long
    again = project.runpytest_subprocess(*options)
    again.assert_outcomes(passed=1)
    unwrapped(again).fnmatch_lines(["note: full, seed 0: a training that was killed went on from checkpoint-*"])
    (resumed,) = report(project.path)["trials"]
    assert "was resumed at step" in resumed["time"]["disturbance"]
    for name in ("validation", "curve", "data_order"):
        assert resumed[name] == whole[name]
    assert not list(checkpoints.glob("*"))


LOAD = """
    import pytest, torch
    from pathlib import Path
    from pytest_ftguard.running.bench import Bench

    @pytest.mark.parametrize("name", ["full_variant", "lora_variant"])
    def test_load(request, name, monkeypatch):
        trained = []
        monkeypatch.setattr(Bench, "train", lambda bench, spec, **_: trained.append(spec) or TRAIN(bench, spec, **_))
        variant = request.getfixturevalue(name)
        assert variant.cached
        model, tokenizer = variant.load()
        text = Path(variant.workload.validation).read_text()
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][:variant.workload.block_size])
        with torch.no_grad():
            loss = float(model(input_ids=ids[None], labels=ids[None]).loss)
        (trial,) = variant.trials
        assert loss * (len(ids) - 1) == pytest.approx(trial.measured.validation.nll[0], rel=1e-4)
        assert len(trained) == EXPECTED

    TRAIN = Bench.train
"""


@pytest.mark.parametrize(("options", "trainings"), [((), 0), (("--ftguard-cache-size=25 kB",), 1)])
def test_load_gives_the_trained_model_of_a_cached_trial(
    gates: pytest.Pytester, options: tuple[str, ...], trainings: int
) -> None:
    """From the store, or, where its weights were too large for it, from a training anew; the loss is the stored one.

    The adapter is one that begins with random numbers and takes its beginning out of the base.
    """
    gates.makeconftest(
        """
        import pytest
        from pytest_ftguard import LoRA

        @pytest.fixture(scope="session")
        def ftguard_lora():
            return LoRA(r=4, options={"init_lora_weights": "pissa_niter_4"})
        """
    )
    gates.runpytest_inprocess(*options)
    gates.makepyfile(f"EXPECTED = {trainings}\n" + textwrap.dedent(LOAD))
    result = gates.runpytest_inprocess("--ftguard-json=r.json", *options)
    result.assert_outcomes(passed=2)
    assert cached(gates.path) == {"full": True, "lora r=4 pissa_niter_4": True}
    assert (" ".join(result.outlines).count("trained again for its weights") == 2) is bool(trainings)


def test_lost_weights_are_trained_again_once(gates: pytest.Pytester) -> None:
    """The summary says so and why, and the next run loads what that training has left in the store."""
    gates.runpytest_inprocess()
    shutil.rmtree(gates.path / ".ftguard_cache" / "weights")
    for trainings in (1, 0):
        gates.makepyfile(f"EXPECTED = {trainings}\n" + textwrap.dedent(LOAD))
        result = gates.runpytest_inprocess()
        result.assert_outcomes(passed=2)
        summary = " ".join(line.strip() for line in result.outlines)
        for label in ("full", "lora r=4"):
            line = (
                f"note: {label}, seed 0, was trained again for its weights, because the store had none of it; now it "
                "has them"
            )
            assert (line in summary) is bool(trainings), summary


def test_a_plan_says_what_is_cached(gates: pytest.Pytester) -> None:
    """Before anything is trained, and after."""
    gates.runpytest_inprocess("--ftguard-plan").stdout.fnmatch_lines(["plan: 2 trials to train, 0 cached; *"])
    gates.runpytest_inprocess()
    planned = gates.runpytest_inprocess("--ftguard-plan", "--ftguard-lora-r=2")
    planned.stdout.fnmatch_lines(["plan: 1 trial to train, 1 cached; *", "full (cached) *", "lora r=2 *"])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--ftguard-cache-dir=train.txt", "it is a file: give a folder"),
        ("--ftguard-cache-size=5", "a size with a unit"),
    ],
)
def test_wrong_settings_of_the_store_are_errors_of_usage(gates: pytest.Pytester, option: str, words: str) -> None:
    """Before anything is collected."""
    result = gates.runpytest_inprocess(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*set by the option --ftguard-cache-*: *{words}*"])


def test_a_store_that_cannot_be_written_is_named_and_loses_nothing(gates: pytest.Pytester) -> None:
    """The gates are judged all the same."""
    result = gates.runpytest_inprocess("--ftguard-cache-dir=train.txt/below")
    result.assert_outcomes(passed=2)
    unwrapped(result).fnmatch_lines(["note: the result was not stored in *Not a directory*"])
