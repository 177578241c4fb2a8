"""Conversion between numbers and the way people write them: "2 GiB", "60%", "30 s"."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final

__all__ = [
    "decimals_apart",
    "format_bytes",
    "format_bytes_apart",
    "format_count",
    "format_duration",
    "parse_bytes",
    "parse_duration",
    "parse_share",
]

_QUANTITY: Final = re.compile(
    r"\s*(?P<number>[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*(?P<unit>[A-Za-z%]*)\s*"
)
_BYTES: Final = {
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
_SECONDS: Final = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_MOST_DIGITS: Final = 12


def _split(text: str, expected: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    number = float(match["number"].replace("_", "")) if match else math.nan
    if match is None or not math.isfinite(number):
        message = f"{text!r} is not {expected}"
        raise ValueError(message)
    return number, match["unit"]


def parse_bytes(text: str) -> int:
    """Return the number of bytes that a text such as "0.9 GB" or "2 GiB" stands for.

    Decimal prefixes are powers of 1000 and binary ones powers of 1024 (IEC 80000-13).

    Raises:
        ValueError: There is no unit, an unknown one, or less than one byte.
    """
    expected = 'a size with a unit, for example "0.9 GB" or "2 GiB"'
    number, unit = _split(text, expected)
    factor = _BYTES.get(unit.lower())
    size = round(number * factor) if factor else 0
    if size < 1:
        message = f"{text!r} is not {expected}"
        raise ValueError(message)
    return size


def parse_share(text: str) -> float:
    """Return the fraction that a percentage stands for: "60%" is 0.6.

    Raises:
        ValueError: The percent sign is missing, or the share is not above 0.
    """
    expected = 'a share above 0, for example "60%"'
    number, unit = _split(text, expected)
    if unit != "%" or number <= 0:
        message = f"{text!r} is not {expected}"
        raise ValueError(message)
    return number / 100


def parse_duration(text: str) -> float:
    """Return the seconds that "90", "30 s", "10 min" or "2 h" stands for.

    Raises:
        ValueError: The unit is unknown, or the time is not above 0.
    """
    expected = 'a time above 0, for example "30 s", "10 min" or "2 h"'
    number, unit = _split(text, expected)
    factor = _SECONDS.get(unit or "s")
    if factor is None or number <= 0:
        message = f"{text!r} is not {expected}"
        raise ValueError(message)
    return number * factor


def format_bytes(size: float, digits: int = 3) -> str:
    """Return a size in decimal units with so many digits: 1489000000 is "1.49 GB"."""
    rounding = 1 + 0.5 * 10.0**-digits
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        value = abs(size) * rounding / factor
        if value >= 1:
            decimals = max(0, digits - 1 - math.floor(math.log10(value)))
            return f"{size / factor:.{decimals}f} {unit}"
    return f"{size:.0f} B"


def format_bytes_apart(size: float, limit: float) -> tuple[str, str]:
    """Return a size and its limit with as many digits as it takes to see that they differ."""
    for digits in range(3, _MOST_DIGITS):
        texts = format_bytes(size, digits), format_bytes(limit, digits)
        if texts[0] != texts[1] or size == limit:
            break
    return texts


def decimals_apart(values: Iterable[float], limit: float, least: int) -> int:
    """Return how many decimals show each value on that side of the limit on which it lies.

    Rounded further, 0.0204 would be shown as 0.02 next to a limit of 0.02 that it exceeds.
    """
    # What differs from the limit by the rounding of arithmetic alone does so on no side of it.
    numbers = [value for value in values if not math.isclose(value, limit, rel_tol=1e-9)]

    def apart(decimals: int) -> bool:
        pairs = [(number, round(number, decimals)) for number in numbers]
        return all((raw > limit, raw < limit) == (shown > limit, shown < limit) for raw, shown in pairs)

    return next(filter(apart, range(least, _MOST_DIGITS)), _MOST_DIGITS)


def format_duration(seconds: float) -> str:
    """Return a length of time as a clock shows it: 75 is "1:15", 3675 is "1:01:15"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_count(count: int) -> str:
    """Return a count with separators for thousands: 294912 is "294,912"."""
    return f"{count:,}"
