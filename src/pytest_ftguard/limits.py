"""Limits of gates: margins and budgets with their unit and the place where they were set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.units import format_bytes, parse_bytes, parse_share

__all__ = ["BYTES", "NATS_PER_TOKEN", "SHARE", "Limit", "parse_loss_limit", "parse_memory_limit"]

NATS_PER_TOKEN: Final = "nats per token"
BYTES: Final = "bytes"
SHARE: Final = "of baseline"


@dataclass(frozen=True)
class Limit:
    """The largest accepted value of a gate.

    Attributes:
        value: The number, in `unit`.
        unit: "nats per token", "bytes" or "of baseline" (a share, 0.6 is 60 %).
        source: What kind of place set it: "argument", "marker", "command line", "environment" or "ini".
        place: The place itself, as shown to the person whose test fails.
    """

    value: float
    unit: str
    source: str
    place: str

    def __str__(self) -> str:
        """Return the limit as it is shown."""
        if self.unit == BYTES:
            return format_bytes(self.value)
        return f"{100 * self.value:.4g}%" if self.unit == SHARE else f"{self.value:g}"


def parse_loss_limit(value: object, source: str, place: str) -> Limit:
    """Return the limit that a number or its text stands for.

    Raises:
        ConfigurationError: It is not a finite number.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        message = f"a limit of the loss gap must be a finite number of nats per token, got {value!r} ({place})"
        raise ConfigurationError(message)
    return Limit(number, NATS_PER_TOKEN, source, place)


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
