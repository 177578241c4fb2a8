"""Options that would break the comparison, each with the reason why it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "REFUSED_INITIALISATIONS",
    "REFUSED_LORA_OPTIONS",
    "REFUSED_METHODS",
    "REFUSED_MODEL_ARGS",
    "REFUSED_PEFT_OPTIONS",
    "REFUSED_TRAINING_ARGS",
]

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
    "skip_memory_metrics": "it runs a thread next to the training that takes a processor core for itself",
    "use_cpu": "set device instead",
}
_ONE_DEVICE: Final = "one trial runs in one process on one device: set device instead"
_QUANTIZED: Final = "full fine-tuning needs weights in full precision, and both variants start from the same weights"
_TOKEN: Final = "results and reports show the settings: set HF_TOKEN in the environment instead"
_FP32: Final = "weights are fp32 in both variants, because a purely bf16 one hardly learns: set precision instead"
_OTHER_KERNELS: Final = "it would replace parts of the model by code that is fetched from the hub"
REFUSED_MODEL_ARGS: Final[Mapping[str, str]] = {
    "adapter_kwargs": "the base is a model without an adapter: merge the adapter into it",
    "adapter_name": "the base is a model without an adapter: merge the adapter into it",
    "allow_all_kernels": _OTHER_KERNELS,
    "architectures": "it does not change what the model is",
    "config": "name the values of the configuration themselves, for example resid_pdrop",
    "device_map": _ONE_DEVICE,
    "device_mesh": _ONE_DEVICE,
    "distributed_config": _ONE_DEVICE,
    "dtype": _FP32,
    "from_flax": "transformers reads safetensors only",
    "from_tf": "transformers reads safetensors only",
    "generation_config": "nothing is generated",
    "ignore_mismatched_sizes": "weights of another shape would be random",
    "is_encoder_decoder": "a causal language model has no encoder",
    "kernel_config": _OTHER_KERNELS,
    "load_in_4bit": _QUANTIZED,
    "load_in_8bit": _QUANTIZED,
    "max_memory": _ONE_DEVICE,
    "model_type": "it is what the model's files say",
    "offload_buffers": _ONE_DEVICE,
    "offload_folder": _ONE_DEVICE,
    "offload_state_dict": _ONE_DEVICE,
    "output_attentions": "it would keep what no loss needs, and change the memory that is measured",
    "output_hidden_states": "it would keep what no loss needs, and change the memory that is measured",
    "output_loading_info": _OURS,
    "quantization_config": _QUANTIZED,
    "return_dict": _OURS,
    "revision": "set revision of the workload instead",
    "state_dict": "weights come from the model's files",
    "token": _TOKEN,
    "torch_dtype": _FP32,
    "tp_plan": _ONE_DEVICE,
    "tp_size": _ONE_DEVICE,
    "use_auth_token": _TOKEN,
    "use_kernels": _OTHER_KERNELS,
    "weights_only": "it protects you from code that is hidden in weights",
}
_IS_LORA: Final = "a LoRA variant trains LoRA: use Peft(...) for another method"
_THE_WORKLOAD: Final = "the base model is that of the workload"
REFUSED_LORA_OPTIONS: Final[Mapping[str, str]] = {
    "auto_mapping": _THE_WORKLOAD,
    "base_model_name_or_path": _THE_WORKLOAD,
    "inference_mode": "it would train nothing",
    "peft_type": _IS_LORA,
    "peft_version": "the installed peft sets it",
    "revision": f"{_THE_WORKLOAD}: set its revision",
    "task_type": "the task is that of the workload",
}
# What peft applies only in part without more than a configuration. A model that the user has wrapped may have it all.
# OLoRA needs them alone too, but does not fit the layers of GPT-2.
_INSTEAD: Final = 'use "pissa" or "orthogonal", which need the weights alone'
_NEEDS_DATA: Final = f"needs a pass over training data before the adapters are made, which is not done here; {_INSTEAD}"
_NEEDS_QUANTIZED: Final = f"is for a quantized base, and bases are held in full precision here; {_INSTEAD}"
REFUSED_INITIALISATIONS: Final[Mapping[str, str]] = {
    "corda": _NEEDS_DATA,
    "eva": _NEEDS_DATA,
    "lora_ga": _NEEDS_DATA,
    "loftq": _NEEDS_QUANTIZED,
}
_NOT_SET: Final = "only works with its own init_lora_weights, which"
_ONLY_MEGATRON: Final = "is for layers of Megatron, which models of transformers do not have"
_ONLY_GPTQ: Final = "is for a base that GPTQ has quantized, and bases are held in full precision here"
REFUSED_METHODS: Final[Mapping[str, str]] = {
    "alora_invocation_tokens": "activates the adapter only after these tokens, so it learns nothing on plain text",
    "arrow_config": "chooses among adapters that were trained before, and trains none",
    "corda_config": f"{_NOT_SET} {_NEEDS_DATA}",
    "eva_config": f"{_NOT_SET} {_NEEDS_DATA}",
    "kasa_config": "needs an extra term of the loss, which no Trainer adds",
    "loftq_config": f"{_NOT_SET} {_NEEDS_QUANTIZED}",
    "lora_ga_config": f"{_NOT_SET} {_NEEDS_DATA}",
    "megatron_config": _ONLY_MEGATRON,
    "megatron_core": _ONLY_MEGATRON,
    "monteclora_config": "needs an extra term of the loss, which no Trainer adds",
    "qalora_group_size": _ONLY_GPTQ,
    "runtime_config": "moves work between devices while the adapters are made, and one device is used here",
    "use_qalora": _ONLY_GPTQ,
}
_TRAINED_BEFORE: Final = "names weights that were trained before, and each training starts from the base model"
REFUSED_PEFT_OPTIONS: Final[Mapping[str, str]] = {
    "adapters": _TRAINED_BEFORE,
    "prompt_tuning_init_state_dict_path": _TRAINED_BEFORE,
    "shadow_model": "is another model, and the base model is that of the workload",
}
