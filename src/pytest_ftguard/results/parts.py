"""What a trial measures, each part by itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = [
    "MINIMUM_UNITS",
    "MOST_TRAINED_ON",
    "Breakdown",
    "CurvePoint",
    "CurveText",
    "Environment",
    "Memory",
    "Parameters",
    "Start",
    "Timing",
    "TrialError",
    "Updates",
    "evenly_spaced",
    "log_digests",
]


# Below this many sequences (or documents) the interval's own coverage is no longer what it claims.
MINIMUM_UNITS: Final = 64
# Share of the sequences of an evaluation text that may stand in the training text as well. Of texts that were split by
# file or by paragraph without a leak, up to 7 % do: licence headers, lines of a template, proverbs.
MOST_TRAINED_ON: Final = 0.1

# A process's own context and libraries take some hundred megabytes of an accelerator on top of its tensors.
_OTHERS_BYTES: Final = 2 * 1000**3


@dataclass(frozen=True)
class Parameters:
    """Counts of the model's parameters, with the adapters' included in both.

    Attributes:
        total: All parameters; shared ones count once.
        trainable: Those that the optimizer changes.
        adapted: Share of the base's matrix weights that has an adapter or is trained itself, by the suffix of its name;
            embeddings and the head are not counted. None if every weight is trained, or it was not measured.
        left_alone: The same of those without an adapter.
        under_adapters: Share of all parameters of the base, embeddings and head included, that has an adapter or is
            trained itself. None if it was not measured.
        skipped_experts: Share of all parameters of the base that are fused experts of a mixture without an adapter, by
            their name with "*" for the number of the layer. `all-linear` passes over them.
    """

    total: int
    trainable: int
    adapted: Mapping[str, float] | None = field(default=None, hash=False)
    left_alone: Mapping[str, float] | None = field(default=None, hash=False)
    under_adapters: float | None = None
    skipped_experts: Mapping[str, float] | None = field(default=None, hash=False)

    @property
    def adapted_share(self) -> float | None:
        """Share of the base's matrix weights that is adapted or trained; None if it was not measured."""
        if self.adapted is None or not (self.adapted or self.left_alone):
            return None
        return math.fsum(self.adapted.values())


@dataclass(frozen=True)
class Updates:
    """What a training changed, next to what it should have changed.

    Attributes:
        adapters: Number of adapters.
        weights: Number of weights that are trained themselves.
        unmoved: Names of those that are what they were before the training, to the last bit, although they had to move.
        unused: Names of those that are what they were because the model never used them in the training.
        base_changed: Names of the frozen weights that are no longer what they were.
    """

    adapters: int
    weights: int
    unmoved: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    base_changed: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """What was to move, in a word or three."""
        words = {"adapters": self.adapters, "trained weights": self.weights}
        return " and ".join(word for word, count in words.items() if count)


def log_digests(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the SHA-256 of each entry of a Trainer's log, by which files of one run are told to belong together."""
    texts = (json.dumps(dict(entry), sort_keys=True, default=str) for entry in entries)
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def evenly_spaced(count: int, at_most: int) -> list[int]:
    """Return at most so many of the indices 0 to count - 1, evenly spaced and in order."""
    chosen = min(count, at_most)
    return [index * count // chosen for index in range(chosen)]


@dataclass(frozen=True)
class Start:
    """How the model that is trained compares with the base model before training, on the sequences of the curve.

    Attributes:
        base_gap: Its loss minus that of the base model, in nats per token.
        disabled_gap: With the adapter switched off, the largest distance of a sequence's loss from that of the base
            model, in nats per token: near 0 the base is intact, and the method explains `base_gap`. None if it was not
            asked, because the losses are equal or must be, or if the adapter cannot be switched off.
        quantized_gap: Loss of the base as the variant holds it, in few bits and without an adapter, minus that of the
            base model, on all evaluation examples, in nats per token. `disabled_gap` is then its distance from this
            one. None if the base is held in full precision.
    """

    base_gap: float
    disabled_gap: float | None = None
    quantized_gap: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """Validation loss during training, on the evenly spaced part of the sequences that the curve uses.

    Attributes:
        step: Optimizer steps done; 0 is the wrapped model before training.
        loss: Mean loss in nats per token.
        nll: Summed negative log-likelihood of each sequence of that part, in nats.
    """

    step: int
    loss: float
    nll: tuple[float, ...]


@dataclass(frozen=True)
class CurveText:
    """What a curve was measured on, if its trial was evaluated on other sequences since.

    Attributes:
        digest: SHA-256 of the validation sequences of that time, of which the curve uses an evenly spaced part.
        tokens: Predicted tokens of each sequence of that part.
        documents: Number of the document that each was cut from; None if the text is one document.
        text: SHA-256 of the file that they were cut from, with the end of its name.
        is_validation: Whether that is the validation text of the trial still, so that the curve counts for it.
    """

    digest: str
    tokens: tuple[int, ...]
    documents: tuple[int, ...] | None
    text: str
    is_validation: bool


@dataclass(frozen=True)
class Breakdown:
    """What takes the memory of a training step.

    Attributes:
        weights_bytes: Parameters and buffers.
        gradients_bytes: Gradients of the trained parameters, once all are there.
        optimizer_bytes: What else stays from step to step: the optimizer's state above all, and workspaces of the
            device's libraries if they have any.
        activations_bytes: What the forward pass keeps for the backward pass, the loss included.
        peak_stage: In which part of a step the peak came: "forward", "backward" or "optimizer".
    """

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    peak_stage: str


@dataclass(frozen=True)
class Memory:
    """Peak memory of the training phase, which gates, and what belongs to it.

    Attributes:
        peak_bytes: Largest sum of live tensors, or the allocator's peak of allocated bytes; None if it was forecast
            only.
        method: How it was measured: "live tensors" (CPU), "allocator" (accelerators), or "forecast".
        reserved_bytes: The allocator's peak of reserved bytes; None on CPU.
        forecast_bytes: The peak that was forecast; None if there was no forecast.
        allocator_retries: How often the allocator had to give back its cache to find room; None on CPU.
        others_bytes: Memory of the device that is neither free nor of this process's tensors; None if it is not
            known.
        breakdown: What takes the memory.
        phases: Peak of each phase, "load", "train" and "evaluate": the allocator's on accelerators; on the CPU the
            growth of the process's high-water mark since before the model was loaded, libraries included.
    """

    peak_bytes: int | None
    method: str
    reserved_bytes: int | None = None
    forecast_bytes: int | None = None
    allocator_retries: int | None = None
    others_bytes: int | None = None
    breakdown: Breakdown | None = None
    phases: Mapping[str, int] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other processes had much of the device."""
        return self.others_bytes is not None and self.others_bytes > _OTHERS_BYTES


@dataclass(frozen=True)
class Timing:
    """Duration of the training phase, without loading, saving and evaluation.

    Attributes:
        seconds_per_step: Median of the synchronised steps after the warm-up; None if there were too few.
        measured_steps: How many steps the median rests on.
        train_seconds: Sum of all steps, those of the warm-up included.
        run: Identity of the run that measured it; the load of a machine changes from one run to the next.
        seconds_spread: Interquartile range of the steps that the median rests on.
        tokens_per_second: Tokens trained on in a second, at the median.
        flop_per_step: Floating-point operations of a step's matrix products and attention, forward and backward, as
            torch's counter counts them.
        machine_flop_per_second: What this device reached in a large matrix product, in the precision of the training.
        disturbance: What else used the device while the steps were timed; None is nothing that is known.
    """

    seconds_per_step: float | None
    measured_steps: int
    train_seconds: float
    run: str = ""
    seconds_spread: float | None = None
    tokens_per_second: float | None = None
    flop_per_step: int | None = None
    machine_flop_per_second: float | None = None
    disturbance: str | None = None

    @property
    def share_of_machine(self) -> float | None:
        """Share of what the device can do that the training's arithmetic makes use of."""
        known = (self.flop_per_step, self.seconds_per_step, self.machine_flop_per_second)
        if None in known:
            return None
        return self.flop_per_step / self.seconds_per_step / self.machine_flop_per_second  # type: ignore[operator]


@dataclass(frozen=True)
class Environment:
    """The machine and the versions that a trial ran with.

    Attributes:
        device: Kind of device: "cpu", "cuda", ...
        device_name: Its name, as the driver or the operating system gives it.
        precision: "fp32" or "bf16", as resolved; a Trainer run of the user's own may have others.
        threads: CPU threads that torch used.
        platform: Operating system and processor architecture.
        versions: Versions of Python and of the packages that decide a result.
    """

    device: str
    device_name: str
    precision: str
    threads: int
    platform: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class TrialError:
    """Why a trial did not end `ok`.

    Attributes:
        message: What happened, in one or a few sentences.
        log_tail: The last lines that the trial's process printed.
    """

    message: str
    log_tail: str = ""
