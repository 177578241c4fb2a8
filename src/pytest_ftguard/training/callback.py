"""A callback for a Trainer run of the user's own, which measures it as a trial is measured."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from pytest_ftguard.errors import FtguardWarning
from pytest_ftguard.results import (
    TRAINER_RUN_FILE,
    BaseLosses,
    Measured,
    SequenceLosses,
    Trial,
    TrialError,
    log_digests,
)
from pytest_ftguard.specs import Peft, TrialSpec, Workload
from pytest_ftguard.tasks import find_task
from pytest_ftguard.tasks.causal_lm import data
from pytest_ftguard.tasks.causal_lm.texts import check_context
from pytest_ftguard.tasks.rows import RowSet
from pytest_ftguard.tasks.text.tokens import check_ids
from pytest_ftguard.training import machine
from pytest_ftguard.training.callback_spec import (
    Scored,
    check_kind,
    check_score,
    dropout_of,
    model_name,
    precision_of,
    settings_of,
    variant_of,
)
from pytest_ftguard.training.callback_texts import RowSearch, evaluation_set, ids_of, search_for
from pytest_ftguard.training.changed import Watch, checksums_of
from pytest_ftguard.training.parameters import count_parameters
from pytest_ftguard.training.recorder import Evaluator, Recorder
from pytest_ftguard.training.scoring import Scorer
from pytest_ftguard.training.start import as_base, base_of_wrapped, start_of

__all__ = ["FtguardCallback"]

_PROCESS: Final = uuid.uuid4().hex


class FtguardCallback(TrainerCallback):
    """Measures a `Trainer` run of yours, so that `read_trainer_runs` can bring it before the assertion helpers.

    It evaluates the model before, along and after the training, sequence by sequence, notes time and memory of each
    step and which batches the model saw, and writes all of it to `ftguard_trial.json` in the output folder. Call
    `trainer.save_state()` after `trainer.train()`: the reader holds both files against each other.

    A run on several devices, one that is resumed, and one that loads its best checkpoint at the end are not measured,
    which a warning says.

    Args:
        validation: The validation text, a text file or JSON lines with a `text` field, for which the Trainer needs its
            tokenizer (`processing_class`); or the token ids of each sequence; or rows with `input_ids` and `labels`, of
            which only labels other than -100 count, such as the `eval_dataset` of an SFTTrainer that was made.
        block_size: Largest number of tokens in a sequence of a text.
        validation_sequences: Largest number of validation sequences, evenly spaced.
        reference: A general text, in the same forms. Its loss is measured too.
        documents: Number of the document that each validation sequence of token ids was cut from. Without it they are
            taken for independent of one another, which makes bounds too narrow if several are from one document.
        score: "module:function" of your own, as in `ftguard_score`: it scores the base model before the training, and
            the trained model after it. It is called with the model, the Trainer's tokenizer and a row for each
            validation example: what was given, for rows; `text`, for a text or token ids. There are no slices and no
            groups.
        train: Name of the training data, for the summary.
        final: Whether the steps are those of production, so that the trend beyond them does not decide.
    """

    def __init__(
        self,
        validation: str | os.PathLike[str] | Sequence[Sequence[int]] | Sequence[Mapping[str, Any]],
        *,
        block_size: int = 128,
        validation_sequences: int = 256,
        reference: str | os.PathLike[str] | Sequence[Sequence[int]] | Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[int] | None = None,
        score: str | None = None,
        train: str = "training data",
        final: bool = False,
    ) -> None:
        self._texts = {"validation": validation, "reference": reference}
        self._documents = {"validation": documents, "reference": None}
        self._final, self._score = final, score
        self._size: dict[str, Any] = {"block_size": block_size, "at_most": validation_sequences}
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
            role: self._evaluation_set(text, role, kwargs.get("processing_class"), kwargs["model"])
            for role, text in self._texts.items()
            if text is not None
        }
        scored = check_score(self._score, kwargs.get("processing_class"))
        self._run = _Run(args, kwargs["model"], texts, scored, int(state.max_steps))
        self._run.note_rates(kwargs.get("optimizer"), kwargs.get("lr_scheduler"))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and the memory meter."""
        if self._run:
            self._run.recorder.begin_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop them, and measure a point of the curve if one is due."""
        if self._run:
            self._run.recorder.end_step(state.global_step)
            self._run.search.search()

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
        about = {"train": self._train, "final": self._final, "task": self._run.task, "score": self._score}
        named = {**about, **names, **sizes}
        result = self._run.finish(int(state.global_step), named)
        self._run = None
        # By its log the reader tells whether a trainer_state.json is that of this run.
        content = {"trial": result.to_dict(), "log": log_digests(state.log_history)}
        output = Path(str(args.output_dir)) / TRAINER_RUN_FILE
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = output.with_suffix(".draft")
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(output)

    def _evaluation_set(self, text: Any, role: str, tokenizer: Any, model: nn.Module) -> data.EvaluationSet | RowSet:
        check_kind(model)
        evaluated = evaluation_set(text, role, tokenizer, documents=self._documents[role], **self._size)
        largest = max(int(ids.max()) for ids in ids_of(evaluated))
        check_ids({role: largest}, tokenizer, model)
        check_context(model, model_name(model), max(map(len, ids_of(evaluated))))
        return evaluated


class _Run:
    """One training, from its first step to its last.

    Attributes:
        recorder: Measures the steps.
        search: Looks for the texts in the batches: what is trained on is known batch by batch only.
        task: The task by which losses are measured.
        problem: What showed that the training diverged, if anything did.
    """

    def __init__(
        self,
        args: TrainingArguments,
        model: nn.Module,
        texts: Mapping[str, data.EvaluationSet | RowSet],
        scored: Scored,
        steps: int,
    ) -> None:
        self.problem: str | None = None
        self._args = args
        self._model = model
        self._texts = texts
        self._device = next(model.parameters()).device
        self._variant = variant_of(model, args)
        self._settings = settings_of(args, steps)
        self.search = search_for(texts, scored.tokenizer)
        self.task = "chat" if isinstance(self.search, RowSearch) else "causal-lm"
        self._tokenizer = scored.tokenizer
        self._scorer = Scorer(scored.score, find_task(self.task), bool(args.bf16))
        self._evaluator = Evaluator(find_task(self.task), args.per_device_train_batch_size, bf16=bool(args.bf16))
        # Fresh adapters of LoRA change nothing, so this is the base model. Without them it would not always be: some
        # ways of initialising them (PiSSA, OLoRA) take a part of the weights away and give it to the adapters.
        is_peft = isinstance(self._variant, Peft)
        self._base = base_of_wrapped(model, self._variant.label, self._losses) if is_peft else self._losses()
        self._base["validation"] = as_base(model, self._scored_base)
        self.recorder = Recorder(model, texts["validation"], self._evaluator, steps, self._device)
        self._watch = Watch(model, hooks=not args.torch_compile)
        self._order = hashlib.sha256()
        self._shape: tuple[int, ...] = ()
        self._knows_batches = True
        self._owns_memory = _owns_memory(model, self._device)
        note_batch = torch.compiler.disable(self._note_batch)  # type: ignore[no-untyped-call]
        self._hook = model.register_forward_pre_hook(note_batch, with_kwargs=True)

    def _losses(self) -> dict[str, SequenceLosses]:
        return {role: self._evaluator.losses(self._model, text) for role, text in self._texts.items()}

    def _scored_base(self) -> SequenceLosses:
        losses = BaseLosses(self._base["validation"], None)
        return self._scorer.base(losses, self._model, self._tokenizer, self._texts["validation"]).validation

    def _with_trained_on(self, losses: dict[str, SequenceLosses]) -> dict[str, SequenceLosses]:
        return {role: replace(measured, trained_on=self.search.count(role)) for role, measured in losses.items()}

    def note_rates(self, optimizer: Any, scheduler: Any) -> None:
        """Take the learning rate from the optimizer, which may be one of the user's own."""
        groups = getattr(optimizer, "param_groups", [])
        rates = sorted({float(group.get("initial_lr", group["lr"])) for group in groups})
        if rates:
            self._variant = replace(self._variant, learning_rate=rates[-1])
        kinds = {"optimizer": optimizer, "scheduler": scheduler}
        self._settings |= {name: type(_inner(one)).__qualname__ for name, one in kinds.items() if one is not None}
        self._settings |= {"learning_rates": rates} if len(rates) > 1 else {}

    def _note_batch(self, model: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        if not model.training:
            return
        tensors = {**{f"argument {number}": value for number, value in enumerate(arguments)}, **keywords}
        tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
        # A Trainer with a loss of its own may keep the labels to itself: then it is not known what was learnt.
        self._knows_batches &= {"input_ids", "labels"} <= tensors.keys()
        for name in sorted(tensors):
            value = tensors[name].detach().cpu().contiguous()
            self._order.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            self._order.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        if "input_ids" in tensors:
            self._shape = max(self._shape, tuple(tensors["input_ids"].shape))
            places = (
                (tensors["position_ids"],) if isinstance(self.search, RowSearch) and "position_ids" in tensors else ()
            )
            self.search.note(tensors["input_ids"], tensors.get("attention_mask"), *places)

    def finish(self, steps: int, names: dict[str, Any]) -> Trial:
        self._hook.remove()
        self.recorder.close()
        if not self._shape or not self._knows_batches:
            message = (
                "pytest-ftguard does not know which batches this run was trained on, because the model was not called "
                "with input_ids and labels by name (as with a compute_loss_func): it cannot be compared with another"
            )
            warnings.warn(FtguardWarning(message), stacklevel=2)
            self._knows_batches = False
        final = self._with_trained_on(self._losses())
        base = self._with_trained_on(self._base)
        validation = final["validation"]
        if not all(map(math.isfinite, validation.nll)) and self.problem is None:
            self.problem = f"the validation loss is not finite after step {steps}"
        environment = machine.describe(self._device, precision=precision_of(self._args, self._model))
        spec = TrialSpec(
            workload=Workload(
                model=model_name(self._model),
                batch_size=self._args.per_device_train_batch_size,
                steps=steps,
                seeds=(self._args.seed,),
                training_args={**self._settings, "largest_batch": list(self._shape)},
                model_args=dropout_of(self._model),
                **names,
            ),
            variant=self._variant,
            seed=self._args.seed,
            device=self._device.type,
        )
        if self.problem:
            return Trial(spec, Measured(outcome="diverged", environment=environment, error=TrialError(self.problem)))
        updates = self._watch.result(checksums_of(self._model))
        # Last, because nobody knows what code of the user's does to the model.
        scored = self._scorer.trained(validation, self._model, self._tokenizer, self._texts["validation"])
        return Trial(
            spec,
            Measured(
                outcome="ok",
                parameters=count_parameters(self._model),
                updates=updates,
                validation=scored,
                base_validation=base["validation"],
                reference=final.get("reference"),
                base_reference=base.get("reference"),
                start=start_of(self.recorder, base["validation"], 0.0 if isinstance(self._variant, Peft) else None),
                curve=self.recorder.curve(validation),
                data_order=self._order.hexdigest() if self._knows_batches else None,
                memory=self.recorder.peak if self._owns_memory else None,
                time=replace(self.recorder.timing, run=_PROCESS),
                environment=environment,
            ),
        )


def _why_not(args: TrainingArguments, state: Any) -> str | None:
    if args.world_size > 1 or args.n_gpu > 1:
        return "it trains on several devices, and the losses and the memory of one are measured"
    if state.global_step > 0:
        return f"it was resumed at step {state.global_step}, so the base model can no longer be measured"
    if args.load_best_model_at_end:
        return "it loads its best checkpoint at the end, and variants are compared after the same number of steps"
    return None


def _inner(wrapped: Any) -> Any:
    """Return the optimizer or scheduler inside of accelerate's wrapper."""
    return getattr(wrapped, "optimizer", None) or getattr(wrapped, "scheduler", None) or wrapped


def _owns_memory(model: nn.Module, device: torch.device) -> bool:
    """Return whether a device's allocator holds little more than this model, so that its peak is that of the run."""
    if device.type == "cpu":
        return True  # there tensors are followed one by one
    module = torch.get_device_module(device)
    if not hasattr(module, "memory_allocated"):
        return False
    own = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if module.memory_allocated(device) <= 1.05 * own + (64 << 20):
        return True
    message = (
        "pytest-ftguard does not measure this run's memory: the device holds more than the model, perhaps another one "
        "that was trained before in this process; train each variant in a process of its own"
    )
    warnings.warn(FtguardWarning(message), stacklevel=2)
    return False


def _name(text: Any) -> str:
    return os.fspath(text) if isinstance(text, str | os.PathLike) else "token ids"
