"""Files become documents, and what would be judged as prose with its braces and commas is refused."""

from __future__ import annotations

import bz2
import gzip
import inspect
import json
import lzma
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.text import files
from pytest_ftguard.tasks.text.files import read_text

DOCUMENTS = ("A first one, with a comma.", 'A "second" one\nover two lines.')
LINES = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(DOCUMENTS))
TABLE = 'id,text\n1,"A first one, with a comma."\n2,"A ""second"" one\nover two lines."\n'


def read(folder: Path, name: str, content: str | bytes) -> tuple[str, ...]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_text(str(folder / name), "validation").documents


def refused(folder: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(folder, name, content)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jsonl", LINES),
        ("t.ndjson", LINES.replace("\n", "\r\n")),
        ("t.JSONL", "\n" + LINES.rstrip("\n")),
        ("t.json", LINES),
        ("t.json", json.dumps([{"text": text} for text in DOCUMENTS], indent=2)),
        ("t.jsonl", json.dumps([{"text": text} for text in DOCUMENTS])),
        ("t.jsonl", LINES.encode("utf-8-sig")),
        ("t.json", LINES.encode("utf-16")),
        ("t.json", LINES.encode("utf-32")),
        ("t.csv", TABLE),
        ("t.csv", TABLE.replace("id,text", "id;text").replace("1,", "1;").replace("2,", "2;")),
        ("t.csv", TABLE.encode("utf-8-sig").replace(b"\n", b"\r\n")),
        ("t.tsv", TABLE.replace("id,text", "id\ttext").replace("1,", "1\t").replace("2,", "2\t")),
    ],
)
def test_every_form_gives_the_same_documents(tmp_path: Path, name: str, content: str | bytes) -> None:
    """The name says that there are documents, the content in which form, and a byte order mark in which encoding."""
    assert read(tmp_path, name, content) == DOCUMENTS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.txt", 'Prose with {braces}, [brackets] and "quotes".\n{not: json}\n'),
        ("t.txt", "[1] A reference, 2024.\n[2] Another one.\n"),
        ("t.txt", "text, and then more of it\nhere, a comma, and another\n"),
        ("t.txt", "Text\nwithout any column\n"),
        ("t.py", inspect.getsource(files)),
        ("t.md", '# Title\n\n```json\n{"text": "a"}\n```\n'),
        ("t.md", "| id | text |\n| -- | ---- |\n| 1 | a |\n"),
        ("t.log", "".join(f"2026-01-{day:02} INFO done in {day} ms {{'a': 1}}\n" for day in range(1, 25))),
        ("t.txt", "Text, music\nWords, a melody\n"),
        ("t.txt", "Text, music\n" + "Words, a melody\n" * 30),
        ("t.txt", "text, music\n" + "words, a melody\n" * 7 + "and then prose\n" * 2),
        ("t.txt", "Text; music\nWords; a melody\nMore; of it\n"),
        ("LICENSE", "Permission is hereby granted, free of charge, to any person."),
        ("t.txt", '{"text": "the first line only"}\nand then prose\n'),
    ],
)
def test_plain_text_stays_one_document(tmp_path: Path, name: str, content: str) -> None:
    """Braces, commas and code do not make a file a structured one."""
    assert read(tmp_path, name, content) == (content,)


@pytest.mark.parametrize(
    ("name", "content", "suffix"),
    [
        ("t.txt", LINES, ".jsonl"),
        ("t", LINES, ".jsonl"),
        ("t.txt", json.dumps([{"text": "a"}], indent=1), ".json"),
        ("t.txt", TABLE, ".csv"),
        ("t.text", "label\tText\n1\tone\n2\ttwo\n", ".tsv"),
        ("t.txt", "Label,Text\npos,one\nneg,two\n", ".csv"),
        ("t.txt", "id, text\n" + "1, words\n" * 9, ".csv"),
    ],
)
def test_structure_under_the_name_of_a_plain_text_is_refused(
    tmp_path: Path, name: str, content: str, suffix: str
) -> None:
    """The message gives the name under which the file is read, which works if it has a field named text."""
    message = refused(tmp_path, name, content)
    assert f"Rename it to end in {suffix}" in message
    assert read(tmp_path, f"again{suffix}", content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "id,content\n1,a\n", "no column named 'text': its first line names 'id', 'content'"),
        ("t.csv", "id,text\n1,a\n2\n", "has 1 columns at line 3, and its first line names 2"),
        ("t.csv", "id,text\n1,first, second\n", "put texts that hold the separator into quotes"),
        ("t.jsonl", '{"text": ' + "1" * 5000 + "}", "is not JSON at line 1: a number in it is too long"),
        ("t.csv", 'id,text\n1,"a" b\n', "cannot be read as a table"),
        ("t.json", "prose", "not JSON at line 1"),
        ("t.json", '{\n"data": [{"text": "a"}]\n}', "is one JSON object and no list of documents"),
        ("t.json", '[{"text": "a"}, 3]', "no string named 'text' at item 2: it is no object"),
        (
            "t.jsonl",
            '{"prompt": "a"}',
            "its fields are 'prompt'; these are conversations",
        ),
        ("t.jsonl", '{"text": "\\ud800"}', "half a character at line 1"),
        ("t.parquet", b"PAR1....", "pandas.read_parquet("),
        ("t.txt", b"PAR1....", "is a parquet file"),
        ("t.arrow", b"\xff\xff\xff\xff", "Dataset.from_file("),
        ("t.arrow", b"ARROW1..", "pandas.read_feather("),
        ("t.xlsx", b"PK\x03\x04....", "pandas.read_excel("),
        ("t.txt", b"PK\x03\x04....", "is a zip file"),
        ("t.xls", b"\xd0\xcf", "pandas.read_excel("),
        ("t.pdf", b"%PDF-1.7", "pdftotext"),
        ("t.html", "<p>a</p>", "rename it to end in .txt"),
        ("t.yaml", "- text: a", "rename it to end in .txt"),
        ("t.txt", "naive \0 text", "has zero bytes"),
        ("t.txt", "a text".encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
        ("t.txt", "caf\u00e9 au".encode("latin1"), "iconv -f LATIN1 -t UTF-8"),
        ("t.csv", "text\n", "is empty"),
        ("t.json", "[]", "is empty"),
    ],
)
def test_what_is_no_text_is_named_with_what_to_do(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    """Each message names the role, the file, and what is wrong with it."""
    message = refused(tmp_path, name, content)
    assert words in message
    assert f"the validation text '{tmp_path / name}'" in message


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("t.tsv", 'id\ttext\n1\t"Hello, she said\n2\tfine\n3\tand so "\n4\tend\n', "lines 2 to 4"),
        ("t.csv", 'id,text\n1,one\n2,"Hello there\n3,fine\n4,so "\n', "lines 3 to 5"),
        ("t.csv", 'text,label\na,pos\n"b,pos\nc,neg\n",pos\nd,neg\n', "lines 3 to 5"),
        ("t.csv", 'text\na 5" pipe\n"I went home.\nThen I slept."\n', "lines 3 to 4"),
        ("t.csv", 'text\n"I went home.\nThen I slept."\na 5" pipe\n', "lines 2 to 3"),
    ],
)
def test_rows_that_a_stray_quote_joins_are_refused(tmp_path: Path, name: str, content: str, lines: str) -> None:
    """What looks like several rows, or stands in a file whose writer knew no quoting, is not taken for one field."""
    message = refused(tmp_path, name, content)
    assert "has a quotation mark at line" in message
    assert f"joins {lines} into one field" in message


@pytest.mark.parametrize(
    "content",
    [
        'id,text\n1,"Hello there\nwith a comma, and more"\n2,b\n',
        'id,text\n1,"She said ""no"", and\nleft"\n',
        'text\n"I went home.\nThen I slept."\nfine\n',
        'label,text\npos,"a\nb, c\nd"\nneg,"e\n\nf"\n',
    ],
)
def test_a_quoted_field_may_go_over_several_lines(tmp_path: Path, content: str) -> None:
    """The other side: a comma in a line of prose does not make a row of it."""
    documents = read(tmp_path, "t.csv", content)
    assert "\n" in documents[0]
    assert len(documents) == content.count('"\n') + content.endswith(("b\n", "fine\n"))


def test_a_quote_that_is_never_closed_is_named_with_its_line(tmp_path: Path) -> None:
    """The reader of csv notices it at the end of the file; the message names the lines from where it began."""
    message = refused(tmp_path, "t.csv", 'id,text\n1,a\n2,"b\n3,c\n')
    assert "unexpected end of data at lines 3 to 5" in message


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_the_advice_on_a_packed_file_works(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """The command in the message unpacks it, and the result is read."""
    name = {"gzip": "t.jsonl.gz", "bz2": "t.jsonl.bz2"}.get(pack.__module__, "t.jsonl.xz")
    message = refused(tmp_path, name, pack(LINES.encode()))
    subprocess.run(message.rpartition("unpack it: ")[2], shell=True, check=True, timeout=30)
    assert read_text(str(tmp_path / "t.jsonl"), "training").documents == DOCUMENTS


@pytest.mark.parametrize("name", ["t.parquet", "it's.parquet", "t.feather", "t.arrow", "t.jsonl"])
def test_the_advice_on_a_table_of_arrow_works(tmp_path: Path, name: str) -> None:
    """The code in the message writes documents, and the result is read."""
    import datasets

    rows = datasets.Dataset.from_dict({"text": list(DOCUMENTS)})
    path = tmp_path / name
    if name.endswith("feather"):
        rows.to_pandas().to_feather(path)
    elif name.endswith("arrow"):
        rows.save_to_disk(tmp_path / "saved")
        next((tmp_path / "saved").glob("*.arrow")).rename(path)
    else:
        rows.to_parquet(path)
    with pytest.raises(ConfigurationError) as caught:
        read_text(str(path), "training")
    code = shlex.split(str(caught.value).rpartition("convert it: python -c ")[2])[0]
    exec(code.removesuffix(","), {})  # what `python -c` does, without a second process that imports it all
    (made,) = set(tmp_path.glob("*.jsonl")) - {path}
    assert read_text(str(made), "training").documents == DOCUMENTS


def test_the_advice_on_an_encoding_works(tmp_path: Path) -> None:
    """The output of iconv is read, with what stood in the file."""
    message = refused(tmp_path, "t.txt", "caf\u00e9 au lait".encode("latin1"))
    subprocess.run(message.rpartition("such as: ")[2], shell=True, check=True, timeout=30)
    assert read_text(str(tmp_path / "t-utf8.txt"), "training").documents == ("caf\u00e9 au lait",)


def test_a_long_field_of_a_table_is_read_whole(tmp_path: Path) -> None:
    """The limit of 131,072 characters that csv sets is lifted, and put back."""
    import csv

    before = csv.field_size_limit()
    assert read(tmp_path, "t.csv", f"text\n{'word ' * 40_000}\n") == ("word " * 40_000,)
    assert csv.field_size_limit() == before
