"""Every option, as plain values that load fast. Made by docs/reference/generate.py: do not edit."""

# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from typing import Final

__all__ = ["LIMITS_AND_RULES", "OPTIONS"]

OPTIONS: Final = {
    "The workload": (
        ("model", False, "hub id or folder of the base model: any causal language model"),
        ("train", False, "path of the training text: a text file, or JSON lines with a `text` field (`.jsonl`)"),
        ("validation", False, "path of the validation text, in the same formats"),
        ("revision", False, "revision of the model on the hub"),
        ("tokenizer", False, "hub id or folder of the tokenizer, if it is not the model's own"),
        ("reference", False, "path of a general text, for `assert_forgetting`"),
        ("task", False, "task to train for: causal-lm (predict the next token), chat (conversations, prompts with completions), classification (texts with labels), or module:Class of your own"),
        ("block_size", False, "tokens per sequence (128)"),
        ("batch_size", False, "sequences per batch (4)"),
        ("steps", False, "number of optimizer steps (500)"),
        ("seeds", False, "seeds, with one trial of each variant per seed (0, 1, 2); '3..8': up to 8 if in doubt"),
        ("precision", False, '"fp32", "bf16" (bf16 autocast, trained weights in fp32), or "auto": bf16 if the hardware is faster in it'),
        ("final", True, "treat the steps as those of production, not as a stand-in for a longer run: the trend does not decide"),
        ("validation_sequences", False, "largest number of validation sequences to use, evenly spaced over the text (256)"),
        ("model_args", False, "further options for `from_pretrained`, for example `gguf_file`; one name=value a line"),
        ("training_args", False, "further options for `transformers.TrainingArguments`, the same for both variants; one name=value a line"),
        ("training_function", False, '"module:function" of your own that trains in place of the Trainer (the Trainer)'),
        ("trainer", False, '"module:Class" of your own, derived from `transformers.Trainer`, that trains in its place, for a loss or an optimizer of your own (the Trainer)'),
        ("chat_template", False, "chat template of the task chat, as Jinja text (the tokenizer's own); the path of its file, or the template itself"),
        ("completion_only_loss", False, "take the loss of completions only, and not of prompts, in the task chat (yes if there are prompts)"),
        ("assistant_only_loss", True, "take the loss of the assistant's turns only, in the task chat"),
        ("packing", True, "put several training examples of the task chat into one sequence, each seen by itself"),
    ),
    "The variants": (
        ("full_learning_rate", False, "learning rate of AdamW after the warm-up (5e-5)"),
        ("full_search_learning_rate", False, "search the learning rate with a few short trials: auto (before a verdict hangs on a rate that nobody chose), yes (before the training) or no"),
        ("lora_r", False, "rank of the adapters (16)"),
        ("lora_alpha", False, "numerator of the adapters' scale, alpha / r (32)"),
        ("lora_target_modules", False, 'modules to adapt: "all-linear", a regular expression for whole module names, or name suffixes in any order'),
        ("lora_dropout", False, "dropout before the adapters (0)"),
        ("lora_quantization", False, 'how the base is held (QLoRA): "nf4", "fp4" or "int8", or options of `transformers.BitsAndBytesConfig` (in full precision)'),
        ("lora_learning_rate", False, "learning rate of AdamW after the warm-up (ten times that of `Full`)"),
        ("lora_search_learning_rate", False, "search the learning rate with a few short trials: auto (before a verdict hangs on a rate that nobody chose), yes (before the training) or no"),
        ("adapter_config", False, "adapter_config.json of peft, or its folder: the candidate, in place of LoRA"),
    ),
    "Limits and rules": (
        ("max_loss_gap", False, "largest accepted loss gap, in nats per token"),
        ("max_perplexity_gap", False, "largest accepted perplexity gap, in points"),
        ("min_retention", False, "least share of full's gain that LoRA must retain: '90%%'"),
        ("max_forgetting", False, "largest accepted growth of the loss on the reference text, in nats per token"),
        ("max_merge_drift", False, "largest accepted growth of the loss by saving, merging and reloading, in nats per token"),
        ("max_improvement", False, "largest accepted gain that twice the steps would still bring, in nats per token"),
        ("max_memory", False, "largest accepted peak memory: '0.9 GB', or '60%%' of the baseline's"),
        ("max_time", False, "largest accepted step time, as a share of the baseline's: '80%%'"),
        ("max_regression", False, "largest growth over the accepted result: 0.01 nats per token, or '5%%' of memory or time"),
        ("confidence", False, "confidence of each one-sided bound (0.95)"),
        ("gain_factor", False, "least gain of full over the base model, as a multiple of the limit (3)"),
        ("on_inconclusive", False, "fail or warn if a verdict is INCONCLUSIVE (fail)"),
        ("on_missing", False, "fail or warn if there is no accepted result (fail)"),
    ),
    "The run": (
        ("gates", False, "modules that add gates of your own, for example my_package.gates"),
        ("device", False, "device to train on: auto, cpu, cuda, ... (auto)"),
        ("require_gpu", True, "fail if there is no accelerator"),
        ("executor", False, "what starts each trial's process: local, or module:function of your own (local)"),
        ("timeout", False, "longest time for one trial: '30 min'; a number alone is seconds (no limit)"),
        ("keep_models", False, "auto, yes or no: keep trained weights for load() until the run ends (auto: up to 2 GB)"),
        ("calibration", False, "file with the calibrated noise of the seeds: read, or written with --ftguard-calibrate"),
        ("calibrate", False, "number of seeds, 10 or more, to train so that their noise is written to the calibration file"),
        ("baseline_dir", False, "folder of the accepted results (ftguard_baselines)"),
        ("update", True, "accept what the tests with assert_no_regression measure, and write it to baseline_dir"),
        ("update_in_ci", True, "let --ftguard-update accept even if the variable CI is set"),
        ("plan", True, "train nothing: list the trials and forecast their memory"),
        ("forecast", False, "yes or no: refuse to start a training that cannot fit, or must exceed max_memory (yes)"),
        ("cache_dir", False, "folder of stored results (.ftguard_cache next to the ini file)"),
        ("no_cache", True, "neither read nor write the store"),
        ("cache_size", False, "largest size of the store ('1 GB'): results that were not used for longest go first; 0 is an error"),
        ("protected", True, "ignore all stored results, because others may have written them"),
        ("require_signed", True, "use only stored results signed with the key in FTGUARD_SIGNING_KEY"),
        ("disable", True, "train nothing and skip the tests that would"),
        ("json", False, "file to write the trials and verdicts to, as JSON"),
        ("markdown", False, "file to write the summary to, in GitHub's Markdown"),
        ("reports", False, "reports to write, one renderer=path a line; a renderer is a name, or module:function of your own"),
        ("github", False, "auto or off: append the summary to GITHUB_STEP_SUMMARY if it is set (auto)"),
    ),
}
"""The name of each setting of a group, whether it is a flag, and what it means."""

LIMITS_AND_RULES: Final = (
    "max_loss_gap",
    "max_perplexity_gap",
    "min_retention",
    "max_forgetting",
    "max_merge_drift",
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
