"""The file of a test: how its name is made, and which test it says it belongs to."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final

__all__ = ["file_name", "file_number", "read_test"]

_LONGEST_NAME: Final = 120


def file_name(test: str, number: int) -> str:
    """Return the file name for the test's n-th pair of variants, counting from 1.

    It shows the test's name as far as a file's name can, and holds a digest of all of it.
    """
    digest = hashlib.sha256(test.encode()).hexdigest()[:8]
    shown = re.sub(r"[^A-Za-z0-9_.\[\]-]+", "-", test.replace("::", ".").replace(".py", ""))[-_LONGEST_NAME:].strip(
        "-."
    )
    return f"{shown}-{digest}{f'.{number}' if number > 1 else ''}.json"


def file_number(name: str) -> tuple[str, int]:
    """Return the name of the first file of a test, and the number of the pair, from the name of one of its files."""
    found = re.fullmatch(r"(.*)\.(\d+)\.json", name)
    return (f"{found[1]}.json", int(found[2])) if found else (name, 1)


def read_test(text: str) -> str | None:
    """Return the test that a file of accepted results belongs to; None for another file."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    test = content.get("test") if isinstance(content, dict) and {"schema", "accepted"} <= content.keys() else None
    return test if isinstance(test, str) else None
