"""Texts for the quickstart, made from the running Python's own installation.

Nothing is downloaded: every CPython installation holds about a megabyte of English prose (the help topics of `pydoc`
and the docstrings of the standard library) and several megabytes of source code. The base model is pretrained on the
prose and fine-tuned on the code.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

Split = Literal["train", "validation"]

SIZES: dict[Split, int] = {"train": 1_000_000, "validation": 150_000}
STDLIB = Path(sysconfig.get_path("stdlib"))
SKIPPED_FOLDERS = {"dist-packages", "encodings", "idle_test", "pydoc_data", "site-packages", "test", "tests"}


def prose() -> str:
    """Return English prose: whole paragraphs from the help topics and the standard library's docstrings."""
    paragraphs: dict[str, None] = {}  # an ordered set, because some docstrings are repeated word for word
    for text in (*topics.values(), *_stdlib_docstrings()):
        for block in text.split("\n\n"):
            paragraph = " ".join(block.split())
            # Headings, lists, grammar rules and interpreter sessions rarely look like this.
            if len(paragraph) > 40 and paragraph[0].isupper() and paragraph[-1] in ".:" and ">>>" not in paragraph:
                paragraphs[paragraph] = None
    return "\n\n".join(paragraphs) + "\n"


def code(split: Split) -> str:
    """Return source code of the standard library, without the docstrings because those are in the prose.

    The files are put in the order of a hash of their names. The training text is read from one end of that order and
    the validation text from the other, so no file is in both, and the sizes are the same under every Python version.

    Args:
        split: Which of the two texts to return.
    """
    # Private modules may be generated, and `locale` is mostly a table.
    files = [file for file in STDLIB.glob("*.py") if not file.name.startswith("_") and file.name != "locale.py"]
    files.sort(key=lambda file: hashlib.sha256(file.name.encode()).digest(), reverse=split == "validation")
    text = ""
    for file in files:
        if len(text) >= SIZES[split]:
            break
        text += _without_docstrings(file.read_text(encoding="utf-8"))
    return text[: SIZES[split]]


def write_texts(folder: Path) -> None:
    """Write the two code texts as `train.txt` and `validation.txt`.

    Args:
        folder: Where to write them. It is made if needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split in SIZES:
        (folder / f"{split}.txt").write_text(code(split), encoding="utf-8", newline="\n")


def _stdlib_docstrings() -> Iterator[str]:
    for file in sorted(STDLIB.rglob("*.py")):
        if SKIPPED_FOLDERS.isdisjoint(file.relative_to(STDLIB).parts):
            for node in _docstrings(file.read_text(encoding="utf-8")):
                yield str(node.value)


def _without_docstrings(source: str) -> str:
    removed: set[int] = set()
    for node in _docstrings(source):
        removed.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = source.split("\n")  # not splitlines(), which also splits at form feeds
    return "\n".join(line for number, line in enumerate(lines, start=1) if number not in removed)


def _docstrings(source: str) -> Iterator[ast.Constant]:
    """Yield every statement that is only a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value
