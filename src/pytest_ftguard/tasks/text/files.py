"""Text files, JSON lines, JSON arrays and tables become documents; what is no text is refused."""

from __future__ import annotations

import codecs
import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.text.remedies import converted_from, remedy

__all__ = ["Text", "read_text"]

_JSON: Final = (".json", ".jsonl", ".ndjson")
_TABLES: Final[Mapping[str, str]] = {".csv": ",", ".tsv": "\t"}
# Longer marks first: that of UTF-16 is the beginning of that of UTF-32.
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# How each kind of file that is not read begins.
_SIGNATURES: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "feather"),  # only their name tells files of Arrow's other format, a stream
    (b"FEA1", "feather"),
    (b"%PDF", "pdf"),
    (b"PK\x03\x04", "zip"),
)
_REFUSED_SUFFIXES: Final[Mapping[str, str]] = {
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "feather",
    ".pdf": "pdf",
    ".zip": "zip",
    ".xlsx": "excel",
    ".xls": "excel",
    ".xml": "markup",
    ".html": "markup",
    ".htm": "markup",
    ".yaml": "markup",
    ".yml": "markup",
}
_AS_DOCUMENTS: Final = 'write each document in a line of its own, as {"text": "..."}, and name the file .jsonl'
_CHAT_COLUMNS: Final = frozenset({"messages", "conversations", "prompt", "completion"})
_OF_CHAT: Final = "these are conversations, or prompts with completions: set ftguard_task = chat to train on them"
# So many lines show whether a file is made of JSON objects or of rows.
_SAMPLE_LINES: Final = 20
# So many rows after a header with spaces show that it is one.
_ROWS_OF_A_LOOSE_TABLE: Final = 8
_COLUMN_NAME: Final = re.compile(r"[\w.-]{1,30}( [\w.-]{1,30})?")


@dataclass(frozen=True)
class Text:
    """What a file holds.

    Attributes:
        path: The file.
        role: "training", "validation" or "reference", for messages.
        documents: Its documents; one if it is a plain text.
        is_stream: Whether it is a plain text, which may be cut anywhere.
    """

    path: str
    role: str
    documents: tuple[str, ...]
    is_stream: bool

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the {self.role} text {self.path!r}"

    @property
    def size(self) -> int:
        """Its length in bytes of UTF-8."""
        return sum(len(document.encode()) for document in self.documents)


def read_text(path: str, role: str) -> Text:
    """Return the documents of a file: its name and its content both say what kind of file it is.

    Args:
        path: A plain text, JSON lines or a JSON array of objects with a `text` field, or a table (.csv, .tsv) with a
            `text` column; in UTF-8, or with a byte order mark.
        role: "training", "validation" or "reference", for messages.

    Raises:
        ConfigurationError: The file cannot be read, or holds something else; the message says how to convert it.
    """
    name = f"the {role} text {path!r}"
    suffix = Path(path).suffix.lower()
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        message = f"{name} cannot be read: {error.strerror or error}; give a file that exists"
        raise ConfigurationError(message) from error
    text = _decoded(content, path, name)
    if suffix in _JSON:
        documents = tuple(_json_documents(text, name))
    elif suffix in _TABLES:
        documents = tuple(_table_documents(text, name, _TABLES[suffix]))
    else:
        _refuse_structure(text, name)
        documents = (text,)
    if not any(document.strip() for document in documents):
        message = f"{name} is empty: give a text with at least one block of tokens"
        raise ConfigurationError(message)
    return Text(path, role, documents, is_stream=suffix not in _JSON and suffix not in _TABLES)


def _decoded(content: bytes, path: str, name: str) -> str:
    kind = next((kind for signature, kind in _SIGNATURES if content.startswith(signature)), None)
    if kind in (None, "zip"):  # a workbook is a zip too
        kind = _REFUSED_SUFFIXES.get(Path(path).suffix.lower(), kind)
    if kind is not None:
        message = f"{name} is a {kind} file, which cannot be read here: {remedy(kind, path)}"
        raise ConfigurationError(message)
    mark, encoding = next((pair for pair in _BYTE_ORDER_MARKS if content.startswith(pair[0])), (b"", "utf-8"))
    command = converted_from("UTF-16LE", path)
    zeros = f"{name} has zero bytes, so it is no text in UTF-8; if it is UTF-16, convert it: {command}"
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if not mark and b"\0" in content:  # no encoding of one byte a character has them
            raise ConfigurationError(zeros) from error
        if mark:
            message = f"{name} begins as {encoding.upper()} and is damaged or cut off: save it again, in UTF-8"
            raise ConfigurationError(message) from error
        message = (
            f"{name} is not {encoding.upper()}: {error.reason} at byte {error.start}; convert it from its own "
            f"encoding, such as: {converted_from('LATIN1', path)}"
        )
        raise ConfigurationError(message) from error
    if "\0" in text:
        raise ConfigurationError(zeros)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _json_documents(text: str, name: str) -> Iterator[str]:
    if text.lstrip()[:1] == "[" and isinstance(whole := _json(text), list):
        for number, item in enumerate(whole, start=1):
            yield _text_of(item, name, f"item {number}")
        return
    # Not str.splitlines: it also splits at separators that JSON strings may hold unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "a number in it is too long, or it is nested too deep")
            message = f"{name} is not JSON at line {number}: {reason}; each line must be one object"
            if isinstance(_json(text), dict):
                message = f"{name} is one JSON object and no list of documents: {_AS_DOCUMENTS}"
            raise ConfigurationError(message) from error
        yield _text_of(document, name, f"line {number}")


def _text_of(document: Any, name: str, place: str) -> str:
    if not isinstance(document, dict) or not isinstance(document.get("text"), str):
        held = f"its fields are {', '.join(map(repr, document))}" if isinstance(document, dict) else "it is no object"
        remedy = _OF_CHAT if isinstance(document, dict) and _CHAT_COLUMNS & document.keys() else _AS_DOCUMENTS
        message = f"{name} has no string named 'text' at {place}: {held[:200]}; {remedy}"
        raise ConfigurationError(message)
    return _whole_characters(document["text"], name, place)


def _whole_characters(document: str, name: str, place: str) -> str:
    """Return a document, unless it has half of a character (a lone surrogate), which no tokenizer takes."""
    try:
        document.encode()
    except UnicodeEncodeError as error:
        message = f"{name} has half a character at {place}, a lone surrogate at position {error.start}: remove it"
        raise ConfigurationError(message) from error
    return document


def _table_documents(text: str, name: str, delimiter: str) -> Iterator[str]:
    if delimiter == ",":
        first_line = text.lstrip("\n").partition("\n")[0]
        delimiter = max(",;\t", key=first_line.count)
    limit = csv.field_size_limit(sys.maxsize)  # the limit is the process's, and a document may be long
    table = _Table(text, delimiter)
    try:
        rows = list(table)
    except csv.Error as error:
        message = f"{name} cannot be read as a table: {error} at {table.place}; {_AS_DOCUMENTS}"
        raise ConfigurationError(message) from error
    finally:
        csv.field_size_limit(limit)
    head, *rows = rows or [_Row((), (), 1)]
    columns = [column.strip().lower() for column in head.fields]
    if "text" not in columns:
        message = f"{name} has no column named 'text': its first line names {', '.join(map(repr, columns))[:200]}"
        remedy = _OF_CHAT if _CHAT_COLUMNS & set(columns) else "rename the column that holds the documents to text"
        raise ConfigurationError(f"{message}; {remedy}")
    column = columns.index("text")
    for row in rows:
        if len(row.fields) != len(columns):  # a comma outside of quotes would silently cut the document
            message = (
                f"{name} has {len(row.fields)} columns at {row.place}, and its first line names {len(columns)}: "
                "put texts that hold the separator into quotes"
            )
            raise ConfigurationError(message)
    if (joined := _joined_by_a_stray_quote(rows, column, delimiter)) is not None:
        message = (
            f"{name} has a quotation mark at line {joined.first} that seems to be part of the text: as a table, it "
            f"joins {joined.place} into one field. Put each text with a quotation mark into quotes and double those in "
            f"it, as a csv writer does, or {_AS_DOCUMENTS}"
        )
        raise ConfigurationError(message)
    for row in rows:
        yield row.fields[column]


@dataclass(frozen=True)
class _Row:
    """A row of a table.

    Attributes:
        fields: Its fields, without their quotes.
        lines: The lines of the file that it goes over.
        first: The number of the first of them, from 1.
    """

    fields: tuple[str, ...]
    lines: tuple[str, ...]
    first: int

    @property
    def place(self) -> str:
        """Where it stands."""
        last = self.first + len(self.lines) - 1
        return f"line {self.first}" if last == self.first else f"lines {self.first} to {last}"


class _Table:
    """Reads the rows of a table that are not empty, and remembers the lines of each."""

    def __init__(self, text: str, delimiter: str) -> None:
        self._lines = text.split("\n")
        self._reader = csv.reader((f"{line}\n" for line in self._lines), delimiter=delimiter, strict=True)
        self._read = 0

    def __iter__(self) -> Iterator[_Row]:
        for fields in self._reader:
            row = _Row(tuple(fields), tuple(self._lines[self._read : self._reader.line_num]), self._read + 1)
            self._read = self._reader.line_num
            if fields:
                yield row

    @property
    def place(self) -> str:
        """Where the row stands that cannot be read."""
        return _Row((), tuple(self._lines[self._read : self._reader.line_num]), self._read + 1).place


def _joined_by_a_stray_quote(rows: Sequence[_Row], column: int, delimiter: str) -> _Row | None:
    """Return a row that a quotation mark at the beginning of a text has made of several; None if there is none.

    A quoted field may go over several lines. It is not trusted if its lines make whole rows when the quotation marks
    are taken as part of the text, or if the file holds other quotation marks in fields without quotes, as a writer
    leaves them that knows no quoting.
    """
    long = [row for row in rows if len(row.lines) > 1]
    if any(
        len(row.lines) == 1 and any('"' in field for field in row.fields) and '""' not in row.lines[0] for row in rows
    ):
        return next(iter(long), None)
    seen = {(number, _shape(field)) for row in rows for number, field in enumerate(row.fields) if len(row.lines) == 1}
    for row in long:
        width = len(row.fields)
        alone = [line.split(delimiter) for line in row.lines]
        if width == 1 or any(len(fields) != width for fields in alone):
            continue
        known = seen | {(number, _shape(field)) for number, field in enumerate(alone[0])}
        others = [pair for fields in alone for pair in enumerate(map(_shape, fields)) if pair[0] != column]
        # Prose holds a comma now and then, so the other columns must look like those of other rows as well.
        if delimiter == "\t" or known.issuperset(others):
            return row
    return None


def _shape(field: str) -> str:
    """Return a field with every number written as 0: the numbers of rows differ, and their form does not."""
    return re.sub(r"\d+", "0", field.strip())


def _refuse_structure(text: str, name: str) -> None:
    """Refuse a file that would be judged as prose with its braces, field names and separators."""
    lines = [line for line in text.split("\n", 10 * _SAMPLE_LINES)[: 10 * _SAMPLE_LINES] if line.strip()]
    sample = lines[:_SAMPLE_LINES]
    if sample and all(line.lstrip()[0] == "{" and isinstance(_json(line), dict) for line in sample):
        kind, suffix = "JSON lines", ".jsonl"
    elif _is_whole_json(text):
        kind, suffix = "JSON", ".json" if text.lstrip()[:1] == "[" else ""
    elif (delimiter := _delimiter(sample)) is not None:
        kind, suffix = "a table with a column named 'text'", ".tsv" if delimiter == "\t" else ".csv"
    else:
        return
    message = (
        f"{name} holds {kind}, but its name says plain text: field names and separators would be trained on and judged "
        "as prose"
    )
    if not suffix:
        message += f"; {_AS_DOCUMENTS}"
    else:
        message += f". Rename it to end in {suffix}"
    if suffix in _JSON:
        message += f', with each document in a field named "text". To train on the JSON itself, {_AS_DOCUMENTS}'
    raise ConfigurationError(message)


def _is_whole_json(text: str) -> bool:
    ends = text.strip()[:1] + text.strip()[-1:]
    return ends in ("[]", "{}") and bool(whole := _json(text)) and isinstance(whole, list | dict)


def _delimiter(sample: list[str]) -> str | None:
    """Return what separates the columns of a table of which one is named text; None if these lines are no table.

    The first line of a prose text may look like a header ("Text, music"). Prose has a space after a comma, and most
    tables do not, so a header with spaces must be spelt as tables spell it, and be followed by more rows.
    """
    for delimiter in ",;\t":
        try:
            rows = list(csv.reader(sample, delimiter=delimiter))
        except csv.Error:
            continue
        written = rows[0] if rows else []
        names = [name.strip() for name in written]
        is_tight = written == names
        has_text = "text" in (map(str.lower, names) if is_tight else names)
        has_header = len(names) > 1 and has_text and all(map(_COLUMN_NAME.fullmatch, names))
        # A quoted field may go over several lines, of which the last may be beyond the sample.
        certain = rows[1:-1] or rows[1:]
        enough = len(certain) >= (1 if is_tight else _ROWS_OF_A_LOOSE_TABLE)
        if has_header and enough and all(len(row) == len(names) for row in certain):
            return delimiter
    return None


def _json(text: str) -> Any:
    """Return what JSON says; None if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
