"""The grid of learning rates: its trials are complete, and one is found by what a search or a gate asks for."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.specs import Full, LoRA, Workload
from pytest_ftguard.specs.short import search_workloads
from tests.plain.builders import losses, trial

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rates_grid.py"
JOBS = ["quickstart", "smollm2"]


@pytest.fixture(scope="module")
def grid() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("ftguard_rates_grid", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def empty(grid: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A grid of the quickstart's job that has no trials, and trains none."""
    monkeypatch.setattr(grid, "DATA", tmp_path)
    return grid.Grid(grid.JOBS["quickstart"])


def workload_of(grid: ModuleType, name: str = "quickstart") -> Workload:
    """What the gates of a job train, its files in a folder of this machine."""
    workload: Workload = grid.JOBS[name].workload(Path("here"))
    return workload


def append(empty: Any, rate: float, **changes: Any) -> None:
    """Append one trial of full fine-tuning."""
    workload = empty.job.workload(Path("elsewhere"))
    empty._append(trial(Full(learning_rate=rate), [20.0, 21.0], workload=workload, **changes))


@pytest.mark.parametrize("name", JOBS)
def test_a_grid_has_every_trial(grid: ModuleType, name: str) -> None:
    """Each variant has every rate, for the gates and for both rounds of a search; and the file is small."""
    job = grid.JOBS[name]
    assert {grid.cell_of(spec) for spec in job.specs(Path())} <= set(grid.grid_of(name).trials)
    assert job.path.stat().st_size < 1_000_000


@pytest.mark.parametrize("name", JOBS)
def test_a_gate_takes_the_trials_of_a_grid(grid: ModuleType, name: str) -> None:
    """The base model's losses are put back: a gap is judged, and full against itself has none."""
    job, workload = grid.JOBS[name], workload_of(grid, name)
    full, lora = (
        {rate: at for rate, at in grid.trained(job, workload, one).items() if at.ok} for one in job.variants[:2]
    )
    best = min(full.values(), key=lambda side: side.loss)
    rule, limit = Rule(same_learning_rate=True), Limit(0.0, NATS_PER_TOKEN, Origin("argument", "argument"))
    for candidate in (*lora.values(), best):
        verdict = assess_loss_gap(candidate, best, limit, rule)
        assert verdict.status != "INVALID" or "than the base model" in verdict.message, verdict.message
    assert assess_loss_gap(best, best, limit, rule).value == 0.0
    found = assess_loss_gap(min(lora.values(), key=lambda side: side.loss), best, limit, rule)
    # On SmolLM2 both reach the same loss.
    assert found.status == {"quickstart": "FAIL", "smollm2": "INCONCLUSIVE"}[name], found.message


def test_a_rate_that_a_search_reached_by_factors_is_found(grid: ModuleType) -> None:
    """1.6e-4 times the square root of ten is 5.1e-4: that is the grid's 5e-4, and the trial says what was asked for."""
    for workload in (workload_of(grid), *search_workloads(workload_of(grid))):
        seed = workload.seeds[0]
        near = LoRA(r=2, learning_rate=5.1e-4, search_learning_rate=True)
        found = grid.cell(workload, near, seed)
        assert found.spec.workload == workload
        assert found.spec.variant == replace(near, search_learning_rate=False)
        assert found.measured == grid.cell(workload, replace(near, learning_rate=5e-4), seed).measured


@pytest.mark.parametrize("variant", [LoRA(r=2, learning_rate=5.3e-4), LoRA(r=2, alpha=4, learning_rate=5e-4)])
def test_what_a_grid_lacks_is_trained(grid: ModuleType, variant: LoRA, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a rate that is further away nor another variant of the same label is taken for a trial of the grid."""
    asked: list[Any] = []
    monkeypatch.setattr(grid.Grid, "train", lambda _, spec: asked.append(spec))
    grid.cell(workload_of(grid), variant, 0)
    assert [spec.variant for spec in asked] == [replace(variant, search_learning_rate="no")]


def test_a_workload_of_no_grid_is_refused(grid: ModuleType) -> None:
    """Its trials would be taken for those of the grid."""
    with pytest.raises(SystemExit, match="no grid has the workload"):
        grid.cell(replace(workload_of(grid), steps=99), Full(learning_rate=5e-4), 0)


def test_trials_are_written_at_once_and_packed_at_the_end(grid: ModuleType, empty: Any) -> None:
    """Both ways a grid that is read again has them, with the base model's losses; one that diverged stays one."""
    base = losses([30.0, 30.123456])
    append(empty, 5e-4, base_validation=base)
    append(empty, 5e-2, base_validation=None, validation=None, outcome="diverged", curve=())
    again = grid.Grid(empty.job)
    again.pack()
    assert [path.name for path in empty.job.path.parent.iterdir()] == ["rates_quickstart.jsonl.gz"]
    for one in (again, grid.Grid(empty.job)):
        best, diverged = (one.trials[cell] for cell in sorted(one.trials))
        assert best.measured.base_validation == losses([30.0, 30.12346])
        assert best.measured.validation == losses([20.0, 21.0])
        assert (best.spec.workload.model, best.spec.workload.train) == ("base_model", "train.txt")
        assert diverged.measured.outcome == "diverged"
        assert diverged.measured.base_validation is None


def test_half_a_line_of_a_run_that_was_killed_is_dropped(grid: ModuleType, empty: Any) -> None:
    """It is passed over by readers, and the next trial does not continue it."""
    append(empty, 5e-4)
    with empty._fresh.open("a") as file:
        file.write('{"schema": 2, "sp')
    again = grid.Grid(empty.job)
    assert len(again.trials) == 1
    append(again, 5e-3)
    assert {cell.learning_rate for cell in grid.Grid(empty.job).trials} == {5e-4, 5e-3}


def test_losses_on_the_texts_of_another_python_are_refused(empty: Any) -> None:
    """Else the base model's losses would be those of other sequences."""
    append(empty, 5e-4)
    other = trial(Full(learning_rate=5e-3), [1.0, 2.0], validation=losses([1.0, 2.0], digest="another text"))
    with pytest.raises(SystemExit, match="standard library differs"):
        empty._check(other)
