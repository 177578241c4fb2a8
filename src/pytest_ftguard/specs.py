"""What is to be trained, as frozen plain data: the workload, the variants, and one trial of one of them."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final, Self

from pytest_ftguard.errors import ConfigurationError, hide_our_frames

__all__ = [
    "PRECISIONS",
    "FrozenOptions",
    "Full",
    "LoRA",
    "TrialSpec",
    "Variant",
    "Workload",
    "variant_from_dict",
    "with_learning_rate",
]

__tracebackhide__ = hide_our_frames

PRECISIONS: Final = ("auto", "fp32", "bf16")
TASKS: Final = ("causal-lm",)

# LoRA's best learning rate is about ten times that of full fine-tuning (Schulman et al., "LoRA Without Regret", 2025).
LORA_LEARNING_RATE_FACTOR: Final = 10.0

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
    "save_steps": _NO_SIDE_WORK,
    "save_strategy": _NO_SIDE_WORK,
    "seed": "it is the trial's seed: set seeds instead",
    "skip_memory_metrics": "it runs a thread beside the training that takes a processor core for itself",
    "use_cpu": "set device instead",
}
REFUSED_MODEL_ARGS: Final[Mapping[str, str]] = {
    "dtype": "weights are fp32 in both variants, because a purely bf16 one hardly learns: set precision instead",
    "token": "results and reports show the settings: set HF_TOKEN in the environment instead",
    "torch_dtype": "weights are fp32 in both variants, because a purely bf16 one hardly learns: set precision instead",
    "use_auth_token": "results and reports show the settings: set HF_TOKEN in the environment instead",
}


class FrozenOptions(Mapping[str, Any]):
    """An unchangeable, hashable mapping of names to JSON values.

    Raises:
        ConfigurationError: A name is not a string, or a value cannot be written as strict JSON.
    """

    __slots__ = ("_json",)

    def __init__(self, values: Mapping[str, Any], owner: str) -> None:
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            message = f"{owner} must map names to values, got {values!r}"
            raise ConfigurationError(message)
        try:
            self._json = canonical_json(dict(values))
        except (TypeError, ValueError) as error:
            message = f"{owner} must hold values that can be written as JSON, got {dict(values)!r}: {error}"
            raise ConfigurationError(message) from error

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._json)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self._json))

    def __len__(self) -> int:
        return len(json.loads(self._json))

    def __hash__(self) -> int:
        return hash(self._json)

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return repr(dict(self))


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no white space, no NaN.

    Raises:
        TypeError: The value holds something that JSON has no word for.
        ValueError: The value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _whole(owner: str, value: Any, least: int) -> int:
    try:
        # operator.index takes numpy's integers too, and refuses 3.0 and "3".
        number = operator.index(value) if not isinstance(value, bool) else None
    except TypeError:
        number = None
    if number is None or number < least:
        message = f"{owner} must be a whole number of at least {least}, got {value!r}"
        raise ConfigurationError(message)
    return number


def _positive(owner: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        message = f"{owner} must be a finite number above 0, got {value!r}"
        raise ConfigurationError(message)
    return float(value)


def _text(owner: str, value: Any) -> str:
    text = str(value) if hasattr(value, "__fspath__") else value
    if not isinstance(text, str) or not text.strip():
        message = f"{owner} must be a text that is not empty, got {value!r}"
        raise ConfigurationError(message)
    return text


def _one_of(owner: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        message = f"{owner} must be one of {', '.join(choices)}, got {value!r}"
        raise ConfigurationError(message)
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, FrozenOptions):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


class _Spec:
    """What every spec can do: be written as JSON, read back, and be told apart by its content."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as values that JSON can hold."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote.

        Raises:
            ConfigurationError: A field is unknown, missing or invalid.
        """
        names = {item.name for item in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - names)
        if unknown:
            message = f"{cls.__name__} has no field {', '.join(map(repr, unknown))}; it has {', '.join(sorted(names))}"
            raise ConfigurationError(message)
        try:
            return cls(**values)
        except TypeError as error:
            message = f"{cls.__name__} cannot be made of {sorted(values)}: {error}"
            raise ConfigurationError(message) from error

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen; this runs in __post_init__ only


@dataclass(frozen=True, kw_only=True)
class Workload(_Spec):
    """Everything that is held fixed while the variants are compared.

    Attributes:
        model: Hub id or folder of the base model, any causal language model.
        train: Path of the training text: a text file, or JSON lines with a `text` field (`.jsonl`).
        validation: Path of the validation text, in the same formats; gates read its loss.
        revision: Revision of the model on the hub.
        tokenizer: Hub id or folder of the tokenizer, where it is not the model's own.
        reference: Path of a general text whose loss is measured too, for both variants.
        task: What the model is trained for; "causal-lm".
        block_size: Tokens in a sequence.
        batch_size: Sequences in a batch.
        steps: Optimizer steps.
        seeds: One trial of each variant is trained per seed. The text "3..8" stands for three seeds, and more of them,
            up to eight, where a gate on losses is in doubt.
        precision: "fp32", "bf16" (fp32 weights, bf16 autocast), or "auto": bf16 where the hardware is faster in it.
        final: Whether the steps are those of production, not a stand-in for a longer run.
        validation_sequences: Largest number of validation sequences, evenly spaced over the text.
        model_args: Further options for `from_pretrained`, for example `gguf_file`.
        training_args: Further options for `transformers.TrainingArguments`, the same for both variants.
        most_seeds: Number of seeds up to which a gate in doubt may ask for more; 0 where it may not. Set by `seeds`.

    Raises:
        ConfigurationError: A value is not allowed; the message names the field and the value.
    """

    model: str
    train: str
    validation: str
    revision: str | None = None
    tokenizer: str | None = None
    reference: str | None = None
    task: str = "causal-lm"
    block_size: int = 128
    batch_size: int = 4
    steps: int = 500
    seeds: tuple[int, ...] = (0, 1, 2)
    precision: str = "auto"
    final: bool = False
    validation_sequences: int = 256
    model_args: Mapping[str, Any] = field(default_factory=dict)
    training_args: Mapping[str, Any] = field(default_factory=dict)
    most_seeds: int = 0

    def __post_init__(self) -> None:
        for name in ("model", "train", "validation"):
            self._set(name, _text(f"Workload.{name}", getattr(self, name)))
        for name in ("revision", "tokenizer", "reference"):
            if getattr(self, name) is not None:
                self._set(name, _text(f"Workload.{name}", getattr(self, name)))
        for name, least in (("block_size", 2), ("batch_size", 1), ("steps", 1), ("validation_sequences", 1)):
            self._set(name, _whole(f"Workload.{name}", getattr(self, name), least))
        if isinstance(self.seeds, str):
            fewest, most = _seed_range(self.seeds)
            self._set("seeds", tuple(range(fewest)))
            self._set("most_seeds", most)
        self._set("seeds", _seeds(self.seeds))
        self._set("most_seeds", _whole("Workload.most_seeds", self.most_seeds, 0))
        self._set("precision", _one_of("Workload.precision", self.precision, PRECISIONS))
        self._set("task", _one_of("Workload.task", self.task, TASKS))
        if not isinstance(self.final, bool):
            message = f"Workload.final must be True or False, got {self.final!r}"
            raise ConfigurationError(message)
        self._set("model_args", FrozenOptions(self.model_args, "Workload.model_args"))
        self._set("training_args", FrozenOptions(self.training_args, "Workload.training_args"))
        for field_name, refused in (("training_args", REFUSED_TRAINING_ARGS), ("model_args", REFUSED_MODEL_ARGS)):
            for name in getattr(self, field_name):
                if name in refused:
                    message = f"Workload.{field_name} may not set {name!r}: {refused[name]}"
                    raise ConfigurationError(message)

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which a gate in doubt looks again, each about 1.6 times the one before: 3, 5, 8."""
        looks = [len(self.seeds)]
        while looks[-1] < self.most_seeds:
            looks.append(min(self.most_seeds, math.ceil(1.6 * looks[-1])))
        return tuple(looks)


def _seed_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d+)\s*\.\.\s*(\d+)\s*", text)
    fewest, most = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 2 <= fewest < most:
        message = f'Workload.seeds as a text must be "fewest..most", at least 2 and growing, as in "3..8", got {text!r}'
        raise ConfigurationError(message)
    return fewest, most


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = (value,) if isinstance(value, int) else value
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
        message = f"Workload.seeds must be whole numbers, at least one, got {value!r}"
        raise ConfigurationError(message)
    checked = tuple(_whole("Workload.seeds", seed, 0) for seed in seeds)
    if len(set(checked)) != len(checked):
        message = (
            f"Workload.seeds must differ from one another, because a repeated seed adds no evidence, got {value!r}"
        )
        raise ConfigurationError(message)
    if max(checked) >= 2**32:
        message = f"Workload.seeds must be below 2**32, the largest seed of numpy, got {value!r}"
        raise ConfigurationError(message)
    return checked


@dataclass(frozen=True, kw_only=True)
class Full(_Spec):
    """Full fine-tuning: every weight is trained.

    Attributes:
        learning_rate: Learning rate of AdamW after the warm-up.

    Raises:
        ConfigurationError: The learning rate is not a finite number above 0.
    """

    kind: ClassVar[str] = "full"
    learning_rate: float = 5e-5

    def __post_init__(self) -> None:
        self._set("learning_rate", _positive("Full.learning_rate", self.learning_rate))

    @property
    def label(self) -> str:
        """The variant's name in the summary."""
        return self.kind


@dataclass(frozen=True, kw_only=True)
class LoRA(_Spec):
    """Low-rank adaptation (Hu et al., 2021): W + (alpha / r) B A, with W frozen.

    Attributes:
        r: Rank of the adapters.
        alpha: Numerator of the adapters' scale.
        target_modules: "all-linear", a regular expression for whole module names, or a list of name suffixes.
        dropout: Dropout before the adapters.
        bias: Which biases are trained: "none", "all" or "lora_only".
        learning_rate: Learning rate of AdamW after the warm-up; None is ten times that of `Full`.
        options: Further options for `peft.LoraConfig`, for example `{"use_rslora": True}`.

    Raises:
        ConfigurationError: A value is not allowed; the message names the field and the value.
    """

    kind: ClassVar[str] = "lora"
    r: int = 16
    alpha: float = 32
    target_modules: str | Sequence[str] = "all-linear"
    dropout: float = 0.0
    bias: str = "none"
    learning_rate: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._set("r", _whole("LoRA.r", self.r, 1))
        alpha = _positive("LoRA.alpha", self.alpha)
        self._set("alpha", int(alpha) if alpha.is_integer() else alpha)
        self._set("target_modules", _target_modules(self.target_modules))
        valid = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool) and 0 <= self.dropout < 1
        if not valid:
            message = f"LoRA.dropout must be a number from 0 to below 1, got {self.dropout!r}"
            raise ConfigurationError(message)
        self._set("dropout", float(self.dropout))
        self._set("bias", _one_of("LoRA.bias", self.bias, ("none", "all", "lora_only")))
        if self.learning_rate is not None:
            self._set("learning_rate", _positive("LoRA.learning_rate", self.learning_rate))
        self._set("options", FrozenOptions(self.options, "LoRA.options"))
        names = {"r": "r", "lora_alpha": "alpha", "target_modules": "target_modules", "lora_dropout": "dropout"}
        for name, ours in {**names, "bias": "bias"}.items():
            if name in self.options:
                message = f"LoRA.options may not set {name!r}: use LoRA({ours}=...)"
                raise ConfigurationError(message)

    @property
    def label(self) -> str:
        """The variant's name in the summary."""
        return f"{self.kind} r={self.r}"


def _target_modules(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return value
    names = tuple(value) if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str) else ()
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        message = f'LoRA.target_modules must be "all-linear", a regular expression or a list of suffixes, got {value!r}'
        raise ConfigurationError(message)
    return tuple(sorted(names)) if isinstance(value, set | frozenset) else names


Variant = Full | LoRA
_KINDS: Final[Mapping[str, type[Full] | type[LoRA]]] = {Full.kind: Full, LoRA.kind: LoRA}


def variant_to_dict(variant: Variant) -> dict[str, Any]:
    """Return a variant as values that JSON can hold, with its kind."""
    return {"kind": variant.kind, **variant.to_dict()}


def variant_from_dict(values: Mapping[str, Any]) -> Variant:
    """Return the variant that `variant_to_dict` wrote.

    Raises:
        ConfigurationError: The kind or a field is unknown.
    """
    rest = dict(values)
    kind = rest.pop("kind", None)
    if kind not in _KINDS:
        message = f"a variant's kind must be one of {', '.join(_KINDS)}, got {kind!r}"
        raise ConfigurationError(message)
    return _KINDS[kind].from_dict(rest)


def with_learning_rate(variant: Variant, full: Full) -> Variant:
    """Return the variant with its learning rate filled in: by default LoRA's is ten times that of full fine-tuning."""
    if variant.learning_rate is not None:
        return variant
    # Ten times a decimal such as 3e-5 leaves a tail of digits; the shortest sum is what a person would have typed.
    return replace(variant, learning_rate=float(f"{LORA_LEARNING_RATE_FACTOR * full.learning_rate:.12g}"))


@dataclass(frozen=True, kw_only=True)
class TrialSpec(_Spec):
    """One variant, one seed, to be trained once.

    Attributes:
        workload: What is held fixed.
        variant: The way of adapting the weights, its learning rate filled in.
        seed: Seed of the data order and of the adapters' initial weights.
        device: "auto" or a device of torch: "cpu", "cuda", ...

    Raises:
        ConfigurationError: The learning rate is not filled in, or the seed or the device is not valid.
    """

    workload: Workload
    variant: Variant
    seed: int
    device: str = "auto"

    def __post_init__(self) -> None:
        self._set("seed", _whole("TrialSpec.seed", self.seed, 0))
        self._set("device", _text("TrialSpec.device", self.device))
        if self.variant.learning_rate is None:
            message = f"TrialSpec.variant needs a learning rate, got {self.variant!r}: use with_learning_rate first"
            raise ConfigurationError(message)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as values that JSON can hold."""
        return {
            "workload": self.workload.to_dict(),
            "variant": variant_to_dict(self.variant),
            "seed": self.seed,
            "device": self.device,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote.

        Raises:
            ConfigurationError: A field is unknown, missing or invalid.
        """
        parts = dict(values)
        if isinstance(parts.get("workload"), Mapping):
            parts["workload"] = Workload.from_dict(parts["workload"])
        if isinstance(parts.get("variant"), Mapping):
            parts["variant"] = variant_from_dict(parts["variant"])
        return super().from_dict(parts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the spec's canonical JSON without what cannot change the trial: the workload's other seeds."""
        content = self.to_dict()
        del content["workload"]["seeds"], content["workload"]["most_seeds"]
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()
