"""A user's own training function in the Trainer's place; the batches that it takes are the steps that are measured."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.training.order import Batch, OrderedCollator
from pytest_ftguard.training.recorder import Recorder

__all__ = ["Batches", "TrainingFunction", "load_function", "source_digest", "train_with"]

TrainingFunction = Callable[[nn.Module, Iterable[dict[str, Tensor]], TrialSpec], object]
"""Trains a model in place, one optimizer step for each batch of the data; see `Workload.training_function`."""

_FIELD: Final = "Workload.training_function"


def load_function(name: str) -> TrainingFunction:
    """Return the function that `module:function` names.

    Raises:
        ConfigurationError: The module cannot be imported, or has no such function.
    """
    module_name, _, path = name.partition(":")
    try:
        found = importlib.import_module(module_name)
    except ImportError as error:
        message = (
            f"{_FIELD} is {name!r}, but the module cannot be imported ({error}): it must be importable in the tests, "
            "so install it, put it next to conftest.py, or add its folder to pytest's pythonpath"
        )
        raise ConfigurationError(message) from error
    for part in path.split("."):
        found = getattr(found, part, None)  # type: ignore[assignment]
    if not callable(found):
        message = f"{_FIELD} is {name!r}, but {module_name} has no function {path!r}: check the spelling"
        raise ConfigurationError(message)
    try:
        inspect.signature(found).bind(None, None, None)
    except TypeError as error:
        message = f"{_FIELD} is {name!r}, which must take (model, data, spec): {error}"
        raise ConfigurationError(message) from error
    except ValueError:
        pass  # a callable without a signature, which calling will test
    return found


def source_digest(name: str) -> str | None:
    """Return the SHA-256 of the source of the module that `module:function` names; None if there is no source."""
    path = getattr(importlib.import_module(name.partition(":")[0]), "__file__", None)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else None


class Batches:
    """The batches of a training, in an order that the seed decides; each is one step, which is measured.

    A step lasts from the moment a batch is handed out to the moment the next one is asked for. Every epoch takes the
    sequences in a new order and drops those at its end that do not fill a batch.

    Args:
        spec: What is trained.
        sequences: The training sequences.
        collator: Makes the batches and remembers their order.
        recorder: Measures the steps; the batches are put on its device.
        on_step: Called after each step with the number of steps done.
    """

    def __init__(
        self,
        spec: TrialSpec,
        sequences: Dataset[Batch],
        collator: OrderedCollator,
        recorder: Recorder,
        on_step: Callable[[int], None],
    ) -> None:
        generator = torch.Generator().manual_seed(spec.seed)
        self._loader = DataLoader(
            sequences,
            spec.workload.batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=collator,
            generator=generator,
        )
        self._steps = spec.workload.steps
        self._recorder = recorder
        self._on_step = on_step
        self._taken = 0
        self._done = 0
        self._weights = _Watch(recorder.model)

    def __len__(self) -> int:
        """Return the number of steps."""
        return self._steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield each batch, of `input_ids` and `labels`, shape (batch_size, block_size), on the device.

        Raises:
            ConfigurationError: The batches were taken before, or a batch was asked for without a step since the last.
        """
        if self._taken:
            message = (
                f"the data of {_FIELD} were asked for a second time after {self._taken} batches: they hold all "
                f"{self._steps} steps, so go through them once, without a loop over epochs"
            )
            raise ConfigurationError(message)
        while True:
            for batch in self._loader:
                on_device = {name: tensor.to(self._recorder.device) for name, tensor in batch.items()}
                self._recorder.begin_step(self._taken)
                self._taken += 1
                yield on_device
                self._end_step()
                if self._taken == self._steps:
                    return

    def _end_step(self) -> None:
        self._done = self._taken
        self._recorder.end_step(self._done)
        if not self._weights.have_changed():
            message = (
                f"{_FIELD} changed no trainable weight between batch {self._done} and the next: it must take one "
                "optimizer step for each batch before it asks for another, so that each step can be measured; do not "
                "draw batches ahead (as list(data) does), and accumulate gradients within a batch"
            )
            raise ConfigurationError(message)
        self._on_step(self._done)

    def finish(self) -> None:
        """End the last step if the function did not ask for a further batch.

        Raises:
            ConfigurationError: Not all batches were taken.
        """
        if self._taken < self._steps:
            message = (
                f"{_FIELD} took {self._taken} of {self._steps} batches: a batch is a step, and every variant must do "
                "all of them"
            )
            raise ConfigurationError(message)
        if self._done < self._taken:
            self._end_step()


class _Watch:
    """Notices whether trainable weights have changed.

    An operation in place raises a tensor's version, unless it is on its `.data`: for those the weights are summed up.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._versions = self._read_versions()
        self._sums: list[float] | None = self._read_sums()

    def _read_versions(self) -> list[int]:
        return [parameter._version for parameter in self._parameters]

    def _read_sums(self) -> list[float]:
        with torch.no_grad():
            return [float(parameter.double().abs().sum()) for parameter in self._parameters]

    def have_changed(self) -> bool:
        """Return whether a weight has changed since the last call."""
        versions, before = self._versions, self._sums
        self._versions = self._read_versions()
        if self._versions != versions:
            self._sums = None  # not worth reading while the versions tell
            return True
        self._sums = self._read_sums()
        # NaN is a change, too: the evaluation will speak of it.
        return before is not None and self._sums != before


def train_with(function: TrainingFunction, model: nn.Module, batches: Batches, spec: TrialSpec, *, bf16: bool) -> None:
    """Let a user's function train a model.

    Args:
        function: Called with the model, the batches and the spec.
        model: On its device; its forward pass runs under bf16 autocast if that is the precision, as the Trainer's.
        batches: What it must go through, once.
        spec: What is trained; the learning rate is `spec.variant.learning_rate`.
        bf16: Whether the precision is bf16.

    Raises:
        ConfigurationError: The function did not do all steps.
    """
    model.train()
    try:
        with _autocast(model, enabled=bf16):
            function(model, batches, spec)
    except SystemExit as error:
        message = f"{_FIELD} called sys.exit({error.code!r}): it must return"
        raise ConfigurationError(message) from error
    batches.finish()


@contextmanager
def _autocast(model: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Run a model's forward pass, and only that, under bf16 autocast."""
    if not enabled:
        yield
        return
    device = next(model.parameters()).device.type
    model.forward = torch.autocast(device, dtype=torch.bfloat16)(model.forward)
    try:
        yield
    finally:
        del model.forward
