"""Options that would break the comparison, each with the reason why it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["REFUSED_MODEL_ARGS", "REFUSED_TRAINING_ARGS"]

_OURS: Final = "pytest-ftguard sets it the same for every variant"
_NO_SIDE_WORK: Final = "it would add work, and time, inside the measured training"
REFUSED_TRAINING_ARGS: Final[Mapping[str, str]] = {
    "auto_find_batch_size": "it would change the batch size of one variant only",
    "bf16": "set precision instead, which applies to both variants",
    "bf16_full_eval": "evaluation is done by pytest-ftguard in the precision of the training",
    "data_seed": "it is the trial's seed, so that both variants see the same data order",
    "dataloader_num_workers": "the batches are in memory, and their order is checked where they are made",
    "debug": _NO_SIDE_WORK,
    "deepspeed": "one trial runs in one process on one device",
    "do_eval": "evaluation is done by pytest-ftguard, because the Trainer averages batch means",
    "do_predict": _OURS,
    "do_train": _OURS,
    "eval_on_start": "pytest-ftguard evaluates at step 0 itself",
    "eval_steps": "the steps at which the curve is measured follow from the number of steps",
    "eval_strategy": "evaluation is done by pytest-ftguard, because the Trainer averages batch means",
    "fp16": "set precision instead, which applies to both variants",
    "fsdp": "one trial runs in one process on one device",
    "full_determinism": "it makes every kernel launch blocking, which falsifies the time",
    "hub_token": "results and reports show the settings: set HF_TOKEN in the environment instead",
    "ignore_data_skip": "a training that was killed goes on with the data that it has not seen",
    "learning_rate": "it belongs to the variant: set full_learning_rate or lora_learning_rate",
    "load_best_model_at_end": "both variants are compared after the same number of steps",
    "logging_nan_inf_filter": "it would hide losses that are not finite",
    "logging_strategy": "the progress and the check for divergence read every step",
    "logging_steps": "the progress and the check for divergence read every step",
    "max_steps": "set steps instead",
    "num_train_epochs": "set steps instead",
    "output_dir": "each trial works in a folder of its own",
    "per_device_eval_batch_size": "evaluation is done by pytest-ftguard",
    "per_device_train_batch_size": "set batch_size instead",
    "push_to_hub": "a trial publishes nothing",
    "remove_unused_columns": _OURS,
    "resume_from_checkpoint": "a trial starts from the base model",
    "save_only_model": "a training that was killed goes on with its optimizer's state",
    "save_steps": _NO_SIDE_WORK,
    "save_strategy": _NO_SIDE_WORK,
    "seed": "it is the trial's seed: set seeds instead",
    "skip_memory_metrics": "it runs a thread beside the training that takes a processor core for itself",
    "use_cpu": "set device instead",
}
REFUSED_MODEL_ARGS: Final[Mapping[str, str]] = {
    "dtype": "weights are fp32 in both variants, because a purely bf16 one hardly learns: set precision instead",
    "token": "results and reports show the settings: set HF_TOKEN in the environment instead",
    "torch_dtype": "weights are fp32 in both variants, because a purely bf16 one hardly learns: set precision instead",
    "use_auth_token": "results and reports show the settings: set HF_TOKEN in the environment instead",
}
