"""The recorder tells the parts of a step apart from outside of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_ftguard.errors import ConfigurationError
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


class Given(CausalLM):
    """A task of one's own that gives what a test says."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def nll(self, *_: Any, **__: Any) -> Any:
        """Return it."""
        return self.given


@pytest.mark.parametrize("given", [torch.tensor([3.0, 2.0]), torch.tensor([3.0, 2.0]).numpy()])
def test_the_curve_holds_pythons_own_numbers(tiny_model: Path, given: Any) -> None:
    """A task may count with torch or numpy; what it gave must reach the store when the training is over."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    texts = EvaluationSet(tuple(torch.arange(16).view(2, 8)), None)
    recorder = Recorder(model, texts, Evaluator(Given(given), 2, bf16=False), 1, torch.device("cpu"))
    recorder.close()
    assert [type(one) for one in recorder.start] == [float, float]
    assert list(recorder.start) == [3.0, 2.0]


def test_a_curve_of_other_examples_is_an_error(tiny_model: Path) -> None:
    """A loss too few would be paired with another example's."""
    evaluator = Evaluator(Given([3.0]), 2, bf16=False)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(ConfigurationError, match="Given gave 1 losses of 2 examples"):
        evaluator.nll(model, [0, 1])
