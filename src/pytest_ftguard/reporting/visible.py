"""Text as one line in which nothing is hidden."""

from __future__ import annotations

from typing import Final

__all__ = ["visible"]

# It joins emoji to one; alone it is seen as nothing, and does nothing.
_JOINER: Final = "\u200d"


def visible(text: str) -> str:
    r"""Return a text with every control character, line break and lone surrogate as its escape, such as \x1b or \n.

    Marks that turn the direction of a text around, and blanks that are no space, are shown so too: they make a name
    look like another one.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == _JOINER else char.encode("unicode_escape").decode() for char in text
    )
