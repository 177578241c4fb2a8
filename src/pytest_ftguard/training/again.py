"""Trained weights evaluated once more, on other examples: by the same code as after a training, and without one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results import BaseLosses, Environment, Measured, Trial
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.tasks import Examples, NeedsWeightsError, Task, find_task
from pytest_ftguard.training import kept, machine
from pytest_ftguard.training.arguments import training_arguments
from pytest_ftguard.training.recorder import Evaluator
from pytest_ftguard.training.scoring import Scorer, check_asked

__all__ = ["OtherWeightsError", "measure_again"]

# Of the loss of the probe: one machine rounds as it did, another one differently, and other weights differ by more.
_TOLERANCE: Final = {"fp32": 1e-4, "bf16": 5e-3}


class OtherWeightsError(FtguardError):
    """What was loaded is not the model that was trained."""


def measure_again(spec: TrialSpec, folder: Path, probe: float, base: BaseLosses | None = None) -> Trial:
    """Return the losses of a trained model, and of its base, on the evaluation examples of a workload.

    Args:
        spec: What was trained, with the workload that says what it is evaluated on.
        folder: A folder of the trial's own, with the weights in `model`.
        probe: What the trained model came to on the first training examples.
        base: The base model's losses on this workload, if an earlier trial measured them.

    Returns:
        A trial that has measured nothing but losses.

    Raises:
        ConfigurationError: The texts cannot be evaluated on; the message says what to change.
        DeviceUnavailableError: The device is not present.
        OtherWeightsError: The weights do not come to the same on the training examples, or to no finite loss.
    """
    device = machine.resolve_device(spec.device)
    environment = machine.describe(device, precision=machine.resolve_precision(spec.workload.precision, device))
    bf16 = environment.precision == "bf16"
    # Some of them set how the whole process computes.
    training_arguments(spec, folder / "trainer", device, bf16=bf16)
    task = find_task(spec.workload.task)
    evaluator = Evaluator(task, spec.workload.batch_size, bf16)
    tokenizer = task.load_tokenizer(spec.workload)
    examples = task.load_examples(spec.workload, tokenizer)
    task.check_examples(examples, tokenizer, _shapes(task, spec))
    check_asked(spec.workload, task, examples.validation)
    scorer = Scorer.of(spec.workload, task, bf16=bf16)
    base = base or _base(spec, evaluator, scorer, (tokenizer, examples), device)
    # The weights are those of a training, which has checked all else of the model.
    model, _ = kept.load_trained(spec, str(folder / "model"))
    model.to(device)
    _check(evaluator.probe(model, examples.train), probe, environment)
    final = evaluator.measure(model, examples)
    if not all(map(math.isfinite, final.validation.nll)):
        message = "their validation loss is not finite"
        raise OtherWeightsError(message)
    return Trial(
        spec,
        Measured(
            outcome="ok",
            validation=scorer.trained(final.validation, model, tokenizer, examples.validation),
            base_validation=base.validation,
            reference=final.reference,
            base_reference=base.reference,
            environment=environment,
            remarks=examples.remarks,
        ),
    )


def _shapes(task: Task, spec: TrialSpec) -> nn.Module:
    try:
        return task.build_without_weights(spec.workload)
    except NeedsWeightsError:
        return cast(nn.Module, task.load_model(spec.workload))


def _base(
    spec: TrialSpec, evaluator: Evaluator, scorer: Scorer, data: tuple[Any, Examples], device: torch.device
) -> BaseLosses:
    tokenizer, examples = data
    model = evaluator.task.load_model(spec.workload)
    cast(nn.Module, model).to(device)
    evaluator.task.check_model(model)
    losses = evaluator.measure(model, examples)
    return scorer.base(losses, model, tokenizer, examples.validation)


def _check(found: float, probe: float, environment: Environment) -> None:
    tolerance = _TOLERANCE.get(environment.precision, min(_TOLERANCE.values()))
    if not abs(found - probe) <= tolerance * max(1.0, abs(probe)):
        message = f"their loss on the first training examples is {found:.4f}, and was {probe:.4f} after the training"
        raise OtherWeightsError(message)
