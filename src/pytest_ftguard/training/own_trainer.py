"""A Trainer of the user's own in the place of transformers': how it is found and made, and what it may not change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torch import nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.specs.importing import imported
from pytest_ftguard.specs.refused import REFUSED_TRAINING_ARGS
from pytest_ftguard.training.order import Batch, OrderedCollator
from pytest_ftguard.training.recorder import Recorder

__all__ = ["load_trainer", "train_with_class"]

# Two texts of one rate, such as 1e-3 and 0.001 after a schedule's arithmetic, differ by less.
_SAME_RATE: Final = 1e-6


def load_trainer(name: str) -> type[Trainer]:
    """Return the class that `module:Class` names.

    Raises:
        ConfigurationError: It cannot be imported, or is no Trainer.
    """
    try:
        found = imported(name)
    except Exception as error:  # a module of the user's may raise anything
        message = (
            f"Workload.trainer is {name!r}, which cannot be imported ({type(error).__name__}: {error}): it must be "
            "importable in the tests, so install it, put it next to conftest.py, or add its folder to pytest's "
            "pythonpath"
        )
        raise ConfigurationError(message) from error
    if not (isinstance(found, type) and issubclass(found, Trainer)):
        message = (
            f"Workload.trainer is {name!r}, which is {found!r}: name a class that is derived from transformers.Trainer"
        )
        raise ConfigurationError(message)
    return found


def train_with_class(
    spec: TrialSpec,
    model: nn.Module,
    recorder: Recorder,
    collator: OrderedCollator,
    *,
    args: TrainingArguments,
    train_dataset: Dataset[Batch],
    callbacks: Sequence[TrainerCallback],
) -> None:
    """Let a Trainer of the user's own train a model.

    A loss, an optimizer or a step of its own is what such a class is for. The model, the data, the number of steps, the
    learning rate and what is trained must stay as the trial has set them, and so must the arguments that nobody may
    set.

    Args:
        spec: What is trained, by the class that its workload names.
        model: On its device.
        recorder: Measures the steps.
        collator: Makes the batches.
        args: What keeps the comparison fair, and what the workload adds.
        train_dataset: The training examples.
        callbacks: Those that the steps are measured by.

    Raises:
        ConfigurationError: The class cannot be made as a Trainer is, or it was not the training that was asked for.
    """
    before, trained, seen = _fixed(args), _trained(model), _Rates()
    trainer = _made(
        str(spec.workload.trainer),
        model=model,
        args=args,
        train_dataset=train_dataset,
        data_collator=collator,
        callbacks=[*callbacks, seen],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    problems = [
        *_other_arguments(trainer.args, before),
        *_other_parts(trainer, model, train_dataset, collator),
        *_other_work(spec, recorder, collator),
        *_other_rate(spec, seen.rates),
    ]
    if _trained(model) != trained:
        problems.append("trains other parameters than the variant: leave requires_grad as it is")
    if problems:
        message = f"Workload.trainer is {spec.workload.trainer!r}, which {problems[0]}"
        raise ConfigurationError(message)


def _made(name: str, **arguments: Any) -> Trainer:
    try:
        return load_trainer(name)(**arguments)
    except ConfigurationError:
        raise
    except Exception as error:
        message = (
            f"Workload.trainer is {name!r}, which cannot be made as a Trainer is, with {', '.join(arguments)}: "
            f"{type(error).__name__}: {error}"
        )
        raise ConfigurationError(message) from error


class _Rates(TrainerCallback):
    """Takes the learning rates from the optimizer.

    Attributes:
        rates: Those at which its groups begin; empty if it has none.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read them."""
        groups = getattr(kwargs.get("optimizer"), "param_groups", [])
        self.rates = sorted({float(group.get("initial_lr", group["lr"])) for group in groups})


def _other_arguments(arguments: TrainingArguments, before: Mapping[str, Any]) -> Iterator[str]:
    for name, value in _fixed(arguments).items():
        if value != before[name]:
            yield f"has set {name} to {value!r} ({before[name]!r} was given): {REFUSED_TRAINING_ARGS[name]}"


def _other_parts(trainer: Trainer, model: nn.Module, data: Dataset[Batch], collator: OrderedCollator) -> Iterator[str]:
    if trainer.model is not model:
        yield "trains another model than the one that it was given, which is measured: leave self.model as it is"
    if trainer.train_dataset is not data:
        yield (
            "trains on other data than the train_dataset that it was given, which alone is searched for the validation "
            "text: leave self.train_dataset as it is"
        )
    theirs: Any = trainer.data_collator
    if theirs is not collator or not collator.batches:
        yield (
            "does not make its batches by the data_collator that it was given, so nothing shows that both variants see "
            "the same ones: take them from super().get_train_dataloader()"
        )


def _other_work(spec: TrialSpec, recorder: Recorder, collator: OrderedCollator) -> Iterator[str]:
    work = spec.workload
    if collator.batches and collator.largest != work.batch_size:
        yield (
            f"makes batches of {collator.largest} sequences, and batch_size is {work.batch_size}: set batch_size "
            "instead"
        )
    if recorder.steps != work.steps:
        yield (
            f"did {recorder.steps} of {work.steps} steps, as far as the callbacks tell: every variant must do all of "
            "them, so stop neither earlier nor later, and call the callbacks as Trainer.train does"
        )


def _other_rate(spec: TrialSpec, rates: Sequence[float]) -> Iterator[str]:
    rate = spec.variant.learning_rate
    assert rate is not None  # a TrialSpec has one
    if rates and not any(abs(one - rate) <= _SAME_RATE * rate for one in rates):
        yield (
            f"trains at the learning rate {', '.join(f'{one:g}' for one in rates)}, and that of {spec.variant.label} "
            f"is {rate:g}: begin at self.args.learning_rate"
        )


def _fixed(arguments: TrainingArguments) -> Mapping[str, Any]:
    """Return the arguments that nobody may set, because the comparison rests on them."""
    names = [name for name in REFUSED_TRAINING_ARGS if hasattr(arguments, name)]
    return {name: getattr(arguments, name) for name in names}


def _trained(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
