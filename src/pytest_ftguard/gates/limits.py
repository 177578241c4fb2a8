"""Limits of gates: margins and budgets with their unit and the place where they were set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pytest_ftguard.errors import ConfigurationError, hide_our_frames
from pytest_ftguard.units import format_bytes, parse_bytes, parse_share

__all__ = [
    "BYTES",
    "GROWTH",
    "NATS_PER_TOKEN",
    "OF_GAIN",
    "PERPLEXITY",
    "SHARE",
    "Limit",
    "format_limit",
    "parse_memory_limit",
    "parse_number_limit",
    "parse_regression_limit",
    "parse_share_limit",
]

__tracebackhide__ = hide_our_frames

NATS_PER_TOKEN: Final = "nats per token"
PERPLEXITY: Final = "perplexity"
BYTES: Final = "bytes"
SHARE: Final = "of baseline"
OF_GAIN: Final = "of the gain"
GROWTH: Final = "of the accepted result"


@dataclass(frozen=True)
class Limit:
    """The largest accepted value of a gate, or the smallest one of a gate on what is retained.

    Attributes:
        value: The number, in `unit`.
        unit: "nats per token", "perplexity", "bytes"; or, where it is a share (0.6 is 60 %), "of baseline", "of the
            gain" or "of the accepted result".
        source: What kind of place set it: "argument", "marker", "command line", "environment" or "ini".
        place: The place itself, as shown to the person whose test fails.
    """

    value: float
    unit: str
    source: str
    place: str

    def __str__(self) -> str:
        """Return the limit as it is shown."""
        return format_limit(self.value, self.unit)


def format_limit(value: float, unit: str) -> str:
    """Return a limit as it is shown: "900 MB", "60%" or "0.02"."""
    if unit == BYTES:
        return format_bytes(value)
    return f"{100 * value:.4g}%" if unit in (SHARE, OF_GAIN, GROWTH) else f"{value:g}"


def parse_number_limit(value: object, what: str, unit: str, source: str, place: str) -> Limit:
    """Return the limit that a number or its text stands for.

    Raises:
        ConfigurationError: It is not a finite number.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        message = f"a limit of the {what} must be a finite number ({unit}), got {value!r} ({place})"
        raise ConfigurationError(message)
    return Limit(number, unit, source, place)


def parse_share_limit(value: object, what: str, unit: str, source: str, place: str) -> Limit:
    """Return the limit that a percentage stands for: "80%" is 0.8.

    Raises:
        ConfigurationError: It is not a percentage above 0.
    """
    try:
        if isinstance(value, str):
            return Limit(parse_share(value), unit, source, place)
    except ValueError:
        pass  # one message for every way of being wrong, below
    message = f'a limit of the {what} must be a share such as "80%", got {value!r} ({place})'
    raise ConfigurationError(message)


def parse_memory_limit(value: object, source: str, place: str) -> Limit:
    """Return the limit that "0.9 GB" (bytes) or "60%" (of the baseline's peak) stands for.

    Raises:
        ConfigurationError: It is neither.
    """
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            return Limit(parse_share(value), SHARE, source, place)
        if isinstance(value, str):
            return Limit(float(parse_bytes(value)), BYTES, source, place)
    except ValueError:
        pass  # one message for every way of being wrong, below
    message = (
        f'a limit of the peak memory must be a size such as "0.9 GB" or a share such as "60%", got {value!r} ({place})'
    )
    raise ConfigurationError(message)


def parse_regression_limit(value: object, source: str, place: str) -> Limit:
    """Return the limit that 0.01 (nats per token) or "5%" (growth of memory or time) stands for.

    Raises:
        ConfigurationError: It is neither, or below 0: what has not changed would fail.
    """
    share = isinstance(value, str) and value.strip().endswith("%")
    try:
        if isinstance(value, float | int | str) and not isinstance(value, bool):
            number = float(value.strip().removesuffix("%")) / 100 if isinstance(value, str) and share else float(value)
            if 0 <= number < math.inf:
                return Limit(number, GROWTH if share else NATS_PER_TOKEN, source, place)
    except (ValueError, OverflowError):
        pass  # one message for every way of being wrong, below
    message = (
        f"a limit of the regression must be a number of at least 0 (nats per token of the loss gap), or a share such "
        f'as "5%" (growth of memory or time), got {value!r} ({place})'
    )
    raise ConfigurationError(message)
