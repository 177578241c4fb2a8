"""Every option, as plain values that load fast. Made by docs/reference/generate.py: do not edit."""

# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from typing import Final

__all__ = ["LIMITS_AND_RULES", "OPTIONS"]

OPTIONS: Final = {
    "The workload": (
        ("model", False, "hub id or folder of the base model, any causal language model"),
        ("train", False, "path of the training text: a text file, or JSON lines with a `text` field (`.jsonl`)"),
        ("validation", False, "path of the validation text, in the same formats"),
        ("revision", False, "revision of the model on the hub"),
        ("tokenizer", False, "hub id or folder of the tokenizer, if it is not the model's own"),
        ("reference", False, "path of a general text"),
        ("task", False, "what the model is trained for: causal-lm, or module:Class of a task of yours (`pytest_ftguard.tasks`)"),
        ("block_size", False, "tokens in a sequence (128)"),
        ("batch_size", False, "sequences in a batch (4)"),
        ("steps", False, "optimizer steps (500)"),
        ("seeds", False, "one trial of each variant is trained per seed (0, 1, 2); '3..8': more in doubt"),
        ("precision", False, '"fp32", "bf16" (fp32 weights, bf16 autocast), or "auto": bf16 if the hardware is faster in it'),
        ("final", True, "whether the steps are those of production, not a stand-in for a longer run"),
        ("validation_sequences", False, "largest number of validation sequences, evenly spaced over the text (256)"),
        ("model_args", False, "further options for `from_pretrained`, for example `gguf_file`; lines of name=value"),
        ("training_args", False, "further options for `transformers.TrainingArguments`, the same for both variants; lines of name=value"),
        ("training_function", False, '"module:function" of a function of yours that trains in the Trainer\'s place (the Trainer)'),
    ),
    "The variants": (
        ("full_learning_rate", False, "learning rate of AdamW after the warm-up (5e-5)"),
        ("full_search_learning_rate", True, "whether the best of a few rates around `learning_rate` is searched before the training"),
        ("lora_r", False, "rank of the adapters (16)"),
        ("lora_alpha", False, "numerator of the adapters' scale (32)"),
        ("lora_target_modules", False, '"all-linear", a regular expression for whole module names, or name suffixes in any order'),
        ("lora_dropout", False, "dropout before the adapters (0)"),
        ("lora_learning_rate", False, "learning rate of AdamW after the warm-up (ten times that of `Full`)"),
        ("lora_search_learning_rate", True, "whether the best of a few rates around `learning_rate` is searched before the training"),
        ("adapter_config", False, "folder or file of peft's (adapter_config.json): the candidate, in LoRA's place"),
    ),
    "Limits and rules": (
        ("max_loss_gap", False, "largest accepted loss gap, in nats per token"),
        ("max_perplexity_gap", False, "largest accepted perplexity gap"),
        ("min_retention", False, "smallest accepted share of full's gain: '90%%'"),
        ("max_forgetting", False, "largest growth of the reference loss"),
        ("max_improvement", False, "what doubling the steps may still gain"),
        ("max_memory", False, "largest accepted peak memory: '0.9 GB', or '60%%' of the baseline's"),
        ("max_time", False, "largest share of the baseline's step time: '80%%'"),
        ("max_regression", False, "growth since accepted: 0.01 nats per token, or '5%%' of memory or time"),
        ("confidence", False, "one-sided confidence of each bound (0.95)"),
        ("gain_factor", False, "margins that full fine-tuning must gain over the base model (3)"),
        ("on_inconclusive", False, "what an INCONCLUSIVE verdict does: fail or warn"),
        ("on_missing", False, "what a missing accepted result does: fail or warn"),
    ),
    "The run": (
        ("gates", False, "modules that add gates of your own, for example my_package.gates"),
        ("device", False, "auto, cpu, cuda, ..."),
        ("require_gpu", True, "fail if there is no accelerator"),
        ("executor", False, "who starts a trial's process: local, or module:function of your own (local)"),
        ("timeout", False, "time that one trial may take: '30 min'; a number alone is seconds (no limit)"),
        ("keep_models", False, "keep trained weights for load() until the run ends (auto: up to 2 GB)"),
        ("calibration", False, "file of the calibrated noise of seeds"),
        ("calibrate", False, "number of seeds, 10 or more, to train and write their noise to the calibration"),
        ("baseline_dir", False, "folder of the accepted results (ftguard_baselines)"),
        ("update", True, "accept what the tests with assert_no_regression measure, and write it"),
        ("update_in_ci", True, "let --ftguard-update accept even if the variable CI is set"),
        ("plan", True, "train nothing: list the trials with the forecast of their memory"),
        ("forecast", False, "yes: a training that cannot fit, or must break max_memory, fails before it starts (yes)"),
        ("cache_dir", False, "folder of stored results (.ftguard_cache next to the ini file)"),
        ("no_cache", True, "neither look results up nor store them"),
        ("cache_size", False, "size of the store: beyond it, what was not used for longest is removed ('1 GB'); 0 is an error"),
        ("protected", True, "ignore all stored results, because others may have written them"),
        ("require_signed", True, "believe only results signed with the key in FTGUARD_SIGNING_KEY"),
        ("disable", True, "train nothing and skip the tests that would"),
        ("json", False, "file to which trials and verdicts are written"),
        ("markdown", False, "file to which the summary is written, in GitHub's Markdown"),
        ("reports", False, "lines of renderer=path; a renderer is a name, or module:function of yours"),
        ("github", False, "append the summary to GITHUB_STEP_SUMMARY: auto (if it is set) or off"),
    ),
}
"""The name of each setting of a group, whether it is a flag, and what it means."""

LIMITS_AND_RULES: Final = (
    "max_loss_gap",
    "max_perplexity_gap",
    "min_retention",
    "max_forgetting",
    "max_improvement",
    "max_memory",
    "max_time",
    "max_regression",
    "confidence",
    "gain_factor",
    "on_inconclusive",
    "on_missing",
)
"""The settings that a marker takes."""
