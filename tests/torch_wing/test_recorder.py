"""The recorder tells the parts of a step apart from outside of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_ftguard.tasks.causal_lm.data import EvaluationSet
from pytest_ftguard.tasks.causal_lm.task import CausalLM
from pytest_ftguard.training.recorder import Evaluator, Recorder


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_each_micro_batch_has_its_own_forward_and_backward_part(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, micro_batches: int
) -> None:
    """What one micro-batch's way back takes is not booked under the next one's way forward."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = torch.arange(16).view(2, 8)
    recorder = Recorder(
        model, EvaluationSet(tuple(ids), None), Evaluator(CausalLM(), 2, bf16=False), 1, torch.device("cpu")
    )
    parts: list[str] = []
    monkeypatch.setattr(recorder._meter, "end_stage", parts.append)
    optimizer = torch.optim.SGD(model.parameters())
    recorder.begin_step(0)
    for _ in range(micro_batches):
        model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    recorder.end_step(1)
    recorder.close()
    assert parts == [*["forward", "backward"] * micro_batches, "optimizer"]
