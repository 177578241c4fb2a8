"""A setting that users can make: its names, how its text is read, and where its value came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from pytest_ftguard.errors import ConfigurationError

__all__ = ["ENVIRONMENT_PREFIX", "INI_PREFIX", "Key", "Origin", "Setting", "choice_of", "number_of", "text_of"]

ENVIRONMENT_PREFIX: Final = "FTGUARD_"
INI_PREFIX: Final = "ftguard_"


@dataclass(frozen=True)
class Origin:
    """Where a value was set.

    Attributes:
        kind: "argument", "marker", "command line", "environment" or "ini".
        name: The place itself, as messages show it.
        folder: Where a relative path begins that was written there.
    """

    kind: str
    name: str
    folder: Path = field(default=Path(), compare=False, repr=False)


class Setting(NamedTuple):
    """A value and where it was set."""

    value: Any
    origin: Origin


class Key(NamedTuple):
    """A setting that users can make.

    `parse` turns what was found, a text except in markers and TOML files, into the value; it raises
    ValueError or TypeError with the reason.
    """

    name: str
    parse: Callable[[Any, Origin], Any]
    help: str
    flag: bool = False

    @property
    def option(self) -> str:
        """The name of the option."""
        return f"--ftguard-{self.name.replace('_', '-')}"

    @property
    def ini(self) -> str:
        """The name of the ini key."""
        return f"{INI_PREFIX}{self.name}"

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return f"{ENVIRONMENT_PREFIX}{self.name.upper()}"

    def read(self, raw: Any, origin: Origin) -> Setting:
        """Return the setting that was found in a place.

        Raises:
            ConfigurationError: It is empty, or no value that is allowed.
        """
        if (isinstance(raw, str) and not raw.strip()) or raw in ([], {}):
            message = f"{self.name} is empty (set by {origin.name}): give a value, or remove it"
            raise ConfigurationError(message)
        try:
            return Setting(self.parse(raw, origin), origin)
        except ConfigurationError:
            raise
        except (TypeError, ValueError) as error:
            message = f"{self.name} is {raw!r} (set by {origin.name}): {error}"
            raise ConfigurationError(message) from None


def text_of(value: Any, origin: Origin) -> str:
    """Return a text."""
    if isinstance(value, bool) or not isinstance(value, str | int):  # a revision may be made of digits only
        raise TypeError("it must be a text in quotes")
    return str(value).strip()


def number_of(value: Any, origin: Origin) -> float:
    """Return a number."""
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass  # one message for every way of being wrong, below
    raise ValueError("it must be a number")


def choice_of(*choices: str) -> Callable[[Any, Origin], str]:
    """Return what reads one of several words; true and false stand for yes and no."""

    def parse(value: Any, origin: Origin) -> str:
        words = {True: "yes", False: "no", "true": "yes", "false": "no"} if "yes" in choices else {}
        text = words.get(value) or text_of(value, origin)
        if text not in choices:
            raise ValueError(f"it must be one of {', '.join(choices)}")
        return text

    return parse
