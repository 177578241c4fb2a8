"""One trial, from a spec to a result: one path for every variant."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import (
    CurvePoint,
    Environment,
    Memory,
    Parameters,
    SequenceLosses,
    Timing,
    TrialError,
    TrialResult,
    evenly_spaced,
)
from pytest_ftguard.specs import TrialSpec, Workload
from pytest_ftguard.training import data, machine, memory, models
from pytest_ftguard.training.evaluation import measure_losses, sequence_nll

__all__ = ["BaseLosses", "Report", "TrialFolder", "curve_steps", "run_trial"]

# The first steps are not timed: caches and kernels warm up, and on the CPU live tensors are counted.
WARM_UP_STEPS: Final = max(3, memory.COUNTED_STEPS)
# The curve may cost this share of the training's arithmetic; a training pass over a sequence is worth three
# forward passes.
_CURVE_SHARE: Final = 0.1
_CURVE_MINIMUM_SEQUENCES: Final = 8

Report = Callable[[str, int, float | None], None]
"""Called with the phase ("load", "evaluate", "train", "save"), the steps done, and the training loss if known."""


@dataclass(frozen=True)
class BaseLosses:
    """Losses of the base model, measured once per workload and handed from trial to trial.

    Attributes:
        validation: On the validation text.
        reference: On the reference text, where there is one.
    """

    validation: SequenceLosses
    reference: SequenceLosses | None


@dataclass(frozen=True)
class TrialFolder:
    """Where a trial may write.

    Attributes:
        path: A folder of its own.
        keep_at_most_bytes: Largest size of trained weights that are kept; None keeps them whatever their size.
    """

    path: Path
    keep_at_most_bytes: int | None


@dataclass(frozen=True)
class _Data:
    train: data.TokenBlocks
    validation: data.EvaluationSet
    reference: data.EvaluationSet | None


class _DivergedError(Exception):
    """The loss is no longer finite."""


def curve_steps(steps: int) -> tuple[int, ...]:
    """Return the steps at which the curve is measured: 0, then halving distances up to the last step.

    Loss curves are close to linear in log(step), so equal distances in log(step) carry the most information.
    """
    return (0, *sorted({max(1, steps >> halvings) for halvings in range(steps.bit_length())}))


def curve_sequences(workload: Workload, available: int) -> int:
    """Return how many validation sequences the curve uses, so that it costs about a tenth of the training."""
    points = len(curve_steps(workload.steps)) - 1  # the last point is part of the final evaluation
    affordable = int(_CURVE_SHARE * 3 * workload.steps * workload.batch_size / max(1, points))
    return min(available, max(_CURVE_MINIMUM_SEQUENCES, affordable))


def run_trial(
    spec: TrialSpec,
    folder: TrialFolder,
    report: Report,
    base: BaseLosses | None = None,
    wait_for_quiet: Callable[[], None] = lambda: None,
) -> TrialResult:
    """Train one variant with one seed and measure everything about it.

    Running out of memory and diverging are outcomes, not exceptions.

    Args:
        spec: What is trained.
        folder: Where the Trainer may write, and where the trained weights are kept.
        report: Called as the trial goes on.
        base: The base model's losses on this workload where an earlier trial measured them.
        wait_for_quiet: Called before the steps that are timed; returns when nothing of ours disturbs them.

    Raises:
        ConfigurationError: The spec cannot be carried out; the message says what to change.
        DeviceUnavailableError: The device is not present.
    """
    device = machine.resolve_device(spec.device)
    bf16 = machine.resolve_precision(spec.workload.precision, device) == "bf16"
    environment = machine.describe(device, bf16=bf16)
    try:
        return _Trial(spec, folder, report, environment, device).run(base, wait_for_quiet)
    except _DivergedError as error:
        return TrialResult(spec=spec, outcome="diverged", environment=environment, error=TrialError(str(error)))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        message = f"{str(error).splitlines()[0] if str(error) else 'out of memory'}; " + (
            "try a smaller batch_size with gradient_accumulation_steps in training_args, or gradient_checkpointing"
        )
        return TrialResult(spec=spec, outcome="out_of_memory", environment=environment, error=TrialError(message))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error)


class _Trial:
    """The stages of a trial, which share its spec and its device."""

    def __init__(
        self, spec: TrialSpec, folder: TrialFolder, report: Report, environment: Environment, device: torch.device
    ) -> None:
        self.spec = spec
        self.workload = spec.workload
        self.folder = folder
        self.report = report
        self.environment = environment
        self.device = device
        self.bf16 = environment.precision == "bf16"

    def run(self, base: BaseLosses | None, wait_for_quiet: Callable[[], None]) -> TrialResult:
        self.report("load", 0, None)
        arguments = training_arguments(self.spec, self.folder.path, self.device, bf16=self.bf16)
        tokenizer = models.load_tokenizer(self.workload)
        texts = self._texts(tokenizer)
        loaded = models.load_base(self.workload)
        models.check_variant(loaded, self.spec.variant)
        cast(nn.Module, loaded).to(self.device)
        if base is None:
            self.report("evaluate", 0, None)
            models.check_causality(loaded)
            base = self._measure(loaded, texts)
        # Adapters draw random numbers when they are made, so the seed is set before them, and again for the training.
        set_seed(self.spec.seed)
        model = models.apply_variant(loaded, self.spec.variant)
        set_seed(self.spec.seed)
        recorder = _Recorder(self, model, texts.validation)
        collator = data.OrderedCollator()
        trainer = Trainer(
            model=model, args=arguments, train_dataset=texts.train, data_collator=collator, callbacks=[recorder]
        )
        trainer.remove_callback(PrinterCallback)
        wait_for_quiet()
        trainer.train()
        self.report("evaluate", self.workload.steps, None)
        final = self._measure(model, texts)
        if not all(map(math.isfinite, final.validation.nll)):
            message = f"the validation loss is not finite after step {self.workload.steps}; {self.lower_rate}"
            raise _DivergedError(message)
        return TrialResult(
            spec=self.spec,
            outcome="ok",
            parameters=models.count_parameters(model),
            validation=final.validation,
            base_validation=base.validation,
            reference=final.reference,
            base_reference=base.reference,
            curve=recorder.curve(final.validation),
            data_order=collator.order,
            memory=recorder.peak,
            time=recorder.timing,
            environment=self.environment,
            model_dir=self._keep(model, tokenizer),
        )

    def _texts(self, tokenizer: Any) -> _Data:
        workload = self.workload
        size = {"block_size": workload.block_size}
        data.check_texts(workload.train, workload.validation)
        train = data.training_blocks(workload.train, tokenizer, batch_size=workload.batch_size, **size)
        limit = {"at_most": workload.validation_sequences, **size}
        validation = data.evaluation_set(workload.validation, "validation", tokenizer, **limit)
        reference = (
            data.evaluation_set(workload.reference, "reference", tokenizer, **limit) if workload.reference else None
        )
        return _Data(train, validation, reference)

    def _measure(self, model: nn.Module, texts: _Data) -> BaseLosses:
        def measure(sequences: data.EvaluationSet) -> SequenceLosses:
            return measure_losses(model, sequences, batch_size=self.evaluation_batch_size, bf16=self.bf16)

        return BaseLosses(measure(texts.validation), measure(texts.reference) if texts.reference else None)

    @property
    def lower_rate(self) -> str:
        """What to do about a training that diverged."""
        variant = self.spec.variant
        return f"try a lower {variant.kind}_learning_rate than {variant.learning_rate:g}"

    @property
    def evaluation_batch_size(self) -> int:
        """Twice the training's: without gradients a batch needs less than half of the memory."""
        return 2 * self.workload.batch_size

    def _keep(self, model: nn.Module, tokenizer: Any) -> str | None:
        parameters: Parameters = models.count_parameters(model)
        size = 4 * parameters.trainable
        limit = self.folder.keep_at_most_bytes
        # A model that fills the disk would take the results of the other trials with it.
        if (limit is not None and size > limit) or size > shutil.disk_usage(self.folder.path).free / 2:
            return None
        self.report("save", self.workload.steps, None)
        kept = self.folder.path / "model"
        try:
            model.save_pretrained(kept)  # type: ignore[operator]
            tokenizer.save_pretrained(kept)
        except Exception:  # a model that cannot be saved has still been measured, and that is what was asked for
            traceback.print_exc()
            return None
        return str(kept)


class _Recorder(TrainerCallback):
    """Measures a training from inside: time and memory of each step, the curve, and losses that are not finite."""

    def __init__(self, trial: _Trial, model: nn.Module, validation: data.EvaluationSet) -> None:
        self._trial = trial
        self._model = model
        count = curve_sequences(trial.workload, len(validation.sequences))
        self._chosen = evenly_spaced(len(validation.sequences), count)
        self._sequences = [validation.sequences[index] for index in self._chosen]
        self._points: list[CurvePoint] = []
        self._wanted = curve_steps(trial.workload.steps)
        self._meter = memory.meter_for(model, trial.device)
        self._durations: list[float] = []
        self._started = math.nan
        self._measure_point(0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock and the memory meter."""
        self._meter.begin_step(state.global_step)
        machine.synchronize(self._trial.device)
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock and the meter, and measure a point of the curve where one is due."""
        machine.synchronize(self._trial.device)
        self._durations.append(time.perf_counter() - self._started)
        self._meter.end_step(state.global_step - 1)
        if state.global_step in self._wanted and state.global_step < self._trial.workload.steps:
            self._measure_point(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Report the step, and stop at the first loss or gradient that is not finite."""
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                word = {"loss": "training loss", "grad_norm": "gradient norm"}[name]
                message = f"the {word} is {value} at step {state.global_step}; {self._trial.lower_rate}"
                raise _DivergedError(message)
        if logs and "loss" in logs:
            self._trial.report("train", state.global_step, float(logs["loss"]))

    def _measure_point(self, step: int) -> None:
        trial = self._trial
        nll = sequence_nll(self._model, self._sequences, batch_size=trial.evaluation_batch_size, bf16=trial.bf16)
        self._add_point(step, nll)

    def _add_point(self, step: int, nll: list[float]) -> None:
        tokens = sum(len(sequence) - 1 for sequence in self._sequences)
        self._points.append(CurvePoint(step, math.fsum(nll) / tokens, tuple(nll)))

    def curve(self, final: SequenceLosses) -> tuple[CurvePoint, ...]:
        """Return the points, the last of them taken from the final evaluation."""
        self._add_point(self._trial.workload.steps, [final.nll[index] for index in self._chosen])
        return tuple(self._points)

    @property
    def peak(self) -> Memory | None:
        """Peak memory of the steps."""
        return self._meter.result()

    @property
    def timing(self) -> Timing:
        """Duration of the steps."""
        timed = sorted(self._durations[WARM_UP_STEPS:])
        middle = len(timed) // 2
        median = (timed[middle] + timed[~middle]) / 2 if timed else None
        return Timing(median, len(timed), math.fsum(self._durations))


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
        "output_dir": str(folder / "trainer"),
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
    try:
        return TrainingArguments(**{**ours, **workload.training_args})
    except (ValueError, TypeError, ImportError) as error:
        message = f"Workload.training_args {dict(workload.training_args)!r} was refused by TrainingArguments: {error}"
        raise ConfigurationError(message) from error
