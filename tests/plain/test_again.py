"""Stored weights are evaluated on other examples, and trained again only if that would not be the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.comparison.curves import basis_of, has_own_curves, share_curves
from pytest_ftguard.comparison.pairs import compare, trend_of
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates import asking
from pytest_ftguard.gates.asking import look, rule_of
from pytest_ftguard.gates.catalogue import argument_setting
from pytest_ftguard.gates.convergence import assert_converged
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.plugin.received import Received
from pytest_ftguard.reporting.json import json_report, read_report
from pytest_ftguard.results import CurvePoint, CurveText, Measured, Start, TrainedVariant, Trial, TrialError
from pytest_ftguard.running.executor import Answer, Failure, MeasureJob, TrainJob
from pytest_ftguard.running.lab import Lab, LabOptions
from pytest_ftguard.specs import Full, TrialSpec, Workload
from pytest_ftguard.store.fingerprint import fingerprint_of, parts_of_training
from pytest_ftguard.store.store import Store, StoreOptions

from .builders import ENVIRONMENT, FULL, LORA, GivenSource, losses, plan_lines, summary_lines, trained, trial
from .executors import FakeExecutor

WEIGHTS = "adapter_model.safetensors"
# What a test reports besides its trials.
NOTHING: dict[str, Any] = {
    "not_run": None,
    "made_of_settings": (),
    "overridden": (),
    "reasons": (),
    "retimings": (),
    "notes": (),
    "problems": (),
}


class Keeping(FakeExecutor):
    """Keeps weights of each training, and evaluates them to losses that tell what they were evaluated on."""

    def train(self, job: TrainJob) -> Trial | Answer:
        done = super().train(job)
        assert isinstance(done, Trial)
        (job.folder / "model").mkdir()
        (job.folder / "model" / WEIGHTS).write_text(f"weights of seed {job.spec.seed}")
        nll = [20.0] * 100
        text = losses(nll, digest=told(job.spec.workload))
        done = done.remeasured(validation=text, base_validation=text, probe=1.5, data_order=f"order {job.spec.seed}")
        return done.come_by(model_dir=str(job.folder / "model"))

    def measure(self, job: MeasureJob) -> Trial | Answer:
        assert (job.folder / "model" / WEIGHTS).read_text() == f"weights of seed {job.spec.seed}"
        assert job.probe == 1.5
        text = losses([19.0] * 90, digest=told(job.spec.workload))
        reference = losses([7.0], digest="reference") if job.spec.workload.reference else None
        measured = Measured(outcome="ok", validation=text, base_validation=text, environment=self.environment)
        return Trial(job.spec, replace(measured, reference=reference, base_reference=reference))


def told(workload: Workload) -> str:
    """What stands for the sequences of a workload."""
    return f"{Path(workload.validation).read_text()} {workload.validation_sequences}"


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    """A workload with files."""
    (tmp_path / "model").mkdir()
    for name in ("model/config.json", "train", "validation", "other", "general"):
        (tmp_path / name).write_text(name)
    texts = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "validation")}
    return Workload.from_dict({"model": str(tmp_path / "model"), "seeds": (0,), "steps": 100, **texts})


Run = Callable[..., tuple[TrainedVariant, FakeExecutor, Store]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Trains a variant in a run of its own, or finds it in the store."""

    def do(workload: Workload, executor: FakeExecutor | None = None, **options: Any) -> Any:
        chosen = executor or Keeping()
        store = Store(StoreOptions(tmp_path / "store", **options), f"run {len(list(tmp_path.iterdir()))}{id(chosen)}")
        lab = Lab(LabOptions(device="cpu"), chosen, lambda _: None, store)
        found = lab.train(workload, LORA)
        lab.close()
        return found, chosen, store

    return do


def changed(workload: Workload, name: str) -> Workload:
    """The workload with one of its evaluation's settings changed."""
    folder = Path(workload.train).parent
    values: dict[str, Any] = {
        "validation_sequences": 90,
        "validation": str(folder / "other"),
        "reference": str(folder / "general"),
    }
    return replace(workload, **{name: values[name]})


@pytest.mark.parametrize("name", ["validation_sequences", "validation", "reference"])
def test_another_evaluation_trains_nothing(run: Run, workload: Workload, name: str) -> None:
    """What was measured in the training stays; the losses are of the new examples, and the next run has them all."""
    (first,) = run(workload)[0].trials
    found, executor, store = run(changed(workload, name))
    (again,) = found.trials
    assert (len(executor.trained), len(executor.measured)) == (0, 1)
    assert (again.provenance.cached, again.provenance.measured_again) == (True, True)
    assert again.measured.validation == losses([19.0] * 90, digest=told(changed(workload, name)))
    assert (again.measured.reference is not None) is (name == "reference")
    left: dict[str, Any] = {
        "validation": None,
        "base_validation": None,
        "reference": None,
        "base_reference": None,
        "curve_of": None,
    }
    assert replace(again.measured, **left) == replace(first.measured, **left)
    assert store.problems == []
    (later,) = run(changed(workload, name), FakeExecutor())[0].trials
    assert later.measured == again.measured
    assert (later.provenance.cached, later.provenance.measured_again) == (True, False)


def test_what_the_curve_was_measured_on_goes_with_it(run: Run, workload: Workload) -> None:
    """The same text with fewer sequences, another text, and the first one again, each taken from the one before."""
    (first,) = run(workload)[0].trials
    assert first.measured.curve_of is None
    (fewer,) = run(changed(workload, "validation_sequences"))[0].trials
    known = fewer.measured.curve_of
    assert known is not None
    assert (known.digest, known.tokens, known.documents) == ("validation 256", (10, 10), None)
    assert known.is_validation
    store = Path(workload.train).parent / "store"
    whole = next(path for path in store.glob("weights/*") if str(first.provenance.content) in path.name)
    shutil.rmtree(whole)
    (other,) = run(changed(workload, "validation"))[0].trials
    assert other.measured.curve_of == replace(known, is_validation=False)
    (back,) = run(replace(workload, validation_sequences=77))[0].trials
    assert back.measured.curve_of == known


def test_a_reference_alone_leaves_the_curve_what_it_was(run: Run, workload: Workload) -> None:
    """The validation sequences are the same, so a training would measure the same curve."""
    run(workload)

    class Same(Keeping):
        def measure(self, job: MeasureJob) -> Trial:
            text = losses([20.0] * 100, digest=told(job.spec.workload))
            measured = Measured(outcome="ok", validation=text, base_validation=text, environment=self.environment)
            return Trial(job.spec, measured)

    (again,) = run(changed(workload, "reference"), Same())[0].trials
    assert again.provenance.measured_again
    assert again.measured.curve_of is None


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 99},
        {"batch_size": 2},
        {"seeds": (1,)},
        {"training_args": {"weight_decay": 0.1}},
    ],
    ids=str,
)
def test_another_training_is_trained(run: Run, workload: Workload, changes: dict[str, Any]) -> None:
    """The stored weights are not its own."""
    run(workload)
    _, executor, _ = run(replace(changed(workload, "validation_sequences"), **changes))
    assert (len(executor.trained), len(executor.measured)) == (1, 0)


@pytest.mark.parametrize("changes", [{}, {"torch_compile": True}, {"use_liger_kernel": True}], ids=str)
def test_weights_of_a_training_that_changes_the_arithmetic_are_not_evaluated(
    run: Run, workload: Workload, changes: dict[str, Any]
) -> None:
    """A process that only evaluates would compute otherwise."""
    run(replace(workload, training_args=changes))
    _, executor, _ = run(replace(changed(workload, "reference"), training_args=changes))
    assert (len(executor.trained), len(executor.measured)) == ((1, 0) if changes else (0, 1))


def test_code_of_ones_own_may_train_otherwise(run: Run, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is handed the whole workload, so its weights stand for no other evaluation, and the summary says so."""
    folder = Path(workload.train).parent
    (folder / "mine_again.py").write_text("def train(model, batches, spec): ...\n")
    monkeypatch.syspath_prepend(str(folder))
    own = replace(workload, training_function="mine_again:train")
    run(own)
    executor, store = Keeping(), Store(StoreOptions(folder / "store"), "later")
    lab = Lab(LabOptions(device="cpu"), executor, lambda _: None, store)
    lab.train(changed(own, "validation_sequences"), LORA)
    assert (len(executor.trained), len(executor.measured)) == (1, 0)
    assert [reason.changes for reason in lab.reasons] == [
        "validation_sequences (256 -> 90); mine_again:train may train another way for other evaluation examples"
    ]
    lab.close()


@pytest.mark.parametrize("lost", ["weights", "probe", "damaged", "protected", "unsigned"])
def test_weights_that_are_not_there_or_not_believed_are_trained(run: Run, workload: Workload, lost: str) -> None:
    """As they were before, and the summary names what is wrong with a file."""

    class Unprobed(Keeping):
        def train(self, job: TrainJob) -> Trial | Answer:
            done = super().train(job)
            assert isinstance(done, Trial)
            return done.remeasured(probe=None)

    run(workload, Unprobed() if lost == "probe" else Keeping())
    folder = Path(workload.train).parent / "store"
    if lost == "weights":
        shutil.rmtree(folder / "weights")
    if lost == "damaged":
        (file,) = folder.glob(f"weights/*/{WEIGHTS}")
        file.write_text("something else")
    options: dict[str, dict[str, Any]] = {
        "protected": {"reads": False},
        "unsigned": {"signing_key": b"k", "requires_signature": True},
    }
    _, executor, store = run(changed(workload, "reference"), **options.get(lost, {}))
    assert (len(executor.trained), len(executor.measured)) == (1, 0)
    said = {"damaged": "a file is not what was written", "unsigned": "it has no valid signature by this key"}
    assert [said[lost] in problem for problem in store.problems] == ([True] if lost in said else [])


def test_an_evaluation_that_fails_is_followed_by_a_training(run: Run, workload: Workload) -> None:
    """Whatever happened to its process; only what the user must settle ends it, and that is asked for once."""

    class Crashing(Keeping):
        def measure(self, job: MeasureJob) -> Answer:
            return Answer(failure=Failure(kind="crashed", message="their loss is 3.0000, and was 1.5000"))

    class Refusing(Keeping):
        def measure(self, job: MeasureJob) -> Answer:
            return Answer(failure=Failure(kind="configuration", message="the text is too short"))

    run(workload)
    found, executor, store = run(changed(workload, "validation_sequences"), Crashing())
    assert (len(executor.trained), found.cached) == (1, False)
    assert store.problems == [
        "lora r=16, seed 0, was trained again, because its stored weights could not be evaluated: their loss is "
        "3.0000, and was 1.5000"
    ]
    refusing = Refusing()
    lab = Lab(LabOptions(), refusing, lambda _: None, Store(StoreOptions(Path(workload.train).parent / "store"), "x"))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="the text is too short"):
            lab.train(changed(workload, "validation"), LORA)
    lab.close()
    assert (len(refusing.trained), len(refusing.measured)) == (0, 1)


def test_losses_of_another_precision_are_not_taken(run: Run, workload: Workload) -> None:
    """An executor that evaluates elsewhere than it says would put them under the wrong name."""

    class Elsewhere(Keeping):
        def measure(self, job: MeasureJob) -> Trial:
            done = super().measure(job)
            assert isinstance(done, Trial)
            return done.remeasured(environment=replace(ENVIRONMENT, precision="bf16"))

    run(workload)
    _, executor, store = run(changed(workload, "reference"), Elsewhere())
    assert (len(executor.trained), len(executor.measured)) == (1, 1)
    assert any("was not trained where the executor said" in problem for problem in store.problems)


def test_bytes_and_seconds_stay_those_of_the_machine_that_trained(run: Run, workload: Workload) -> None:
    """On another machine the losses count, and the rest is marked, now and in later runs."""

    class OtherMachine(Keeping):
        environment = replace(ENVIRONMENT, device_name="another processor")

        def facts(self, device: str, precision: str) -> str | None:
            return "another processor"

    run(workload)
    for executor in (OtherMachine(), OtherMachine()):
        (found,) = run(changed(workload, "reference"), executor)[0].trials
        assert found.measured.environment == ENVIRONMENT
        assert "another processor" in str(found.provenance.measured_elsewhere)
    assert not executor.measured


def test_a_trial_can_be_given_the_curve_that_a_gate_needs(run: Run, workload: Workload) -> None:
    """It is trained once for it; what has its own curve is left alone, and later runs find it."""
    run(workload)
    executor, folder = Keeping(), Path(workload.train).parent
    lab = Lab(LabOptions(device="cpu"), executor, lambda _: None, Store(StoreOptions(folder / "store"), "later"))
    other = lab.train(changed(workload, "validation"), LORA)
    whole = other.with_curves()
    assert [one.measured.curve_of for one in whole.trials] == [None]
    assert (len(executor.trained), len(executor.measured)) == (1, 1)
    assert whole.with_curves() == whole
    assert lab.train(changed(workload, "validation"), LORA) == whole
    assert [reason.changes for reason in lab.reasons] == [
        "the sequences of the losses along training, which a gate needs"
    ]
    lab.close()
    assert len(executor.trained) == 1
    found, _, _ = run(changed(workload, "validation"), FakeExecutor())
    assert found.cached
    assert has_own_curves(found)


def test_a_plan_counts_what_would_only_be_evaluated(run: Run, workload: Workload) -> None:
    """It is neither trained nor cached."""
    run(workload)
    executor, folder = Keeping(), Path(workload.train).parent
    lab = Lab(LabOptions(device="cpu"), executor, lambda _: None, Store(StoreOptions(folder / "store"), "later"))
    planned = [lab.plan(work, LORA).trials[0] for work in (workload, changed(workload, "reference"))]
    planned.append(lab.plan(replace(workload, steps=7), LORA).trials[0])
    lab.close()
    assert [one.provenance.cached for one in planned] == [True, True, False]
    assert [one.provenance.measured_again for one in planned] == [False, True, False]
    assert "plan: 1 trial to train, 1 to measure again, 1 cached; nothing was trained" in plan_lines(planned)
    assert (executor.trained, executor.measured) == ([], [])


def test_weights_of_several_evaluations_take_the_room_of_one(run: Run, workload: Workload) -> None:
    """Their files are shared, and each may go without the others."""
    run(workload)
    run(changed(workload, "reference"))
    files = list((Path(workload.train).parent / "store").glob(f"weights/*/{WEIGHTS}"))
    assert len(files) == 2
    assert {file.stat().st_nlink for file in files} == {2}


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"validation_sequences": 7}, True),
        ({"validation": "other"}, True),
        ({"reference": "general"}, True),
        ({"final": True}, True),
        ({"purpose": "search"}, False),
        ({"train": "other"}, False),
        ({"block_size": 7}, False),
        ({"steps": 7}, False),
        ({"precision": "fp32"}, True),  # what it stands for is given
    ],
    ids=str,
)
def test_a_training_is_known_by_what_decides_its_weights(
    workload: Workload, changes: dict[str, Any], is_same: bool
) -> None:
    """The identity table says what that is, and the contents of files count, not their names."""
    folder = Path(workload.train).parent
    placed: dict[str, Any] = {
        name: str(folder / value) if (folder / str(value)).exists() else value for name, value in changes.items()
    }
    one, other = (
        fingerprint_of(TrialSpec(workload=work, variant=FULL, seed=0), "cpu", "fp32", {})
        for work in (workload, replace(workload, **placed))
    )
    assert (parts_of_training(one.parts) == parts_of_training(other.parts)) is is_same


NLL = [20.0 + 0.01 * (number % 7) for number in range(80)]
GAP = Limit.of(argument_setting("max_loss_gap", 0.05))


def curve(points: dict[int, float], count: int = 8) -> tuple[CurvePoint, ...]:
    """A curve with one loss per sequence at each step."""
    return tuple(CurvePoint(step, loss / 10, (loss,) * count) for step, loss in points.items())


def again(one: Trial, *, is_validation: bool = True, digest: str = "before", count: int = 8) -> Trial:
    """A trial that was evaluated again on other sequences than those of its curve."""
    known = CurveText(digest, (10,) * count, None, "text", is_validation=is_validation)
    return one.remeasured(curve_of=known).come_by(cached=True, measured_again=True, content=f"c{one.spec.variant.kind}")


def pair(*, widens: bool = False, start: Start | None = None) -> tuple[Trial, Trial]:
    """Full, and LoRA with a gap that is small, and may be widening."""
    gaps = {0: 0.0, 25: -2.0, 50: -1.0, 100: 0.0} if widens else {0: 0.0, 25: 0.0, 50: 0.0, 100: 0.0}
    falling = {0: 30.0, 25: 26.0, 50: 23.0, 100: 20.0}
    full = trial(FULL, NLL, curve=curve(falling), start=start)
    lora = trial(LORA, NLL, curve=curve({step: falling[step] + gaps[step] for step in falling}), start=start)
    return full, lora


def judged(full: TrainedVariant, lora: TrainedVariant, limit: Limit = GAP) -> Verdict:
    return look(assess_loss_gap, lora, full, limit, rule_of(None))


@pytest.mark.parametrize("widens", [False, True])
def test_the_curves_of_a_training_show_the_trend_of_their_text(widens: bool) -> None:
    """If both variants were evaluated again on sequences of the same text, the trend is the one that it was."""
    full, lora = pair(widens=widens)
    before = judged(trained(FULL, full), trained(LORA, lora))
    after = judged(trained(FULL, again(full)), trained(LORA, again(lora)))
    assert before.status == after.status == ("INCONCLUSIVE" if widens else "PASS")
    assert compare(trained(LORA, again(lora)), trained(FULL, again(full))).trend(0.95) == compare(
        trained(LORA, lora), trained(FULL, full)
    ).trend(0.95)


def test_the_tokens_of_a_trend_are_those_of_its_curve() -> None:
    """Sequences of twice the tokens halve a slope in nats per token, whatever the present sequences have."""
    full, _ = pair()
    once = again(full)
    assert once.measured.curve_of is not None
    twice = once.remeasured(curve_of=replace(once.measured.curve_of, tokens=(20,) * 8))
    one, other = (trend_of(trained(FULL, each), 0.95) for each in (once, twice))
    assert one is not None
    assert other is not None
    assert other.per_doubling.value == pytest.approx(one.per_doubling.value / 2)
    wrong = once.remeasured(curve_of=replace(once.measured.curve_of, tokens=(20,) * 7))
    assert trend_of(trained(FULL, wrong), 0.95) is None


@pytest.mark.parametrize("mixed", ["another text", "one side", "other sequences", "one seed"])
def test_curves_that_do_not_belong_together_show_no_trend(mixed: str) -> None:
    """A PASS then comes too early, whatever the losses on the present sequences are."""
    start = Start(0.0)
    full, lora = pair(start=start)
    sides = {
        "another text": ([again(full, is_validation=False)], [again(lora, is_validation=False)]),
        "one side": ([full], [again(lora)]),
        "other sequences": ([again(full)], [again(lora, digest="long ago")]),
        "one seed": (
            [full, again(replace(full, spec=replace(full.spec, seed=1)).remeasured(data_order="order 1"))],
            [lora, again(replace(lora, spec=replace(lora.spec, seed=1)).remeasured(data_order="order 1"))],
        ),
    }
    ours, theirs = sides[mixed]
    assert not has_own_curves(trained(FULL, *ours), trained(LORA, *theirs))
    verdict = judged(trained(FULL, *ours), trained(LORA, *theirs))
    assert verdict.status == "INCONCLUSIVE"
    assert "were not measured on the same sequences of the validation text" in verdict.message


@pytest.mark.parametrize(
    ("change", "trains"),
    [("none", True), ("final", False), ("too large", False), ("in doubt", False), ("same text", False)],
)
def test_a_gate_trains_only_if_it_lacks_nothing_but_a_curve(change: str, trains: bool) -> None:
    """A FAIL, a doubt about the gap, or steps of production need none; with it, the verdict is a PASS."""
    full, lora = pair(start=Start(0.0))
    if change == "too large":
        lora = lora.remeasured(validation=losses([nll + 2.0 for nll in NLL]))
    if change == "in doubt":
        noisy = [nll + 0.5 + (5.0 if number % 2 else -5.0) for number, nll in enumerate(NLL)]
        lora = lora.remeasured(validation=losses(noisy))
    if change == "final":
        full, lora = (
            replace(one, spec=replace(one.spec, workload=replace(one.spec.workload, final=True)))
            for one in (full, lora)
        )
    asked: list[str] = []

    def with_curves(variant: TrainedVariant) -> TrainedVariant:
        asked.append(variant.label)
        return replace(variant, trials=tuple(one.remeasured(curve_of=None) for one in variant.trials))

    source = GivenSource(with_curves=with_curves)
    sides = [trained(one.spec.variant, again(one, is_validation=change == "same text")) for one in (full, lora)]
    ours, theirs = (replace(side, source=source) for side in sides)
    verdict = judged(ours, theirs)
    assert sorted(asked) == (["full", "lora r=16"] if trains else [])
    expected = {"too large": "FAIL", "in doubt": "INCONCLUSIVE"}.get(change, "PASS")
    assert verdict.status == expected


def test_a_gate_on_convergence_has_the_curve_trained_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for another text; without a source it says what it lacks."""
    monkeypatch.setattr(asking, "find_test", lambda: None)  # no verdict is this test's own
    full, _ = pair(start=Start(0.0))
    asked: list[str] = []

    def with_curves(variant: TrainedVariant) -> TrainedVariant:
        asked.append(variant.label)
        return replace(variant, trials=tuple(one.remeasured(curve_of=None) for one in variant.trials))

    for is_validation in (True, False):
        side = trained(FULL, again(full, is_validation=is_validation))
        assert assert_converged(replace(side, source=GivenSource(with_curves=with_curves)), at_most=9).status == "PASS"
    assert asked == ["full"]
    with pytest.raises(AssertionError, match="the losses along training were measured on other sequences"):
        assert_converged(trained(FULL, again(full, is_validation=False)), at_most=9)


@pytest.mark.parametrize(("gap", "is_same"), [(0.0, True), (0.5, False)])
def test_starts_on_other_sequences_are_compared_by_their_distance_from_the_base(gap: float, is_same: bool) -> None:
    """The losses themselves are of other sequences; a distance that both do not have is another model."""
    full, lora = pair(start=Start(0.0))
    moved = curve({0: 99.0, 25: 98.0, 50: 97.0, 100: 96.0})
    found = compare(trained(LORA, again(lora.remeasured(curve=moved, start=Start(gap)))), trained(FULL, full))
    assert (not found.loss_problems) is is_same
    assert is_same or "do not start from the same model" in str(found.loss_problems[0])
    unknown = compare(trained(LORA, again(lora.remeasured(start=None))), trained(FULL, full))
    assert "was not measured on the same sequences" in str(unknown.loss_problems[0])


def test_a_trial_without_a_curve_shares_none() -> None:
    """Nothing is concluded from what is not there."""
    empty = trial(FULL, NLL, curve=())
    assert basis_of(empty) is None
    assert not share_curves([empty, empty])
    assert not share_curves([])


def test_the_summary_and_the_report_say_what_was_measured_again(tmp_path: Path) -> None:
    """With how many seeds it was, and the report is read as it was written."""
    found = [again(trial(LORA, NLL, seed=seed)) for seed in (0, 1)]
    third = trial(LORA, NLL, seed=2).come_by(cached=True, content="c")
    assert any(line.startswith("lora r=16 (measured again) ") for line in summary_lines(found))
    some = summary_lines([*found, third])
    assert any(line.startswith("lora r=16 (1 of 3 cached, 2 of ") for line in some)
    assert "3 measured again)" in some
    (tmp_path / "r.json").write_text(json_report(found, []))
    values = json.loads((tmp_path / "r.json").read_text())
    assert [one["measured_again"] for one in values["trials"]] == [True, True]
    (read,) = read_report(tmp_path / "r.json")
    assert [one.measured for one in read.trials] == [one.measured for one in found]


def test_a_report_of_before_is_read(tmp_path: Path) -> None:
    """It knows no evaluation without a training."""
    values = json.loads(json_report([trial(FULL, NLL)], []))
    for name in ("measured_again", "curve_of", "probe"):
        del values["trials"][0][name]
    (tmp_path / "r.json").write_text(json.dumps(values))
    (read,) = read_report(tmp_path / "r.json")
    assert read.trials[0].measured == trial(FULL, NLL).measured


def test_a_trial_that_a_gate_had_trained_stands_once_in_the_summary() -> None:
    """Instead of the one that was only evaluated, whichever comes first; one of a report stands for itself."""
    whole = trial(Full(learning_rate=1e-4), NLL).come_by(content="c")
    for order in ([again(whole), whole], [whole, again(whole)]):
        received = Received()
        received._take_trials([one.to_dict() for one in order], ())
        assert received.reported == [whole]
    received = Received()
    received._take_trials([one.to_dict() for one in (again(whole).come_by(content=None), whole)], ())
    assert len(received.reported) == 2


@pytest.mark.parametrize("comes_first", [True, False])
def test_one_worker_that_evaluated_it_again_is_enough(comes_first: bool) -> None:
    """The other workers find it in the store; whichever reports first, the summary says that this run evaluated it."""
    taken = trial(FULL, NLL).come_by(content="same", cached=True)
    evaluated = taken.come_by(measured_again=True)
    received = Received()
    order = (evaluated, taken) if comes_first else (taken, evaluated)
    for one in order:
        received.take({"trials": [one.to_dict()], **NOTHING})
    assert [one.provenance.measured_again for one in received.reported] == [True]


def test_a_trial_that_ended_otherwise_is_no_evaluation(run: Run, workload: Workload) -> None:
    """An executor that answers with another outcome has evaluated nothing, so it is trained."""

    class Diverging(Keeping):
        def measure(self, job: MeasureJob) -> Trial:
            return Trial(job.spec, Measured(outcome="diverged", error=TrialError("not finite")))

    run(workload)
    found, executor, _ = run(changed(workload, "reference"), Diverging())
    assert (len(executor.trained), found.ok) == (1, True)


@pytest.mark.parametrize(("most", "is_kept"), [(None, True), (17, True), (16, False)])
def test_a_run_that_keeps_no_models_leaves_the_weights_to_the_store(
    run: Run, workload: Workload, most: int | None, is_kept: bool
) -> None:
    """The copy that was evaluated, of 17 bytes, is removed; the store gives it again."""
    run(workload)
    store, executor = Store(StoreOptions(Path(workload.train).parent / "store"), "later"), Keeping()
    lab = Lab(LabOptions(device="cpu", keep_at_most_bytes=most), executor, lambda _: None, store)
    (found,) = lab.train(changed(workload, "reference"), LORA).trials
    folder = executor.measured[0].folder / "model"
    assert folder.exists() is is_kept
    assert found.provenance.model_dir == (str(folder) if is_kept else None)
    assert store.take_weights(found, folder.with_name("taken"))
    lab.close()
