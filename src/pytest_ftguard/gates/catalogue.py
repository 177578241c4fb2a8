"""Every gate and its settings: option, ini key, marker keyword, title and public name follow from a row here.

A package adds a gate of its own with `add_gate`, called when one of its modules is imported. `ftguard_gates` names that
module, so that the keys are known when settings are read; docs/how-to/write-a-gate.md is the recipe.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.limits import (
    NATS_PER_TOKEN,
    OF_GAIN,
    PERPLEXITY,
    SHARE,
    Amount,
    parse_least_score,
    parse_memory_limit,
    parse_number_limit,
    parse_points_limit,
    parse_regression_limit,
    parse_score_limit,
    parse_share_limit,
)
from pytest_ftguard.gates.setting import Key, Origin, Setting, choice_of, number_of

__all__ = [
    "GATES",
    "MARKER_KEYS",
    "GateRow",
    "Key",
    "add_gate",
    "added_keys",
    "argument_of",
    "argument_setting",
    "number_limit",
    "row_of",
    "share_limit",
    "title_of",
]


@dataclass(frozen=True)
class GateRow:
    """A gate.

    Attributes:
        name: What JSON calls it.
        title: What people read.
        limit: The key of its limit. "min_" begins the name of a smallest accepted value, "max_" that of a largest.
        helper: The public function that a test calls, and the module that it lives in: one of ours without the name of
            the package, one of yours with it.
        falls: Whether a "max_" limit is the largest accepted fall of what should be high. Its amount is then below 0,
            and the value must be at least that: a gap of -1.2 points is within a limit of 2 points.
    """

    name: str
    title: str
    limit: Key
    helper: tuple[str, str]
    falls: bool = False

    @property
    def is_at_least(self) -> bool:
        """Whether the limit is the smallest accepted value."""
        return self.falls or self.limit.name.startswith("min_")


def number_limit(what: str, unit: str) -> Callable[[Any, Origin], Amount]:
    """Return what reads a limit that is a number.

    Args:
        what: What is limited, as its error message calls it.
        unit: The unit of the number, for example "nats per token".
    """
    return lambda value, origin: parse_number_limit(value, what, unit, origin)


def share_limit(what: str, unit: str) -> Callable[[Any, Origin], Amount]:
    """Return what reads a limit that is a percentage: "80%" is 0.8.

    Args:
        what: What is limited, as its error message calls it.
        unit: What it is a share of: "of baseline" or "of the gain" (`gates.limits` has names for them).
    """
    return lambda value, origin: parse_share_limit(value, what, unit, origin)


def _memory(value: Any, origin: Origin) -> Amount:
    return parse_memory_limit(value, origin)


def _accuracy(value: Any, origin: Origin) -> Amount:
    return parse_points_limit(value, "accuracy gap", origin)


def _score_gap(value: Any, origin: Origin) -> Amount:
    return parse_score_limit(value, origin)


def _score(value: Any, origin: Origin) -> Amount:
    return parse_least_score(value, origin)


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
        Key("max_loss_gap", number_limit("loss gap", NATS_PER_TOKEN), "largest accepted loss gap, in nats per token"),
        ("assert_loss_gap", "gates.quality"),
    ),
    GateRow(
        "perplexity_gap",
        "perplexity gap",
        Key(
            "max_perplexity_gap",
            number_limit("perplexity gap", PERPLEXITY),
            "largest accepted perplexity gap, in points",
        ),
        ("assert_perplexity_gap", "gates.quality"),
    ),
    GateRow(
        "retention",
        "retention",
        Key(
            "min_retention",
            share_limit("retention", OF_GAIN),
            "least share of full's gain that LoRA must retain: '90%%'",
        ),
        ("assert_retention", "gates.quality"),
    ),
    GateRow(
        "accuracy_gap",
        "accuracy gap",
        Key("max_accuracy_gap", _accuracy, "largest accepted fall of the accuracy: '2 pp' (percentage points)"),
        ("assert_accuracy_gap", "gates.scores"),
        falls=True,
    ),
    GateRow(
        "score_gap",
        "score gap",
        Key("max_score_gap", _score_gap, "largest accepted fall of a score, in its own unit: 0.02, or '2 pp'"),
        ("assert_score_gap", "gates.scores"),
        falls=True,
    ),
    GateRow(
        "score",
        "score",
        Key("min_score", _score, "smallest accepted score, in its own unit: 0.8, or '80%%'"),
        ("assert_score", "gates.scores"),
    ),
    GateRow(
        "forgetting",
        "forgetting",
        Key(
            "max_forgetting",
            number_limit("forgetting", NATS_PER_TOKEN),
            "largest accepted growth of the loss on the reference text, in nats per token",
        ),
        ("assert_forgetting", "gates.forgetting"),
    ),
    GateRow(
        "merge_drift",
        "merge drift",
        Key(
            "max_merge_drift",
            number_limit("merge drift", NATS_PER_TOKEN),
            "largest accepted growth of the loss by saving, merging and reloading, in nats per token",
        ),
        ("assert_merge_drift", "gates.merge_drift"),
    ),
    GateRow(
        "convergence",
        "convergence",
        Key(
            "max_improvement",
            number_limit("convergence", NATS_PER_TOKEN),
            "largest accepted gain that twice the steps would still bring, in nats per token",
        ),
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
        Key(
            "max_time",
            share_limit("step time", SHARE),
            "largest accepted step time, as a share of the baseline's: '80%%'",
        ),
        ("assert_time_budget", "gates.timed_pair"),
    ),
    GateRow(
        "regression",
        "regression",
        Key(
            "max_regression",
            _regression,
            "largest growth over the accepted result: 0.01 nats per token, '1 pp' of accuracy, '5%%' of memory or time",
        ),
        ("assert_no_regression", "accepting.helper"),
    ),
)
_gates: Final = {row.name: row for row in _ROWS}
GATES: Final[Mapping[str, GateRow]] = MappingProxyType(_gates)
"""Every gate by name: ours, and those that were added since."""

_RULES: Final = (
    Key("confidence", _confidence, "confidence of each one-sided bound (0.95)"),
    Key("gain_factor", _gain_factor, "least gain of full over the base model, as a multiple of the limit (3)"),
    Key("on_inconclusive", choice_of("fail", "warn"), "fail or warn if a verdict is INCONCLUSIVE (fail)"),
    Key("on_missing", choice_of("fail", "warn"), "fail or warn if there is no accepted result (fail)"),
)
"""Settings of more than one gate."""

_limits: Final = {row.limit.name: row.limit for row in _ROWS}
MARKER_KEYS: Final = ChainMap({key.name: key for key in _RULES}, _limits)
"""What a marker can set, and a helper's argument: the limits, also those that were added since, and then the rules."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


def add_gate(row: GateRow) -> None:
    """Make a gate of your own known: its option, ini key, environment variable, marker keyword and title.

    Call it when your module is imported, and name that module in the ini key `ftguard_gates`. If the module is imported
    again, the row of the same gate and helper is replaced.

    Args:
        row: The gate. Its limit is read by `number_limit(...)`, `share_limit(...)`, or a function of yours that returns
            an `Amount`.

    Raises:
        ConfigurationError: Something in the row is wrong, or is taken by another gate.
    """
    if not (isinstance(row, GateRow) and isinstance(row.limit, Key)):
        message = f"add_gate takes a GateRow(name, title, Key(...), (helper, module)), got {row!r}"
        raise ConfigurationError(message)
    problem = next(_problems(row), None)
    if problem is not None:
        message = f"the gate {row.name!r} of {'.'.join(row.helper[::-1])} cannot be added: {problem}"
        raise ConfigurationError(message)
    if row.name in _gates:
        del _limits[_gates[row.name].limit.name]
    _gates[row.name] = row
    _limits[row.limit.name] = row.limit


def _problems(row: GateRow) -> Iterator[str]:
    key = row.limit
    for what, name in (("name of a gate", row.name), ("name of a key", key.name)):
        if not _NAME.fullmatch(name):
            yield f"the {what} must be made of lower-case letters, digits and underscores, got {name!r}"
    if not key.name.startswith(("max_", "min_")):
        yield (
            f"the key of its limit is {key.name!r}, which must begin with max_ (the limit is the largest accepted "
            "value) or min_ (the smallest)"
        )
    if not (row.title.strip() and row.title.isprintable()):
        yield f"its title must be a line of text, got {row.title!r}"
    if "%" in key.help.replace("%%", ""):
        yield f"the help of its key must have %% where % is meant, got {key.help!r}"
    if key.flag:
        yield f"its key {key.name} is a flag, and a limit has a value"
    for other in _gates.values():
        owner = f"the gate {other.name!r} of {'.'.join(other.helper[::-1])}"
        if (other.name, other.helper) == (row.name, row.helper) and other not in _ROWS:
            continue  # its module was imported again
        if other.name == row.name:
            yield f"there is {owner} already"
        if other.limit.name == key.name:
            yield f"the key {key.name} (option {key.option}) belongs to {owner}"
        if other.title == row.title:
            yield f"the title {row.title!r} belongs to {owner}"


def added_keys() -> tuple[Key, ...]:
    """Return the keys of the gates that were added."""
    return tuple(row.limit for row in _gates.values() if row not in _ROWS)


def row_of(gate: str) -> GateRow:
    """Return the row of a gate.

    Raises:
        ConfigurationError: There is no such gate.
    """
    if gate not in _gates:
        message = f"there is no gate {gate!r}: call add_gate(...) first; known are {', '.join(_gates)}"
        raise ConfigurationError(message)
    return _gates[gate]


def title_of(gate: str) -> str:
    """Return what people call a gate; one that is not known here, as in a report from elsewhere, has its name only."""
    return _gates[gate].title if gate in _gates else gate


def argument_of(name: str) -> str:
    """Return the name of the helpers' argument for a key."""
    return "at_most" if name.startswith("max_") else "at_least" if name.startswith("min_") else name


def argument_setting(name: str, value: Any) -> Setting:
    """Return a value that was passed to an assertion helper.

    Raises:
        ConfigurationError: The value is wrong.
    """
    return MARKER_KEYS[name].read(value, Origin("argument", f"the argument {argument_of(name)}"))
