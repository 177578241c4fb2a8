"""What is measured while a training runs: time and memory of each step, and the validation loss along the way."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from pytest_ftguard.results import (
    BaseLosses,
    CurvePoint,
    Memory,
    SequenceLosses,
    Timing,
    evenly_spaced,
    from_plain,
    from_plain_if_any,
    to_plain,
)
from pytest_ftguard.tasks import Evaluated, Examples, Task, checked_nll
from pytest_ftguard.training import machine, memory

__all__ = ["Evaluator", "Recorder", "curve_part", "curve_sequences", "curve_steps"]

# The first steps are not timed: caches and kernels warm up, and on the CPU live tensors are counted.
WARM_UP_STEPS: Final = max(3, memory.COUNTED_STEPS)
# The curve may cost this share of the training's arithmetic; a training pass over a sequence is worth three
# forward passes.
_CURVE_SHARE: Final = 0.1
_CURVE_MINIMUM_SEQUENCES: Final = 8


_OPERATIONS: Final = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


# torch's counter knows the attention of accelerators only.
_CPU_ATTENTION: Final = {
    _OPERATIONS._scaled_dot_product_flash_attention_for_cpu: _attention,
    _OPERATIONS._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def curve_steps(steps: int) -> tuple[int, ...]:
    """Return the steps at which the curve is measured: 0, then halving distances up to the last step.

    Loss curves are close to linear in log(step), so equal distances in log(step) carry the most information.
    """
    return (0, *sorted({max(1, steps >> halvings) for halvings in range(steps.bit_length())}))


def curve_sequences(steps: int, batch_size: int, available: int) -> int:
    """Return how many validation sequences the curve uses, so that it costs about a tenth of the training."""
    points = len(curve_steps(steps)) - 1  # the last point is part of the final evaluation
    affordable = int(_CURVE_SHARE * 3 * steps * batch_size / max(1, points))
    return min(available, max(_CURVE_MINIMUM_SEQUENCES, affordable))


def curve_part(validation: Evaluated, batch_size: int, steps: int) -> list[int]:
    """Return the numbers of the validation sequences that the curve uses, evenly spaced."""
    available = len(validation.sequences)
    return evenly_spaced(available, curve_sequences(steps, batch_size, available))


@dataclass(frozen=True)
class Evaluator:
    """How losses are measured, the same for every model of a comparison.

    Attributes:
        task: What the model is trained for.
        batch_size: Sequences in a batch of the training.
        bf16: Whether to run under bf16 autocast, as in training.
    """

    task: Task
    batch_size: int
    bf16: bool

    @property
    def _sequences_at_once(self) -> int:
        # Without gradients twice a batch needs less than the memory of a training step.
        return 2 * self.batch_size

    def losses(self, model: nn.Module, data: Evaluated) -> SequenceLosses:
        """Return the losses of a model on all evaluation examples."""
        return self.task.losses(model, data, batch_size=self._sequences_at_once, bf16=self.bf16)

    def measure(self, model: nn.Module, examples: Examples) -> BaseLosses:
        """Return the losses of a model on the validation text and, if there is one, on the reference text."""
        reference = self.losses(model, examples.reference) if examples.reference else None
        return BaseLosses(self.losses(model, examples.validation), reference)

    def nll(self, model: nn.Module, sequences: Sequence[Any]) -> list[float]:
        """Return the summed negative log-likelihood of each sequence, in nats."""
        return checked_nll(self.task, model, sequences, batch_size=self._sequences_at_once, bf16=self.bf16)

    def probe(self, model: nn.Module, train: Dataset[dict[str, Tensor]]) -> float:
        """Return the mean loss of a model on the first batch of the training data, by which it is known again."""
        device = next(model.parameters()).device
        first = [train[number] for number in range(min(self.batch_size, len(cast(Any, train))))]
        batch = {name: value.to(device) for name, value in self.task.collate(first).items()}
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
                return float(model(**batch).loss)
        finally:
            model.train(was_training)


class Recorder:
    """Measures a training from outside of its loop; whoever runs the loop says when a step begins and ends.

    Making it measures the loss at step 0.

    Args:
        model: What is trained.
        validation: The sequences of the validation text, of which the curve uses an evenly spaced part.
        evaluator: How losses are measured.
        steps: How many steps the training is to take.
        device: Where the model is.
        earlier: What an earlier process measured of this training, as `measured` returned it; None if this is the
            first.
    """

    def __init__(
        self,
        model: nn.Module,
        validation: Evaluated,
        evaluator: Evaluator,
        steps: int,
        device: torch.device,
        *,
        earlier: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self._evaluator = evaluator
        self.device = device
        self._last = steps
        self._wanted = curve_steps(steps)
        self._chosen = curve_part(validation, evaluator.batch_size, steps)
        self._sequences = [validation.sequences[index] for index in self._chosen]
        self._predicted = sum(int(validation.tokens[index]) for index in self._chosen)
        self._points: list[CurvePoint] = []
        self._meter = memory.meter_for(model, device)
        self._hooks = [
            model.register_forward_pre_hook(self._count_tokens, with_kwargs=True),
            model.register_forward_hook(lambda *_: self._end_stage("forward")),
            register_optimizer_step_pre_hook(lambda *_: self._end_stage("backward")),
        ]
        self._in_step = self._in_forwards = False
        self._durations: list[float] = list(earlier["durations"]) if earlier else []
        self._timed: list[float] = list(earlier["timed"]) if earlier else []
        self._first = len(self._durations)
        self._flop_before = earlier["flop"] if earlier else None
        self._peak_before = from_plain_if_any(earlier["memory"], Memory) if earlier else None
        self.batches = 0
        self._started = math.nan
        self._flops = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
        # torch's counter refuses this operation, and its count is not worth a training.
        config = getattr(model, "config", None)
        self._counts_flops = getattr(config, "_attn_implementation", None) != "flex_attention"
        self._tokens = 0
        if earlier:
            self._points = [from_plain(one, CurvePoint) for one in earlier["points"]]
        else:
            self._measure_point(0)

    def measured(self) -> dict[str, Any]:
        """Return what was measured so far, as JSON holds it, for a process that goes on with this training."""
        peak = self.peak
        return {
            "durations": self._durations,
            "timed": self._timed,
            "flop": self._flop,
            "memory": to_plain(peak),
            "points": [to_plain(point) for point in self._points],
        }

    def begin_step(self, done: int) -> None:
        """Start the clock and the memory meter, after `done` steps."""
        self._in_step, self._in_forwards = True, False
        self._tokens = 0
        if done == 0 and self._counts_flops:  # one step is like another, and this one is not timed
            self._flops.__enter__()  # type: ignore[no-untyped-call]
        self._meter.begin_step(done - self._first)
        machine.synchronize(self.device)
        self._started = time.perf_counter()

    def end_step(self, done: int) -> None:
        """Stop both after this step, the `done`-th, and measure a point of the curve if one is due."""
        machine.synchronize(self.device)
        self._durations.append(time.perf_counter() - self._started)
        if done - self._first > WARM_UP_STEPS:
            self._timed.append(self._durations[-1])
        self._meter.end_step(done - 1 - self._first)
        if done == 1 and self._counts_flops:
            self._flops.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._in_step = False
        if done in self._wanted and done < self._last:
            self._measure_point(done)

    def _count_tokens(self, model: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        ids = keywords.get("input_ids", arguments[0] if arguments else None)
        self.batches += self._in_step
        if self._in_step and isinstance(ids, torch.Tensor):
            self._tokens += ids.numel()
        if self._in_forwards:  # an accumulated batch: what came since its predecessor's pass was that one's way back
            self._end_stage("backward")
        self._in_forwards = self._in_step

    def _end_stage(self, stage: str) -> None:
        if self._in_step:
            self._meter.end_stage(stage)

    def close(self) -> None:
        """Take the hooks away: the training is over, or an error has ended it within a step."""
        for hook in self._hooks:
            hook.remove()
        if self._in_step:
            self._meter.end_step(len(self._durations) - self._first)
            if not self._durations and self._counts_flops:
                self._flops.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._in_step = False

    @property
    def steps(self) -> int:
        """Number of steps that have ended, those of an earlier process included."""
        return len(self._durations)

    @property
    def chosen(self) -> Sequence[int]:
        """Numbers of the validation sequences that the curve uses."""
        return self._chosen

    @property
    def start(self) -> tuple[float, ...]:
        """Losses of these sequences before training, in nats."""
        return self._points[0].nll

    def start_again(self) -> tuple[float, ...]:
        """Return the losses of the same sequences as the model is now; the curve is left as it is."""
        return tuple(self._evaluator.nll(self.model, self._sequences))

    def _measure_point(self, step: int) -> None:
        self._add_point(step, self._evaluator.nll(self.model, self._sequences))

    def _add_point(self, step: int, nll: list[float]) -> None:
        self._points.append(CurvePoint(step, math.fsum(nll) / self._predicted, tuple(nll)))

    def curve(self, final: SequenceLosses) -> tuple[CurvePoint, ...]:
        """Return the points, the last of them taken from the evaluation after the last step."""
        self._add_point(self.steps, [final.nll[index] for index in self._chosen])
        return tuple(self._points)

    @property
    def peak(self) -> Memory | None:
        """Peak memory of the steps, those of an earlier process included."""
        return memory.largest(self._meter.result(), self._peak_before)

    @property
    def _flop(self) -> int | None:
        return self._flop_before or self._flops.get_total_flops() or None

    @property
    def timing(self) -> Timing:
        """Duration of the steps; each process that had a part in them has warmed up again."""
        timed = self._timed
        quarters = statistics.quantiles(timed, n=4, method="inclusive") if len(timed) > 1 else None
        median = statistics.median(timed) if timed else None
        return Timing(
            median,
            len(timed),
            math.fsum(self._durations),
            seconds_spread=None if quarters is None else quarters[2] - quarters[0],
            tokens_per_second=self._tokens / median if median and self._tokens else None,
            flop_per_step=self._flop,
            disturbance=f"the training was resumed at step {self._first}" if self._first else None,
        )
