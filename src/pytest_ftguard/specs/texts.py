"""What the path of a text may be in place of a file or a folder: a data set on the hub, or a function's rows."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pytest_ftguard.errors import ConfigurationError

__all__ = ["HubText", "hub_text", "is_function", "is_place"]

_HUB: Final = "hub:"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_FUNCTION: Final = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


class HubText(NamedTuple):
    """A split of a data set on the hub.

    Attributes:
        name: The data set.
        revision: Branch, tag or commit; None is the main branch.
        split: The split.
    """

    name: str
    revision: str | None
    split: str

    @property
    def is_fixed(self) -> bool:
        """Whether the revision is a commit, which always has the same content."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def hub_text(text: str) -> HubText | None:
    """Return what "hub:name[@revision]:split" names; None if a text is no such thing.

    Raises:
        ConfigurationError: It begins with "hub:", and a part is missing.
    """
    if not text.startswith(_HUB):
        return None
    match = re.fullmatch(r"([^@:\s]+)(?:@([^@:\s]+))?:([^:\s]+)", text.removeprefix(_HUB))
    if match is None:
        message = f'{text!r} is no data set on the hub: write "hub:name:split", or "hub:name@revision:split"'
        raise ConfigurationError(message)
    return HubText(match[1], match[2], match[3])


def is_function(text: str) -> bool:
    """Return whether a text names a function, "module:function"; a path that is taken from a folder never does."""
    return _FUNCTION.fullmatch(text) is not None and not text.startswith(_HUB)


def is_place(text: str) -> bool:
    """Return whether a text is the path of a file or a folder."""
    return not (text.startswith(_HUB) or is_function(text))
