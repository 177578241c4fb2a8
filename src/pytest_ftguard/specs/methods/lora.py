"""LoRA, the adapters that most people mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, get_args

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.identity import LORA
from pytest_ftguard.specs.methods.base import Search, Variant
from pytest_ftguard.specs.methods.quantization import Quantization, quantization_of, quantization_words
from pytest_ftguard.specs.refused import REFUSED_LORA_OPTIONS
from pytest_ftguard.specs.values import FrozenOptions, one_of, positive, whole

__all__ = ["LORA_LEARNING_RATE_FACTOR", "LoRA", "method_words", "normal_form", "peft_options"]

Bias = Literal["none", "all", "lora_only"]

# LoRA's best learning rate is about ten times that of full fine-tuning (Schulman et al., "LoRA Without Regret", 2025).
LORA_LEARNING_RATE_FACTOR: Final = 10.0
# What peft looks up in these lists, as in target_modules, is found in any order.
_SETS: Final = frozenset(
    {"exclude_modules", "feedforward_modules", "layers_to_transform", "modules_to_save", "target_modules"}
)
# Of these mappings peft takes the first pattern that matches, and JSON's one text of a mapping has no order.
_PATTERNS: Final = frozenset({"alpha_pattern", "rank_pattern"})
# How much of the target modules a label names.
_MOST_TARGETS: Final = 2
_LONGEST_TARGET: Final = 24


@dataclass(frozen=True, kw_only=True)
class LoRA(Variant):
    """Low-rank adaptation (Hu et al., 2021): W + (alpha / r) B A, with W frozen.

    Attributes:
        r: Rank of the adapters.
        alpha: Numerator of the adapters' scale, alpha / r.
        target_modules: Modules to adapt: "all-linear", a regular expression for whole module names, or name suffixes
            in any order; [] if the options name `target_parameters`, and the adapters are to be on these alone.
        dropout: Dropout before the adapters.
        bias: Which biases are trained: "none", "all" or "lora_only".
        quantization: How the base is held (QLoRA): "nf4", "fp4" or "int8", or options of
            `transformers.BitsAndBytesConfig`. None is in full precision.
        learning_rate: Learning rate of AdamW after the warm-up; None is ten times that of `Full`.
        search_learning_rate: Search the learning rate with a few short trials: auto (before a verdict hangs on a rate
            that nobody chose), yes (before the training) or no. True is yes, and False is no.
        options: Further options for `peft.LoraConfig`, for example `{"use_rslora": True}`. The order of `rank_pattern`
            and `alpha_pattern` matters, so these are held as lists of [pattern, number] pairs.

    Raises:
        ConfigurationError: A value is not allowed; the message names the field and the value.
    """

    kind: ClassVar[str] = "lora"
    rows: ClassVar = LORA
    starts_at_base: ClassVar[bool] = True
    rate_over_full: ClassVar[float | None] = LORA_LEARNING_RATE_FACTOR
    more_capacity: ClassVar[str] = "rank, target modules"
    told_by_label: ClassVar[tuple[str, ...]] = ("r",)
    r: int = 16
    alpha: float = 32
    target_modules: str | Sequence[str] = "all-linear"
    dropout: float = 0.0
    bias: Bias = "none"
    quantization: Quantization = None
    learning_rate: float | None = None
    search_learning_rate: Search | bool = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._set("r", whole("LoRA.r", self.r, 1))
        alpha = positive("LoRA.alpha", self.alpha)
        self._set("alpha", int(alpha) if alpha.is_integer() else alpha)
        valid = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool) and 0 <= self.dropout < 1
        if not valid:
            message = f"LoRA.dropout must be a number from 0 to below 1, got {self.dropout!r}"
            raise ConfigurationError(message)
        self._set("dropout", float(self.dropout))
        self._set("bias", one_of("LoRA.bias", self.bias, get_args(Bias)))
        self._set("quantization", quantization_of(self.quantization, "LoRA.quantization"))
        self._check_rate()
        options = self.options
        if isinstance(options, Mapping):
            options = {name: normal_form("LoRA", name, value) for name, value in options.items()}
        self._set("options", FrozenOptions(options, "LoRA.options"))
        self._set("target_modules", _target_modules(self.target_modules, self.options.get("target_parameters")))
        for name in sorted(set(self.options) & set(REFUSED_LORA_OPTIONS)):
            message = f"LoRA.options may not set {name!r}: {REFUSED_LORA_OPTIONS[name]}"
            raise ConfigurationError(message)
        names = {"r": "r", "lora_alpha": "alpha", "target_modules": "target_modules", "lora_dropout": "dropout"}
        for name, ours in {**names, "bias": "bias"}.items():
            if name in self.options:
                message = f"LoRA.options may not set {name!r}: use LoRA({ours}=...)"
                raise ConfigurationError(message)

    @property
    def label(self) -> str:
        """The variant's name in the summary, with the rank, the method, and each setting that is not the default.

        The learning rate is not part of it.
        """
        settings = [
            f"alpha={self.alpha}" if self.alpha != LoRA.alpha else "",
            _told_targets(self.target_modules),
            f"dropout={self.dropout:g}" if self.dropout else "",
            f"bias={self.bias}" if self.bias != LoRA.bias else "",
        ]
        words = [*quantization_words(self.quantization), *method_words(self.options)]
        return " ".join(filter(None, [f"{self.kind} r={self.r}", *words, *settings]))

    @property
    def peft_options(self) -> dict[str, Any]:
        """The further options as `peft.LoraConfig` takes them."""
        return peft_options(self.options)


def method_words(options: Mapping[str, Any]) -> list[str]:
    """Return what options make of LoRA, in the words of peft's users, such as "dora" or "pissa".

    Args:
        options: Options of `peft.LoraConfig`.
    """
    words = [name.removeprefix("use_") for name in sorted(options) if name.startswith("use_") and options[name] is True]
    start = options.get("init_lora_weights")
    return [*words, start.lower()] if isinstance(start, str) else words


def _told_targets(value: str | Sequence[str]) -> str:
    """Return the target modules as a label tells them: a few names, or a part of a pattern; "" for the default."""
    if value == LoRA.target_modules:
        return ""
    if isinstance(value, str):
        return f"targets={value if len(value) <= _LONGEST_TARGET else f'{value[:_LONGEST_TARGET]}...'}"
    # Of modules that were listed with their whole paths, the last part says what they are.
    names = sorted({name.rpartition(".")[2] for name in value})
    rest = len(names) - _MOST_TARGETS
    return f"targets={','.join(names[:_MOST_TARGETS])}{f'+{rest}' if rest > 0 else ''}" if names else ""


def _target_modules(value: Any, target_parameters: object) -> str | tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return value
    is_list = isinstance(value, Sequence | set | frozenset) and not isinstance(value, str)
    names = tuple(value) if is_list else ()
    if is_list and not names and target_parameters:
        return ()  # the adapters are on parameters alone
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        message = f'LoRA.target_modules must be "all-linear", a regular expression or a list of suffixes, got {value!r}'
        raise ConfigurationError(message)
    return tuple(sorted(set(names)))


def normal_form(owner: str, name: str, value: Any) -> Any:
    """Return an option so that two values are equal if peft makes the same of them, and only then.

    Args:
        owner: Name of the variant's class, for messages.
        name: Name of the option.
        value: Its value, as JSON can hold it.
    """
    if name in _PATTERNS or (name.endswith("_pattern") and isinstance(value, Mapping) and value):
        return _pairs(f"{owner}.options[{name!r}]", value)
    if name in _SETS and isinstance(value, list | tuple):
        # By length first, so that 9 comes before 10; whatever JSON holds can be told apart so.
        return sorted(value, key=lambda item: (len(str(item)), str(item)))
    return value


def _pairs(owner: str, value: Any) -> list[list[Any]]:
    # None is AdaLoRA's word for no patterns yet.
    pairs = list(value.items()) if isinstance(value, Mapping) else [] if value is None else value
    valid = isinstance(pairs, list | tuple) and all(_is_pair(pair) for pair in pairs)
    if not valid:
        message = f"{owner} must map patterns to numbers, or be a list of [pattern, number] pairs, got {value!r}"
        raise ConfigurationError(message)
    return [list(pair) for pair in dict(pairs).items()]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], str)


def peft_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in normal form as peft's configurations take them."""
    return {
        name: dict(value) if name.endswith("_pattern") and _are_pairs(name, value) else value
        for name, value in options.items()
    }


def _are_pairs(name: str, value: Any) -> bool:
    return isinstance(value, list) and (name in _PATTERNS or bool(value)) and all(map(_is_pair, value))
