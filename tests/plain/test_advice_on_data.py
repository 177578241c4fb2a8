"""Whoever follows the advice of an error about texts and rows sees them read."""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import lzma
import re
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.tasks.chat.formats import chat_rows
from pytest_ftguard.tasks.classification.rows import LabelledRow, classes_of
from pytest_ftguard.tasks.rows import Rows
from pytest_ftguard.tasks.rows.choosing import Candidates, choose
from pytest_ftguard.tasks.rows.evaluated import _slices
from pytest_ftguard.tasks.rows.reading import read_rows
from pytest_ftguard.tasks.text.columns import text_of_rows
from pytest_ftguard.tasks.text.files import read_text
from tests.plain.builders import WORKLOAD
from tests.plain.test_advice_on_settings import refused, said

PROSE = "One line.\nAnother line.\n"


def documents(path: Path | str) -> tuple[str, ...]:
    return read_text(str(path), "training").documents


PACKED: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("name", ["a.txt.{}", "a.{}", "a.txt", "it's packed", "a"])
@pytest.mark.parametrize("kind", [*PACKED, "zst"])
def test_a_packed_text_is_unpacked_as_advised(tmp_path: Path, name: str, kind: str) -> None:
    """By the command in the message, whatever the file is called."""
    packed = tmp_path / name.format(kind)
    if kind == "zst":
        (tmp_path / "plain").write_text(PROSE)
        if shutil.which("zstd") is None:
            pytest.skip("no zstd here")
        subprocess.run(["zstd", "-q", tmp_path / "plain", "-o", packed], check=True, timeout=30)
        (tmp_path / "plain").unlink()
    else:
        packed.write_bytes(PACKED[kind](PROSE.encode()))
    before = set(tmp_path.iterdir())
    message = refused(lambda: documents(packed))
    subprocess.run(message.rpartition("unpack it: ")[2], shell=True, check=True, timeout=30)
    (made,) = set(tmp_path.iterdir()) - before
    assert documents(made) == (PROSE,)


def test_a_text_in_an_archive_is_given_as_advised(tmp_path: Path) -> None:
    """The text that is in it."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", PROSE)
    assert "give the text that is in it" in refused(lambda: documents(tmp_path / "a.zip"))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path)
    assert documents(tmp_path / "a.txt") == (PROSE,)


@pytest.mark.parametrize("name", ["a.txt", "it's.txt", "a.v2"])
@pytest.mark.parametrize("encoding", ["latin1", "utf-16-le"])
def test_a_text_in_another_encoding_is_converted_as_advised(tmp_path: Path, name: str, encoding: str) -> None:
    """By the command in the message."""
    (tmp_path / name).write_bytes("Größe\n".encode(encoding))
    message = refused(lambda: documents(tmp_path / name))
    command = said(message, r"(iconv .*)$")
    subprocess.run(command, shell=True, check=True, timeout=30)
    assert documents(shlex.split(command)[-1]) == ("Größe\n",)


def test_a_text_that_is_cut_off_or_empty_or_missing_is_saved_as_advised(tmp_path: Path) -> None:
    """In UTF-8, with some content, and without half a character."""
    path = tmp_path / "a.txt"
    assert "give a file that exists" in refused(lambda: documents(path))
    path.touch()
    assert "give a text with at least one block" in refused(lambda: documents(path))
    path.write_bytes("Größe".encode("utf-16")[:-1])
    assert "save it again, in UTF-8" in refused(lambda: documents(path))
    path.write_text("Größe", encoding="utf-8")
    assert documents(path) == ("Größe",)
    rows = tmp_path / "a.jsonl"
    rows.write_text('{"text": "a\\ud800b"}')
    place = int(said(refused(lambda: documents(rows)), r"a lone surrogate at position (\d+): remove it"))
    rows.write_text(json.dumps({"text": "".join(one for at, one in enumerate("a?b") if at != place)}))
    assert documents(rows) == ("ab",)


MARKUP = "<p>One</p>"


def test_markup_is_renamed_as_advised(tmp_path: Path) -> None:
    """It is trained on as it is."""
    (tmp_path / "a.html").write_text(MARKUP)
    suffix = said(refused(lambda: documents(tmp_path / "a.html")), r"rename it to end in (\.\w+)")
    assert documents((tmp_path / "a.html").rename(tmp_path / f"a{suffix}")) == (MARKUP,)


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "one"}\n{"text": "two"}\n',
        '[{"text": "one"}, {"text": "two"}]',
        '{"text": "one"}',
        '{\n  "text": "one"\n}',
        '{\n  "rows": [{"text": "one"}]\n}',
        '{\n  "cells": []\n}',
        "text,number\none,1\ntwo,2\n",
        "text\tnumber\none\t1\ntwo\t2\n",
    ],
)
def test_structure_in_a_plain_text_is_renamed_or_written_as_advised(tmp_path: Path, content: str) -> None:
    """The new name is enough if the documents are in a field named text; else each becomes a line of its own."""
    path = tmp_path / "a.txt"
    path.write_text(content)
    message = refused(lambda: documents(path))
    if (suffix := re.search(r"Rename it to end in (\.\w+)", message)) is not None:
        assert documents(path.rename(tmp_path / f"a{suffix[1]}"))[0] == "one"
    if "write each document" in message:
        _follow_as_documents(tmp_path, message, [content])
        assert documents(tmp_path / "written.jsonl") == (content,)


def _follow_as_documents(folder: Path, message: str, texts: list[str]) -> None:
    form = said(message, r"in a line of its own, as (\{.*?\})")
    lines = [form.replace('"..."', json.dumps(text)) for text in texts]
    (folder / f"written{said(message, r'and name the file (.[a-z]+)')}").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"rows": ["one", "two"]}'),
        ("a.jsonl", '{\n "a": 1\n}'),
        ("a.jsonl", '"one"\n"two"\n'),
        ("a.csv", 'number,text\n1,one\n2,"tw"o\n'),
        ("a.tsv", 'number\ttext\n1\t"one\n2\ttwo"\n3\tthree\n'),
    ],
)
def test_what_is_no_list_of_documents_is_written_as_advised(tmp_path: Path, name: str, content: str) -> None:
    """Each document in a line of its own, in a file of the name that is shown."""
    (tmp_path / name).write_text(content)
    _follow_as_documents(tmp_path, refused(lambda: documents(tmp_path / name)), ["one", "two"])
    assert documents(tmp_path / "written.jsonl") == ("one", "two")


def test_a_table_is_mended_as_advised(tmp_path: Path) -> None:
    """A column of the right name, and quotes around a text with the separator."""
    path = tmp_path / "a.csv"
    path.write_text("number,document\n1,one\n")
    column = said(refused(lambda: documents(path)), r"rename the column that holds the documents to (\w+)")
    path.write_text(f"number,{column}\n1,one, two\n")
    assert "put texts that hold the separator into quotes" in refused(lambda: documents(path))
    path.write_text(f'number,{column}\n1,"one, two"\n')
    assert documents(path) == ("one, two",)


@pytest.mark.parametrize("content", ['{"messages": [], "text": null}', "prompt,completion\na,b\n"])
def test_conversations_as_texts_are_read_by_the_task_that_is_named(tmp_path: Path, content: str) -> None:
    """The key and the value are those of the settings."""
    path = tmp_path / ("a.jsonl" if content[0] == "{" else "a.csv")
    path.write_text(content)
    task = said(refused(lambda: documents(path)), r"set ftguard_task = (\w+)")
    rows = Rows("a", "training", ("prompt", "completion"), ({"prompt": "a", "completion": "b"},))
    assert replace(WORKLOAD, task=task).task == "chat"
    assert chat_rows(rows).has_prompts


MODULE = """
def questions(): return [{"prompt": "a", "completion": "b"}]
def empty(): return [{"text": " "}]
def nothing(): return []
def splits(): return {"train": texts(), "test": texts()}
def one_split(): return splits()["train"]
def texts(): return [{"text": "one"}]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with functions that return rows."""
    (tmp_path / "advised_rows.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return "advised_rows"


@pytest.mark.parametrize(
    ("name", "advice", "followed"),
    [
        ("nothing", "give data with at least one", "texts"),
        ("splits", "give a function that returns one of them, as in data['train']", "one_split"),
        ("missing", "or module:function", "texts"),
        ("empty", "give a text with at least one block of tokens", "texts"),
    ],
)
def test_rows_of_a_function_are_given_as_advised(module: str, name: str, advice: str, followed: str) -> None:
    """There are some, of one split, from a function that exists, with words in them."""
    assert advice in refused(lambda: text_of_rows(f"{module}:{name}", "training"))
    assert text_of_rows(f"{module}:{followed}", "training").documents == ("one",)


def test_rows_without_texts_are_trained_on_by_the_task_that_is_named(module: str) -> None:
    """They are conversations, or prompts with completions."""
    message = refused(lambda: text_of_rows(f"{module}:questions", "training"))
    assert replace(WORKLOAD, task=said(message, r"set ftguard_task = (\w+)")).task == "chat"
    assert chat_rows(read_rows(f"{module}:questions", "training")).has_prompts


def given(*rows: dict[str, Any]) -> Rows:
    return Rows("mine.jsonl", "training", tuple(dict.fromkeys(name for row in rows for name in row)), rows)


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
MESSAGES = CHAT["messages"]


@pytest.mark.parametrize(
    ("wrong", "advice", "right"),
    [
        ([{"text": "a", "image": "b"}], "remove it", [{"text": "a"}]),
        (
            [{"text": "a", "prompt": "b", "completion": "c"}],
            "remove text, or prompt and completion",
            [{"prompt": "b", "completion": "c"}],
        ),
        ([{"text": "a", "prompt": "b", "completion": "c"}], "remove text, or prompt and completion", [{"text": "a"}]),
        ([{"content": "a"}], "rename yours to these names", [{"text": "a"}]),
        ([{"content": "a"}], "text, messages, or prompt and completion", [CHAT]),
        ([{"prompt": "a"}], "prompt needs completion next to it", [{"prompt": "a", "completion": "b"}]),
        (
            [{"prompt": "a", "completion": MESSAGES}],
            "make both texts, or both lists of messages",
            [{"prompt": "a", "completion": "b"}],
        ),
        (
            [{"prompt": "a", "completion": MESSAGES}],
            "make both texts, or both lists of messages",
            [{"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}],
        ),
        (
            [{"prompt": "a", "completion": "b"}, {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}],
            "give rows of one format",
            [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "c"}],
        ),
    ],
)  # fmt: skip
def test_rows_of_a_chat_are_mended_as_advised(
    wrong: list[dict[str, Any]], advice: str, right: list[dict[str, Any]]
) -> None:
    """Each way out that the message names."""
    assert advice in refused(lambda: chat_rows(given(*wrong)))
    assert len(chat_rows(given(*right)).rows) == len(right)


def labelled(*labels: int | str) -> list[LabelledRow]:
    return [LabelledRow(f"text {number}", None, label) for number, label in enumerate(labels)]


def test_labels_are_written_as_advised() -> None:
    """All in one way, and the same for all rows of a class."""
    assert "write all of them in one way" in refused(lambda: classes_of(labelled(0, "good"), "mine", {}, 0))
    assert len(classes_of(labelled("bad", "good"), "mine", {}, 0).ids) == 2
    many = labelled(*map(str, range(200)))
    message = refused(lambda: classes_of(many, "mine", {}, 0))
    assert "give a column label with the same value for all rows of a class" in message
    assert len(classes_of(labelled(*(str(number % 2) for number in range(200))), "mine", {}, 0).ids) == 2


def chosen(count: int, at_most: int, trained_on: int = 0, *, searches: bool = False) -> int:
    """How many rows are evaluated."""
    found = Candidates("mine", "validation", [(number,) for number in range(count)], list(range(count)))
    work = replace(WORKLOAD, validation_sequences=at_most)
    return len(choose(work, found, lambda place: place < trained_on, searches=searches).places)


def test_rows_that_are_trained_on_are_removed_as_advised() -> None:
    """From one of the two: as few as are said may stay."""
    message = refused(lambda: chosen(100, 100, trained_on=50))
    most = int(said(message, r"at most (\d+) % may be in both"))
    assert chosen(100, 100, trained_on=most) == 100
    assert "remove them" in refused(lambda: chosen(100, 100, trained_on=most + 1))


def test_rows_are_left_over_for_a_search_as_advised() -> None:
    """By more rows or by fewer that are evaluated: as many must be left as are said."""
    message = refused(lambda: chosen(100, 80, searches=True))
    needed = int(said(message, r"needs (\d+) others"))
    assert "give more rows, or lower validation_sequences" in message
    assert chosen(80 + needed, 80, searches=True) == needed
    assert chosen(100, 100 - needed, searches=True) == needed


def test_a_column_of_slices_is_named_as_advised() -> None:
    """With few values, or with numbers, which are cut into thirds."""
    rows = given(*({"name": f"{number}", "few": f"{number % 4}", "number": number} for number in range(100)))

    def slices(column: str) -> set[str]:
        return set(_slices(rows, column, [row[column] for row in rows.rows]))

    message = refused(lambda: slices("name"))
    assert "name a column with few values, or with numbers, which are cut into thirds" in message
    assert (len(slices("few")), len(slices("number"))) == (4, 3)
