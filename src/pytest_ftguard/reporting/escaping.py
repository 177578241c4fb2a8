r"""Any text as GitHub's Markdown that shows it letter by letter.

Two things would change it. Marks of Markdown and HTML are escaped. GitHub then looks for mentions, issues, commits,
addresses and formulas in the text that is left, escaped or not, but never in code: words with such are shown as code.
"""

from __future__ import annotations

import re
from typing import Final

from pytest_ftguard.reporting.visible import visible

__all__ = ["LONG", "as_code", "as_text"]

# Longer than any name or sentence that people read; the JSON report has the rest.
_SHORT: Final = 600
LONG: Final = 4000
_LINKED: Final = re.compile(
    r"""@              # a mention, or an address of e-mail
    | \#\w | GH-\d     # an issue
    | :// | www\.      # an address
    | [0-9a-f]{7}      # a commit
    | \$               # a formula
    | :[\w+-]+:        # an emoji's name""",
    re.IGNORECASE | re.VERBOSE,
)
_MARKS: Final = re.compile(r"[\\`*_{}\[\]#~&]")
# They begin a list, a quotation, a rule or a heading, at the beginning of a line only.
_AT_THE_START: Final = re.compile(r"^(\d{1,9})(?=[.)])|^(?=[-+=:])")


def as_text(text: str, most: int = _SHORT) -> str:
    """Return a text for a sentence, a heading or a cell of a table; words that GitHub would link become code.

    Args:
        text: Any text.
        most: How many characters are shown; the middle of a longer text is left out.
    """
    words = [as_code(word) if _LINKED.search(word) else _escaped(word) for word in _shortened(text, most).split(" ")]
    return _AT_THE_START.sub(lambda found: f"{found[1] or ''}\\", " ".join(words).strip())


def _escaped(word: str) -> str:
    marked = _MARKS.sub(lambda found: f"\\{found[0]}", word)
    return marked.replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")


def as_code(text: str) -> str:
    """Return a text as code, for a sentence, a heading or a cell of a table.

    In a cell no backslash protects a bar that follows a backslash, so each bar stands between two pieces of code.
    """
    return "&#124;".join(_fenced(piece) if piece else "" for piece in _shortened(text, _SHORT).split("|"))


def _fenced(piece: str) -> str:
    fence = "`" * (max(map(len, re.findall("`+", piece)), default=0) + 1)
    # Markdown takes one blank away at both ends if there is one at both.
    is_padded = piece[0] in "` " or piece[-1] in "` "
    padding = " " if is_padded and piece.strip() else ""
    return f"{fence}{padding}{piece}{padding}{fence}"


def _shortened(text: str, most: int) -> str:
    shown = visible(text)
    if len(shown) <= most:
        return shown
    half = (most - 5) // 2
    return f"{shown[:half]} ... {shown[-half:]}"
