"""What every adapter does; also the base class of those of a user's own package."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks import find_task

__all__ = ["Adapter"]


class Adapter:
    """Turns the base model into what one kind of variant trains.

    A kind of your own derives from this class and implements `apply`. The variant's class names it by its import path
    (`Variant.adapter`). One adapter serves all variants of its kind, so it holds no state.

    Attributes:
        changes_base: Whether weights that are not `saved` by the adapter itself may be new, or changed by the
            training. They are then kept with the trained weights, and put back by `load_trained`.
        saves: Whether `save` writes weights.
    """

    changes_base: ClassVar[bool] = True
    saves: ClassVar[bool] = False

    def check(self, model: nn.Module, variant: Any) -> None:
        """Check that a variant fits the model before anything is trained; the model may be without weights.

        Args:
            model: The base model.
            variant: The variant.

        Raises:
            ConfigurationError: It does not fit.
        """

    def prepare(self, model: PreTrainedModel, variant: Any) -> bool:
        """Change how the base is held, for example in few bits, and return whether that changes what it computes.

        It is called before `apply`, more than once, with the model on its device; never for the base model's losses.

        Args:
            model: The base model, which is changed.
            variant: The variant.

        Raises:
            ConfigurationError: It cannot be held so.
            NotImplementedError: The model is on the meta device, and its values are needed.
        """
        return False

    def apply(self, model: PreTrainedModel, variant: Any) -> nn.Module:
        """Return the model as it is trained: exactly the parameters that are trained require a gradient.

        The random numbers that it draws are seeded. It is called with the model on the meta device too, for the
        forecast of memory.

        Args:
            model: The base model, which may be changed.
            variant: The variant.

        Raises:
            ConfigurationError: The variant does not fit the model.
            NotImplementedError: The model is on the meta device, and its values are needed.
        """
        raise NotImplementedError(f"{type(self).__name__}.apply")

    def positions(self, variant: Any) -> int:
        """Return how many positions of the model's context the variant takes for itself, such as virtual tokens."""
        return 0

    def disabled(self, model: nn.Module) -> AbstractContextManager[Any] | None:
        """Return a context in which the model is the base model again; None if there is none.

        It is asked for if the loss before training is not that of the base model: if the model is the base in this
        context, the method explains the difference.

        Args:
            model: What `apply` returned.
        """
        return None

    def saved(self, model: nn.Module) -> set[int]:
        """Return the addresses (`data_ptr`) of the tensors that `save` writes."""
        return set()

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained weights, as safetensors, as far as they are not kept as changes of the base."""

    def load(self, workload: Workload, variant: Any, folder: str) -> nn.Module:
        """Return the trained model; what has changed in the base is put back by the caller.

        The folder gives weights alone: nothing in it may say which code runs.

        Args:
            workload: What was held fixed.
            variant: What was trained.
            folder: Where `save` wrote.
        """
        return self.apply(find_task(workload.task).load_model(workload), variant)
