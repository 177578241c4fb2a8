"""What was accepted of a pair of variants, last and first, and the file that holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.accepting.headline import headline
from pytest_ftguard.accepting.record import PairRecord
from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.specs import (
    readable_json,
)

__all__ = ["AcceptedFile", "History", "read_history", "write_history"]

_SCHEMA: Final = 1


@dataclass(frozen=True)
class History:
    """What was accepted of one pair of variants in one test.

    Attributes:
        test: pytest's name of the test, for the reader.
        accepted: What was accepted last.
        anchor: What was accepted first. It never moves, so that many small losses do not add up unseen.
    """

    test: str
    accepted: PairRecord
    anchor: PairRecord

    def accept(self, record: PairRecord) -> History:
        """Return the history after one more result was accepted."""
        return replace(self, accepted=record)


@dataclass(frozen=True)
class AcceptedFile:
    """The file that belongs to a pair of variants in a test.

    Attributes:
        place: Where it is, or would be.
        test: pytest's name of the test.
        history: What it holds; None if there is none.
        root: pytest's root folder, from which messages show the place.
    """

    place: Path
    test: str
    history: History | None
    root: Path | None = None

    def __str__(self) -> str:
        """Return the place as messages show it, which may be read on another machine."""
        is_inside = self.root is not None and self.place.is_relative_to(self.root)
        return repr(str(self.place.relative_to(self.root) if self.root and is_inside else self.place))


def write_history(history: History) -> str:
    """Return the text of a file of accepted results: first what a reviewer reads, and the numbers last."""
    moved = history.anchor != history.accepted
    content = {
        "test": history.test,
        "headline": headline(history.accepted, history.anchor),
        "schema": _SCHEMA,
        "accepted": history.accepted.to_dict(),
        "anchor": history.anchor.to_dict() if moved else None,  # None: the last is the first
    }
    return readable_json(content)


def read_history(text: str, place: Path) -> History:
    """Return the accepted results of a file; nothing in it is ever run.

    Args:
        text: What the file holds.
        place: The file, for messages.

    Raises:
        ConfigurationError: It is not a file of accepted results, is damaged, or has another schema.
    """
    remedy = (
        "restore it from version control, or delete it and accept again with --ftguard-update (the first accepted "
        "result is lost then)"
    )
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        schema = content["schema"]
        history = _history(content) if schema == _SCHEMA else None
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, FtguardError) as error:
        message = f"{str(place)!r} is not a file of accepted results ({type(error).__name__}: {error}): {remedy}"
        raise ConfigurationError(message) from None
    if history is None:
        message = (
            f"the accepted results in {str(place)!r} have schema {schema!r}, and this version of pytest-ftguard reads "
            f"{_SCHEMA}: use the version that wrote this file, or delete it and accept again with "
            "--ftguard-update (the first accepted result is lost then)"
        )
        raise ConfigurationError(message)
    return history


def _history(content: Mapping[str, Any]) -> History:
    accepted = PairRecord.from_dict(content["accepted"])
    anchor = accepted if content["anchor"] is None else PairRecord.from_dict(content["anchor"])
    return History(str(content["test"]), accepted, anchor)


def _refuse_constant(name: str) -> float:
    message = f"{name} is no number that JSON has"
    raise ValueError(message)
