"""The workload: all that is held fixed while the variants are compared."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, NamedTuple, get_args

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.identity import WORKLOAD
from pytest_ftguard.specs.refused import REFUSED_MODEL_ARGS, REFUSED_TRAINING_ARGS
from pytest_ftguard.specs.values import FrozenOptions, Spec, flag, one_of, text_value, whole

__all__ = ["PRECISIONS", "Places", "Workload"]

# The configuration, the tokenizer and the weights share these of from_pretrained's options.
_PLACE_OPTIONS: Final = ("gguf_file", "subfolder", "trust_remote_code", "local_files_only", "cache_dir")
Precision = Literal["auto", "fp32", "bf16"]
_IMPORT_PATH: Final = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")
Purpose = Literal["gates", "search", "timing"]
PRECISIONS: Final[tuple[str, ...]] = get_args(Precision)


class Places(NamedTuple):
    """Where the files of a workload lie."""

    model: str
    train: str
    validation: str
    tokenizer: str | None = None
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Workload(Spec):
    """Everything that is held fixed while the variants are compared.

    Attributes:
        model: Hub id or folder of the base model: any causal language model; for classification an encoder too.
        train: Path of the training text: a text file, or JSON lines with a `text` field (`.jsonl`). The tasks
            chat and classification read more: see their guides.
        validation: Path of the validation text, in the same formats; gates read its loss.
        revision: Revision of the model on the hub.
        tokenizer: Hub id or folder of the tokenizer, if it is not the model's own.
        reference: Path of a general text, for `assert_forgetting`. Its loss is measured too, for both variants.
        task: Task to train for: causal-lm (predict the next token), chat (conversations, prompts with completions),
            classification (texts with labels), or module:Class of your own. An installed package may have given its
            task a name. See `pytest_ftguard.tasks`.
        block_size: Tokens per sequence.
        batch_size: Sequences per batch.
        steps: Number of optimizer steps.
        seeds: Seeds, with one trial of each variant per seed. The text "3..8" stands for three seeds, and more of
            them, up to eight, if a gate on losses is in doubt.
        precision: "fp32", "bf16" (bf16 autocast, trained weights in fp32), or "auto": bf16 if the hardware is faster in
            it.
        final: Treat the steps as those of production, not as a stand-in for a longer run: the trend does not decide.
        validation_sequences: Largest number of validation sequences to use, evenly spaced over the text.
        model_args: Further options for `from_pretrained`, for example `gguf_file`.
        training_args: Further options for `transformers.TrainingArguments`, the same for both variants.
        training_function: "module:function" of your own that trains in place of the Trainer. It is called with the
            model, the data and the `TrialSpec`, and must take one optimizer step at `spec.variant.learning_rate` for
            each batch of the data. None is the Trainer.
        trainer: "module:Class" of your own, derived from `transformers.Trainer`, that trains in its place, for a loss
            or an optimizer of your own. `training_args` apply to it. None is the Trainer.
        most_seeds: Number of seeds up to which a gate in doubt may ask for more; 0 if it may not. Set by `seeds`.
        purpose: "gates"; "search" for the short trials of a search for a learning rate, which are evaluated on
            validation sequences that no gate uses; or "timing" for the short trials of which only the time of a step
            is judged.
        chat_template: Chat template of the task chat, as Jinja text. None is the tokenizer's own.
        completion_only_loss: Take the loss of completions only, and not of prompts, in the task chat. None is yes if
            there are prompts.
        assistant_only_loss: Take the loss of the assistant's turns only, in the task chat.
        packing: Put several training examples of the task chat into one sequence, each seen by itself.
        score: "module:function" of your own that scores a trained model, such as exact match. It is called with the
            model, the tokenizer and the validation rows, and returns a number for each row, or several by name.
        slices: Columns of the validation rows whose values make slices, each with results of its own; "length" stands
            for the number of tokens.
        group: Column of the validation rows whose equal values mark rows that depend on one another, such as the
            questions on one text.

    Raises:
        ConfigurationError: A value is not allowed; the message names the field and the value.
    """

    rows: ClassVar = WORKLOAD
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
    precision: Precision = "auto"
    final: bool = False
    validation_sequences: int = 256
    model_args: Mapping[str, Any] = field(default_factory=dict)
    training_args: Mapping[str, Any] = field(default_factory=dict)
    training_function: str | None = None
    trainer: str | None = None
    most_seeds: int = 0
    purpose: Purpose = "gates"
    chat_template: str | None = None
    completion_only_loss: bool | None = None
    assistant_only_loss: bool = False
    packing: bool = False
    score: str | None = None
    slices: tuple[str, ...] = ()
    group: str | None = None

    def __post_init__(self) -> None:
        for name in ("model", "train", "validation"):
            self._set(name, text_value(f"Workload.{name}", getattr(self, name)))
        for name in ("revision", "tokenizer", "reference"):
            if getattr(self, name) is not None:
                self._set(name, text_value(f"Workload.{name}", getattr(self, name)))
        for name, least in (("block_size", 2), ("batch_size", 1), ("steps", 1), ("validation_sequences", 1)):
            self._set(name, whole(f"Workload.{name}", getattr(self, name), least))
        if isinstance(self.seeds, str):
            fewest, most = _seed_range(self.seeds)
            self._set("seeds", tuple(range(fewest)))
            self._set("most_seeds", most)
        self._set("seeds", _seeds(self.seeds))
        self._set("most_seeds", whole("Workload.most_seeds", self.most_seeds, 0))
        self._set("precision", one_of("Workload.precision", self.precision, PRECISIONS))
        self._set("task", _task_name(self.task))
        self._set("purpose", one_of("Workload.purpose", self.purpose, get_args(Purpose)))
        flag("Workload.final", self.final)
        self._check_chat()
        self._check_scores()
        self._set("model_args", FrozenOptions(self.model_args, "Workload.model_args"))
        self._set("training_args", FrozenOptions(self.training_args, "Workload.training_args"))
        self._check_own_training()
        if "gradient_accumulation_steps" in self.training_args:
            count = self.training_args["gradient_accumulation_steps"]
            whole("Workload.training_args' gradient_accumulation_steps", count, 1)
        for field_name, refused in (("training_args", REFUSED_TRAINING_ARGS), ("model_args", REFUSED_MODEL_ARGS)):
            for name in getattr(self, field_name):
                if name in refused:
                    message = f"Workload.{field_name} may not set {name!r}: {refused[name]}"
                    raise ConfigurationError(message)

    def _check_own_training(self) -> None:
        if self.trainer is not None:
            self._set("trainer", _import_path("trainer", self.trainer, "Class", "MyTrainer"))
        if self.training_function is None:
            return
        self._set("training_function", _import_path("training_function", self.training_function, "function", "train"))
        if self.trainer is not None:
            message = (
                f"Workload.trainer is {self.trainer!r} and training_function is {self.training_function!r}, but only "
                "one of them can train: leave one out"
            )
            raise ConfigurationError(message)
        if self.training_args:
            message = (
                f"Workload.training_args must be empty if training_function is {self.training_function!r}, "
                f"because they are the Trainer's, got {dict(self.training_args)!r}: set them in the function"
            )
            raise ConfigurationError(message)

    def _check_chat(self) -> None:
        """Check the fields that the task chat reads."""
        if self.chat_template is not None:
            text_value("Workload.chat_template", self.chat_template)
        if self.completion_only_loss is not None:
            flag("Workload.completion_only_loss", self.completion_only_loss)
        for name in ("assistant_only_loss", "packing"):
            flag(f"Workload.{name}", getattr(self, name))

    def _check_scores(self) -> None:
        """Check the fields on what is measured besides the loss."""
        if self.score is not None:
            self._set("score", _import_path("score", self.score, "function", "exact_match"))
        self._set("slices", _columns(self.slices))
        if self.group is not None:
            self._set("group", text_value("Workload.group", self.group))

    @property
    def places(self) -> Places:
        """Where its files lie, or what they are called on the hub."""
        return Places(self.model, self.train, self.validation, self.tokenizer, self.reference)

    @property
    def place_options(self) -> dict[str, Any]:
        """Those of its options for `from_pretrained` that say where the model's files are."""
        place = {name: self.model_args[name] for name in _PLACE_OPTIONS if name in self.model_args}
        return {**place, "revision": self.revision} if self.revision is not None else place

    @property
    def own_training(self) -> str | None:
        """Where the code of the user's that trains is, a function or a Trainer; None if there is none."""
        return self.training_function or self.trainer

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which a gate in doubt looks again, each about 1.6 times the one before (3, 5, 8)."""
        looks = [len(self.seeds)]
        while looks[-1] < self.most_seeds:
            looks.append(min(self.most_seeds, math.ceil(1.6 * looks[-1])))
        return tuple(looks)


def _columns(value: Any) -> tuple[str, ...]:
    """Return the names of columns that make slices."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Sequence):
        message = f'Workload.slices must be names of columns, as in ("language", "length"), got {value!r}'
        raise ConfigurationError(message)
    checked = tuple(text_value("Workload.slices", name).strip() for name in names)
    if len(set(checked)) != len(checked):
        message = f"Workload.slices must differ from one another, got {value!r}"
        raise ConfigurationError(message)
    return checked


def _task_name(value: Any) -> str:
    name = text_value("Workload.task", value).strip()
    if not (re.fullmatch(r"[\w.-]+", name) or _IMPORT_PATH.fullmatch(name)):
        message = f'Workload.task must be a name such as causal-lm, or "module:Class", got {value!r}'
        raise ConfigurationError(message)
    return name


def _import_path(field_name: str, value: Any, kind: str, example: str) -> str:
    name = text_value(f"Workload.{field_name}", value).strip()
    if not _IMPORT_PATH.fullmatch(name):
        message = f'Workload.{field_name} must be "module:{kind}", as in "mine.training:{example}", got {value!r}'
        raise ConfigurationError(message)
    return name


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
    checked = tuple(whole("Workload.seeds", seed, 0) for seed in seeds)
    if len(set(checked)) != len(checked):
        message = (
            f"Workload.seeds must differ from one another, because a repeated seed adds no evidence, got {value!r}"
        )
        raise ConfigurationError(message)
    if max(checked) >= 2**32:
        message = f"Workload.seeds must be below 2**32, the largest seed of numpy, got {value!r}"
        raise ConfigurationError(message)
    return checked
