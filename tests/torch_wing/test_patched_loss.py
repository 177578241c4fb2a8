"""A library that breaks the training of every variant is seen by the loss of each, held to what was accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import GPT2LMHeadModel

from pytest_ftguard.accepting.asked import Asked
from pytest_ftguard.accepting.gate import assess_regression
from pytest_ftguard.accepting.history import AcceptedFile, History
from pytest_ftguard.accepting.record import record_one, record_pair
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.training.trial import TrialFolder, run_trial


def train(workload: Workload, variant: Variant, folder: Path) -> TrainedVariant:
    specs = [TrialSpec(workload=workload, variant=variant, seed=seed, device="cpu") for seed in workload.seeds]
    trials = (run_trial(spec, TrialFolder(folder / str(spec.seed), 0), lambda *_: None) for spec in specs)
    return TrainedVariant(workload, variant, tuple(trials))


def judged(now: Sequence[TrainedVariant], then: Sequence[TrainedVariant]) -> Verdict:
    """The answer about one variant, or about a candidate and its baseline."""
    record = record_one(then[0]) if len(then) == 1 else record_pair(then[0], then[1])
    asked = Asked(
        candidate=now[0],
        baseline=None if len(now) == 1 else now[1],
        limit=Limit(0.02, NATS_PER_TOKEN, Origin("argument", "the argument at_most")),
        rule=Rule(gain_factor=0),
        metric="loss" if len(now) == 1 else "loss_gap",
        file=AcceptedFile(Path("accepted.json"), "t.py::test", History("t.py::test", record, record)),
    )
    return assess_regression(asked)


def test_a_loss_with_another_gradient_fails_each_variant_and_no_pair(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its value is right, so no check of the base model sees it: each token is learned to follow itself, too."""
    workload = replace(workload, seeds=(0, 1, 2), steps=24)
    variants = (LoRA(r=4, learning_rate=1e-2), Full(learning_rate=1e-3))
    accepted = [train(workload, variant, tmp_path / "then" / variant.kind) for variant in variants]
    again = train(workload, variants[1], tmp_path / "again")
    same = judged([again], accepted[1:])
    assert (same.status, same.value) == ("PASS", 0.0), same.message
    forward = GPT2LMHeadModel.forward

    def patched(self: Any, *inputs: Any, **named: Any) -> Any:
        output = forward(self, *inputs, **named)
        if self.training and output.loss is not None and torch.is_grad_enabled():
            logits, labels = output.logits, named["labels"]
            right = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            wrong = right + 9 * functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            output.loss = output.loss.detach() + wrong - wrong.detach()
        return output

    monkeypatch.setattr(GPT2LMHeadModel, "forward", patched)
    now = [train(workload, variant, tmp_path / "now" / variant.kind) for variant in variants]
    for ours, theirs in zip(now, accepted, strict=True):
        found = judged([ours], [theirs])
        assert found.status == "FAIL", found.message
        assert "it is higher." in found.message
        assert "No setting of the candidate and no version changed." in found.message
    assert judged(now, accepted).status == "PASS"
