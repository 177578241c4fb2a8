"""Trainings that are broken on purpose, on the quickstart's real base model: no gate lets one of them pass."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytest_ftguard.gates.limits import BYTES, NATS_PER_TOKEN, SHARE, Limit
from pytest_ftguard.gates.memory import assess_memory
from pytest_ftguard.gates.quality import assess_loss_gap
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.step_time import assess_time
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.training import adapters
from pytest_ftguard.training.trial import TrialFolder, run_trial

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
FULL, LORA = Full(learning_rate=5e-4), LoRA(r=8, learning_rate=5e-3)
MARGIN = Limit(0.1, NATS_PER_TOKEN, Origin("argument", "the test"))

Mutate = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Bench:
    """The job that all mutants share, and the sound variants that they are held against."""

    workload: Workload
    folder: Path
    full: TrainedVariant
    lora: TrainedVariant

    def train(self, variant: Variant, workload: Workload | None = None, mutate: Mutate | None = None) -> TrainedVariant:
        """Train a variant in this process, its model changed before the training."""
        return train(workload or self.workload, variant, self.folder, mutate)


def train(workload: Workload, variant: Variant, folder: Path, mutate: Mutate | None = None) -> TrainedVariant:
    real = adapters.apply_variant

    def mutant(model: Any, chosen: Variant) -> nn.Module:
        wrapped = real(model, chosen)
        if mutate is not None and model.device.type != "meta":
            mutate(wrapped)
        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "apply_variant", mutant)
        specs = [TrialSpec(workload=workload, variant=variant, seed=seed, device="cpu") for seed in workload.seeds]
        trials = tuple(run_trial(spec, TrialFolder(folder, 0), lambda *_: None) for spec in specs)
    return TrainedVariant(workload, variant, trials)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """40 steps of 8x64 on standard-library code."""
    sys.path.insert(0, str(QUICKSTART))
    import texts

    folder = tmp_path_factory.mktemp("mutants")
    texts.write_texts(folder)
    for name in ("train.txt", "validation.txt"):  # each trial reads them in Python, byte by byte
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text[:30_000], encoding="utf-8")
    workload = Workload(
        model=str(QUICKSTART / "base_model"),
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        block_size=64,
        batch_size=8,
        steps=40,
        seeds=(0,),
        precision="fp32",
        validation_sequences=128,
        final=True,
    )
    return Bench(workload, folder, train(workload, FULL, folder), train(workload, LORA, folder))


def gap(bench: Bench, candidate: TrainedVariant, baseline: TrainedVariant | None = None) -> Verdict:
    return assess_loss_gap(candidate, baseline or bench.full, MARGIN, Rule())


def freeze(model: nn.Module) -> None:
    """Leave only the matrices A to train, which are multiplied by the zeros of B."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.requires_grad_(False)


def ballast(share: float, peak: int) -> Mutate:
    def mutate(model: nn.Module) -> None:
        model.register_buffer("ballast", torch.zeros(int(share * peak), dtype=torch.uint8), persistent=False)

    return mutate


class Clock:
    """Stands for `time.perf_counter`: it counts what this process computes and sleeps, and nothing that others do.

    Attributes:
        slept: Seconds that were slept, for which nobody has to wait.
    """

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self) -> float:
        return time.process_time() + self.slept

    def delay(self, model: nn.Module) -> None:
        """Let each training step of a model sleep."""

        def hook(module: nn.Module, _: Any) -> None:
            if module.training:
                self.slept += 0.8

        model.register_forward_pre_hook(hook)


def nan_loss(model: nn.Module) -> None:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        # Only in training: in the evaluations of the curve it would be found by another check.
        if model.training and output.get("loss") is not None:
            output["loss"] = output["loss"] * float("nan")
        return output

    model.register_forward_hook(hook)


def swapped(bench: Bench, name: str) -> TrainedVariant:
    """Train with another content under the same path, as a race or a careless script would leave it."""
    path = bench.folder / f"{name}.txt"
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(text[len(text) // 2 :] + text[: len(text) // 2], encoding="utf-8")
        return bench.train(LORA)
    finally:
        path.write_text(text, encoding="utf-8")


def more_memory(bench: Bench) -> Verdict:
    peak = bench.lora.peak_memory_bytes
    assert peak is not None
    budget = Limit(1.05 * peak, BYTES, Origin("argument", "the test"))
    assert assess_memory(bench.lora, budget).status == "PASS"
    return assess_memory(bench.train(LORA, mutate=ballast(0.1, peak)), budget)


def slow(bench: Bench) -> Verdict:
    # Steps of some milliseconds, beside which the sleep is long.
    short = replace(bench.workload, steps=8, seeds=(0, 1, 2), batch_size=2, block_size=32, validation_sequences=8)
    limit = Limit(4.0, SHARE, Origin("argument", "the test"))
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", clock)
        full = bench.train(FULL, short)
        assert assess_time(bench.train(LORA, short), limit, full, 0.95).status == "PASS"
        return assess_time(bench.train(LORA, short, clock.delay), limit, full, 0.95)


MUTANTS: dict[str, tuple[Callable[[Bench], Verdict], str, str]] = {
    "rank 1": (lambda b: gap(b, b.train(LoRA(r=1, alpha=1, learning_rate=5e-3))), "FAIL", "beyond the limit"),
    "learning rate / 100": (lambda b: gap(b, b.train(LoRA(r=8, learning_rate=5e-5))), "FAIL", "beyond the limit"),
    "frozen adapter": (
        lambda b: gap(b, b.train(LORA, mutate=freeze)),
        "INVALID",
        "16 of 16 adapters never received a gradient",
    ),
    "wrong targets": (
        lambda b: gap(b, b.train(replace(LORA, target_modules=r".*\.h\.0\.mlp\.c_proj"))),
        "FAIL",
        "beyond the limit",
    ),
    "evaluation data swapped": (
        lambda b: gap(b, swapped(b, "validation")),
        "INVALID",
        "not evaluated on the same validation sequences",
    ),
    "training data swapped": (
        lambda b: gap(b, swapped(b, "train")),
        "INVALID",
        "not trained on the same batches in the same order",
    ),
    "10 % more memory": (more_memory, "FAIL", "peaked at"),
    "a sleep in the step": (slow, "FAIL", "step time FAIL: "),
    "NaN loss": (lambda b: gap(b, b.train(LORA, mutate=nan_loss)), "INVALID", "the training loss is nan at step 1"),
    "sandbagged full variant": (
        lambda b: gap(b, b.lora, b.train(Full(learning_rate=5e-7))),
        "INVALID",
        "this test has no power",
    ),
}

_TRIED: list[str] = []
_KILLED: list[str] = []


@pytest.mark.parametrize("name", ["full against full", "lora against full"])
def test_what_is_sound_passes(bench: Bench, name: str) -> None:
    """Without this a gate that fails everything would kill every mutant."""
    again = bench.train(FULL) if name == "full against full" else bench.lora
    verdict = gap(bench, again)
    assert verdict.status == "PASS", verdict.message


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_for_the_right_reason(bench: Bench, name: str) -> None:
    """FAIL if the training was worse or dearer, INVALID if it learned nothing or was not the same work."""
    _TRIED.append(name)
    make, status, reason = MUTANTS[name]
    verdict = make(bench)
    assert verdict.status == status, verdict.message
    assert reason in verdict.message
    _KILLED.append(name)


def test_the_killed_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints how many of the mutants that ran in this process were killed: all."""
    with capsys.disabled():
        print(f"\nmutants killed: {len(_KILLED)} of {len(_TRIED)}")
    assert _KILLED == _TRIED
