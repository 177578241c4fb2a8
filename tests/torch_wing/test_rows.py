"""Rows are read from files, folders and functions, as the library `datasets` reads them."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.causal_lm import CausalLM
from pytest_ftguard.tasks.rows import read_rows
from pytest_ftguard.tasks.text import Text

ROWS = [{"prompt": f"question {number}", "completion": f"answer {number}"} for number in range(3)]
LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS)


def as_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, ["prompt", "completion"], delimiter=delimiter)
        table.writeheader()
        table.writerows(ROWS)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda path: path.write_text(LINES),
    "rows.ndjson": lambda path: path.write_text(LINES),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS)),
    "rows.csv": as_csv,
    "rows.tsv": lambda path: as_csv(path, "\t"),
    "rows.parquet": lambda path: datasets.Dataset.from_list(ROWS).to_parquet(path),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "rows.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES.encode())),
    "rows.jsonl.xz": lambda path: path.write_bytes(lzma.compress(LINES.encode())),
    "rows": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path),
}


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the library keeps its cache, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "downloads")
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", folder / "downloads" / "extracted")
    return folder


# The lowest version of the library that is promised leaves tables open.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", WRITERS)
def test_each_kind_of_file_gives_the_same_rows(tmp_path: Path, no_cache: Path, name: str) -> None:
    """Compressed ones too, and a folder of save_to_disk; nothing is left in the user's cache."""
    WRITERS[name](tmp_path / name)
    rows = read_rows(str(tmp_path / name), "training")
    assert list(rows.rows) == ROWS
    assert rows.columns == ("prompt", "completion")
    assert not no_cache.exists()
    assert not datasets.are_progress_bars_disabled()


def test_each_line_of_a_text_file_is_a_row(tmp_path: Path) -> None:
    """Its column is named text, as TRL expects it."""
    (tmp_path / "rows.txt").write_text("one\ntwo\n")
    assert list(read_rows(str(tmp_path / "rows.txt"), "training").rows) == [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize("name", ["rows[1].txt", "rows*.txt", "rows?.txt"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    """The library would read another file than the one that is named, and by which a result is known."""
    (tmp_path / "rows1.txt").write_text("other\n")
    (tmp_path / name).write_text("named\n")
    assert list(read_rows(str(tmp_path / name), "validation").rows) == [{"text": "named"}]


SOURCE = """
import datasets

def rows():
    return [{"text": "one"}, {"text": "two"}]

def made():
    return datasets.Dataset.from_list(rows())

def lazily():
    yield from rows()

def splits():
    return datasets.DatasetDict({"train": made(), "test": made()})

def empty():
    return []

def number():
    return 7

def words():
    return ["one"]

def broken():
    raise KeyError("column")
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's with functions that return rows."""
    (tmp_path / "my_rows.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_rows", raising=False)


@pytest.mark.parametrize("name", ["rows", "made", "lazily"])
def test_a_function_may_return_rows_of_any_kind(functions: None, name: str) -> None:
    """A list, a data set or a generator."""
    assert list(read_rows(f"my_rows:{name}", "training").rows) == [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("my_rows:splits", r"has several splits \(train, test\): give a function that returns one of them"),
        ("my_rows:empty", "has no rows"),
        ("my_rows:number", "returned 7: it must return rows"),
        ("my_rows:words", "gave 'one' as a row: each row must map"),
        ("my_rows:broken", "failed: KeyError: 'column'"),
        ("my_rows:nothing", "no function that can be imported .AttributeError"),
        ("nowhere:rows", "no function that can be imported .ModuleNotFoundError"),
        ("rows.pdf", r"ends in .pdf, which does not say how to read it: .*\.jsonl"),
        ("missing.jsonl", "there is no such file"),
        ("hub:name", "is no data set on the hub: write"),
        ("hub:someone/nothing@main:train", "cannot be read: .*Hub"),
    ],
)
def test_what_gives_no_rows_is_one_clear_error(functions: None, place: str, words: str) -> None:
    """It begins with the role and the place."""
    with pytest.raises(ConfigurationError, match=words):
        read_rows(place, "training")


def test_a_folder_of_splits_names_them(tmp_path: Path) -> None:
    """The folder of one of them is what to give."""
    one = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "both")
    with pytest.raises(ConfigurationError, match=r"several splits \(train, test\): give .*both/train"):
        read_rows(str(tmp_path / "both"), "training")
    assert list(read_rows(str(tmp_path / "both" / "train"), "training").rows) == ROWS


def test_a_folder_that_holds_no_data_set_is_refused(tmp_path: Path) -> None:
    """The message says what wrote the ones that can be read."""
    with pytest.raises(ConfigurationError, match="a folder must be one that save_to_disk has written"):
        read_rows(str(tmp_path), "training")


def test_a_damaged_file_says_why(tmp_path: Path) -> None:
    """The reason is the parser's, not that something could not be made."""
    (tmp_path / "rows.jsonl").write_text('{"text": "a"\n')
    with pytest.raises(ConfigurationError, match=r"rows\.jsonl' cannot be read: .*(JSON|Unexpected char)"):
        read_rows(str(tmp_path / "rows.jsonl"), "training")


def test_plain_texts_may_be_the_column_of_rows(functions: None, tmp_path: Path) -> None:
    """Of a folder or a function; each row is a document. Conversations are told which task takes them."""
    read = CausalLM().read
    assert read("my_rows:rows", "training") == Text("my_rows:rows", "training", ("one", "two"), is_stream=False)
    datasets.Dataset.from_list([{"text": "one"}]).save_to_disk(tmp_path / "texts")
    assert read(str(tmp_path / "texts"), "training").documents == ("one",)
    datasets.Dataset.from_list([{"text": "one"}, {"text": None}]).save_to_disk(tmp_path / "holes")
    with pytest.raises(ConfigurationError, match=r"row 2 of .* has None in its column text: it must be a text"):
        read(str(tmp_path / "holes"), "training")
    datasets.Dataset.from_list([{"text": " "}]).save_to_disk(tmp_path / "blank")
    with pytest.raises(ConfigurationError, match="is empty"):
        read(str(tmp_path / "blank"), "training")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "rows")
    with pytest.raises(ConfigurationError, match=r"no column named text: .* set ftguard_task = chat"):
        read(str(tmp_path / "rows"), "training")


def test_without_the_library_the_message_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no dependency of the plugin."""
    (tmp_path / "rows.txt").write_text("one\n")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'pytest-ftguard\[chat\]'"):
        read_rows(str(tmp_path / "rows.txt"), "training")


def test_reading_rows_is_all_that_imports_the_library() -> None:
    """The task can be made and asked for its name without it."""
    code = "import sys; from pytest_ftguard.tasks import find_task; import pytest_ftguard.tasks.rows; "
    code += "find_task('chat'); assert 'datasets' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
