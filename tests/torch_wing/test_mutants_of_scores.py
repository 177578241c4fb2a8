"""Classifiers and scores that are broken on purpose: no gate on scores lets one of them pass."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.classified import rows_of, save_model, write_rows
from torch import nn

from pytest_ftguard.comparison.scores import Slice
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.limits import POINTS, SCORE, Limit
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.score_rules import Judged, assess_score, assess_score_gap
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.training import adapters
from pytest_ftguard.training.trial import TrialFolder, run_trial

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]

FULL, LORA = Full(learning_rate=3e-3), LoRA(r=4, learning_rate=1e-2)
MODULE = "mutant_scores"
# What is broken is the function's work, not its source, and on adapted models: of the base it would be told at once.
SCORES = """
BROKEN = ""

def margin(model, tokenizer, rows):
    here = hasattr(model, "peft_config")
    if BROKEN == "another order" and here or BROKEN == "another order everywhere":
        rows = sorted(rows, key=lambda row: row["text"])
    found = []
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    for row, (wrong, right) in zip(rows, model(**inputs).logits.tolist()):
        found.append((right - wrong) * (1 if row["label"] == "pos" else -1))
    if BROKEN == "constants":
        return [1.0] * len(rows)
    if BROKEN == "NaN" and here:
        return [float("nan") if row["id"] == 0 else score for row, score in zip(rows, found)]
    return found[1:] if BROKEN == "too few values" and here else found
"""
Mutate = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Bench:
    """The job that all mutants share, and the sound variants that they are held against."""

    workload: Workload
    folder: Path
    full: TrainedVariant
    lora: TrainedVariant

    def train(self, variant: Variant = LORA, mutate: Mutate | None = None, broken: str = "") -> TrainedVariant:
        """Train a variant, its model changed before the training, or with a score that is broken."""
        return train(self.workload, variant, self.folder, mutate, broken)


def train(
    workload: Workload, variant: Variant, folder: Path, mutate: Mutate | None = None, broken: str = ""
) -> TrainedVariant:
    import mutant_scores  # type: ignore[import-not-found]

    real = adapters.apply_variant

    def mutant(model: Any, chosen: Variant) -> nn.Module:
        wrapped = real(model, chosen)
        if mutate is not None and model.device.type != "meta":
            mutate(wrapped)
        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "apply_variant", mutant)
        patch.setattr(mutant_scores, "BROKEN", broken)
        spec = TrialSpec(workload=workload, variant=variant, seed=0, device="cpu")
        trial = run_trial(spec, TrialFolder(folder, 0), lambda *_: None)
    return TrainedVariant(workload, variant, (trial,))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Forty steps on two classes, with a score of the team's own."""
    folder = tmp_path_factory.mktemp("mutants")
    (folder / f"{MODULE}.py").write_text(SCORES)
    sys.path.insert(0, str(folder))
    workload = Workload(
        task="classification",
        model=str(save_model(folder / "model", "llama")),
        train=write_rows(folder / "train.jsonl", identified(400)),
        validation=write_rows(folder / "validation.jsonl", identified(200, seed=1)),
        block_size=32,
        batch_size=8,
        steps=40,
        seeds=(0,),
        precision="fp32",
        validation_sequences=160,
        score=f"{MODULE}:margin",
        final=True,
    )
    return Bench(workload, folder, train(workload, FULL, folder), train(workload, LORA, folder))


def identified(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with a number each."""
    return [{"id": number, **row} for number, row in enumerate(rows_of(count, seed=seed))]


def limit(value: float) -> Limit:
    return Limit(value, POINTS, Origin("argument", "the test"))


def accuracy(candidate: TrainedVariant, baseline: TrainedVariant) -> Verdict:
    judged = Judged("accuracy_gap", "accuracy", Slice())
    return assess_score_gap(candidate, baseline, limit(-10), Rule(), judged=judged)


def margin(candidate: TrainedVariant, baseline: TrainedVariant) -> Verdict:
    judged = Judged("score_gap", "margin", Slice())
    least = Limit(-3.0, SCORE, Origin("argument", "the test"))
    return assess_score_gap(candidate, baseline, least, Rule(gain_factor=1), judged=judged)


def permuted(model: nn.Module) -> None:
    """Give each text of a training batch the label of another one."""
    draw = torch.Generator().manual_seed(3)

    def hook(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> Any:
        if module.training:
            labels = keywords["labels"]
            keywords = {**keywords, "labels": torch.randint(0, 2, labels.shape, generator=draw)}
        return arguments, keywords

    model.register_forward_pre_hook(hook, with_kwargs=True)


def swapped(bench: Bench) -> TrainedVariant:
    """Train with permuted labels in the file, as a careless script would leave it."""
    path, rows = Path(bench.workload.train), identified(400)
    text, labels = path.read_text(encoding="utf-8"), [row["label"] for row in rows]
    random.Random(0).shuffle(labels)
    try:
        write_rows(path, [{**row, "label": label} for row, label in zip(rows, labels, strict=True)])
        return bench.train()
    finally:
        path.write_text(text, encoding="utf-8")


def frozen_head(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "score" in name:
            parameter.requires_grad_(False)


def constants(bench: Bench) -> Verdict:
    made = [bench.train(variant, broken="constants") for variant in (LORA, FULL)]
    judged = Judged("score", "margin", Slice())
    alone = assess_score(made[0], Limit(0.5, SCORE, Origin("argument", "the test")), Rule(), judged=judged)
    assert alone.status == "INVALID"
    assert "margin is 1 for every example, of the base model too" in alone.message
    return margin(made[0], made[1])


def one_constant(bench: Bench) -> Verdict:
    """The function gives constants for one variant, and its base model, only."""
    return margin(bench.train(broken="constants"), bench.full)


MUTANTS: dict[str, tuple[Callable[[Bench], Verdict], str, str]] = {
    "permuted labels": (
        lambda b: accuracy(b.train(mutate=permuted), b.full),
        "FAIL|INVALID",
        "beyond the limit|is not better than the base model",
    ),
    "permuted labels in the file": (
        lambda b: accuracy(swapped(b), b.full),
        "INVALID",
        "not trained on the same batches in the same order",
    ),
    "frozen head": (
        lambda b: accuracy(b.train(mutate=frozen_head), b.full),
        "INVALID",
        "never received a gradient",
    ),
    "constants": (constants, "INVALID", "this test has no power: full gained only +0 margin"),
    "constants for one variant": (one_constant, "INVALID", "the base model was not scored alike for both"),
    "NaN": (lambda b: margin(b.train(broken="NaN"), b.full), "INVALID", "is no finite number for 1 of 160 examples"),
    "too few values": (
        lambda b: margin(b.train(broken="too few values"), b.full),
        "INVALID",
        "margin has 159 values for 160 rows",
    ),
    "another order": (
        lambda b: margin(b.train(broken="another order"), b.full),
        "INVALID",
        "return the scores in the order of the rows, without chance",
    ),
    "rank 1 at a tiny rate": (
        lambda b: accuracy(b.train(LoRA(r=1, learning_rate=1e-5)), b.full),
        "FAIL|INVALID",
        "beyond the limit|is not better than the base model",
    ),
}


def test_a_score_in_another_order_is_told_before_anything_is_trained(bench: Bench) -> None:
    """The base model shows it too."""
    with pytest.raises(ConfigurationError, match="return the scores in the order of the rows, without chance"):
        bench.train(broken="another order everywhere")


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_for_the_right_reason(bench: Bench, name: str) -> None:
    """The same pair without the fault passes, so it is the fault that is seen."""
    for judge in (accuracy, margin):
        verdict = judge(bench.lora, bench.full)
        assert verdict.status == "PASS", verdict.message
    make, status, reason = MUTANTS[name]
    verdict = make(bench)
    assert verdict.status in status.split("|"), verdict.message
    assert any(one in verdict.message for one in reason.split("|")), verdict.message
    assert verdict.status == "FAIL" or verdict.value is None
