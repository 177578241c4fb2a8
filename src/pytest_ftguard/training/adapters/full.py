"""Full fine-tuning: the model itself, with every weight trainable."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks import NeedsWeightsError, find_task
from pytest_ftguard.training.adapters.base import Adapter

__all__ = ["FullAdapter"]


class FullAdapter(Adapter):
    """The adapter of `Full`, which saves the whole model."""

    changes_base: ClassVar[bool] = False
    saves: ClassVar[bool] = True

    def apply(self, model: PreTrainedModel, variant: Any) -> nn.Module:
        """Return the model with every weight trainable."""
        return cast(nn.Module, model.requires_grad_(True))

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the whole model."""
        cast(Any, model).save_pretrained(folder)

    def load(self, workload: Workload, variant: Any, folder: str) -> nn.Module:
        """Return the trained model."""
        made = _made_like_base(workload)
        made.config.save_pretrained(folder)  # over what may be there: from_pretrained looks for one
        weights = {"config": made.config, "dtype": torch.float32, "use_safetensors": True}
        model: nn.Module = cast(Any, type(made)).from_pretrained(folder, **weights)
        # Not every model has one, and if a folder has no configuration either, transformers trips over that.
        with suppress(OSError, ValueError, TypeError):
            configured = GenerationConfig.from_pretrained(workload.model, **workload.place_options)
            cast(Any, model).generation_config = configured
        return model


def _made_like_base(workload: Workload) -> PreTrainedModel:
    task = find_task(workload.task)
    try:
        return task.build_without_weights(workload)
    except NeedsWeightsError:
        return task.load_model(workload)
