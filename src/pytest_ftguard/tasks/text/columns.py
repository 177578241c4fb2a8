"""Rows with a column named text become documents."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.texts import is_place
from pytest_ftguard.tasks.rows import read_rows
from pytest_ftguard.tasks.text.files import Text

__all__ = ["is_rows", "text_of_rows"]

_LONG: Final = 200


def is_rows(path: str) -> bool:
    """Return whether a path leads to rows only: a folder, a data set on the hub, or a function."""
    return not is_place(path) or Path(path).is_dir()


def text_of_rows(path: str, role: str) -> Text:
    """Return the column text of rows, each of which is a document.

    Args:
        path: A folder that `save_to_disk` has written, "hub:name[@revision]:split", or "module:function".
        role: "training", "validation" or "reference", for messages.

    Raises:
        ConfigurationError: They cannot be read, or have no such column.
    """
    rows = read_rows(path, role)
    if "text" not in rows.columns:
        message = (
            f"{rows.name} has no column named text: its columns are {', '.join(map(repr, rows.columns))[:_LONG]}; for "
            "conversations, or prompts with completions, set ftguard_task = chat"
        )
        raise ConfigurationError(message)
    for number, row in enumerate(rows.rows, start=1):
        if not isinstance(row.get("text"), str):
            message = f"row {number} of {rows.name} has {row.get('text')!r:.60} in its column text: it must be a text"
            raise ConfigurationError(message)
    documents = tuple(row["text"] for row in rows.rows)
    if not any(document.strip() for document in documents):
        message = f"{rows.name} is empty: give a text with at least one block of tokens"
        raise ConfigurationError(message)
    return Text(path, role, documents, is_stream=False)
