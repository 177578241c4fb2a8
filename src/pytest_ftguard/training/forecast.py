"""The peak memory of a training, known before it: the same steps with tensors that have shapes and no content.

torch's fake tensors go through the same operations as real ones and cost next to nothing, so the counter of live
tensors sees what it would see in the training. No weights are read, and no accelerator is used.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Trainer, TrainingArguments, masking_utils

from pytest_ftguard.errors import DeviceUnavailableError
from pytest_ftguard.results import Environment, Measured, Memory, Trial, TrialError
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.tasks import NeedsWeightsError, find_task
from pytest_ftguard.tasks.causal_lm.folders import holds_shapes_alone
from pytest_ftguard.training import machine
from pytest_ftguard.training.adapters import apply_variant, check_variant, find_adapter
from pytest_ftguard.training.arguments import training_arguments
from pytest_ftguard.training.frozen import hold_frozen
from pytest_ftguard.training.memory import LiveTensorMeter
from pytest_ftguard.training.parameters import count_parameters
from pytest_ftguard.training.scoring import check_asked
from pytest_ftguard.units import format_bytes

__all__ = ["NoForecastError", "forecast", "plan_trial", "surely_fits", "will_not_fit"]

# What is forecast must exceed what is there by a clear margin before a training is not even tried.
_CLEARLY: Final = 1.05
_SIZES: Final = ("vocab_size", "hidden_size", "num_hidden_layers")
_NOT_FOLLOWED: Final = frozenset(
    {"label_smoothing_factor", "torch_compile", "torch_compile_backend", "torch_compile_mode", "use_liger_kernel"}
)


class NoForecastError(Exception):
    """The training cannot be followed with fake tensors; the message says why."""


def forecast(spec: TrialSpec) -> Memory:
    """Return the peak memory that a trial's training will have, by the method "forecast".

    Args:
        spec: What is to be trained.

    Raises:
        NoForecastError: The model's code, the optimizer or a training function cannot be followed with fake tensors.
        ConfigurationError: The spec cannot be carried out.
    """
    workload = spec.workload
    if workload.own_training is not None:
        message = f"what {workload.own_training} allocates is not known before it runs"
        raise NoForecastError(message)
    for name, value in workload.training_args.items():
        if (name in _NOT_FOLLOWED and value) or (name == "optim" and re.search("paged|bit", str(value))):
            message = f"the forecast cannot tell what training_args {name}={value} does to the memory"
            raise NoForecastError(message)
    bf16 = _environment(spec).precision == "bf16"
    arguments = training_arguments(spec, Path(), torch.device("cpu"), bf16=bf16)
    model = cast(Any, _build(spec))
    task = find_task(workload.task)
    try:
        is_packed = "position_ids" in task.blank_batch(workload)
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            # The Trainer itself would say the same in the training, where the user sees it.
            warnings.simplefilter("ignore")
            stack.enter_context(_packed_sequences(in_batches=is_packed))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            _make_fake(model)
            return _follow(model, arguments, lambda: task.blank_batch(workload))
    except Exception as error:  # any code may be in a model or an optimizer; whatever it says, there is no forecast
        lines = str(error).splitlines() or [""]
        message = f"{type(model).__name__} cannot be followed without its weights: {type(error).__name__}: {lines[0]}"
        raise NoForecastError(message) from error


def plan_trial(spec: TrialSpec, *, texts: bool = False) -> Trial:
    """Return what is known of a trial without training it: its parameters and the forecast of its memory.

    Args:
        spec: What is to be trained.
        texts: Whether to look at the texts too, as the training would.

    Raises:
        ConfigurationError: The spec cannot be carried out.
    """
    environment = _environment(spec)
    planned = Trial(spec, Measured(outcome="planned", environment=environment))
    # A folder with nothing but the configuration serves for a forecast: what is not there is not held against it.
    is_shapes_alone = holds_shapes_alone(spec.workload, spec.workload.place_options)
    remarks = _remarks_on_texts(spec) if texts and not is_shapes_alone else []
    try:
        planned = planned.remeasured(parameters=count_parameters(_build(spec)))
        planned = planned.remeasured(memory=forecast(spec))
    except NoForecastError as error:
        remarks.append(f"no forecast: {error}")
    available = _available(spec)
    if planned.measured.memory is not None and available is not None:
        most, what = _most_bytes(spec, planned.measured.memory)
        if most > available:
            remarks.append(f"it will not fit: {environment.device_name} has {format_bytes(available)} free, and {what}")
    return planned.remeasured(error=TrialError("; ".join(remarks))) if remarks else planned


def _remarks_on_texts(spec: TrialSpec) -> list[str]:
    """Return why gates on losses would be INVALID.

    Raises:
        ConfigurationError: The texts cannot be trained or evaluated on.
    """
    task = find_task(spec.workload.task)
    try:
        model = task.build_without_weights(spec.workload)
        task.check_size(model, spec.workload, 0)
    except NeedsWeightsError:
        model = None
    tokenizer = task.load_tokenizer(spec.workload)
    remarks: list[str] = []
    for purpose in ("gates", "search") if spec.variant.searches_first else ("gates",):
        found = task.load_examples(replace(spec.workload, purpose=purpose), tokenizer)
        check_asked(spec.workload, task, found.validation)
        if model is not None:
            task.check_examples(found, tokenizer, model)
        remarks += (*found.remarks, *found.doubts()) if purpose == "gates" else ()
    return remarks


def _environment(spec: TrialSpec) -> Environment:
    """Return the environment that a trial would have; if its device is not here, bf16 stands for "auto".

    Raises:
        ConfigurationError: torch does not know the device, or it cannot compute in the precision.
    """
    try:
        device = machine.resolve_device(spec.device)
        return machine.describe(device, precision=machine.resolve_precision(spec.workload.precision, device))
    except DeviceUnavailableError:
        kind, precision = spec.device.partition(":")[0], spec.workload.precision
        here = machine.describe(torch.device("cpu"), precision="bf16" if precision == "auto" else precision)
        return replace(here, device=kind, device_name=f"{kind}, which is not here")


def _available(spec: TrialSpec) -> int | None:
    try:
        return machine.memory_bytes(machine.resolve_device(spec.device))
    except DeviceUnavailableError:
        return None


def will_not_fit(spec: TrialSpec, environment: Environment, device: torch.device) -> Trial | None:
    """Return the outcome of a training with a forecast beyond the device's memory; None if it may fit."""
    available = machine.memory_bytes(device)
    try:
        if available is None or surely_fits(spec, available):
            return None
        foretold = forecast(spec)
    except NoForecastError:
        return None  # it is never guessed
    most, what = _most_bytes(spec, foretold)
    if most <= _CLEARLY * available:
        return None
    message = (
        f"{what}, and {environment.device_name} has {format_bytes(available)}, so it was not started (set "
        "ftguard_forecast = no to start it anyway)"
    )
    return Trial(
        spec, Measured(outcome="out_of_memory", memory=foretold, environment=environment, error=TrialError(message))
    )


def _most_bytes(spec: TrialSpec, foretold: Memory) -> tuple[int, str]:
    """Return the most that a trial takes on its device, in bytes, and what takes it.

    The base model is measured in fp32 before its frozen weights are held in bf16.
    """
    counts = count_parameters(_build(spec))
    peak, base = foretold.forecast_bytes or 0, 4 * (counts.total - counts.trainable)
    if base > peak:
        return base, f"the base model takes {format_bytes(base)} in fp32 before the training"
    return peak, f"its peak memory is forecast at {format_bytes(peak)}"


def surely_fits(spec: TrialSpec, available: int) -> bool:
    """Return whether a rough upper bound is far below what is available, so that no forecast is needed.

    Raises:
        NoForecastError: The model cannot be built without its weights.
        ConfigurationError: The spec cannot be carried out.
    """
    model = cast(Any, _build(spec))
    counts = count_parameters(model)
    tokens = spec.workload.batch_size * spec.workload.block_size
    config = model.config.get_text_config()
    if not all(isinstance(getattr(config, name, None), int) for name in _SIZES):
        return False  # the forecast itself needs none of these names
    # Weights, gradients and two moments in fp32; four copies of the logits; some forty vectors a layer and token.
    static = 4 * counts.total + 12 * counts.trainable
    logits = 16 * tokens * config.vocab_size
    kept = 160 * tokens * config.hidden_size * config.num_hidden_layers
    return bool(3 * (static + logits + kept) < available)


def _build(spec: TrialSpec) -> nn.Module:
    task = find_task(spec.workload.task)
    try:
        model = task.build_without_weights(spec.workload)
        check_variant(model, spec.variant)
        task.check_size(model, spec.workload, find_adapter(spec.variant).positions(spec.variant))
        with torch.device("meta"):
            wrapped = apply_variant(model, spec.variant)
    except (NeedsWeightsError, NotImplementedError) as error:
        raise NoForecastError(str(error)) from error
    if _environment(spec).precision == "bf16":
        hold_frozen(wrapped)
    return wrapped


@contextmanager
def _packed_sequences(*, in_batches: bool) -> Iterator[None]:
    """Answer for transformers what it cannot read from fake positions: whether a row of a batch holds several.

    If none does, it would take a mask all the same, and with a mask attention keeps more.

    Args:
        in_batches: Whether rows hold several.
    """
    name = "find_packed_sequence_indices"
    found = getattr(masking_utils, name, None)
    if found is None:
        yield
        return
    setattr(masking_utils, name, _numbers_of_sequences if in_batches else lambda _: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, found)


def _numbers_of_sequences(positions: torch.Tensor) -> torch.Tensor:
    """Return for each token the number of its sequence in the row: a new one begins where positions do not go on."""
    return (torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1) != 1).cumsum(-1)


def _make_fake(model: nn.Module) -> None:
    """Put fake tensors on the CPU in the place of a model's tensors on the meta device; shared ones stay shared."""
    fakes: dict[int, Any] = {}

    def fake(tensor: torch.Tensor) -> Any:
        if id(tensor) not in fakes:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            parameter = isinstance(tensor, nn.Parameter)
            fakes[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if parameter else empty
        return fakes[id(tensor)]

    kept = [*model.parameters(), *model.buffers()]  # so that no id is used again
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})
    del kept


def _follow(model: Any, arguments: TrainingArguments, batch: Callable[[], dict[str, torch.Tensor]]) -> Memory:
    """Do what the Trainer does in its first steps, as far as memory is concerned."""
    if arguments.gradient_checkpointing:
        model.gradient_checkpointing_enable(arguments.gradient_checkpointing_kwargs)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    optimizer = kind(options.pop("params", trained), **options)
    meter = LiveTensorMeter(model)
    model.train()
    # The optimizer's state appears at the end of the first step, and the peak comes in the second: with gradients from
    # nowhere the first is spared its passes.
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    model.zero_grad()
    meter.follow_state(tensor for state in optimizer.state.values() for tensor in state.values())
    model.register_forward_hook(lambda *_: meter.end_stage("forward"))
    meter.begin_step(0)
    for _ in range(min(2, arguments.gradient_accumulation_steps)):  # the third takes what the second took
        tensors = batch()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.bf16):
            loss = model(**tensors).loss
        (loss / arguments.gradient_accumulation_steps).backward()
        del loss
        meter.end_stage("backward")
    if arguments.max_grad_norm:
        nn.utils.clip_grad_norm_(trained, arguments.max_grad_norm)
        meter.end_stage("backward")
    optimizer.step()
    model.zero_grad()
    meter.end_step(0)
    seen = meter.so_far("forecast")
    return replace(seen, peak_bytes=None, forecast_bytes=seen.peak_bytes)
