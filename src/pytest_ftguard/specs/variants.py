"""The variants: ways of adapting the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Literal, get_args

from pytest_ftguard.errors import ConfigurationError, hide_our_frames
from pytest_ftguard.specs.identity import FULL, LORA
from pytest_ftguard.specs.refused import REFUSED_LORA_OPTIONS
from pytest_ftguard.specs.values import FrozenOptions, Spec, flag, one_of, positive, whole

__all__ = ["Full", "LoRA", "Variant", "variant_from_dict", "variant_to_dict", "with_learning_rate"]

__tracebackhide__ = hide_our_frames

Bias = Literal["none", "all", "lora_only"]

# LoRA's best learning rate is about ten times that of full fine-tuning (Schulman et al., "LoRA Without Regret", 2025).
LORA_LEARNING_RATE_FACTOR: Final = 10.0
FULL_LEARNING_RATE: Final = 5e-5
# What peft looks up in these lists, as in target_modules, is found in any order.
_SETS: Final = frozenset({"exclude_modules", "layers_to_transform", "modules_to_save"})
# Of these mappings peft takes the first pattern that matches, and JSON's one text of a mapping has no order.
_PATTERNS: Final = frozenset({"alpha_pattern", "rank_pattern"})


@dataclass(frozen=True, kw_only=True)
class Full(Spec):
    """Full fine-tuning: every weight is trained.

    Attributes:
        learning_rate: Learning rate of AdamW after the warm-up; None is 5e-5.
        search_learning_rate: Whether the best of a few rates around `learning_rate` is searched before the training.

    Raises:
        ConfigurationError: The learning rate is not a finite number above 0, or the search neither True nor False.
    """

    kind: ClassVar[str] = "full"
    rows: ClassVar = FULL
    learning_rate: float | None = None
    search_learning_rate: bool = False

    def __post_init__(self) -> None:
        if self.learning_rate is not None:
            self._set("learning_rate", positive("Full.learning_rate", self.learning_rate))
        flag("Full.search_learning_rate", self.search_learning_rate)

    @property
    def label(self) -> str:
        """The variant's name in the summary."""
        return self.kind


@dataclass(frozen=True, kw_only=True)
class LoRA(Spec):
    """Low-rank adaptation (Hu et al., 2021): W + (alpha / r) B A, with W frozen.

    Attributes:
        r: Rank of the adapters.
        alpha: Numerator of the adapters' scale.
        target_modules: "all-linear", a regular expression for whole module names, or name suffixes in any order.
        dropout: Dropout before the adapters.
        bias: Which biases are trained: "none", "all" or "lora_only".
        learning_rate: Learning rate of AdamW after the warm-up; None is ten times that of `Full`.
        search_learning_rate: Whether the best of a few rates around `learning_rate` is searched before the training.
        options: Further options for `peft.LoraConfig`, for example `{"use_rslora": True}`. The order of `rank_pattern`
            and `alpha_pattern` matters, so these are held as lists of [pattern, number] pairs.

    Raises:
        ConfigurationError: A value is not allowed; the message names the field and the value.
    """

    kind: ClassVar[str] = "lora"
    rows: ClassVar = LORA
    r: int = 16
    alpha: float = 32
    target_modules: str | Sequence[str] = "all-linear"
    dropout: float = 0.0
    bias: Bias = "none"
    learning_rate: float | None = None
    search_learning_rate: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._set("r", whole("LoRA.r", self.r, 1))
        alpha = positive("LoRA.alpha", self.alpha)
        self._set("alpha", int(alpha) if alpha.is_integer() else alpha)
        self._set("target_modules", _target_modules(self.target_modules))
        valid = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool) and 0 <= self.dropout < 1
        if not valid:
            message = f"LoRA.dropout must be a number from 0 to below 1, got {self.dropout!r}"
            raise ConfigurationError(message)
        self._set("dropout", float(self.dropout))
        self._set("bias", one_of("LoRA.bias", self.bias, get_args(Bias)))
        if self.learning_rate is not None:
            self._set("learning_rate", positive("LoRA.learning_rate", self.learning_rate))
        flag("LoRA.search_learning_rate", self.search_learning_rate)
        options = self.options
        if isinstance(options, Mapping):
            options = {name: _normal_form(name, value) for name, value in options.items()}
        self._set("options", FrozenOptions(options, "LoRA.options"))
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
        """The variant's name in the summary."""
        return f"{self.kind} r={self.r}"

    @property
    def peft_options(self) -> dict[str, Any]:
        """The further options as `peft.LoraConfig` takes them."""
        return {name: dict(value) if name in _PATTERNS else value for name, value in self.options.items()}


def _target_modules(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value.strip():
        return value
    names = tuple(value) if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str) else ()
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        message = f'LoRA.target_modules must be "all-linear", a regular expression or a list of suffixes, got {value!r}'
        raise ConfigurationError(message)
    return tuple(sorted(set(names)))


def _normal_form(name: str, value: Any) -> Any:
    """Return an option so that two values are equal where peft makes the same of them, and only there."""
    if name in _PATTERNS:
        return _pairs(f"LoRA.options[{name!r}]", value)
    if name in _SETS and isinstance(value, list | tuple):
        # By length first, so that 9 comes before 10; whatever JSON holds can be told apart so.
        return sorted(value, key=lambda item: (len(str(item)), str(item)))
    return value


def _pairs(owner: str, value: Any) -> list[list[Any]]:
    # None is AdaLoRA's word for no patterns yet.
    pairs = list(value.items()) if isinstance(value, Mapping) else [] if value is None else value
    valid = isinstance(pairs, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
    if not valid or not all(isinstance(pattern, str) for pattern, _ in pairs):
        message = f"{owner} must map patterns to numbers, or be a list of [pattern, number] pairs, got {value!r}"
        raise ConfigurationError(message)
    return [list(pair) for pair in dict(pairs).items()]


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
    """Return the variant with its learning rate filled in.

    The default of full fine-tuning is 5e-5, and that of LoRA ten times the rate of full fine-tuning.

    Args:
        variant: The variant.
        full: Full fine-tuning, whose rate that of LoRA follows.
    """
    if variant.learning_rate is not None:
        return variant
    if isinstance(variant, Full):
        return replace(variant, learning_rate=FULL_LEARNING_RATE)
    # Ten times a decimal such as 3e-5 leaves a tail of digits; the shortest sum is what a person would have typed.
    rate = LORA_LEARNING_RATE_FACTOR * (full.learning_rate or FULL_LEARNING_RATE)
    return replace(variant, learning_rate=float(f"{rate:.12g}"))
