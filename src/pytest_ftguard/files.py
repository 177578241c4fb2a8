"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["name_problem", "write_all", "write_whole"]


def name_problem(path: str) -> str | None:
    """Return why this Python cannot use a name in files, logs and reports alike, and what to do; None if it can."""
    try:
        os.fsencode(path)
        path.encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        if encoding == "utf-8":
            return "the name is not valid UTF-8: rename the file or its folder"
        return f"this Python reads file names as {encoding}: set the environment variable PYTHONUTF8=1, or rename it"
    return None


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole, even if others write it too or the machine stops; its folder is made.

    Raises:
        OSError: It cannot be written; what was there before stays.
    """
    write_all({path: text})


def write_all(texts: Mapping[Path, str]) -> None:
    """Write files that belong together, each as `write_whole` does, and replace none before all are on the disk.

    What UTF-8 cannot encode, such as a part of a file's name, is written as an escape, which JSON reads.

    Args:
        texts: What each of them is to hold.

    Raises:
        OSError: One cannot be written. What was there before stays, except if a file that is on the disk already
            cannot be given its name: then those before it have their new content.
    """
    drafts: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            drafts[path] = path.with_name(f".{path.name[:32]}-{uuid.uuid4().hex}.draft")
            with drafts[path].open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path, draft in drafts.items():
            draft.replace(path)
    except BaseException:
        for draft in drafts.values():
            with suppress(OSError):
                draft.unlink()
        raise
