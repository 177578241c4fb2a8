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
from pytest_ftguard.results import Trial
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.training.function import source_digest
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
def train(workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trial]:
    def run(function: Any, variant: Variant = FULL, **changes: Any) -> Trial:
        module = types.ModuleType("my_training")
        module.train = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "my_training", module)
        work = replace(workload, **{"training_function": "my_training:train", **changes})
        spec = TrialSpec(workload=work, variant=variant, seed=changes.pop("seed", 0), device="cpu")
        return run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None)

    return run


def test_it_is_measured_as_the_trainer_is(train: Callable[..., Trial]) -> None:
    """Curve, time, memory, losses and data order come without its help, the same order for both variants."""
    full, lora = train(plain_loop), train(plain_loop, LORA)
    for result in (full, lora):
        assert result.measured.outcome == "ok"
        assert [point.step for point in result.measured.curve] == [0, 1, 3, 6, 12]
        assert result.measured.time is not None
        assert result.measured.time.measured_steps == 12 - 3
        assert result.measured.memory is not None
        assert result.measured.validation is not None
        assert result.measured.base_validation is not None
        assert result.measured.validation.loss < result.measured.base_validation.loss - 0.05
        assert result.provenance.model_dir is not None
    assert full.measured.data_order == lora.measured.data_order
    assert full.measured.validation != lora.measured.validation


def test_the_order_of_the_data_follows_from_the_seed(
    train: Callable[..., Trial], workload: Workload, tmp_path: Path
) -> None:
    """The same seed gives the same losses, bit for bit; another seed another order."""
    one, same = train(plain_loop), train(plain_loop)
    assert one.measured.validation == same.measured.validation
    spec = TrialSpec(workload=one.spec.workload, variant=FULL, seed=1, device="cpu")
    assert run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None).measured.data_order != one.measured.data_order


def test_more_steps_than_an_epoch_has_go_on_with_the_next(train: Callable[..., Trial]) -> None:
    """The text gives 93 batches; 100 steps are all taken, and the epochs differ in order."""
    seen: list[torch.Tensor] = []

    def remember(model: nn.Module, data: Any, spec: TrialSpec) -> None:
        assert len(data) == spec.workload.steps
        plain_loop(model, (seen.append(batch["input_ids"].clone()) or batch for batch in data), spec)  # type: ignore[func-returns-value]

    result = train(remember, steps=100)
    assert result.measured.time is not None
    assert result.measured.time.measured_steps == 100 - 3
    assert len(seen) == 100
    assert not torch.equal(seen[0], seen[93])


def test_bf16_is_the_precision_of_its_forward_pass(train: Callable[..., Trial]) -> None:
    """The function need not know of it, the weights stay fp32, and the model is left as it was."""
    found: dict[str, Any] = {}

    def look(model: nn.Module, data: Any, spec: TrialSpec) -> None:
        found["model"] = model
        for batch in data:
            output = model(**batch)
            found["logits"] = output.logits.dtype
            output.loss.backward()
            with torch.no_grad():
                next(model.parameters()).mul_(1.0)
        found["weights"] = {parameter.dtype for parameter in model.parameters()}

    assert train(look, precision="bf16").measured.outcome == "ok"
    assert (found["logits"], found["weights"]) == (torch.bfloat16, {torch.float32})
    assert "forward" not in vars(found["model"])


def take(count: int) -> Callable[..., None]:
    def function(model: nn.Module, data: Any, spec: TrialSpec) -> None:
        plain_loop(model, itertools.islice(data, count), spec)

    return function


def twice(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    plain_loop(model, data, spec)
    plain_loop(model, data, spec)


def drawn_ahead(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    plain_loop(model, list(data), spec)


def idle(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    for batch in data:
        model(**batch).loss.backward()


def every_second(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for number, batch in enumerate(data):
        model(**batch).loss.backward()
        if number % 2:
            optimizer.step()


def leave(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    sys.exit(3)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (take(11), "took 11 of 12"),
        (twice, "second time after 12"),
        (drawn_ahead, "no trainable weight between batch 1 and the next.*do not draw batches ahead"),
        (idle, "no trainable weight between batch 1"),
        (every_second, "no trainable weight between batch 1"),
        (leave, r"called sys\.exit\(3\)"),
        (lambda _: None, r"must take \(model, data, spec\)"),
    ],
)
def test_every_variant_must_do_all_steps_one_batch_at_a_time(
    train: Callable[..., Trial], function: Any, words: str
) -> None:
    """What would falsify steps, time or memory is an error that says so."""
    with pytest.raises(ConfigurationError, match=words):
        train(function)


def test_the_last_step_ends_with_the_function_at_the_latest(train: Callable[..., Trial]) -> None:
    """A function that takes the last batch and asks for no more has done all steps."""
    result = train(take(12))
    assert result.measured.time is not None
    assert result.measured.time.measured_steps == 12 - 3


def test_an_optimizer_that_works_on_data_is_seen_to_work(train: Callable[..., Trial]) -> None:
    """Operations on `.data` raise no version, and are noticed all the same."""

    def descend(model: nn.Module, data: Any, spec: TrialSpec) -> None:
        for batch in data:
            model(**batch).loss.backward()
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.data -= 1e-2 * parameter.grad
                    parameter.grad = None

    result = train(descend)
    assert result.measured.outcome == "ok"
    assert result.measured.validation is not None
    assert result.measured.base_validation is not None
    assert result.measured.validation.loss < result.measured.base_validation.loss


def test_the_source_of_the_function_is_part_of_the_result(
    train: Callable[..., Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that was edited since a report was written is not the same work."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "edited_training.py"
    path.write_text("def train(model, data, spec):\n    pass\n")
    before = source_digest("edited_training:train")
    path.write_text("def train(model, data, spec):\n    return\n")
    assert before != source_digest("edited_training:train")
    assert train(plain_loop).measured.code is None  # this one has no file


def test_weights_that_are_no_longer_finite_are_a_divergence(train: Callable[..., Trial]) -> None:
    """The function reports no loss, so the evaluation notices."""

    def ruin(model: nn.Module, data: Any, spec: TrialSpec) -> None:
        for _ in data:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))

    result = train(ruin)
    assert result.measured.outcome == "diverged"


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere_to_be_found:train", "cannot be imported"), ("my_training:trian", "no function 'trian'")],
)
def test_a_function_that_is_not_there_is_named(train: Callable[..., Trial], name: str, words: str) -> None:
    """A wrong module and a wrong name are told apart, before a model is loaded."""
    with pytest.raises(ConfigurationError, match=words):
        train(plain_loop, training_function=name)
