"""A task of a project's own package is trained, judged, stored and found again like the built-in one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

# Derived from the built-in task: only the files are others.
ROWS = """
import csv
from pytest_ftguard.tasks.causal_lm import CausalLM
from pytest_ftguard.tasks.text import Text

class OwnTask(CausalLM):
    def read(self, path, role):
        with open(path, encoding="utf-8", newline="") as file:
            rows = [row["review"] for row in csv.DictReader(file, delimiter=";")]
        return Text(path, role, tuple(rows), is_stream=False)
"""
# Made from nothing but the protocol: the second half of each line is predicted from its first.
HALVES = """
import hashlib
from dataclasses import dataclass
from pathlib import Path
from pytest_ftguard.tasks import Examples, Task

HALF = 16

@dataclass(frozen=True)
class Lines:
    sequences: tuple
    digest: str
    documents: None = None
    repeated: int = 0
    trained_on: int = 0
    unknown: float = 0.0

    @property
    def tokens(self):
        return [HALF] * len(self.sequences)

class OwnTask(Task):
    def load_tokenizer(self, workload):
        from transformers import AutoTokenizer
        return AutoTokenizer.from_pretrained(workload.model)

    def load_examples(self, workload, tokenizer):
        import torch

        def lines(path):
            ids = tokenizer(Path(path).read_text(), add_special_tokens=False)["input_ids"]
            return torch.tensor(ids[: len(ids) // (2 * HALF) * 2 * HALF]).view(-1, 2 * HALF)

        held_out = lines(workload.validation)[:80]
        given = torch.full((HALF,), -100)
        train = [{"input_ids": line, "labels": torch.cat([given, line[HALF:]])} for line in lines(workload.train)]
        return Examples(train, Lines(tuple(held_out), hashlib.sha256(held_out.numpy().tobytes()).hexdigest()))

    def load_model(self, workload):
        from transformers import AutoModelForCausalLM
        off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        return AutoModelForCausalLM.from_pretrained(workload.model, use_cache=False, **off)

    def nll(self, model, sequences, *, batch_size, bf16):
        import torch
        from torch.nn.functional import cross_entropy
        was_training, losses = model.training, []
        model.eval()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            for start in range(0, len(sequences), batch_size):
                ids = torch.stack(list(sequences[start : start + batch_size]))
                logits = model(input_ids=ids).logits[:, HALF - 1 : -1].float()
                losses += cross_entropy(logits.mT, ids[:, HALF:], reduction="none").sum(1).tolist()
        model.train(was_training)
        return losses
"""
TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert assert_loss_gap(lora_variant, full_variant, at_most=3).status == "PASS"
    assert lora_variant.load()[0].num_parameters() > 0
"""


@pytest.fixture
def with_task(project: pytest.Pytester, request: pytest.FixtureRequest) -> pytest.Pytester:
    """A project with a task of its own; for the one on rows, its texts are tables with semicolons."""
    source = getattr(request, "param", ROWS)
    if source == ROWS:
        for name in ("train.txt", "validation.txt"):
            text = (project.path / name).read_text()
            with (project.path / name).open("w", newline="") as file:
                table = csv.writer(file, delimiter=";")
                table.writerow(["stars", "review"])
                table.writerows([place % 5, text[place : place + 200]] for place in range(0, len(text), 200))
    ini = (project.path / "tox.ini").read_text()
    (project.path / "tox.ini").write_text(f"{ini}\nftguard_task = ours.task:OwnTask\n")
    project.makepyfile(**{"ours/__init__": "", "ours/task": source, "test_it": TEST})
    project.makeconftest("")
    return project


def trials() -> list[dict[str, object]]:
    """Return the trials of the last report."""
    found: list[dict[str, object]] = json.loads(Path("report.json").read_text())["trials"]
    return found


@pytest.mark.parametrize(
    ("with_task", "workers"),
    [(ROWS, 0), (ROWS, 2), (HALVES, 0)],
    ids=["rows", "rows-xdist", "halves"],
    indirect=["with_task"],
)
def test_a_task_of_a_projects_own_is_trained_judged_and_found_again(with_task: pytest.Pytester, workers: int) -> None:
    """Without and with xdist; if its source changes, its trials are planned and trained again."""
    source = (with_task.path / "ours" / "task.py").read_text()
    options = ["--ftguard-json=report.json", *(["-n", str(workers)] if workers else [])]
    result = with_task.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["loss gap *PASS*"])
    first = trials()
    assert [trial["cached"] for trial in first] == [False, False]
    with_task.runpytest_subprocess(*options).assert_outcomes(passed=1)
    assert [trial["cached"] for trial in trials()] == [True, True]
    if workers:
        return
    with_task.makepyfile(**{"ours/task": f"{source}\nANOTHER = 1\n"})
    result = with_task.runpytest_subprocess("--ftguard-plan")
    result.stdout.fnmatch_lines(["plan: 2 trials to train, 0 cached*"])
    with_task.runpytest_subprocess(*options).assert_outcomes(passed=1)
    again = trials()
    assert [trial["cached"] for trial in again] == [False, False]
    assert [trial["validation"] for trial in again] == [trial["validation"] for trial in first]


def test_what_a_task_reads_is_what_is_trained_and_judged(with_task: pytest.Pytester) -> None:
    """The rows are its documents: the built-in task takes the same file for one text, with other losses."""
    with_task.makepyfile(test_it="def test_it(full_variant): pass")
    with_task.runpytest_subprocess("--ftguard-json=report.json").assert_outcomes(passed=1)
    (ours,) = trials()
    with_task.runpytest_subprocess("--ftguard-json=report.json", "--ftguard-task=causal-lm").assert_outcomes(passed=1)
    (theirs,) = trials()
    assert ours["validation"] != theirs["validation"]
    assert ours["data_order"] != theirs["data_order"]


def test_an_unknown_task_is_a_usage_error(with_task: pytest.Pytester) -> None:
    """A misspelt name ends the run before anything is imported or trained."""
    result = with_task.runpytest_subprocess("--ftguard-task=classifcation")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "*ftguard_task is 'classifcation' (set by the option --ftguard-task), which is no task: use one of "
            "causal-lm, or module:Class*"
        ]
    )
    result = with_task.runpytest_subprocess("--ftguard-task=no task")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*Workload.task must be*got 'no task' (set by the option --ftguard-task)*"])


def test_a_path_that_leads_to_no_task_fails_each_test_that_trains(with_task: pytest.Pytester) -> None:
    """The message says what was set where; a workload of a fixture is named as such."""
    result = with_task.runpytest_subprocess("--ftguard-task=ours.task:Text")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*ftguard_task is 'ours.task:Text' (set by the option --ftguard-task), which is <class*: name a class that *"]
    )
    with_task.makepyfile(
        test_it="""
from dataclasses import replace

def test_it(ftguard, ftguard_workload, ftguard_full):
    ftguard.train(ftguard_full, replace(ftguard_workload, task="ours.nothing:Rows"))
"""
    )
    result = with_task.runpytest_subprocess("--ftguard-plan")
    result.stdout.fnmatch_lines(
        ["*ftguard: Workload.task is 'ours.nothing:Rows', which cannot be imported: ModuleNotFoundError*"]
    )
