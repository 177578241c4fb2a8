"""A training whose process was killed goes on from its last complete checkpoint, to the same numbers."""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_ftguard.results import Memory, Trial
from pytest_ftguard.running.executor import Event, TrainJob
from pytest_ftguard.running.local.process import Worker
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.training.checkpoints import CheckpointSaver, newest_complete
from pytest_ftguard.training.memory import largest

FULL = Full(learning_rate=1e-3)
LORA = LoRA(r=4, learning_rate=1e-2, dropout=0.1)  # so that random numbers decide as well

Losses = dict[int, float]


@pytest.fixture(scope="module")
def work(workload: Workload, warm_workers: None) -> Workload:
    """Fifty steps of two micro-batches each, over several epochs, the last update of each epoch with one."""
    text = Path(workload.train).read_text()[:4400]  # 137 blocks of 32 bytes
    path = Path(workload.train).with_name("short.txt")
    path.write_text(text)
    return replace(workload, train=str(path), steps=50, training_args={"gradient_accumulation_steps": 2})


def run(
    work: Workload,
    variant: Variant,
    folder: Path,
    checkpoints: Path | None,
    *,
    kill_at: int | None = None,
    import_path: tuple[str, ...] = (),
) -> tuple[Trial, Losses]:
    """Train in a worker, which is killed when it reports so many steps; return its result and its training losses."""
    folder.mkdir(parents=True, exist_ok=True)
    worker = Worker(folder, folder)
    losses: Losses = {}

    def take(event: Event) -> None:
        if event.phase == "train" and event.loss is not None:
            losses[event.step] = event.loss
            if kill_at is not None and event.step >= kill_at and not worker.has_ended:
                worker._process.send_signal(signal.SIGKILL)

    spec = TrialSpec(workload=work, variant=variant, seed=0, device="cpu")
    job = TrainJob(
        spec=spec,
        folder=folder,
        run="run",
        checkpoints=checkpoints,
        checkpoint_seconds=0.0,
        import_path=import_path,
    )
    return worker.run(job, take, lambda: True).trial(spec), losses


@pytest.fixture(scope="module", params=[FULL, LORA], ids=["full", "lora"])
def whole(
    request: pytest.FixtureRequest, work: Workload, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Variant, Trial, Losses]:
    """The uninterrupted training, without checkpoints."""
    result, losses = run(work, request.param, tmp_path_factory.mktemp("whole"), None)
    assert result.measured.outcome == "ok"
    assert sorted(losses) == list(range(1, 51))
    return request.param, result, losses


def assert_equal(ours: Trial, theirs: Trial) -> None:
    """Everything that was measured of the model is equal, to the last bit."""
    assert ours.measured.outcome == "ok", ours.failure
    assert ours.measured.validation == theirs.measured.validation
    assert ours.measured.curve == theirs.measured.curve
    assert ours.measured.data_order == theirs.measured.data_order
    assert ours.measured.parameters == theirs.measured.parameters


def test_a_killed_training_goes_on_to_the_same_losses_bit_for_bit(
    work: Workload, tmp_path: Path, whole: tuple[Variant, Trial, Losses]
) -> None:
    """Killed three times, at whatever it was doing, it ends with the losses, curve and data order of one process."""
    variant, expected, expected_losses = whole
    checkpoints = tmp_path / "checkpoints"
    losses: Losses = {}
    started = []
    for number, kill_at in enumerate((7, 22, 38)):
        result, seen = run(work, variant, tmp_path / f"killed{number}", checkpoints, kill_at=kill_at)
        assert result.measured.outcome == "crashed"
        assert checkpoints.exists()
        losses |= seen
        started.append(min(seen))
    result, seen = run(work, variant, tmp_path / "last", checkpoints)
    assert_equal(result, expected)
    assert losses | seen == expected_losses
    started.append(min(seen))
    assert started[0] == 1
    assert all(later > 4 for later in started[1:]), started  # each went on, and did not begin again
    assert started == sorted(started)
    assert result.measured.time is not None
    assert result.measured.time.disturbance is not None
    assert "was resumed at step" in result.measured.time.disturbance
    assert "a training that was killed went on from checkpoint-" in result.measured.notes[-1]
    assert result.measured.memory is not None
    assert expected.measured.memory is not None
    assert result.measured.memory.peak_bytes == pytest.approx(expected.measured.memory.peak_bytes, rel=0.02)
    assert expected.measured.time is not None
    assert result.measured.time.flop_per_step == expected.measured.time.flop_per_step
    assert expected.measured.time.disturbance is None


@pytest.mark.parametrize(
    "variant",
    [
        Peft("ia3", learning_rate=1e-2),
        Peft("lora", r=4, lora_dropout=0.1, use_dora=True, learning_rate=1e-2),
        Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-2),
        Peft("p_tuning", num_virtual_tokens=4, encoder_hidden_size=16, learning_rate=1e-2),
        Peft("prefix_tuning", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16, learning_rate=1e-2),
        Peft("lora", r=4, init_lora_weights="pissa", learning_rate=1e-2, label="pissa"),
    ],
    ids=lambda variant: variant.label,
)
def test_a_killed_training_of_a_method_of_peft_goes_on_to_the_same_losses(
    work: Workload, tmp_path: Path, variant: Variant
) -> None:
    """Whatever peft keeps of a method: adapters, a prompt, or the encoder that makes one."""
    short = replace(work, steps=22)
    expected, losses = run(short, variant, tmp_path / "whole", None)
    killed, before = run(short, variant, tmp_path / "killed", tmp_path / "checkpoints", kill_at=9)
    assert killed.measured.outcome == "crashed"
    result, after = run(short, variant, tmp_path / "resumed", tmp_path / "checkpoints")
    assert_equal(result, expected)
    assert min(after) > 4
    assert before | after == losses
    assert result.measured.start == expected.measured.start


def test_what_makes_it_equal_is_in_the_checkpoint(
    work: Workload, tmp_path: Path, whole: tuple[Variant, Trial, Losses]
) -> None:
    """Without the optimizer's state, or with other random numbers where there is dropout, the losses are others."""
    variant, expected, _ = whole
    for name in ("optimizer.pt", *(["rng_state.pth"] if variant == LORA else [])):
        checkpoints = tmp_path / f"without {name}"
        run(work, variant, tmp_path / f"killed {name}", checkpoints, kill_at=25)
        newest = newest_complete(checkpoints, print)
        assert newest is not None
        folder, _ = newest
        (folder / name).unlink()
        content = json.loads((folder / "ftguard_measured.json").read_text())
        del content["files"][name]
        (folder / "ftguard_measured.json").write_text(json.dumps(content))
        result, _ = run(work, variant, tmp_path / f"last {name}", checkpoints)
        assert result.measured.outcome == "ok"
        assert result.measured.validation != expected.measured.validation


def test_another_machines_checkpoint_is_left_alone(work: Workload, tmp_path: Path, full_checkpoint: Path) -> None:
    """Its peak of memory would pass for this machine's: the training starts again."""
    root = tmp_path / "checkpoints"
    shutil.copytree(full_checkpoint, root)
    found = newest_complete(root, print)
    assert found is not None
    path = found[0] / "ftguard_measured.json"
    content = json.loads(path.read_text())
    content["measured"]["environment"]["device_name"] = "another processor"
    path.write_text(json.dumps(content))
    result, losses = run(work, FULL, tmp_path / "here", root)
    assert result.measured.outcome == "ok"
    assert min(losses) == 1
    assert result.measured.time is not None
    assert result.measured.time.disturbance is None
    assert result.measured.notes == (f"its {found[0].name} is another machine's, so the training started again",)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("ftguard_measured.json", "missing"),
        ("ftguard_measured.json", "truncated"),
        ("model.safetensors", "flipped"),
        ("optimizer.pt", "truncated"),
        ("rng_state.pth", "missing"),
    ],
)
def test_a_damaged_checkpoint_is_removed_and_the_training_starts_anew(
    work: Workload, tmp_path: Path, full_checkpoint: Path, name: str, how: str
) -> None:
    """Whatever is wrong with it: it is never trained on from something else than what was written."""
    root = tmp_path / "checkpoints"
    shutil.copytree(full_checkpoint, root)
    found = newest_complete(root, print)
    assert found is not None
    damage(found[0] / name, how)
    remarks: list[str] = []
    assert newest_complete(root, remarks.append) is None
    assert not found[0].exists()
    assert re.match(rf"its {found[0].name} was not complete, so it was removed \(\w+: .+\)", remarks[0])


@pytest.fixture(scope="module")
def full_checkpoint(work: Workload, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint of a killed training."""
    folder = tmp_path_factory.mktemp("checkpoint")
    run(work, FULL, folder / "killed", folder / "checkpoints", kill_at=20)
    return folder / "checkpoints"


SCORES = """
import torch

def guesses(model, tokenizer, rows):
    found = []
    for row in rows:
        ids = torch.tensor([tokenizer(row["text"])["input_ids"]])
        found.append((model(input_ids=ids).logits[0, :-1].argmax(-1) == ids[0, 1:]).float().mean().item())
    return found
"""


def test_a_training_that_went_on_from_a_checkpoint_is_scored(work: Workload, tmp_path: Path) -> None:
    """Scores are made after the training, so they are those of the whole one, as are those of the base model."""
    (tmp_path / "scores_of_resumed.py").write_text(SCORES)
    short = replace(work, steps=22, score="scores_of_resumed:guesses")
    path = (str(tmp_path),)
    expected, _ = run(short, LORA, tmp_path / "whole", None, import_path=path)
    killed, _ = run(short, LORA, tmp_path / "killed", tmp_path / "checkpoints", kill_at=9, import_path=path)
    assert killed.measured.outcome == "crashed"
    result, after = run(short, LORA, tmp_path / "resumed", tmp_path / "checkpoints", import_path=path)
    assert min(after) > 4
    for name in ("validation", "base_validation"):
        ours, theirs = getattr(result.measured, name), getattr(expected.measured, name)
        assert ours.scores.values == theirs.scores.values
        assert len(ours.scores.values["guesses"]) == len(ours.nll)
        assert ours.scores.failure == ""


def test_a_resumed_training_counts_its_steps_from_the_checkpoint(
    work: Workload, tmp_path: Path, full_checkpoint: Path
) -> None:
    """Its first report is of the step that it goes on from: those before took none of its time."""
    shutil.copytree(full_checkpoint, tmp_path / "checkpoints")
    found = newest_complete(tmp_path / "checkpoints", print)
    assert found is not None
    spec = TrialSpec(workload=work, variant=FULL, seed=0, device="cpu")
    (tmp_path / "resumed").mkdir()
    job = TrainJob(spec=spec, folder=tmp_path / "resumed", run="run", checkpoints=tmp_path / "checkpoints")
    steps: list[int] = []
    worker = Worker(job.folder, job.folder)
    worker.run(job, lambda event: steps.append(event.step) if event.phase == "train" else None, lambda: True)
    assert found[0].name == f"checkpoint-{steps[0]}"


def test_an_older_complete_checkpoint_serves_where_the_newest_is_half_written(
    tmp_path: Path, full_checkpoint: Path
) -> None:
    """A process that was killed while it saved leaves the one before, and a folder without our file."""
    root = tmp_path / "checkpoints"
    shutil.copytree(full_checkpoint, root)
    found = newest_complete(root, print)
    assert found is not None
    half = root / "checkpoint-99"
    shutil.copytree(found[0], half)
    (half / "ftguard_measured.json").unlink()
    (root / "checkpoint-nonsense").mkdir()
    assert newest_complete(root, print) == found
    assert not half.exists()
    assert newest_complete(tmp_path / "nowhere", print) is None


def test_kills_at_random_moments_change_nothing(work: Workload, tmp_path: Path) -> None:
    """Between any two instructions, saving included: the next attempt ends with the same losses."""
    short = replace(work, steps=30)
    expected, _ = run(short, FULL, tmp_path / "whole", None)
    checkpoints = tmp_path / "checkpoints"
    killers: dict[int, threading.Thread] = {}
    for number in range(4):
        folder = tmp_path / f"killed{number}"
        folder.mkdir()
        worker = Worker(folder, folder)

        def take(event: Event, worker: Worker = worker, number: int = number) -> None:
            if event.phase == "train" and event.step >= 2 and not killers.get(number):
                killers[number] = threading.Thread(target=kill_soon, args=(worker,), daemon=True)
                killers[number].start()

        spec = TrialSpec(workload=short, variant=FULL, seed=0, device="cpu")
        job = TrainJob(spec=spec, folder=folder, run="run", checkpoints=checkpoints, checkpoint_seconds=0.0)
        worker.run(job, take, lambda: True)
    result, _ = run(short, FULL, tmp_path / "last", checkpoints)
    assert_equal(result, expected)


def kill_soon(worker: Worker) -> None:
    time.sleep(random.uniform(0.0, 0.2))
    worker._process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (None, None, None),
        (Memory(5, "live tensors"), None, Memory(5, "live tensors")),
        (Memory(5, "allocator", 9, allocator_retries=1), Memory(7, "allocator", 8), Memory(7, "allocator", 9, None, 1)),
        (
            Memory(7, "allocator", others_bytes=1),
            Memory(5, "allocator", others_bytes=3),
            Memory(7, "allocator", others_bytes=3),
        ),
    ],
)
def test_the_memory_of_two_attempts_is_the_larger_of_both(
    one: Memory | None, other: Memory | None, expected: Memory | None
) -> None:
    """Retries add up, whatever was reserved or taken by others counts at its worst."""
    assert largest(one, other) == largest(other, one) == expected


def test_a_full_disk_costs_the_checkpoints_and_not_the_training(
    work: Workload, tmp_path: Path, full_checkpoint: Path
) -> None:
    """No file may grow beyond a limit, as on a full disk: the trial ends with its losses, and leaves nothing."""
    short = replace(work, steps=10)
    folder = tmp_path / "full"
    folder.mkdir()
    worker = Worker(folder, folder)
    spec = TrialSpec(workload=short, variant=FULL, seed=0, device="cpu")
    checkpoints = tmp_path / "checkpoints"
    job = TrainJob(
        spec=spec, folder=folder, run="run", keep_at_most_bytes=0, checkpoints=checkpoints, checkpoint_seconds=0.0
    )

    def take(event: Event) -> None:
        if event.phase == "load":  # the weights of the model are larger than this, and the result is smaller
            resource.prlimit(worker._process.pid, resource.RLIMIT_FSIZE, (120_000, 120_000))

    result = worker.run(job, take, lambda: True).trial(spec)
    assert result.measured.outcome == "ok", result.failure
    assert [note.partition(" (")[0] for note in result.measured.notes] == ["checkpoints could not be written"]
    assert result.measured.validation == run(short, FULL, tmp_path / "whole", None)[0].measured.validation


def test_a_store_that_goes_away_costs_at_most_the_checkpoints(tmp_path: Path) -> None:
    """Its folder is made again; where that cannot be done the training goes on without, and says so once."""
    remarks: list[str] = []
    saver = CheckpointSaver(0.0, 10, dict, remarks.append)
    folder = tmp_path / "store" / "checkpoints" / "one"
    arguments, state = SimpleNamespace(output_dir=str(folder)), SimpleNamespace(global_step=1, max_steps=9)

    def asks() -> bool:
        control = SimpleNamespace(should_save=False)
        saver.on_step_end(arguments, state, control)
        return bool(control.should_save)

    assert asks()
    assert folder.is_dir()
    shutil.rmtree(tmp_path / "store")
    assert asks()
    assert folder.is_dir()
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("a file")
    saver.on_save(arguments, state, None)  # it was being written meanwhile
    assert not asks()
    assert not asks()
    assert [one.partition(" (")[0] for one in remarks] == ["checkpoints could not be written"]
    again = CheckpointSaver(0.0, 10, dict, remarks.append)
    again.on_step_end(arguments, state, SimpleNamespace(should_save=False))
    assert remarks[1] == "checkpoints could not be written (Not a directory); the training continued without them"
