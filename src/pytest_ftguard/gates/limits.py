"""Limits of gates: margins and budgets with their unit and where they were set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.setting import Origin, Setting
from pytest_ftguard.units import decimals_apart, format_bytes, format_bytes_apart, parse_bytes, parse_share

__all__ = [
    "BYTES",
    "GROWTH",
    "NATS_PER_TOKEN",
    "OF_GAIN",
    "PERPLEXITY",
    "POINTS",
    "SCORE",
    "SHARE",
    "Amount",
    "Limit",
    "parse_least_score",
    "parse_memory_limit",
    "parse_number_limit",
    "parse_points_limit",
    "parse_regression_limit",
    "parse_score_limit",
    "parse_share_limit",
]

NATS_PER_TOKEN: Final = "nats per token"
PERPLEXITY: Final = "perplexity"
POINTS: Final = "percentage points"
SCORE: Final = "of the score"
BYTES: Final = "bytes"
SHARE: Final = "of baseline"
OF_GAIN: Final = "of the gain"
GROWTH: Final = "of the accepted result"


class Amount(NamedTuple):
    """What the text of a limit says.

    Attributes:
        value: The number, in `unit`.
        unit: See `Limit`.
    """

    value: float
    unit: str

    @property
    def is_share(self) -> bool:
        """Whether it is shown as a percentage."""
        return self.unit in (SHARE, OF_GAIN, GROWTH)

    def __str__(self) -> str:
        """Return the amount as it is shown: "900 MB", "60%" or "0.02"."""
        if self.unit == BYTES:
            return format_bytes(self.value)
        if self.unit == POINTS:
            return f"{self.value:.10g} pp"
        return f"{100 * self.value:.10g}%" if self.is_share else f"{self.value:.10g}"


@dataclass(frozen=True)
class Limit:
    """The largest accepted value of a gate, or the smallest one of a gate on what is retained.

    Attributes:
        value: The number, in `unit`.
        unit: "nats per token", "perplexity", "percentage points", "of the score", "bytes", or that of a gate of your
            own; or, if it is a share (0.6 is 60 %), "of baseline", "of the gain" or "of the accepted result".
        origin: Where it was set.
    """

    value: float
    unit: str
    origin: Origin

    @classmethod
    def of(cls, setting: Setting) -> Limit:
        """Return the limit that a setting makes.

        Raises:
            ConfigurationError: What a gate of a user's own reads its limit with gave no finite amount.
        """
        amount = setting.value
        if not (isinstance(amount, Amount) and math.isfinite(amount.value)):
            message = (
                f"a limit was read as {amount!r} (set by {setting.origin.name}), which is no finite amount: the parser "
                "of its key must return an Amount, as number_limit(...) and share_limit(...) do"
            )
            raise ConfigurationError(message)
        return cls(amount.value, amount.unit, setting.origin)

    @property
    def is_share(self) -> bool:
        """Whether it is shown as a percentage."""
        return Amount(self.value, self.unit).is_share

    def __str__(self) -> str:
        """Return the limit as it is shown."""
        return str(Amount(self.value, self.unit))

    def texts(self, *values: float, decimals: int = 4) -> list[str]:
        """Return values in the limit's unit, each with enough digits to show on which side of the limit it lies.

        Args:
            values: The values: one if the unit is bytes.
            decimals: The fewest decimals of what is no share and no size.
        """
        if self.unit == BYTES:
            return [format_bytes_apart(value, self.value)[0] for value in values]
        if self.is_share:
            shares = [100 * value for value in values]
            sign = "+" if self.unit == GROWTH else ""
            return [f"{share:{sign}.{decimals_apart(shares, 100 * self.value, 1)}f}%" for share in shares]
        if self.unit == POINTS:
            decimals = 1
        return [f"{value:+.{decimals_apart(values, self.value, decimals)}f}" for value in values]

    def text_next_to(self, value: float | None) -> str:
        """Return the limit with as many digits as it takes to see that a value differs from it."""
        return str(self) if value is None or self.unit != BYTES else format_bytes_apart(value, self.value)[1]


def parse_number_limit(value: object, what: str, unit: str, origin: Origin) -> Amount:
    """Return the amount that a number or its text stands for.

    Raises:
        ConfigurationError: It is not a finite number.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        message = f"a limit of the {what} must be a finite number ({unit}), got {value!r} ({origin.name})"
        raise ConfigurationError(message)
    return Amount(number, unit)


def parse_share_limit(value: object, what: str, unit: str, origin: Origin) -> Amount:
    """Return the share that a percentage stands for: "80%" is 0.8.

    Raises:
        ConfigurationError: It is not a percentage above 0.
    """
    try:
        if isinstance(value, str):
            return Amount(parse_share(value), unit)
    except ValueError:
        pass  # one message for every way of being wrong, below
    message = f'a limit of the {what} must be a share such as "80%", got {value!r} ({origin.name})'
    raise ConfigurationError(message)


def parse_points_limit(value: object, what: str, origin: Origin) -> Amount:
    """Return the amount that "2 pp" stands for: a fall by at most two percentage points, so -2.

    Raises:
        ConfigurationError: It is no number of percentage points.
    """
    points = _points(value)
    if points is None:
        message = (
            f'a limit of the {what} must be percentage points such as "2 pp", got {value!r} ({origin.name}): it is the '
            "largest fall that you accept"
        )
        raise ConfigurationError(message)
    return Amount(0.0 - points, POINTS)


def parse_score_limit(value: object, origin: Origin) -> Amount:
    """Return the amount that 0.02 (in the score's own unit) or "2 pp" stands for: a fall by at most that.

    Raises:
        ConfigurationError: It is neither.
    """
    points = _points(value)
    if points is not None:
        return Amount(0.0 - points, POINTS)
    amount = parse_number_limit(value, "score gap", 'in the unit of the score, or "2 pp"', origin)
    return Amount(0.0 - amount.value, SCORE)


def parse_least_score(value: object, origin: Origin) -> Amount:
    """Return the smallest accepted score that 0.8 or "80%" stands for.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            number = float(value.strip()[:-1]) / 100
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return Amount(number, SCORE)
    return Amount(parse_number_limit(value, "score", 'in its own unit, or "80%"', origin).value, SCORE)


def _points(value: object) -> float | None:
    """Return the percentage points of a text such as "2 pp"; None if it is none."""
    if not (isinstance(value, str) and value.strip().endswith("pp")):
        return None
    try:
        number = float(value.strip().removesuffix("pp"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def parse_memory_limit(value: object, origin: Origin) -> Amount:
    """Return the amount that "0.9 GB" (bytes) or "60%" (of the baseline's peak) stands for.

    Raises:
        ConfigurationError: It is neither.
    """
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            return Amount(parse_share(value), SHARE)
        if isinstance(value, str):
            return Amount(float(parse_bytes(value)), BYTES)
    except ValueError:
        pass  # one message for every way of being wrong, below
    message = (
        f'a limit of the peak memory must be a size such as "0.9 GB" or a share such as "60%", got {value!r} '
        f"({origin.name})"
    )
    raise ConfigurationError(message)


def parse_regression_limit(value: object, origin: Origin) -> Amount:
    """Return the amount that 0.01 (nats per token), "1 pp" (fall of a score) or "5%" (memory or time) stands for.

    Raises:
        ConfigurationError: It is none of them, or below 0: what has not changed would fail.
    """
    points = _points(value)
    if points is not None and points >= 0:
        return Amount(points, POINTS)
    share = isinstance(value, str) and value.strip().endswith("%")
    try:
        if isinstance(value, float | int | str) and not isinstance(value, bool):
            number = float(value.strip().removesuffix("%")) / 100 if isinstance(value, str) and share else float(value)
            if 0 <= number < math.inf:
                return Amount(number, GROWTH if share else NATS_PER_TOKEN)
    except (ValueError, OverflowError):
        pass  # one message for every way of being wrong, below
    message = (
        f"a limit of the regression must be a number of at least 0 (nats per token of the loss gap), percentage points "
        f'such as "1 pp" (fall of a score), or a share such as "5%" (growth of memory or time), got {value!r} '
        f"({origin.name})"
    )
    raise ConfigurationError(message)
