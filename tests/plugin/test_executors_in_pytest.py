"""An executor of the user's own package trains the trials of a run, found by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_ftguard.running.executor import ExecutorOptions
from pytest_ftguard.running.executors import make_executor

pytestmark = pytest.mark.torch

# As small as an executor can be: JSON to a fresh process and back, files in a shared folder. It starts the process as
# our own executor does, so that a server of these tests can fork it.
EXECUTOR = """
import json, os, sys, tempfile
from pathlib import Path
from pytest_ftguard.running.executor import Answer, Event, Failure
from pytest_ftguard.running.local import process

HERE = Path(__file__).parent
FAR = '''
import json, sys
from pytest_ftguard.running.executor import job_from_dict
from pytest_ftguard.running.work import carry_out
answer = carry_out(job_from_dict(json.load(sys.stdin)), lambda event: print("event", event.phase, file=sys.stderr))
print("answer" + json.dumps(answer.to_dict()))
'''

class Far:
    def __init__(self, options):
        self.root = Path(options.root or tempfile.mkdtemp())

    def run(self, job, on_event, *, more_to_come=False):
        with (HERE / "jobs.txt").open("a") as log:
            log.write(f"{job.kind} {os.environ.get('PYTEST_XDIST_WORKER', 'main')}\\n")
        on_event(Event("start"))
        folder = self.folder()
        (folder / "job").write_text(json.dumps(job.to_dict()))
        with (folder / "job").open() as sent, (folder / "out").open("w") as out, (folder / "log").open("w") as log:
            far = process.subprocess.Popen([sys.executable, "-c", FAR], stdin=sent, stdout=out, stderr=log)
            code = far.wait()
        if code != 0:
            log_tail = (folder / "log").read_text()
            return Answer(failure=Failure(kind="crashed", message=f"exit code {code}", log_tail=log_tail))
        (line,) = [line for line in (folder / "out").read_text().splitlines() if line.startswith("answer")]
        return Answer.from_dict(json.loads(line.removeprefix("answer")))

    def folder(self):
        return Path(tempfile.mkdtemp(dir=self.root))

    def facts(self, device, precision):
        return None

    def disturbance(self, device):
        return None

    def close(self):
        (HERE / "closed.txt").touch()
"""
TEST = """
from pytest_ftguard import assert_loss_gap

def test_gap(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=99)

def test_weights(lora_variant):
    model, tokenizer = lora_variant.load()
    assert model.num_parameters() > 0
"""


@pytest.mark.parametrize("workers", [[], ["-n2", "--dist=load"]], ids=["alone", "xdist"])
def test_an_executor_of_ones_own_trains(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: list[str]
) -> None:
    """Found by its import path, it trains each trial once, also for two workers; the next run finds the results."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of the run that this test is part of
    project.makepyfile(far=EXECUTOR, test_it=TEST)
    options = ["-o", "ftguard_executor=far:Far", "--ftguard-json=r.json", *workers]
    project.runpytest_subprocess(*options).assert_outcomes(passed=2)
    jobs = (project.path / "jobs.txt").read_text().splitlines()
    assert sum(job.startswith("train") for job in jobs) == 2
    assert any(job.startswith("describe") for job in jobs)
    assert all(job.endswith("main") is not bool(workers) for job in jobs)
    assert (project.path / "closed.txt").exists()
    trials = json.loads((project.path / "r.json").read_text())["trials"]
    assert [(trial["outcome"], trial["cached"]) for trial in trials] == [("ok", False)] * 2
    again = project.runpytest_subprocess(*options)
    again.assert_outcomes(passed=2)
    jobs = (project.path / "jobs.txt").read_text().splitlines()
    assert sum(job.startswith("train") for job in jobs) == 2
    trials = json.loads((project.path / "r.json").read_text())["trials"]
    assert [trial["cached"] for trial in trials] == [True] * 2


def test_what_an_executor_trains_is_what_the_local_one_trains(project: pytest.Pytester) -> None:
    """The losses are the same to the last digit: both enter training by one door."""
    project.makepyfile(far=EXECUTOR, test_it="def test_it(lora_variant): pass")
    losses = []
    for name in ("local", "far:Far"):
        options = ["--ftguard-json=r.json", "--ftguard-no-cache", f"--ftguard-executor={name}"]
        project.runpytest_subprocess(*options).assert_outcomes(passed=1)
        (trial,) = json.loads((project.path / "r.json").read_text())["trials"]
        losses.append((trial["validation"], trial["data_order"], trial["curve"]))
    assert losses[0] == losses[1]


def test_failures_of_an_executor_are_told_apart(project: pytest.Pytester) -> None:
    """A spec that cannot be carried out fails the test, and a process that ends is an outcome with its log."""
    project.makepyfile(
        far=EXECUTOR,
        ours="import os\ndef train(model, data, spec):\n    os.write(2, b'so long')\n    os._exit(3)",
        test_it=TEST.split("def test_weights", maxsplit=1)[0],
    )
    options = ["--ftguard-executor=far:Far"]
    crashed = project.runpytest_subprocess(*options, "--ftguard-training-function=ours:train")
    crashed.assert_outcomes(failed=1)
    crashed.stdout.fnmatch_lines(["*loss gap INVALID: *, ended crashed, limit *", "*exit code 3*", "*so long*"])
    wrong = project.runpytest_subprocess(*options, "--ftguard-training-args=optim=nothing")
    wrong.assert_outcomes(errors=1)
    wrong.stdout.fnmatch_lines(["*ftguard: *optim*"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "slurmm",
            "ftguard_executor is 'slurmm' (set by the option --ftguard-executor), which is not an executor: use one of "
            "local, or module:function",
        ),
        ("nowhere:make", "*which cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("far:nothing", "*which cannot be imported: AttributeError*"),
        ("far:HERE", "*cannot be called: name a function or a class"),
        ("far:Path", "*it is not an executor, because it has no method run, folder, facts, disturbance, close; see *"),
    ],
)
def test_a_name_that_leads_to_no_executor_is_an_error(project: pytest.Pytester, name: str, message: str) -> None:
    """The message says what there is, and nothing is trained."""
    project.makepyfile(far=EXECUTOR.replace("class Far", "Path = lambda options: 7\nclass Far"), test_it=TEST)
    result = project.runpytest_subprocess(f"--ftguard-executor={name}")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines([f"*{message}*"])
    assert not (project.path / "jobs.txt").exists()


def test_an_entry_point_names_an_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package makes its own known by the group pytest_ftguard.executors."""
    info = tmp_path / "far-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pytest_ftguard.executors]\nfarther = far_executor:Far\n")
    (tmp_path / "far_executor.py").write_text(EXECUTOR)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = make_executor("farther", ExecutorOptions(tmp_path))
    assert type(made).__module__ == "far_executor"
    assert made.folder().parent == tmp_path
