"""Every gate and what it can be told: option, ini key, marker keyword, title and public name follow from a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_ftguard.gates.limits import (
    NATS_PER_TOKEN,
    OF_GAIN,
    PERPLEXITY,
    SHARE,
    Amount,
    parse_memory_limit,
    parse_number_limit,
    parse_regression_limit,
    parse_share_limit,
)
from pytest_ftguard.keys import Key, Origin, Setting, choice_of, number_of

__all__ = ["GATES", "MARKER_KEYS", "GateRow", "argument_of", "argument_setting"]


@dataclass(frozen=True)
class GateRow:
    """A gate.

    Attributes:
        name: What JSON calls it.
        title: What people read.
        limit: The key of its limit. "min_" begins the name of a smallest accepted value, "max_" that of a largest.
        helper: The public function that a test calls, and the module that it lives in.
    """

    name: str
    title: str
    limit: Key
    helper: tuple[str, str]

    @property
    def is_at_least(self) -> bool:
        """Whether the limit is the smallest accepted value."""
        return self.limit.name.startswith("min_")


def _number(what: str, unit: str) -> Callable[[Any, Origin], Amount]:
    return lambda value, origin: parse_number_limit(value, what, unit, origin)


def _share(what: str, unit: str) -> Callable[[Any, Origin], Amount]:
    return lambda value, origin: parse_share_limit(value, what, unit, origin)


def _memory(value: Any, origin: Origin) -> Amount:
    return parse_memory_limit(value, origin)


def _regression(value: Any, origin: Origin) -> Amount:
    return parse_regression_limit(value, origin)


def _confidence(value: Any, origin: Origin) -> float:
    number = number_of(value, origin)
    if not 0.5 < number < 1:
        raise ValueError("it must lie between 0.5 and 1, for example 0.95")
    return number


def _gain_factor(value: Any, origin: Origin) -> float:
    number = number_of(value, origin)
    if not 0 <= number < float("inf"):
        raise ValueError("it must be a number of at least 0, for example 3")
    return number


_ROWS: Final = (
    GateRow(
        "loss_gap",
        "loss gap",
        Key("max_loss_gap", _number("loss gap", NATS_PER_TOKEN), "largest accepted loss gap, in nats per token"),
        ("assert_loss_gap", "gates.quality"),
    ),
    GateRow(
        "perplexity_gap",
        "perplexity gap",
        Key("max_perplexity_gap", _number("perplexity gap", PERPLEXITY), "largest accepted perplexity gap"),
        ("assert_perplexity_gap", "gates.quality"),
    ),
    GateRow(
        "retention",
        "retention",
        Key("min_retention", _share("retention", OF_GAIN), "smallest accepted share of full's gain: '90%%'"),
        ("assert_retention", "gates.quality"),
    ),
    GateRow(
        "forgetting",
        "forgetting",
        Key("max_forgetting", _number("forgetting", NATS_PER_TOKEN), "largest growth of the reference loss"),
        ("assert_forgetting", "gates.forgetting"),
    ),
    GateRow(
        "convergence",
        "convergence",
        Key("max_improvement", _number("convergence", NATS_PER_TOKEN), "what doubling the steps may still gain"),
        ("assert_converged", "gates.convergence"),
    ),
    GateRow(
        "memory_budget",
        "peak memory",
        Key("max_memory", _memory, "largest accepted peak memory: '0.9 GB', or '60%%' of the baseline's"),
        ("assert_memory_budget", "gates.memory"),
    ),
    GateRow(
        "time_budget",
        "step time",
        Key("max_time", _share("step time", SHARE), "largest share of the baseline's step time: '80%%'"),
        ("assert_time_budget", "gates.timed_pair"),
    ),
    GateRow(
        "regression",
        "regression",
        Key("max_regression", _regression, "growth since accepted: 0.01 nats per token, or '5%%' of memory or time"),
        ("assert_no_regression", "accepting.helper"),
    ),
)
GATES: Final[Mapping[str, GateRow]] = {row.name: row for row in _ROWS}

_RULES: Final = (
    Key("confidence", _confidence, "one-sided confidence of each bound (0.95)"),
    Key("gain_factor", _gain_factor, "margins that full fine-tuning must gain over the base model (3)"),
    Key("on_inconclusive", choice_of("fail", "warn"), "what an INCONCLUSIVE verdict does: fail or warn"),
    Key("on_missing", choice_of("fail", "warn"), "what a missing accepted result does: fail or warn"),
)
"""What can be told to more than one gate."""

MARKER_KEYS: Final[Mapping[str, Key]] = {key.name: key for key in (*(row.limit for row in _ROWS), *_RULES)}
"""What a marker can set, and a helper's argument."""


def argument_of(name: str) -> str:
    """Return the name of the helpers' argument for a key."""
    return "at_most" if name.startswith("max_") else "at_least" if name.startswith("min_") else name


def argument_setting(name: str, value: Any) -> Setting:
    """Return a value that was passed to an assertion helper.

    Raises:
        ConfigurationError: The value is wrong.
    """
    return MARKER_KEYS[name].read(value, Origin("argument", f"the argument {argument_of(name)}"))
