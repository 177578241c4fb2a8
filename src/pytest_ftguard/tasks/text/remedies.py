"""How a file that is not read becomes one that is: commands that a user can copy into a shell, whatever its name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Final

__all__ = ["converted_from", "remedy"]

# What unpacks each kind of file, and how the names of such files end.
_UNPACKERS: Final[Mapping[str, tuple[str, str]]] = {
    "gzip": ("gzip -dc", ".gz"),
    "bzip2": ("bzip2 -dc", ".bz2"),
    "xz": ("xz -dc", ".xz"),
    "zstd": ("zstd -dc", ".zst"),
}
_PANDAS: Final = 'import pandas; pandas.read_{kind}({name}).to_json({made}, orient="records", lines=True)'
_DATASETS: Final = "import datasets; datasets.Dataset.from_file({name}).to_json({made})"
_CODE: Final[Mapping[str, str]] = {"parquet": _PANDAS, "feather": _PANDAS, "excel": _PANDAS, "arrow": _DATASETS}
_BY_HAND: Final[Mapping[str, str]] = {
    "zip": "unpack it, and give the text that is in it",
    "markup": "extract its text; to train on the markup itself, rename it to end in .txt",
}


def remedy(kind: str, path: str) -> str:
    """Return how a file of a kind is made one that is read.

    Args:
        kind: What it is, such as "gzip", "parquet" or "pdf".
        path: The file.
    """
    if kind in _UNPACKERS:
        command, suffix = _UNPACKERS[kind]
        is_usual = Path(path).suffix.lower() == suffix
        # Unpackers refuse a file of another name, but not what is handed to them.
        made = str(Path(path).with_suffix("")) if is_usual else _renamed(path, "-unpacked")
        return f"unpack it: {command} < {quote(path)} > {quote(made)}"
    if kind in _CODE:
        made = _renamed(path, "-converted" if Path(path).suffix.lower() == ".jsonl" else "", ".jsonl")
        code = _CODE[kind].format(kind=kind, name=json.dumps(path), made=json.dumps(made))
        return f"convert it: python -c {quote(code)}, with the text in a column named text"
    if kind == "pdf":
        return f"convert it: pdftotext {quote(path)} {quote(_renamed(path, '', '.txt'))}"
    return _BY_HAND[kind]


def converted_from(encoding: str, path: str) -> str:
    """Return the command that converts a text to UTF-8.

    Args:
        encoding: The encoding that it has.
        path: The file.
    """
    return f"iconv -f {encoding} -t UTF-8 {quote(path)} > {quote(_renamed(path, '-utf8'))}"


def _renamed(path: str, word: str, suffix: str | None = None) -> str:
    return f"{Path(path).with_suffix('')}{word}{Path(path).suffix if suffix is None else suffix}"
