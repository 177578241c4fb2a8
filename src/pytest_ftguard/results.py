"""What a trial measured, as frozen plain data that is complete: every later stage works from it alone."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, Self

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.specs import TrialSpec, Variant, Workload

__all__ = [
    "SCHEMA",
    "TRAINER_RUN_FILE",
    "Breakdown",
    "CurvePoint",
    "Environment",
    "Memory",
    "Outcome",
    "Parameters",
    "SequenceLosses",
    "Timing",
    "TrainedVariant",
    "TrialError",
    "TrialResult",
    "by_variant",
    "evenly_spaced",
    "log_digests",
    "trained_variants",
]

SCHEMA: Final = 1
TRAINER_RUN_FILE: Final = "ftguard_trial.json"

Outcome = Literal["ok", "out_of_memory", "diverged", "crashed", "timed_out", "planned"]
Loader = Callable[["TrialResult"], tuple[Any, Any]]


@dataclass(frozen=True)
class Parameters:
    """Counts of the model's parameters, with the adapters' included in both.

    Attributes:
        total: All parameters; shared ones count once.
        trainable: Those that the optimizer changes.
    """

    total: int
    trainable: int


@dataclass(frozen=True)
class SequenceLosses:
    """Losses of one model on a text, per sequence.

    Attributes:
        nll: Negative log-likelihood of each sequence, in nats, summed over its predicted tokens.
        tokens: Predicted tokens of each sequence.
        documents: Number of the document that each sequence was cut from; None where the text is one document.
        digest: SHA-256 of the sequences' tokens, so that losses on other data are not taken for these.
    """

    nll: tuple[float, ...]
    tokens: tuple[int, ...]
    documents: tuple[int, ...] | None
    digest: str

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return math.fsum(self.nll) / sum(self.tokens)

    @property
    def perplexity(self) -> float:
        """exp(loss); infinity where that is beyond a float."""
        return _exp(self.loss)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the losses that `dataclasses.asdict` wrote."""
        documents = values["documents"]
        sizes = {len(values["nll"]), len(values["tokens"]), len(values["nll"] if documents is None else documents)}
        if len(sizes) != 1:
            message = f"losses, token counts and documents of a text differ in number: {sorted(sizes)}"
            raise FtguardError(message)
        return cls(
            nll=tuple(values["nll"]),
            tokens=tuple(values["tokens"]),
            documents=None if documents is None else tuple(documents),
            digest=values["digest"],
        )


def log_digests(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the SHA-256 of each entry of a Trainer's log, by which files of one run are told to belong together."""
    texts = (json.dumps(dict(entry), sort_keys=True, default=str) for entry in entries)
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def evenly_spaced(count: int, at_most: int) -> list[int]:
    """Return at most so many of the indices 0 to count - 1, evenly spaced and in order."""
    chosen = min(count, at_most)
    return [index * count // chosen for index in range(chosen)]


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


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
class Breakdown:
    """What the memory of a training step is taken by.

    Attributes:
        weights_bytes: Parameters and buffers.
        gradients_bytes: Gradients of the trained parameters, once all are there.
        optimizer_bytes: What else stays from step to step: the optimizer's state above all, and workspaces of the
            device's libraries where they have any.
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
        peak_bytes: Largest sum of live tensors, or the allocator's peak of allocated bytes; None where it was forecast
            only.
        method: How it was measured: "live tensors" (CPU), "allocator" (accelerators), or "forecast".
        reserved_bytes: The allocator's peak of reserved bytes; None on CPU.
        forecast_bytes: The peak that was forecast; None where there was no forecast.
        allocator_retries: How often the allocator had to give back its cache to find room; None on CPU.
        others_bytes: Memory of the device that is neither free nor of this process's tensors; None where it is not
            known.
        breakdown: What the memory is taken by.
        phases: Peak of each phase, "load", "train" and "evaluate": the allocator's on accelerators; on the CPU the
            process's high-water mark, in which interpreter and libraries count too.
    """

    peak_bytes: int | None
    method: str
    reserved_bytes: int | None = None
    forecast_bytes: int | None = None
    allocator_retries: int | None = None
    others_bytes: int | None = None
    breakdown: Breakdown | None = None
    phases: Mapping[str, int] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the memory that `dataclasses.asdict` wrote."""
        breakdown = values.get("breakdown")
        return cls(**{**values, "breakdown": Breakdown(**breakdown) if breakdown else None})


@dataclass(frozen=True)
class Timing:
    """Duration of the training phase, without loading, saving and evaluation.

    Attributes:
        seconds_per_step: Median of the synchronised steps after the warm-up; None where there were too few.
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


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Everything that one trial measured; a value that was not measured is None.

    Attributes:
        spec: What was trained.
        outcome: "ok", "out_of_memory", "diverged", "crashed", "timed_out", or "planned" where nothing was trained.
        parameters: Counts of the model's parameters.
        validation: Losses of the trained model on the validation text.
        base_validation: Losses of the base model on the same sequences.
        reference: Losses of the trained model on the reference text, where there is one.
        base_reference: Losses of the base model on the reference text.
        curve: Validation loss along training.
        data_order: SHA-256 of the batches in the order in which they were trained on.
        code: SHA-256 of the module of the user's training function, where there is one.
        memory: Peak memory of the training phase.
        time: Duration of the training phase.
        environment: Machine and versions.
        error: Why the outcome is not "ok".
        cached: Whether the trial was reused instead of trained.
        measured_elsewhere: Why the bytes and seconds of a cached trial say nothing about the present machine; None
            where they do.
        content: SHA-256 of everything that decides the result; None where it is not known.
        model_dir: Folder with the trained weights; None where they were not kept.
        not_kept: Why they were not kept.
    """

    spec: TrialSpec
    outcome: Outcome
    parameters: Parameters | None = None
    validation: SequenceLosses | None = None
    base_validation: SequenceLosses | None = None
    reference: SequenceLosses | None = None
    base_reference: SequenceLosses | None = None
    curve: tuple[CurvePoint, ...] = ()
    data_order: str | None = None
    code: str | None = None
    memory: Memory | None = None
    time: Timing | None = None
    environment: Environment | None = None
    error: TrialError | None = None
    cached: bool = False
    measured_elsewhere: str | None = None
    content: str | None = None
    model_dir: str | None = None
    not_kept: str | None = None

    @property
    def fingerprint(self) -> str:
        """Identity of the trial: of what decided it, or, where that is not known, of its spec."""
        return self.content or self.spec.fingerprint

    @property
    def failure(self) -> str | None:
        """What happened to a trial that did not end `ok`, with the end of its log; None where it did."""
        if self.outcome == "ok":
            return None
        detail = f": {self.error.message}" if self.error else ""
        tail = f"\nThe end of its log:\n{self.error.log_tail}" if self.error and self.error.log_tail else ""
        return f"the trial of {self.spec.variant.label}, seed {self.spec.seed}, ended {self.outcome}{detail}{tail}"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as values that JSON can hold, with the number of their schema."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("spec", "curve")}
        plain = {name: asdict(part) if name in _PARTS and part is not None else part for name, part in parts.items()}
        return {
            "schema": SCHEMA,
            "spec": self.spec.to_dict(),
            "curve": [asdict(point) for point in self.curve],
            **plain,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the result that `to_dict` wrote.

        Raises:
            FtguardError: It was written under another schema, or it is not complete.
        """
        rest = dict(values)
        schema = rest.pop("schema", None)
        if schema != SCHEMA:
            message = f"a trial's result has schema {schema!r}; this version of pytest-ftguard reads schema {SCHEMA}"
            raise FtguardError(message)
        try:
            rest["spec"] = TrialSpec.from_dict(rest["spec"])
            points = rest.get("curve", ())
            rest["curve"] = tuple(CurvePoint(point["step"], point["loss"], tuple(point["nll"])) for point in points)
            for name, read in _PARTS.items():
                if rest.get(name) is not None:
                    rest[name] = read(rest[name])
            return cls(**rest)
        except (KeyError, TypeError, AttributeError) as error:
            message = f"a trial's result is not complete: {type(error).__name__}: {error}"
            raise FtguardError(message) from error


_PARTS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "parameters": lambda values: Parameters(**values),
    "validation": SequenceLosses.from_dict,
    "base_validation": SequenceLosses.from_dict,
    "reference": SequenceLosses.from_dict,
    "base_reference": SequenceLosses.from_dict,
    "memory": Memory.from_dict,
    "time": lambda values: Timing(**values),
    "environment": lambda values: Environment(**values),
    "error": lambda values: TrialError(**values),
}


@dataclass(frozen=True, repr=False)
class TrainedVariant:
    """All seeds of one variant on one workload: what the fixtures hand to a test.

    The figures are None unless every trial ended `ok` and measured them: an average over the seeds that
    happened to survive would flatter the variant.

    Attributes:
        workload: What was held fixed.
        variant: The way of adapting the weights, its learning rate filled in.
        trials: One result per seed, in the order of the workload's seeds.
    """

    workload: Workload
    variant: Variant
    trials: tuple[TrialResult, ...]
    loader: Loader | None = field(default=None, compare=False)
    extend: Callable[[int], TrainedVariant] | None = field(default=None, compare=False)

    def with_seeds(self, count: int) -> TrainedVariant:
        """Return the variant trained with so many seeds in all; those that are missing are trained now.

        Raises:
            FtguardError: It was not trained in this run, so no more of it can be.
        """
        if count == len(self.trials):
            return self
        if self.extend is None:
            message = f"{self.label} was not trained in this run, so it cannot be trained with {count} seeds"
            raise FtguardError(message)
        return self.extend(count)

    def __repr__(self) -> str:
        """Return one short line: pytest shows it beside every failing test."""
        loss = "no loss" if self.loss is None else f"loss {self.loss:.4f}"
        return f"<TrainedVariant {self.label}: {len(self.trials)} trials, {loss}>"

    @property
    def label(self) -> str:
        """The variant's name in the summary."""
        return self.variant.label

    @property
    def ok(self) -> bool:
        """Whether there are trials and all of them ended `ok`."""
        return bool(self.trials) and all(trial.outcome == "ok" for trial in self.trials)

    @property
    def losses(self) -> tuple[float, ...] | None:
        """Validation loss of each seed, in nats per token."""
        losses = [trial.validation.loss for trial in self.trials if trial.validation is not None]
        return tuple(losses) if self.ok and len(losses) == len(self.trials) else None

    @property
    def loss(self) -> float | None:
        """Validation loss in nats per token, mean over the seeds."""
        return statistics.fmean(self.losses) if self.losses else None

    @property
    def perplexity(self) -> float | None:
        """exp(loss)."""
        return None if self.loss is None else _exp(self.loss)

    @property
    def peak_memory_bytes(self) -> int | None:
        """Peak memory of training, the largest over the seeds."""
        peaks = [trial.memory.peak_bytes for trial in self.trials if trial.memory is not None]
        measured = [peak for peak in peaks if peak is not None]
        return max(measured) if self.ok and len(measured) == len(self.trials) else None

    @property
    def forecast_memory_bytes(self) -> int | None:
        """Peak memory of training as it was forecast; None where it was not."""
        forecasts = [trial.memory.forecast_bytes for trial in self.trials if trial.memory is not None]
        return next((forecast for forecast in forecasts if forecast is not None), None)

    @property
    def seconds_per_step(self) -> float | None:
        """Time of an optimizer step, median over the seeds."""
        times = [trial.time.seconds_per_step for trial in self.trials if trial.time is not None]
        measured = [seconds for seconds in times if seconds is not None]
        return statistics.median(measured) if self.ok and len(measured) == len(self.trials) else None

    @property
    def trainable_parameters(self) -> int | None:
        """Number of parameters that the optimizer changes."""
        return self._parameters.trainable if self._parameters else None

    @property
    def total_parameters(self) -> int | None:
        """Number of all parameters, the adapters' included."""
        return self._parameters.total if self._parameters else None

    @property
    def _parameters(self) -> Parameters | None:
        return next((trial.parameters for trial in self.trials if trial.parameters is not None), None)

    @property
    def cached(self) -> bool:
        """Whether every trial was reused instead of trained."""
        return bool(self.trials) and all(trial.cached for trial in self.trials)

    def load(self, seed: int | None = None) -> tuple[Any, Any]:
        """Return the trained model (on the CPU, in evaluation mode) and its tokenizer.

        This imports torch and transformers into the present process. Results are stored without weights, so those of a
        cached trial are trained again.

        Args:
            seed: Which trial's model; the first one's by default.

        Raises:
            FtguardError: There is no such trial, it did not end `ok`, or its weights were not kept.
        """
        seeds = [trial.spec.seed for trial in self.trials]
        wanted = seeds[0] if seed is None and seeds else seed
        trial = next((trial for trial in self.trials if trial.spec.seed == wanted), None)
        if trial is None:
            message = f"{self.label} has no trial with seed {seed!r}; its seeds are {seeds}"
            raise FtguardError(message)
        if trial.outcome != "ok":
            message = f"{self.label}, seed {wanted}, has no trained model: the trial ended {trial.outcome}"
            raise FtguardError(message)
        if self.loader is None:
            message = f"the weights of {self.label}, seed {wanted}, are not at hand: it was not trained in this run"
            raise FtguardError(message)
        if trial.model_dir is None and not trial.cached:
            message = f"the weights of {self.label}, seed {wanted}, were not kept: {trial.not_kept}"
            raise FtguardError(message)
        return self.loader(trial)


def trained_variants(trials: Iterable[TrialResult]) -> tuple[TrainedVariant, ...]:
    """Return the trials put together, one variant for each workload and way of adapting the weights.

    Those of a search for a learning rate are left out: they are not what gates judge.
    """
    groups: dict[tuple[Workload, Variant], dict[int, TrialResult]] = {}
    for trial in trials:
        if trial.spec.workload.purpose == "search":
            continue
        # More seeds of a variant are still that variant on that workload.
        work = replace(trial.spec.workload, seeds=(0,), most_seeds=0)
        groups.setdefault((work, trial.spec.variant), {}).setdefault(trial.spec.seed, trial)
    return tuple(
        TrainedVariant(_declared(tuple(by_seed.values())), variant, tuple(by_seed.values()))
        for (_, variant), by_seed in groups.items()
    )


def _declared(trials: Sequence[TrialResult]) -> Workload:
    """Return the workload of one variant's trials, with the seeds that it had before a gate in doubt asked for more."""
    work = min((trial.spec.workload for trial in trials), key=lambda workload: len(workload.seeds))
    return work if work.most_seeds else replace(work, seeds=tuple(trial.spec.seed for trial in trials))


def by_variant(trials: Iterable[TrialResult]) -> list[tuple[TrainedVariant, list[TrainedVariant]]]:
    """Return for each workload its full variants, each with the variants that are judged against it."""
    trained = trained_variants(trials)
    return [
        (full, [other for other in trained if other.workload == full.workload and other.variant.kind != "full"])
        for full in trained
        if full.variant.kind == "full"
    ]
