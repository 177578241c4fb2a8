"""What specs are made of: checked values, unchangeable mappings, and their one JSON text."""

from __future__ import annotations

import json
import operator
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, Final, Self

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.rows import Row

__all__ = [
    "FrozenOptions",
    "Spec",
    "canonical_json",
    "flag",
    "one_of",
    "plain",
    "positive",
    "readable_json",
    "text_value",
    "whole",
    "without_folders",
]

# A list of numbers that json.dumps has spread over lines; a line break inside of a string is escaped, so none matches.
_SPREAD_NUMBERS: Final = re.compile(r"\[\n\s*([^\[\]{}\"]*?)\n\s*\]")


class FrozenOptions(Mapping[str, Any]):
    """An unchangeable, hashable mapping of names to JSON values.

    Raises:
        ConfigurationError: A name is not a string, or a value cannot be written as strict JSON.
    """

    __slots__ = ("_json",)

    def __init__(self, values: Mapping[str, Any], owner: str) -> None:
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            message = f"{owner} must map names to values, got {values!r}"
            raise ConfigurationError(message)
        try:
            self._json = canonical_json(dict(values))
        except (TypeError, ValueError) as error:
            message = f"{owner} must hold values that can be written as JSON, got {dict(values)!r}: {error}"
            raise ConfigurationError(message) from error

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._json)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self._json))

    def __len__(self) -> int:
        return len(json.loads(self._json))

    def __hash__(self) -> int:
        return hash(self._json)

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return repr(dict(self))


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no white space, no NaN.

    Raises:
        TypeError: The value holds something that JSON has no word for.
        ValueError: The value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def readable_json(value: Any) -> str:
    """Return the JSON text of a value for people: indented, with each list of numbers on a line of its own.

    Raises:
        TypeError: The value holds something that JSON has no word for.
        ValueError: The value holds NaN or an infinity.
    """
    text = json.dumps(value, allow_nan=False, indent=2, ensure_ascii=False) + "\n"
    return _SPREAD_NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def whole(owner: str, value: Any, least: int) -> int:
    """Return a value as a whole number that is large enough, and of 64 bits, with which everything can be reckoned.

    Raises:
        ConfigurationError: It is not; the message names the owner and the value.
    """
    try:
        # operator.index takes numpy's integers too, and refuses 3.0 and "3".
        number = operator.index(value) if not isinstance(value, bool) else None
    except TypeError:
        number = None
    if number is None or not least <= number <= sys.maxsize:
        bound = f"at most {sys.maxsize}" if number is not None and number > least else f"at least {least}"
        message = f"{owner} must be a whole number of {bound}, got {value!r}"
        raise ConfigurationError(message)
    return number


def positive(owner: str, value: Any) -> float:
    """Return a value as a finite number above 0.

    Raises:
        ConfigurationError: It is not; the message names the owner and the value.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 < value <= sys.float_info.max):
        message = f"{owner} must be a finite number above 0, got {value!r}"
        raise ConfigurationError(message)
    return float(value)


def text_value(owner: str, value: Any) -> str:
    """Return a value, which may be a path, as a text that is not empty.

    Raises:
        ConfigurationError: It is not; the message names the owner and the value.
    """
    text = str(value) if hasattr(value, "__fspath__") else value
    if not isinstance(text, str) or not text.strip():
        message = f"{owner} must be a text that is not empty, got {value!r}"
        raise ConfigurationError(message)
    return text


def one_of(owner: str, value: Any, choices: Sequence[str]) -> str:
    """Return a value that is one of the choices.

    Raises:
        ConfigurationError: It is not; the message names the owner and the value.
    """
    if value not in choices:
        message = f"{owner} must be one of {', '.join(choices)}, got {value!r}"
        raise ConfigurationError(message)
    return str(value)


def flag(owner: str, value: Any) -> None:
    """Check that a value is True or False.

    Raises:
        ConfigurationError: It is not; the message names the owner and the value.
    """
    if not isinstance(value, bool):
        message = f"{owner} must be True or False, got {value!r}"
        raise ConfigurationError(message)


def plain(value: Any) -> Any:
    """Return a field's value as JSON holds it."""
    if isinstance(value, FrozenOptions):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def without_folders(value: Any) -> Any:
    """Return a setting without the folders of the machine that it was made on: of an absolute path only its name."""
    if isinstance(value, Mapping):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    paths = (PurePosixPath(value), PureWindowsPath(value))
    return next((path.name for path in paths if path.is_absolute() and path.name), value)


class Spec:
    """What every spec can do: be written as JSON, read back, and be told apart by its content.

    Attributes:
        rows: What each field decides; see `identity`, which holds the table.
    """

    __slots__ = ()
    rows: ClassVar[Mapping[str, Row]] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as values that JSON can hold; a field that came later is left out at its default."""
        values = {item.name: (getattr(self, item.name), item.default) for item in fields(self)}  # type: ignore[arg-type]
        later = {name for name, row in self.rows.items() if row.is_later}
        return {name: plain(one) for name, (one, default) in values.items() if name not in later or one != default}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote.

        Raises:
            ConfigurationError: A field is unknown, missing or invalid.
        """
        names = {item.name for item in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - names)
        if unknown:
            message = f"{cls.__name__} has no field {', '.join(map(repr, unknown))}; it has {', '.join(sorted(names))}"
            raise ConfigurationError(message)
        try:
            return cls(**values)
        except TypeError as error:
            message = f"{cls.__name__} cannot be made of {sorted(values)}: {error}"
            raise ConfigurationError(message) from error

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen; this runs in __post_init__ only
