"""The kinds of variants, found by name: those of this package, and those that a user's own package registers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeVar

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.importing import imported
from pytest_ftguard.specs.methods.base import Variant
from pytest_ftguard.specs.methods.full import FULL_LEARNING_RATE, Full
from pytest_ftguard.specs.methods.lora import LORA_LEARNING_RATE_FACTOR, LoRA
from pytest_ftguard.specs.methods.peft import Peft

__all__ = [
    "find_variant_class",
    "import_path",
    "import_paths",
    "register_variant",
    "variant_from_dict",
    "variant_to_dict",
    "with_learning_rate",
]

_OURS: Final[Mapping[str, type[Variant]]] = {kind.kind: kind for kind in (Full, LoRA, Peft)}
_KINDS: Final[dict[str, type[Variant]]] = dict(_OURS)
_REQUIRED: Final = ("learning_rate", "search_learning_rate")

Kind = TypeVar("Kind", bound=type[Variant])


def register_variant(kind: Kind) -> Kind:
    """Make a class of variants known by its `kind`; for use as a decorator.

    Args:
        kind: A frozen dataclass derived from `Variant`, at the top of a module that can be imported.

    Raises:
        ConfigurationError: It is no such class, or another one has its kind.
    """
    name = f"the variant class {getattr(kind, '__qualname__', kind)!s}"
    if not (isinstance(kind, type) and issubclass(kind, Variant)):
        message = f"{name} must be derived from pytest_ftguard.specs.Variant"
        raise ConfigurationError(message)
    word = getattr(kind, "kind", None)
    if not (isinstance(word, str) and word.isidentifier()):
        message = f'{name} needs a kind, a single word such as "prompt", got {word!r}'
        raise ConfigurationError(message)
    known = _KINDS.get(word)
    if known is not None and _path_of(known) != _path_of(kind):
        message = f"{name} has the kind {word!r}, which is that of {_path_of(known)}: choose another one"
        raise ConfigurationError(message)
    _KINDS[word] = kind
    return kind


def _check_class(kind: type[Variant]) -> None:
    """Check what a decorator cannot see that stands below `@dataclass`."""
    name = f"the variant class {kind.__qualname__}"
    parameters = getattr(kind, "__dataclass_params__", None)
    if not (is_dataclass(kind) and parameters is not None and parameters.frozen):
        message = f"{name} must be a dataclass(frozen=True, kw_only=True)"
        raise ConfigurationError(message)
    names = {item.name for item in fields(kind)}
    missing = [one for one in _REQUIRED if one not in names]
    if missing:
        message = f"{name} needs the fields {', '.join(missing)}"
        raise ConfigurationError(message)
    unknown = sorted(set(kind.rows) - names)
    if unknown:
        message = f"{name} has rows for {', '.join(unknown)}, and no such field"
        raise ConfigurationError(message)
    try:
        found = imported(_path_of(kind))
    except (ImportError, AttributeError):
        found = None
    if found is not kind:
        message = (
            f"{name} is not found as {_path_of(kind)}, and each trial runs in a process that imports it: put it at the "
            "top of a module that the tests can import"
        )
        raise ConfigurationError(message)


def _path_of(kind: type[Variant]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def import_path(variant: Variant) -> str | None:
    """Return where the class of a variant is imported from; None for those of this package.

    Raises:
        ConfigurationError: The class cannot be used: another process would not find it, or it is not complete.
    """
    kind = type(variant)
    if _OURS.get(variant.kind) is kind:
        return None
    register_variant(kind)
    _check_class(kind)
    return _path_of(kind)


def import_paths(variants: Iterable[Variant]) -> list[str]:
    """Return where the classes of variants are imported from, each once; those of this package need no import."""
    return list(dict.fromkeys(path for variant in variants if (path := import_path(variant)) is not None))


def find_variant_class(path: str) -> type[Variant]:
    """Import a class of variants, register it, and return it. A path may come from code and settings, never from data.

    Args:
        path: "module:Class".

    Raises:
        ConfigurationError: There is no such class, or it is no class of variants.
    """
    try:
        found = imported(path)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"the variant class {path!r} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    register_variant(found)
    _check_class(found)
    kind: type[Variant] = found
    return kind


def variant_to_dict(variant: Variant) -> dict[str, Any]:
    """Return a variant as values that JSON can hold, with its kind."""
    return {"kind": variant.kind, **variant.to_dict()}


def variant_from_dict(values: Mapping[str, Any]) -> Variant:
    """Return the variant that `variant_to_dict` wrote. Nothing is imported: who wrote the values is not known.

    Raises:
        ConfigurationError: The kind or a field is unknown.
    """
    rest = dict(values)
    kind = rest.pop("kind", None)
    if kind not in _KINDS:
        message = (
            f"a variant's kind must be one of {', '.join(_KINDS)}, got {kind!r}; a kind of your own must be imported "
            "and registered first (register_variant)"
        )
        raise ConfigurationError(message)
    return _KINDS[kind].from_dict(rest)


def with_learning_rate(variant: Variant, full: Variant) -> Variant:
    """Return the variant with its learning rate filled in, and what is still to be searched.

    The default of full fine-tuning is 5e-5, and that of LoRA ten times the rate of full fine-tuning. If no rule is
    known for a variant, a search starts at LoRA's. Only a default stays "auto": a rate that was given is the user's.

    Args:
        variant: The variant.
        full: Full fine-tuning; the rates of the others follow its rate.

    Raises:
        ConfigurationError: The rate is neither given nor searched, and no rule is known.
    """
    if variant.learning_rate is not None:
        return replace(variant, search_learning_rate="no") if variant.search == "auto" else variant
    if variant.kind == Full.kind:
        return replace(variant, learning_rate=FULL_LEARNING_RATE)
    factor = variant.rate_over_full
    if factor is None and not variant.searches_first:
        message = (
            f"{variant.label} has no learning rate, and no rule gives one for this method: pass learning_rate=..., or "
            f'search_learning_rate="yes" to {type(variant).__name__}(...)'
        )
        raise ConfigurationError(message)
    # Ten times a decimal such as 3e-5 leaves a tail of digits; the shortest sum is what a person would have typed.
    rate = (factor or LORA_LEARNING_RATE_FACTOR) * (full.learning_rate or FULL_LEARNING_RATE)
    search = "yes" if variant.searches_first else variant.search
    return replace(variant, learning_rate=float(f"{rate:.12g}"), search_learning_rate=search)
