"""The head that a task puts on the base model: it is trained in every variant, whole."""

from __future__ import annotations

from typing import Any, TypeVar

from peft import PeftConfig, TaskType
from torch import nn

from pytest_ftguard.errors import ConfigurationError

__all__ = ["check_head", "with_head"]

Config = TypeVar("Config", bound=PeftConfig)


def with_head(config: Config, model: nn.Module) -> Config:
    """Return peft's configuration so that the head of a model, if the task gave it one, is trained with the adapter.

    Args:
        config: The configuration, which is changed.
        model: The base model; `trained_whole` names the modules of its head.
    """
    head: tuple[str, ...] = getattr(model, "trained_whole", ())
    if head:
        config.task_type = TaskType.SEQ_CLS
        known: Any = config
        if hasattr(config, "modules_to_save"):  # for prompts peft knows the usual names
            known.modules_to_save = list(dict.fromkeys([*(known.modules_to_save or ()), *head]))
    return config


def check_head(wrapped: nn.Module, model: nn.Module, label: str) -> None:
    """Check that all of the head is trained.

    Args:
        wrapped: The model as it is trained.
        model: The base model.
        label: What messages call the variant.

    Raises:
        ConfigurationError: A part of it is frozen.
    """
    trained = [f".{name}" for name, one in wrapped.named_parameters() if one.requires_grad]
    for part in getattr(model, "trained_whole", ()):
        if not any(f".{part}." in name for name in trained):
            message = (
                f"{label} would leave the new head of the model as it is ({part}), and without a trained head nothing "
                "is learned: choose a method that trains it too"
            )
            raise ConfigurationError(message)
