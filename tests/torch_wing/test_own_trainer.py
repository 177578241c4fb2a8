"""A Trainer of the user's stands in the place of transformers', and may not change what the comparison rests on."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import Trial
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.training.trial import TrialFolder, run_trial

FULL, LORA = Full(learning_rate=1e-3), LoRA(r=4, learning_rate=1e-2)
Train = Callable[..., Trial]


def _trained(trainer: Trainer) -> list[nn.Parameter]:
    model: Any = trainer.model
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class Plain(Trainer):
    """Changes nothing."""


class Squared(Trainer):
    """Has a loss and an optimizer of its own, and calls the model twice for each batch."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *_: Any, **__: Any) -> Any:
        first, second = (model(**inputs) for _ in range(2))
        loss = first.loss**2 + second.loss
        return (loss, first) if return_outputs else loss

    def create_optimizer(self, *_: Any) -> Any:
        groups = [{"params": _trained(self), "lr": self.args.learning_rate}]
        self.optimizer = torch.optim.SGD(groups)
        return self.optimizer


@pytest.fixture
def train(workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    def run(kind: Any, variant: Variant = FULL, **changes: Any) -> Trial:
        module = types.ModuleType("my_trainer")
        module.Mine = kind  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "my_trainer", module)
        work = replace(workload, **{"trainer": "my_trainer:Mine" if kind else None, **changes})
        spec = TrialSpec(workload=work, variant=variant, seed=0, device="cpu")
        return run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None)

    return run


@pytest.mark.parametrize("variant", [FULL, LORA])
def test_a_class_that_changes_nothing_trains_what_ours_trains(train: Train, variant: Variant) -> None:
    """To the last bit, with the same curve, order of the data, and arguments of the workload."""
    arguments = {"weight_decay": 0.1}
    ours = train(None, variant, training_args=arguments).measured
    theirs = train(Plain, variant, training_args=arguments).measured
    assert theirs.outcome == "ok"
    assert theirs.validation == ours.validation
    assert theirs.curve == ours.curve
    assert theirs.data_order == ours.data_order
    assert theirs.parameters == ours.parameters
    assert theirs.time is not None
    assert theirs.memory is not None
    assert theirs.validation != train(Plain, variant).measured.validation


@pytest.mark.parametrize("variant", [FULL, LORA])
def test_a_loss_and_an_optimizer_of_its_own_are_what_it_is_for(train: Train, variant: Variant) -> None:
    """It trains otherwise, on the same batches; its validation loss is still the model's own."""
    ours, theirs = (train(kind, variant).measured for kind in (Plain, Squared))
    assert ours.data_order == theirs.data_order
    assert ours.validation is not None
    assert theirs.validation is not None
    assert theirs.base_validation == ours.base_validation
    assert theirs.validation != ours.validation
    assert theirs.base_validation is not None
    assert theirs.validation.loss < theirs.base_validation.loss


class OtherRate(Trainer):
    """Takes no notice of the learning rate."""

    def create_optimizer(self, *_: Any) -> Any:
        self.optimizer = torch.optim.AdamW(_trained(self), lr=0.5)
        return self.optimizer


class FewerSteps(Trainer):
    """Sets an argument that nobody may set."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.args.max_steps = 3


class StopsEarly(Trainer):
    """Ends before the last step."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)

        class Stop(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop = state.global_step == 5

        self.add_callback(Stop())


class OwnBatches(Trainer):
    """Trains on data of its own."""

    def get_train_dataloader(self) -> Any:
        return DataLoader([{"input_ids": torch.arange(32), "labels": torch.arange(32)}] * 64, batch_size=4)  # type: ignore[arg-type]


class LargerBatches(Trainer):
    """Makes other batches of the same data."""

    def get_train_dataloader(self) -> Any:
        return DataLoader(self.train_dataset, batch_size=9, collate_fn=self.data_collator)  # type: ignore[arg-type]


class OtherData(Trainer):
    """Makes its batches as it should, of a part of the data."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "train_dataset": Subset(arguments["train_dataset"], range(8))})


class OtherModel(Trainer):
    """Trains a model of its own."""

    def __init__(self, **arguments: Any) -> None:
        config = arguments["model"].config
        other: Any = AutoModelForCausalLM
        super().__init__(**{**arguments, "model": other.from_config(config)})


class Freezes(Trainer):
    """Trains fewer parameters."""

    def create_optimizer(self, *arguments: Any) -> Any:
        _trained(self)[0].requires_grad_(False)
        return super().create_optimizer(*arguments)


class ReadsTheText(Trainer):
    """Needs more than a Trainer is made with."""

    def __init__(self, *, text: str, **arguments: Any) -> None:
        super().__init__(**arguments)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OtherRate, "trains at the learning rate 0.5, and that of full is 0.001: begin at self.args.learning_rate"),
        (FewerSteps, "has set max_steps to 3 .12 was given.: set steps instead"),
        (StopsEarly, "did 5 of 12 steps"),
        (OwnBatches, "does not make its batches by the data_collator"),
        (LargerBatches, "makes batches of 9 sequences, and batch_size is 4: set batch_size instead"),
        (OtherData, "trains on other data than the train_dataset that it was given"),
        (OtherModel, "trains another model than the one that it was given"),
        (Freezes, "trains other parameters than the variant"),
        (ReadsTheText, "cannot be made as a Trainer is, with model, args, .*: TypeError: .*'text'"),
        (dict, "is <class 'dict'>: name a class that is derived from transformers.Trainer"),
    ],
)
def test_what_would_change_the_comparison_is_refused(train: Train, kind: Any, words: str) -> None:
    """With the class, what it does, and what to do about it."""
    with pytest.raises(ConfigurationError, match=f"Workload.trainer is 'my_trainer:Mine', which {words}"):
        train(kind)


def test_a_trainer_that_leaves_all_as_it_is_may_train_other_batches_as_advised(train: Train) -> None:
    """The batches are as large as the workload says, and all steps are done."""
    with pytest.raises(ConfigurationError) as caught:
        train(LargerBatches)
    found = re.search(r"makes batches of (\d+) sequences, and batch_size is 4: set (\w+) instead", str(caught.value))
    assert found is not None
    trial = train(Plain, **{found[2]: int(found[1])})
    assert trial.measured.outcome == "ok"
    assert trial.spec.workload.batch_size == 9


def test_a_module_that_is_not_there_is_told_before_a_model_is_loaded(train: Train) -> None:
    """The model's folder does not exist either, and is not what the message is about."""
    with pytest.raises(ConfigurationError, match=r"cannot be imported \(ModuleNotFoundError"):
        train(Plain, trainer="my_trainers:Mine", model="no such folder")


def test_a_training_has_one_trainer(workload: Workload) -> None:
    """A function and a class cannot both train."""
    with pytest.raises(ConfigurationError, match="only one of them can train"):
        replace(workload, trainer="mine:Mine", training_function="mine:train")
    with pytest.raises(ConfigurationError, match=r'Workload\.trainer must be "module:Class"'):
        replace(workload, trainer="Mine")
