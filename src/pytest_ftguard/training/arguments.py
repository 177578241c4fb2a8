"""The arguments of the Trainer."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import is_liger_kernel_available  # type: ignore[attr-defined]

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import TrialSpec

__all__ = ["training_arguments"]


def training_arguments(spec: TrialSpec, folder: Path, device: torch.device, *, bf16: bool) -> TrainingArguments:
    """Return the Trainer's arguments: what keeps the comparison fair, and then what the workload adds.

    Raises:
        ConfigurationError: The workload sets a name that TrainingArguments does not have, or a wrong value.
    """
    workload = spec.workload
    known = {item.name for item in fields(TrainingArguments)}
    unknown = sorted(set(workload.training_args) - known)
    if unknown:
        message = (
            f"Workload.training_args has {', '.join(map(repr, unknown))}, which transformers.TrainingArguments does "
            "not know: check the spelling, and the documentation of the installed transformers"
        )
        raise ConfigurationError(message)
    ours: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": workload.steps,
        "per_device_train_batch_size": workload.batch_size,
        "learning_rate": spec.variant.learning_rate,
        "seed": spec.seed,
        "data_seed": spec.seed,
        "bf16": bf16,
        "use_cpu": device.type == "cpu",
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": min(10, workload.steps // 10),
        "weight_decay": 0.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.type != "cpu",
    }
    if workload.training_args.get("use_liger_kernel") and not is_liger_kernel_available():
        # The Trainer would say so as well, trial by trial, when the weights are loaded.
        message = "Workload.training_args has use_liger_kernel, but liger-kernel is not installed: pip install it"
        raise ConfigurationError(message)
    try:
        return TrainingArguments(**{**ours, **workload.training_args})
    except (ValueError, TypeError, ImportError) as error:
        message = f"Workload.training_args {dict(workload.training_args)!r} was refused by TrainingArguments: {error}"
        raise ConfigurationError(message) from error
