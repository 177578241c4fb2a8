"""The one door between results and JSON, for worker, store, report and accepted files: types are checked by msgspec."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.specs.values import Spec

__all__ = ["from_plain", "from_plain_if_any", "to_plain"]

_Part = TypeVar("_Part")


def to_plain(part: Any) -> Any:
    """Return a dataclass, with all that it holds, as values that JSON can hold; None stays None."""
    import msgspec

    return msgspec.to_builtins(part, enc_hook=_encode)


def from_plain(values: Any, kind: type[_Part], hook: Callable[[Any, Any], Any] | None = None) -> _Part:
    """Return the dataclass that `to_plain` wrote. Numbers may be NaN or infinite.

    Args:
        values: What was read.
        kind: The dataclass. What lacks one of its fields takes the field's default, if it has one.
        hook: Reads what is of another type than JSON's and dataclasses: takes the type and the values.

    Raises:
        FtguardError: A value is missing, unknown or of another type, a number is beyond what a float holds, or a part
            says of itself that it has a `problem`; the message says which.
    """
    import msgspec

    try:
        part = msgspec.convert(values, kind, dec_hook=hook)
    except msgspec.ValidationError as error:
        message = f"{kind.__name__}: {error}"
        raise FtguardError(message) from None
    _check(values, part, kind.__name__)
    return part


def from_plain_if_any(values: Any, kind: type[_Part]) -> _Part | None:
    """Return the dataclass that `to_plain` wrote; None if it was None.

    Raises:
        FtguardError: See `from_plain`.
    """
    return None if values is None else from_plain(values, kind)


def _encode(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    message = f"{type(value).__name__} has no place in a result"
    raise NotImplementedError(message)


def _check(values: Any, part: Any, where: str) -> None:
    """Refuse what msgspec does not: unknown fields, whole numbers of any size, and a part that has a `problem`."""
    if isinstance(part, Spec):
        return  # specs check themselves
    if is_dataclass(part) and isinstance(values, Mapping):
        if problem := getattr(part, "problem", None):
            raise FtguardError(problem)
        names = {item.name for item in fields(part)}
        if unknown := sorted(set(values) - names):
            message = f"{where} has no field {unknown[0]!r}"
            raise FtguardError(message)
        for name in names & set(values):
            _check(values[name], getattr(part, name), f"{where}.{name}")
    elif isinstance(part, tuple) and isinstance(values, list | tuple):
        if not set(map(type, part)) <= {float, str}:  # nearly all there is to read is long rows of floats
            for value, one in zip(values, part, strict=True):
                _check(value, one, where)
    elif isinstance(part, Mapping) and isinstance(values, Mapping):
        for name, one in part.items():
            _check(values[name], one, f"{where}.{name}")
    elif isinstance(part, int) and abs(part) > sys.float_info.max:
        message = f"{where} cannot be {part!r:.80}"
        raise FtguardError(message)
