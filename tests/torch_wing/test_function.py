"""A training function of the user's stands in the Trainer's place, and is measured as the Trainer is."""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import TrialResult
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.training.trial import TrialFolder, run_trial

FULL, LORA = Full(learning_rate=1e-3), LoRA(r=4, learning_rate=1e-2)


def plain_loop(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=float(spec.variant.learning_rate or 0), weight_decay=0.0)
    for batch in data:
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def train(workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrialResult]:
    def run(function: Any, variant: Variant = FULL, **changes: Any) -> TrialResult:
        module = types.ModuleType("my_training")
        module.train = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "my_training", module)
        work = replace(workload, **{"training_function": "my_training:train", **changes})
        spec = TrialSpec(workload=work, variant=variant, seed=changes.pop("seed", 0), device="cpu")
        return run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None)

    return run


def test_it_is_measured_as_the_trainer_is(train: Callable[..., TrialResult]) -> None:
    """Curve, time, memory, losses and data order come without its help, the same order for both variants."""
    full, lora = train(plain_loop), train(plain_loop, LORA)
    for result in (full, lora):
        assert result.outcome == "ok"
        assert [point.step for point in result.curve] == [0, 1, 3, 6, 12]
        assert result.time is not None
        assert result.time.measured_steps == 12 - 3
        assert result.memory is not None
        assert result.validation is not None
        assert result.base_validation is not None
        assert result.validation.loss < result.base_validation.loss - 0.05
        assert result.model_dir is not None
    assert full.data_order == lora.data_order
    assert full.validation != lora.validation


def test_the_order_of_the_data_follows_from_the_seed(
    train: Callable[..., TrialResult], workload: Workload, tmp_path: Path
) -> None:
    """The same seed gives the same losses, bit for bit; another seed another order."""
    one, same = train(plain_loop), train(plain_loop)
    assert one.validation == same.validation
    spec = TrialSpec(workload=one.spec.workload, variant=FULL, seed=1, device="cpu")
    assert run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None).data_order != one.data_order


def test_more_steps_than_an_epoch_has_go_on_with_the_next(train: Callable[..., TrialResult]) -> None:
    """The text gives some 300 batches; 320 steps are all taken, and the epochs differ in order."""
    seen: list[torch.Tensor] = []

    def remember(model: nn.Module, data: Any, spec: TrialSpec) -> None:
        seen.extend(batch["input_ids"].clone() for batch in data)
        assert len(data) == spec.workload.steps

    result = train(remember, steps=320)
    assert result.time is not None
    assert result.time.measured_steps == 320 - 3
    assert len(seen) == 320
    assert not torch.equal(seen[0], seen[312])


def test_bf16_is_the_precision_of_its_forward_pass(train: Callable[..., TrialResult]) -> None:
    """The function need not know of it, the weights stay fp32, and the model is left as it was."""
    found: dict[str, Any] = {}

    def look(model: nn.Module, data: Any, spec: TrialSpec) -> None:
        found["model"] = model
        for batch in data:
            output = model(**batch)
            found["logits"] = output.logits.dtype
            output.loss.backward()
        found["weights"] = {parameter.dtype for parameter in model.parameters()}

    assert train(look, precision="bf16").outcome == "ok"
    assert (found["logits"], found["weights"]) == (torch.bfloat16, {torch.float32})
    assert "forward" not in vars(found["model"])


def take(count: int) -> Callable[..., None]:
    def function(model: nn.Module, data: Any, spec: TrialSpec) -> None:
        for _ in itertools.islice(data, count):
            pass

    return function


def twice(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    for _ in range(2):
        for _ in data:
            pass


@pytest.mark.parametrize(("function", "words"), [(take(11), "took 11 of 12"), (twice, "second time after 12")])
def test_every_variant_must_do_all_steps(train: Callable[..., TrialResult], function: Any, words: str) -> None:
    """A function that stops early, or starts again, is an error that says so."""
    with pytest.raises(ConfigurationError, match=words):
        train(function)


def test_the_last_step_ends_with_the_function_at_the_latest(train: Callable[..., TrialResult]) -> None:
    """A function that takes the last batch and asks for no more has done all steps."""
    result = train(take(12))
    assert result.time is not None
    assert result.time.measured_steps == 12 - 3


def test_weights_that_are_no_longer_finite_are_a_divergence(train: Callable[..., TrialResult]) -> None:
    """The function reports no loss, so the evaluation notices."""

    def ruin(model: nn.Module, data: Any, spec: TrialSpec) -> None:
        for _ in data:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))

    result = train(ruin)
    assert result.outcome == "diverged"


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere_to_be_found:train", "cannot be imported"), ("my_training:trian", "no function 'trian'")],
)
def test_a_function_that_is_not_there_is_named(train: Callable[..., TrialResult], name: str, words: str) -> None:
    """A wrong module and a wrong name are told apart, before a model is loaded."""
    with pytest.raises(ConfigurationError, match=words):
        train(plain_loop, training_function=name)
