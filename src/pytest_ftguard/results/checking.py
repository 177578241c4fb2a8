"""Whether what was read from a file is of the types that its fields are annotated with."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pytest_ftguard.errors import FtguardError

__all__ = ["checked"]

_Part = TypeVar("_Part", bound=Hashable)


@cache  # for each point of a curve they would take longer than all else of a look-up
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def checked(part: _Part) -> _Part:
    """Return a dataclass whose fields hold what they are annotated with; dataclasses in it are not looked into.

    Whole numbers count as floats, and none may be beyond what a float holds. NaN and infinities are floats.

    Raises:
        FtguardError: A field holds something else; the message names it and its value.
    """
    for name, kind in _hints(type(part)).items():
        value = getattr(part, name)
        if not _fits(value, kind):
            message = f"{type(part).__name__}.{name} cannot be {value!r:.80}"
            raise FtguardError(message)
    return part


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        # Nearly all there is to read is long rows of floats.
        are_floats = arguments[0] is float and set(map(type, value)) == {float}
        return isinstance(value, tuple) and (are_floats or all(_fits(one, arguments[0]) for one in value))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(one, arguments[1]) for one in value.values())
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        return whole or (kind is float and isinstance(value, float))
    return isinstance(value, kind)
