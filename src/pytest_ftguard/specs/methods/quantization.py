"""How a variant's base is held in few bits: by name, or by the options of transformers' `BitsAndBytesConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.values import FrozenOptions

__all__ = ["QUANTIZATIONS", "Quantization", "quantization_of", "quantization_options", "quantization_words"]

Quantization = str | Mapping[str, Any] | None

QUANTIZATIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}
"""The options that each name stands for."""


def quantization_of(value: Any, owner: str) -> Quantization:
    """Return a quantization in normal form: a name, if one stands for the same.

    Args:
        value: What the user gave.
        owner: What messages call it.

    Raises:
        ConfigurationError: It is no name and no such options.
    """
    if value is None:
        return None
    if isinstance(value, str):
        name = value.strip().lower()
        if name not in QUANTIZATIONS:
            message = (
                f"{owner} must be one of {', '.join(QUANTIZATIONS)}, or options of transformers.BitsAndBytesConfig, "
                f"got {value!r}"
            )
            raise ConfigurationError(message)
        return name
    options = FrozenOptions(value, owner)
    if (options.get("load_in_4bit") is True) == (options.get("load_in_8bit") is True):
        message = (
            f"{owner} must set load_in_4bit or load_in_8bit to true, and only one of them, got {dict(options)!r}: "
            "other ways of quantization are not offered"
        )
        raise ConfigurationError(message)
    return next((name for name, known in QUANTIZATIONS.items() if known == dict(options)), options)


def quantization_options(value: Quantization) -> Mapping[str, Any] | None:
    """Return the options of `BitsAndBytesConfig` that a quantization in normal form stands for; None if it is none."""
    return QUANTIZATIONS[value] if isinstance(value, str) else value


def quantization_words(value: Quantization) -> list[str]:
    """Return what a label says of a quantization in normal form."""
    if value is None or isinstance(value, str):
        return [value] if value else []
    rest = dict(value)
    is_4bit = rest.pop("load_in_4bit", False)
    rest.pop("load_in_8bit", None)
    name = str(rest.pop("bnb_4bit_quant_type", "fp4")) if is_4bit else "int8"
    short = {one.removeprefix("bnb_4bit_").removeprefix("llm_int8_"): item for one, item in sorted(rest.items())}
    return [name, *(one if item is True else f"{one}={item}" for one, item in short.items())]
