"""The timing: what is timed again, how, how often, and what the messages say about it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ftguard.accepting.asked import Asked, Metric
from pytest_ftguard.accepting.files import AcceptedFiles
from pytest_ftguard.accepting.helper import assert_no_regression
from pytest_ftguard.accepting.history import AcceptedFile, History
from pytest_ftguard.accepting.record import record_pair
from pytest_ftguard.comparison.grouping import by_baseline, trained_variants
from pytest_ftguard.current import active_test
from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, FtguardError, GateFailure
from pytest_ftguard.files import write_all
from pytest_ftguard.gates.limits import GROWTH, SHARE, Limit
from pytest_ftguard.gates.rule import Rule, confidence_at_timing
from pytest_ftguard.gates.setting import Origin, Setting
from pytest_ftguard.gates.step_time import assess_time, time_problems, why_time_again
from pytest_ftguard.gates.timed_pair import assert_time_budget, with_times
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.reporting.json import json_report, read_report
from pytest_ftguard.reporting.progress import progress_line
from pytest_ftguard.results import (
    Measured,
    Memory,
    Timing,
    TrainedVariant,
    Trial,
    TrialError,
)
from pytest_ftguard.results.progress import Progress
from pytest_ftguard.results.retiming import Retiming
from pytest_ftguard.running.bench import Bench
from pytest_ftguard.running.executor import TrainJob
from pytest_ftguard.running.lab import Lab, LabOptions
from pytest_ftguard.running.shelf import Shelf
from pytest_ftguard.running.timing import PairTimer
from pytest_ftguard.specs import LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.specs.short import timing_workload
from pytest_ftguard.store.store import Store, StoreOptions

from .builders import ENVIRONMENT, FULL, LORA, WORKLOAD, GivenSource, remarks, summary_lines, trained, trial
from .executors import FakeExecutor

NLL = [20.0 + 0.01 * i for i in range(64)]
WORK = replace(WORKLOAD, seeds=(0, 1, 2))
NOW = Timing(0.5, 97, 50.0, run="now")


def variant(kind: Variant, *, work: Workload = WORK, **changes: Any) -> TrainedVariant:
    """A variant with three seeds, timed in this run unless the changes differ."""
    return trained(kind, *(trial(kind, NLL, seed=seed, workload=work, **{"time": NOW, **changes}) for seed in range(3)))


@pytest.fixture(autouse=True)
def unrecorded() -> Iterator[None]:
    """The verdicts here are not those of this very test run."""
    token = active_test.set(None)
    yield
    active_test.reset(token)


BESIDE = "another pytest run trained on the processor: run one after the other"


class TimedExecutor(FakeExecutor):
    """Trains at once: a step of LoRA takes 80 % of full's, with a little noise."""

    jobs: list[TrainJob] = []  # noqa: RUF012 - of all labs of a test; the fixture empties it
    failing = ""

    def train(self, job: TrainJob) -> Trial:
        self.jobs.append(job)
        kind = job.spec.variant
        if job.spec.workload.purpose == "timing" and kind.kind == self.failing:
            return Trial(job.spec, Measured(outcome="crashed", error=TrialError("it broke")))
        seconds = (1.0 if kind.kind == "full" else 0.8) * (1 + 0.01 * job.spec.seed**2 * (kind.kind == "full"))
        time = Timing(seconds, 37, 40.0, run=job.run)
        return replace(trial(kind, NLL, seed=job.spec.seed, workload=job.spec.workload, time=time), spec=job.spec)


@pytest.fixture
def work(tmp_path: Path) -> Workload:
    """A workload with files that exist, and an executor that trains nothing."""
    TimedExecutor.jobs.clear()
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation"):
        (tmp_path / name).write_text(name)
    model, train, validation = (str(tmp_path / name) for name in ("model", "train", "validation"))
    return replace(WORK, steps=500, model=model, train=train, validation=validation, reference=validation)


def open_lab(tmp_path: Path, run: str, *, disturbance: str | None = None, **options: Any) -> Lab:
    """Return a lab of a run that keeps what it trains in one store with the others."""
    store = Store(StoreOptions(tmp_path / "store"), run)
    executor = TimedExecutor()
    executor.known_disturbance = disturbance
    return Lab(LabOptions(device="cpu", **options), executor, lambda _: None, store)


def pair_of_two_runs(tmp_path: Path, work: Workload, **options: Any) -> tuple[Lab, TrainedVariant, TrainedVariant]:
    """Return LoRA as this run has trained it, and full fine-tuning as an earlier one left it in the store."""
    earlier = open_lab(tmp_path, "earlier")
    earlier.train(work, FULL)
    earlier.close()
    ours = open_lab(tmp_path, "now", **options)
    full, lora = ours.train(work, FULL), ours.train(work, LORA)
    assert (full.cached, lora.cached) == (True, False)
    assert [job.spec.workload.purpose for job in TimedExecutor.jobs] == ["gates"] * 6
    TimedExecutor.jobs.clear()
    return ours, lora, full


def turns() -> list[str]:
    return [f"{job.spec.variant.kind} {job.spec.seed}" for job in TimedExecutor.jobs]


def test_a_time_gate_on_a_cached_baseline_times_both_again_in_turns(tmp_path: Path, work: Workload) -> None:
    """Seed by seed with the other one first; the verdict is that of the short trials, and says so."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    verdict = assert_time_budget(lora, at_most="90%", of=full)
    assert verdict.status == "PASS"
    assert verdict.value == pytest.approx(0.8, rel=0.05)
    assert "by short trials of 40 steps, because their steps were timed in different runs." in verdict.message
    assert turns() == ["lora 0", "full 0", "full 1", "lora 1", "lora 2", "full 2"]
    (short,) = {job.spec.workload for job in TimedExecutor.jobs}
    expected = replace(work, steps=40, validation_sequences=8, reference=None, purpose="timing")
    assert short == expected
    assert ours.retimings == (Retiming("lora r=16", "full", 40, 3, "their steps were timed in different runs"),)
    ours.close()


def test_a_pair_is_timed_once(tmp_path: Path, work: Workload) -> None:
    """A second test and a later run get the same times, another pair gets its own."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    first = assert_time_budget(lora, at_most="90%", of=full)
    assert assert_time_budget(lora, at_most="90%", of=full) == first
    assert len(TimedExecutor.jobs) == 6
    other = ours.train(work, LoRA(r=4, learning_rate=1e-3))
    assert_time_budget(other, at_most="90%", of=full)
    assert turns()[6 + 3 :] == ["lora 0", "full 0", "full 1", "lora 1", "lora 2", "full 2"]
    timed = [one for one in ours.results if one.spec.workload.purpose == "timing"]
    assert len({one.fingerprint for one in timed}) == len(timed) == 12
    assert not any(one.provenance.cached for one in timed)
    ours.close()
    TimedExecutor.jobs.clear()
    again = open_lab(tmp_path, "again")
    lora, full = again.train(work, LORA), again.train(work, FULL)
    assert (lora.cached, full.cached) == (True, True)
    verdict = assert_time_budget(lora, at_most="90%", of=full)
    assert "Both were timed in an earlier run, in turns, by short trials of 40 steps, because" in verdict.message
    assert verdict.value == first.value
    assert not TimedExecutor.jobs
    assert [one.cached for one in again.retimings] == [True]
    assert all(one.provenance.cached for one in again.results)
    again.close()


def test_what_was_timed_in_one_run_is_not_timed_again(tmp_path: Path, work: Workload) -> None:
    """Not in the run that trained both, and not later, when both come from the store."""
    for run in ("first", "second"):
        ours = open_lab(tmp_path, run)
        full, lora = ours.train(work, FULL), ours.train(work, LORA)
        assert "timed again" not in assert_time_budget(lora, at_most="90%", of=full).message
        assert not ours.retimings
        ours.close()
    assert len(TimedExecutor.jobs) == 6


def test_losses_and_memory_are_still_those_of_the_whole_training(tmp_path: Path, work: Workload) -> None:
    """A timing leaves the variants, the reasons of what was trained again, and what is stored of both as they are."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)

    def stored() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "store" / "results").rglob("*.json")}

    results, before = (lora.trials, full.trials, list(ours.reasons)), stored()
    assert_time_budget(lora, at_most="90%", of=full)
    assert results == (lora.trials, full.trials, ours.reasons)
    assert before.items() <= stored().items()
    assert len(stored()) == len(before) + 6
    assert ours.train(work, LORA) == lora
    assert all(job.checkpoints is None for job in TimedExecutor.jobs)
    ours.close()


def test_a_timing_that_fails_ends_there_and_the_gate_is_invalid(
    tmp_path: Path, work: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict says which trial it was, and why it was made."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    monkeypatch.setattr(TimedExecutor, "failing", "full")
    with pytest.raises(GateFailure) as failure:
        assert_time_budget(lora, at_most="90%", of=full)
    assert "step time INVALID" in str(failure.value)
    assert "full, seed 0, timed again, ended crashed, limit 90%" in str(failure.value)
    assert "timed again in this run" in str(failure.value)
    assert turns() == ["lora 0", "full 0"]
    assert "full, seed 0, timed again, ended crashed: it broke" in summary_lines(ours.results, [], [])
    ours.close()


def test_another_pytest_run_disturbs_a_timing_too(
    tmp_path: Path, work: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate is INVALID until nothing else trains: a later run does not take the disturbed seconds from the store."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    monkeypatch.setattr(TimedExecutor, "neighbours", BESIDE)
    with pytest.raises(
        GateFailure,
        match=r"lora r=16, seeds 0, 1, 2, were disturbed.*\nAnother pytest run trained.*: run one after the other\.",
    ):
        assert_time_budget(lora, at_most="90%", of=full)
    assert len(TimedExecutor.jobs) == 6
    ours.close()
    monkeypatch.setattr(TimedExecutor, "neighbours", None)
    later = open_lab(tmp_path, "later")
    assert assert_time_budget(later.train(work, LORA), at_most="90%", of=later.train(work, FULL)).status == "PASS"
    assert len(TimedExecutor.jobs) == 12
    later.close()


def test_seconds_of_a_pair_are_taken_from_one_run_or_not_at_all(tmp_path: Path, work: Workload) -> None:
    """If one of a pair's short trials is lost, all are trained again: each was timed next to its neighbour."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    before = set((tmp_path / "store" / "results").rglob("*.json"))
    assert_time_budget(lora, at_most="90%", of=full)
    ours.close()
    lost, *_ = sorted(set((tmp_path / "store" / "results").rglob("*.json")) - before)
    lost.unlink()
    TimedExecutor.jobs.clear()
    later = open_lab(tmp_path, "later")
    assert_time_budget(later.train(work, LORA), at_most="90%", of=later.train(work, FULL))
    assert len(TimedExecutor.jobs) == 6
    later.close()


@pytest.mark.parametrize(
    "memory", [Memory(600, "allocator", allocator_retries=1), Memory(600, "allocator", others_bytes=10**10)]
)
def test_seconds_of_a_shared_device_are_not_taken_from_the_store(
    tmp_path: Path, work: Workload, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    """The gate is INVALID in the run that measured them, and judges by others in the next one."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    train = TimedExecutor.train
    monkeypatch.setattr(TimedExecutor, "train", lambda *job: train(*job).remeasured(memory=memory))
    with pytest.raises(GateFailure, match="INVALID"):
        assert_time_budget(lora, at_most="90%", of=full)
    ours.close()
    monkeypatch.setattr(TimedExecutor, "train", train)
    later = open_lab(tmp_path, "later")
    assert assert_time_budget(later.train(work, LORA), at_most="90%", of=later.train(work, FULL)).status == "PASS"
    later.close()


def noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the steps of full take from a third to three times as long as they do."""
    train = TimedExecutor.train

    def disturbed(executor: TimedExecutor, job: TrainJob) -> Trial:
        result = train(executor, job)
        assert result.measured.time is not None
        assert result.measured.time.seconds_per_step is not None
        seconds = result.measured.time.seconds_per_step * 3.0 ** (job.spec.seed - 1)
        is_full = job.spec.variant.kind == "full"
        return result.remeasured(time=replace(result.measured.time, seconds_per_step=seconds)) if is_full else result

    monkeypatch.setattr(TimedExecutor, "train", disturbed)


def judged_later(tmp_path: Path, work: Workload, run: str, **options: Any) -> tuple[Verdict, list[bool], int]:
    """The verdict of a later run that warns of doubt, which of its short trials are stored, and what it trained."""
    TimedExecutor.jobs.clear()
    later = open_lab(tmp_path, run, **options)
    full, lora = later.train(work, FULL), later.train(work, LORA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verdict = assert_time_budget(lora, at_most="99%", of=full, on_inconclusive="warn")
    later.close()
    cached = [one.provenance.cached for one in later.results if one.spec.workload.purpose == "timing"]
    return verdict, cached, len(TimedExecutor.jobs)


def test_a_stored_timing_that_leaves_a_gate_in_doubt_is_followed_by_another(
    tmp_path: Path, work: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine was busy; next to other workers, or if the next timing is disturbed too, the doubt stays."""
    pair_of_two_runs(tmp_path, work)[0].close()
    with monkeypatch.context() as busy:
        noisy(busy)
        verdict, cached, jobs = judged_later(tmp_path, work, "busy")
        assert (verdict.status, cached, jobs) == ("INCONCLUSIVE", [False] * 6, 6)
        assert "each bound is wrong in at most 4 % of cases" in verdict.message
    verdict, cached, jobs = judged_later(tmp_path, work, "workers", disturbance="2 workers: use none")
    assert (verdict.status, cached, jobs) == ("INCONCLUSIVE", [True] * 6, 0)
    with monkeypatch.context() as beside:
        beside.setattr(TimedExecutor, "neighbours", BESIDE)
        verdict, cached, jobs = judged_later(tmp_path, work, "beside")
        assert (verdict.status, cached, jobs) == ("INCONCLUSIVE", [True] * 6 + [False] * 6, 6)
    verdict, cached, jobs = judged_later(tmp_path, work, "quiet")
    assert (verdict.status, cached, jobs) == ("PASS", [True] * 6 + [False] * 6, 6)
    assert "timed again in this run" in verdict.message
    assert "each bound is wrong in at most 0.8 % of cases" in verdict.message
    verdict, cached, jobs = judged_later(tmp_path, work, "unchanged")
    assert (verdict.status, cached, jobs) == ("PASS", [True] * 12, 0)
    assert verdict.message.splitlines()[-1].endswith("number 2: the earlier ones left the gate in doubt.")


def test_after_three_looks_the_doubt_stays(tmp_path: Path, work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run adds one at the most, and nothing is trained for a gate that no further look could settle."""
    pair_of_two_runs(tmp_path, work)[0].close()
    noisy(monkeypatch)
    seen = [judged_later(tmp_path, work, f"run {number}") for number in range(5)]
    assert [jobs for _, _, jobs in seen] == [6, 6, 6, 0, 0]
    assert {verdict.status for verdict, _, _ in seen} == {"INCONCLUSIVE"}


@given(confidence=st.floats(0.5, 0.999))
def test_all_looks_together_err_no_more_often_than_one(confidence: float) -> None:
    """Whatever comes of them, the sum of their errors bounds that of the answer, and the first look has most of it."""
    errors = [1 - confidence_at_timing(confidence, look) for look in range(1, 40)]
    assert sum(errors) <= 1 - confidence + 1e-12
    assert errors[0] > 0.79 * (1 - confidence)


def test_whole_trainings_are_judged_at_the_whole_confidence() -> None:
    """They are one look, and there is no other."""
    verdict = assert_time_budget(variant(LORA), at_most="200%", of=variant(FULL))
    assert "each bound is wrong in at most 5 % of cases" in verdict.message


def test_a_variant_whose_rate_was_searched_is_timed_too(tmp_path: Path, work: Workload) -> None:
    """Its trials are those of the variant with that rate, and serve both."""
    ours, _, full = pair_of_two_runs(tmp_path, work)
    found = ours.train(work, replace(LORA, search_learning_rate=True))
    verdict = assert_time_budget(found, at_most="90%", of=full)
    assert verdict.status == "PASS"
    assert len(TimedExecutor.jobs) == 6
    ours.close()


@pytest.mark.parametrize("root", [None, "shared"])
def test_short_trials_of_unknown_content_are_told_apart_by_their_specs(
    tmp_path: Path, work: Workload, root: str | None
) -> None:
    """The same in every run, and apart from those timed with another variant."""
    work = replace(work, model_args={"gguf_file": "missing.gguf"})
    known = []
    for run in ("one", "another"):
        ours = open_lab(tmp_path, run, root=tmp_path / root / run if root else None)
        full = ours.train(work, FULL)
        old = replace(full, trials=tuple(one.remeasured(time=replace(NOW, run="earlier")) for one in full.trials))
        for rank in (4, 8):
            assert_time_budget(ours.train(work, LoRA(r=rank, learning_rate=1e-3)), at_most="99%", of=old)
        known.append([one.fingerprint for one in ours.results if one.spec.workload.purpose == "timing"])
        ours.close()
    assert known[0] == known[1]
    assert len(set(known[0])) == 12


def test_a_stored_timing_serves_beside_other_workers_of_xdist(tmp_path: Path, work: Workload) -> None:
    """They would disturb a timing, and there is none."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    assert_time_budget(lora, at_most="90%", of=full)
    ours.close()
    later = open_lab(tmp_path, "later", disturbance="2 workers: use none")
    assert assert_time_budget(later.train(work, LORA), at_most="90%", of=later.train(work, FULL)).status == "PASS"
    later.close()


def test_seconds_of_a_changed_text_are_not_kept(
    tmp_path: Path, work: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what was timed while a file changed."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    before = set((tmp_path / "store" / "results").rglob("*.json"))
    train = TimedExecutor.train

    def change(executor: TimedExecutor, job: TrainJob) -> Trial:
        Path(work.validation).write_text(f"changed {len(TimedExecutor.jobs)}")
        return train(executor, job)

    monkeypatch.setattr(TimedExecutor, "train", change)
    assert_time_budget(lora, at_most="90%", of=full)
    assert set((tmp_path / "store" / "results").rglob("*.json")) == before
    ours.close()


class Asking:
    """A running test for which a result was accepted."""

    is_over = False
    is_planned = False

    def __init__(self, updates: bool, *pair: TrainedVariant) -> None:
        history = History("t.py::test", record_pair(*pair), record_pair(*pair))
        self.file = AcceptedFile(Path("accepted.json"), "t.py::test", history)
        self.updates = updates
        self.queued: list[History] = []
        self.shown: list[TrainedVariant] = []
        self.accepted: Any = self

    def find(self, *_: TrainedVariant) -> AcceptedFile:
        return self.file

    def queue(self, _: AcceptedFile, history: History) -> None:
        self.queued.append(history)

    def setting(self, name: str) -> Setting | None:
        made = {"update": self.updates, "gain_factor": 0}
        return Setting(made[name], Origin("command line", name)) if name in made else None

    def refusals(self) -> list[str]:
        return []

    def record(self, _: Verdict, variants: Sequence[TrainedVariant]) -> None:
        self.shown += variants


def regression(test: Asking, *pair: TrainedVariant, metric: Metric = "time", at_most: float | str = "5%") -> Verdict:
    token = active_test.set(test)  # type: ignore[arg-type]
    try:
        return assert_no_regression(*pair, metric=metric, at_most=at_most)
    finally:
        active_test.reset(token)


def test_a_regression_of_time_is_judged_by_short_trials_too(tmp_path: Path, work: Workload) -> None:
    """After a change of LoRA alone it would be INVALID for ever; the losses shown are those of the whole trainings."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    before = variant(LORA, work=work), variant(FULL, work=work)
    test = Asking(False, *before)
    verdict = regression(test, lora, full)
    assert verdict.status == "PASS"  # 80 % of full's now, and as much as full's then
    assert verdict.value == pytest.approx(-0.2, abs=0.05)
    assert "by short trials of 40 steps, because their steps were timed in different runs." in verdict.message
    assert len(TimedExecutor.jobs) == 6
    assert test.shown == [lora, full]
    ours.close()


def test_seconds_of_short_trials_can_be_accepted(tmp_path: Path, work: Workload) -> None:
    """Later whole trainings are held to them, as these are to those of whole trainings."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    test = Asking(True, variant(LORA, work=work), variant(FULL, work=work))
    assert "by short trials of 40 steps" in regression(test, lora, full).message
    (queued,) = test.queued
    assert queued.accepted.candidate.seconds_per_step == (0.8, 0.8, 0.8)
    assert queued.accepted.candidate.peak_bytes == lora.peak_memory_bytes
    ours.close()


def test_a_regression_of_time_without_short_trials_says_why(
    tmp_path: Path, work: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them fails, or none can be made next to other workers of xdist."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    monkeypatch.setattr(TimedExecutor, "failing", "full")
    test = Asking(False, variant(LORA, work=work), variant(FULL, work=work))
    with pytest.raises(GateFailure, match=r"(?s)INVALID.*full, seed 0, timed again, ended crashed, .*it broke"):
        regression(test, lora, full)
    ours.close()
    busy = open_lab(tmp_path, "busy", disturbance="2 workers: use none")
    with pytest.raises(GateFailure, match=r"(?s)INVALID.*They were not timed again in this run: 2 workers: use none"):
        regression(test, busy.train(work, LORA), busy.train(work, FULL))
    busy.close()


def test_bytes_of_another_machine_are_not_accepted_with_seconds_of_this_one() -> None:
    """The allocator's of another GPU are left out; losses, seeds and the sum of live tensors stay."""
    other: dict[str, Any] = {
        "measured_elsewhere": "on another",
        "environment": replace(ENVIRONMENT, device_name="another"),
    }
    there = variant(LORA, **other, memory=Memory(600, "allocator"))
    here = with_times(there, variant(LORA, work=timing_workload(WORK, WORK.seeds, 0.5)))
    assert all(trial.measured.environment == ENVIRONMENT for trial in here.trials)
    assert here.losses == there.losses
    assert here.peak_memory_bytes is None
    assert there.peak_memory_bytes == 600
    assert with_times(variant(LORA, **other), variant(LORA)).peak_memory_bytes == 600
    assert with_times(there, there) == there


@pytest.mark.parametrize("metrics", list(permutations(("loss_gap", "memory", "time"))))
@pytest.mark.parametrize("has_file", [False, True])
def test_metrics_accept_in_any_order(
    tmp_path: Path, work: Workload, metrics: tuple[Metric, ...], has_file: bool
) -> None:
    """Only the metric of time makes short trials, the others keep their seconds, and no metric judges another's."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    files = AcceptedFiles("t.py::test", tmp_path / "accepted", write_all)
    if has_file:
        before = record_pair(variant(LORA, work=work), variant(FULL, work=work))
        file = files.find(lora, full)
        files.queue(file, History("t.py::test", before, before))
        files.write()
    test = Asking(True, variant(LORA, work=work), variant(FULL, work=work))
    test.accepted = files
    for metric in metrics:
        at_most = 0.5 if metric == "loss_gap" else "50%"
        assert regression(test, lora, full, metric=metric, at_most=at_most).status == "PENDING"
    files.write()
    history = files.find(lora, full).history
    assert history is not None
    assert history.accepted.candidate.seconds_per_step == (0.8, 0.8, 0.8)
    assert history.accepted.candidate.peak_bytes == lora.peak_memory_bytes
    ours.close()


@pytest.mark.parametrize("error", [FtguardError("no room"), DeviceUnavailableError("no such device")])
def test_a_timing_that_cannot_be_made_leaves_the_gate_invalid(error: FtguardError) -> None:
    """What was wrong with the seconds is said, and why there are no others."""

    def refuse(*_: object) -> tuple[TrainedVariant, TrainedVariant]:
        raise error

    source = GivenSource(time_beside=refuse)
    ours = replace(variant(LORA), source=source)
    theirs = replace(variant(FULL, time=replace(NOW, run="earlier")), source=source)
    with pytest.raises(GateFailure, match=rf"(?s)different runs.*not timed again in this run: {error}"):
        assert_time_budget(ours, at_most="90%", of=theirs)


def test_beside_other_workers_of_xdist_nothing_is_timed_on_the_processor(tmp_path: Path, work: Workload) -> None:
    """They would disturb the short trials as well."""
    ours, lora, full = pair_of_two_runs(tmp_path, work, disturbance="2 workers: use none")
    with pytest.raises(GateFailure, match="not timed again in this run: 2 workers: use none"):
        assert_time_budget(lora, at_most="90%", of=full)
    assert not TimedExecutor.jobs
    ours.close()


def test_the_processes_of_a_run_share_what_they_time(tmp_path: Path) -> None:
    """Two workers of xdist that judge one pair train six short trials, not twelve, and share how one fails."""
    trained_specs: list[TrialSpec] = []
    executor = FakeExecutor()

    def timed(run: str) -> tuple[Sequence[Trial], ...]:
        def train(spec: TrialSpec, more_to_come: bool) -> Trial:
            trained_specs.append(spec)
            assert more_to_come is (len(trained_specs) % 6 > 0)
            if spec.variant.kind == failing:
                return Trial(spec, Measured(outcome="crashed", error=TrialError("it broke")))
            time = Timing(1.0 + len(trained_specs), 37, 40.0, run=run)
            return trial(spec.variant, NLL, seed=spec.seed, workload=spec.workload, time=time)

        # Their files do not exist, so what decides them is not known.
        shared, bench = Store(StoreOptions(tmp_path), run), Bench(LabOptions(), executor, lambda _: None, run)
        timer = PairTimer(Shelf(shared, shared, bench, run), train, bench.waiting)
        return tuple(side.trials for side in timer.time(variant(LORA), variant(FULL), "why"))

    others = replace(variant(FULL), trials=())
    bench = Bench(LabOptions(), executor, lambda _: None, "run")
    with pytest.raises(ConfigurationError, match="lora r=16 and full have no seed in common"):
        PairTimer(Shelf(None, None, bench, "run"), lambda *_: trial(FULL, NLL), bench.waiting).time(
            variant(LORA), others, "why"
        )
    failing = ""
    assert timed("one run") == timed("one run")
    assert len(trained_specs) == 6
    timed("another")
    assert len(trained_specs) == 12
    failing = "full"
    assert timed("a third") == timed("a third")
    assert len(trained_specs) == 14


@pytest.mark.parametrize(
    ("steps", "seconds", "short"),
    [
        (3, 0.5, 3),
        (39, 0.5, 39),
        (5000, 0.5, 40),
        (5000, 0.075, 40),
        (5000, 0.0749, 60),
        (5000, 0.01, 300),
        (200, 0.01, 200),
        (5000, math.inf, 40),
    ],
)
def test_a_timing_takes_few_steps_or_three_seconds(steps: int, seconds: float, short: int) -> None:
    """Never more than the training itself, and enough of them if they are fast."""
    assert timing_workload(replace(WORK, steps=steps), (0, 1), seconds).steps == short


RESUMED = replace(NOW, disturbance="the training was resumed at step 7")
BUSY = replace(NOW, disturbance="another pytest run trained on the processor: run one after the other")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"time": replace(NOW, run="earlier")}, ["their steps were timed in different runs"]),
        ({"time": RESUMED}, ["the training was resumed at step 7 (full)"]),
        ({"time": BUSY}, ["another pytest run trained on the processor (full)"]),
        (
            {
                "measured_elsewhere": "it was trained on another",
                "environment": replace(ENVIRONMENT, device_name="another", threads=7),
                "time": replace(NOW, run="there"),
            },
            ["the steps were timed on another machine (full)"],
        ),
    ],
)
def test_seconds_that_belong_to_another_time_or_place_are_taken_again(changes: dict[str, Any], why: list[str]) -> None:
    """Other trials of both variants would have comparable ones."""
    ours, theirs = variant(LORA), variant(FULL, **changes)
    assert why_time_again(ours, theirs) == why
    limit = Limit(0.05, GROWTH, Origin("argument", "the argument at_most"))
    file = AcceptedFile(Path("accepted.json"), "t.py::test", None)
    asked = Asked(candidate=ours, baseline=theirs, limit=limit, rule=Rule(), metric="time", file=file)
    assert time_problems(ours, theirs) == asked.problems() != []
    # If no others can be made, as for a user's own function, the remedy says how to train both again.
    work = replace(WORK, training_function="mine:train")
    own = time_problems(variant(LORA, work=work), variant(FULL, work=work, **changes))
    assert all("--ftguard-no-cache trains" in problem.remedy for problem in own)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"environment": replace(ENVIRONMENT, threads=7)},
        *(
            {"time": replace(NOW, run="earlier"), **other}
            for other in (
                {"data_order": "other"},
                {"outcome": "crashed", "validation": None},
                {"time": replace(NOW, run="earlier", seconds_per_step=None)},
                {"memory": Memory(600, "allocator", allocator_retries=2)},
                {"memory": Memory(600, "allocator", others_bytes=5 * 1000**3)},
                {"work": replace(WORK, batch_size=8)},
            )
        ),
    ],
)
def test_where_something_else_is_wrong_nothing_is_timed(changes: dict[str, Any]) -> None:
    """Trials that could not be compared either are not worth their time."""
    assert why_time_again(variant(LORA), variant(FULL, **changes)) == []


def test_a_users_own_function_is_not_judged_by_short_trials() -> None:
    """What it does may depend on the step, so that few steps would pass what all of them do not."""
    own = replace(WORK, training_function="mine:train")
    ours, theirs = variant(LORA, work=own), variant(FULL, work=own, time=replace(NOW, run="earlier"))
    assert why_time_again(ours, theirs) == []
    assert any("different runs" in problem.what for problem in time_problems(ours, theirs))


def test_one_seed_is_refused_before_anything_is_timed() -> None:
    """More steps of one seed still would not show how much the ratio moves."""
    ours, theirs = (
        replace(side, trials=side.trials[:1])
        for side in (variant(LORA), variant(FULL, time=replace(NOW, run="earlier")))
    )
    assert why_time_again(ours, theirs) == []


def test_what_was_not_trained_in_this_run_is_not_timed_in_it(tmp_path: Path, work: Workload) -> None:
    """Neither a variant of a report with one of this run, nor two of a report."""
    ours, lora, full = pair_of_two_runs(tmp_path, work)
    for pair in ((replace(lora, source=None), full), (lora, replace(full, source=None))):
        with pytest.raises(GateFailure, match="timed in different runs"):
            assert_time_budget(pair[0], at_most="90%", of=pair[1])
        with pytest.raises(FtguardError, match="was not trained in this run, so it cannot be timed"):
            pair[0].timed_beside(pair[1], "why")
    assert not TimedExecutor.jobs
    ours.close()


def timed_trials() -> list[Trial]:
    short = timing_workload(WORK, WORK.seeds, 0.5)
    whole = [*variant(FULL).trials, *variant(LORA).trials]
    return [*whole, *variant(FULL, work=short).trials, *variant(LORA, work=short).trials]


def test_the_trials_of_a_timing_are_no_results(tmp_path: Path) -> None:
    """Neither the table, nor a calibration, nor a report of another run takes them for the variant."""
    trials = timed_trials()
    assert [one.workload.purpose for one in trained_variants(trials)] == ["gates", "gates"]
    assert [(full.label, len(others)) for full, others in by_baseline(trials)] == [("full", 1)]
    assert summary_lines(trials, [], []) == summary_lines(trials[:6], [], [])
    path = tmp_path / "ftguard.json"
    path.write_text(json_report(trials, []), encoding="utf-8")
    assert path.read_text().count('"purpose": "timing"') == 2 * 6  # of the trial, and in its workload
    assert [one.workload.steps for one in read_report(path)] == [100, 100]


def test_the_summary_and_the_progress_name_the_timing() -> None:
    """Which variants, over how many steps and seeds, and why; and that a seed is not simply trained once more."""
    timing = Retiming("lora r=4", "full", 40, 3, "their steps were timed in different runs")
    (stored, *_) = remarks(retimings=[replace(timing, cached=True)])
    assert stored.startswith("timed in an earlier run: lora r=4 and full")
    lines = remarks(retimings=[replace(timing, cached=True), replace(timing, look=2)])
    assert lines == [
        "timed again: lora r=4 and full, in turns, 40 steps x 3 seeds each, because their",
        "      steps were timed in different runs",
    ]
    spec = TrialSpec(workload=timing_workload(WORK, (0, 1), 0.5), variant=LORA, seed=1)
    assert "lora r=16  timing, seed 1  step 4/40" in progress_line(Progress(spec, "train", 4, None, 2.0, None)).text


@pytest.mark.parametrize(
    ("is_short", "cached", "advice"),
    [
        (False, False, "run on a machine with nothing else to do, or for more steps."),
        (False, True, "run on a machine with nothing else to do with --ftguard-no-cache, or for more steps."),
        (True, True, "run on a machine with nothing else to do, or with --ftguard-no-cache, which times all steps."),
    ],
)
def test_seconds_in_doubt_are_to_be_measured_anew(is_short: bool, cached: bool, advice: str) -> None:
    """Those of whole trainings in the store would be the same in the next run."""
    work = timing_workload(WORK, WORK.seeds, 0.5) if is_short else WORK
    sides = [
        trained(
            kind,
            *(
                trial(kind, NLL, seed=seed, workload=work, cached=cached, time=replace(NOW, seconds_per_step=seconds))
                for seed, seconds in enumerate(each)
            ),
        )
        for kind, each in ((LORA, (0.5, 0.4, 0.6)), (FULL, (0.5, 0.6, 0.4)))
    ]
    verdict = assess_time(sides[0], Limit(1.0, SHARE, Origin("argument", "the test")), sides[1], 0.95)
    assert verdict.status == "INCONCLUSIVE"
    assert advice in verdict.message
