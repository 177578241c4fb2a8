"""A callback for a Trainer run of the user's own, which measures it as a trial is measured."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, cast

import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from pytest_ftguard.errors import ConfigurationError, FtguardWarning
from pytest_ftguard.results import TRAINER_RUN_FILE, SequenceLosses, TrialError, TrialResult
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload
from pytest_ftguard.training import data, machine, models
from pytest_ftguard.training.recorder import Evaluator, Recorder

__all__ = ["FtguardCallback"]

# The arguments of a Trainer that decide what is learnt, beside those that a workload and a variant name themselves.
_DECISIVE: Final = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "label_smoothing_factor",
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "max_grad_norm",
    "neftune_noise_alpha",
    "optim",
    "optim_args",
    "torch_compile",
    "warmup_steps",
    "weight_decay",
)


class FtguardCallback(TrainerCallback):
    """Measures a `Trainer` run of yours, so that `read_trainer_runs` can bring it before the assertion helpers.

    It evaluates the model before, along and after the training, sequence by sequence, notes time and memory of each
    step and which batches the model saw, and writes all of it to `ftguard_trial.json` in the output folder. Call
    `trainer.save_state()` after `trainer.train()`: the reader holds both files against each other.

    A run on several devices, one that is resumed, and one that loads its best checkpoint at the end are not measured,
    which a warning says.

    Args:
        validation: The validation text, a text file or JSON lines with a `text` field, for which the Trainer needs its
            tokenizer (`processing_class`); or the token ids of each sequence.
        block_size: Largest number of tokens in a sequence of a text.
        validation_sequences: Largest number of validation sequences, evenly spaced.
        reference: A general text whose loss is measured too, in the same forms.
        train: Name of the training data, for the summary.
    """

    def __init__(
        self,
        validation: str | os.PathLike[str] | Sequence[Sequence[int]],
        *,
        block_size: int = 128,
        validation_sequences: int = 256,
        reference: str | os.PathLike[str] | Sequence[Sequence[int]] | None = None,
        train: str = "training data",
    ) -> None:
        self._texts = {"validation": validation, "reference": reference}
        self._size = {"block_size": block_size, "at_most": validation_sequences}
        self._train = train
        self._run: _Run | None = None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the base model, and get ready for the steps."""
        output = Path(str(args.output_dir)) / TRAINER_RUN_FILE
        output.unlink(missing_ok=True)  # what an earlier run left there is not this one's
        reason = _why_not(args, state)
        if reason:
            warnings.warn(FtguardWarning(f"pytest-ftguard does not measure this run: {reason}"), stacklevel=2)
            return
        texts = {
            role: _evaluation_set(text, role, kwargs.get("processing_class"), **self._size)
            for role, text in self._texts.items()
            if text is not None
        }
        self._run = _Run(args, kwargs["model"], texts, int(state.max_steps))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and the memory meter."""
        if self._run:
            self._run.recorder.begin_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop them, and measure a point of the curve where one is due."""
        if self._run:
            self._run.recorder.end_step(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Note the first loss that is not finite."""
        loss = (logs or {}).get("loss")
        if self._run and loss is not None and not math.isfinite(loss) and self._run.problem is None:
            self._run.problem = f"the training loss is {loss} at step {state.global_step}"

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the trained model, and write everything down."""
        if self._run is None:
            return
        sizes = {"block_size": self._size["block_size"], "validation_sequences": self._size["at_most"]}
        names = {role: _name(text) for role, text in self._texts.items() if text is not None}
        result = self._run.finish(int(state.global_step), {"train": self._train, **names, **sizes})
        self._run = None
        output = Path(str(args.output_dir)) / TRAINER_RUN_FILE
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = output.with_suffix(".draft")
        draft.write_text(json.dumps(result.to_dict()), encoding="utf-8")
        draft.replace(output)


class _Run:
    """One training, from its first step to its last.

    Attributes:
        recorder: Measures the steps.
        problem: What showed that the training diverged, if anything did.
    """

    def __init__(
        self, args: TrainingArguments, model: nn.Module, texts: dict[str, data.EvaluationSet], steps: int
    ) -> None:
        self.problem: str | None = None
        self._args = args
        self._model = model
        self._texts = texts
        self._device = next(model.parameters()).device
        self._variant = _variant(model, args)
        self._evaluator = Evaluator(args.per_device_train_batch_size, bf16=bool(args.bf16))
        with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
            self._base = self._losses()
        self.recorder = Recorder(model, texts["validation"], self._evaluator, steps, self._device)
        self._order = hashlib.sha256()
        self._batches = 0
        note_batch = torch.compiler.disable(self._note_batch)  # type: ignore[no-untyped-call]
        self._hook = model.register_forward_pre_hook(note_batch, with_kwargs=True)

    def _losses(self) -> dict[str, SequenceLosses]:
        return {role: self._evaluator.losses(self._model, text) for role, text in self._texts.items()}

    def _note_batch(self, model: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        if model.training:
            self._batches += 1
            for name in ("input_ids", "labels"):
                if isinstance(keywords.get(name), torch.Tensor):
                    self._order.update(keywords[name].cpu().numpy().tobytes())

    def finish(self, steps: int, names: dict[str, Any]) -> TrialResult:
        self._hook.remove()
        final = self._losses()
        validation = final["validation"]
        if not all(map(math.isfinite, validation.nll)) and self.problem is None:
            self.problem = f"the validation loss is not finite after step {steps}"
        environment = machine.describe(self._device, precision=_precision(self._args, self._model))
        spec = TrialSpec(
            workload=Workload(
                model=_model_name(self._model),
                batch_size=self._args.per_device_train_batch_size,
                steps=steps,
                seeds=(self._args.seed,),
                training_args=_decisive(self._args),
                **names,
            ),
            variant=self._variant,
            seed=self._args.seed,
            device=self._device.type,
        )
        if self.problem:
            return TrialResult(spec=spec, outcome="diverged", environment=environment, error=TrialError(self.problem))
        return TrialResult(
            spec=spec,
            outcome="ok",
            parameters=models.count_parameters(self._model),
            validation=validation,
            base_validation=self._base["validation"],
            reference=final.get("reference"),
            base_reference=self._base.get("reference"),
            curve=self.recorder.curve(validation),
            data_order=self._order.hexdigest() if self._batches else None,
            memory=self.recorder.peak,
            time=self.recorder.timing,
            environment=environment,
        )


def _why_not(args: TrainingArguments, state: Any) -> str | None:
    if args.world_size > 1 or args.n_gpu > 1:
        return "it trains on several devices, and the losses and the memory of one are measured"
    if state.global_step > 0:
        return f"it was resumed at step {state.global_step}, so the base model can no longer be measured"
    if args.load_best_model_at_end:
        return "it loads its best checkpoint at the end, and variants are compared after the same number of steps"
    return None


def _evaluation_set(text: Any, role: str, tokenizer: Any, *, block_size: int, at_most: int) -> data.EvaluationSet:
    if isinstance(text, str | os.PathLike):
        if tokenizer is None:
            message = (
                f"FtguardCallback was given the {role} text {os.fspath(text)!r}, but the Trainer has no tokenizer: "
                "pass it as processing_class, or give the callback token ids"
            )
            raise ConfigurationError(message)
        return data.evaluation_set(os.fspath(text), role, tokenizer, block_size=block_size, at_most=at_most)
    return data.evaluation_set_of_ids(text, role, at_most=at_most)


def _name(text: Any) -> str:
    return os.fspath(text) if isinstance(text, str | os.PathLike) else "token ids"


def _variant(model: nn.Module, args: TrainingArguments) -> Variant:
    if not isinstance(model, PeftModel):
        return Full(learning_rate=args.learning_rate)
    config = model.peft_config[model.active_adapter]
    if not isinstance(config, LoraConfig):
        message = f"FtguardCallback measures full fine-tuning and LoRA, and the model has {type(config).__name__}"
        raise ConfigurationError(message)
    targets = config.target_modules
    return LoRA(
        r=config.r,
        alpha=config.lora_alpha,
        target_modules=targets if isinstance(targets, str) else sorted(targets or ()),
        dropout=config.lora_dropout,
        bias=config.bias,
        learning_rate=args.learning_rate,
        options={name: True for name in ("use_rslora", "use_dora") if getattr(config, name, False)},
    )


def _precision(args: TrainingArguments, model: nn.Module) -> str:
    if args.bf16:
        return "bf16"
    if args.fp16:
        return "fp16"
    weights = next(model.parameters()).dtype
    return "fp32" if weights == torch.float32 else f"{str(weights).removeprefix('torch.')} weights"


def _model_name(model: nn.Module) -> str:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return str(getattr(cast(Any, base).config, "_name_or_path", "")) or type(base).__name__


def _decisive(args: TrainingArguments) -> dict[str, Any]:
    values = {name: getattr(args, name, None) for name in _DECISIVE}
    # Enumerations and paths become their text; what a Trainer was not told is not named.
    return {name: json.loads(json.dumps(value, default=str)) for name, value in values.items() if value is not None}
