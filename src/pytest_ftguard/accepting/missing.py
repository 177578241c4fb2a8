"""What is said where a test has no accepted result: how to make one, and how to keep one of an earlier name."""

from __future__ import annotations

import json
from itertools import groupby
from shlex import quote
from typing import Final

from pytest_ftguard.accepting.record import AcceptedFile, file_name

__all__ = ["missing", "missing_in_plan", "renamed"]

_MOST_NAMED: Final = 3


def missing(file: AcceptedFile, on_missing: str) -> str:
    """Return that there is no accepted result, and what to do."""
    return (
        f"there is no accepted result of this test ({file} does not exist): run it with --ftguard-update on the commit "
        "that it is to be held to, review the file and commit it"
        + ("" if on_missing == "warn" else "; or set ftguard_on_missing = warn")
        + "".join(f"\n- {one}" for one in renamed(file))
    )


def missing_in_plan(file: AcceptedFile, on_missing: str) -> str:
    """Return in a line that a planned test would find no accepted result."""
    does = "warn" if on_missing == "warn" else "fail"
    return f"{file.test} has no accepted result ({file} does not exist), so it would {does} without --ftguard-update"


def renamed(file: AcceptedFile, *, accepting: bool = False) -> list[str]:
    """Return how to keep what was accepted of this test under earlier names, of each name all files at once.

    Args:
        file: Where a result of this test belongs.
        accepting: Whether one is about to be written there.
    """
    tests = [(test, list(unused)) for test, unused in groupby(file.renamed, key=lambda unused: unused.test)]
    found = []
    for test, files in tests[:_MOST_NAMED]:
        names = " and ".join(repr(unused.place.name) for unused in files)
        hold, them, each = ("holds", "it", "it") if len(files) == 1 else ("hold", "them", "each of them")
        known = (
            f"{names} {hold} what was accepted of {test}, which was not collected: if that is the earlier name of "
            "this test, "
        )
        if accepting:
            found.append(
                f"{known}delete {file} and run the test without --ftguard-update, which says how to rename {them}"
            )
            continue
        moves = [
            f"    git -C {quote(str(unused.place.parent))} mv {quote(unused.place.name)} "
            f"{quote(file_name(file.test, unused.number))}"
            for unused in files
        ]
        line = f'"test": {json.dumps(file.test, ensure_ascii=False)}'
        found.append("\n".join([f"{known}rename {them}, and write {line} into {each}:", *moves]))
    more = len(tests) - _MOST_NAMED
    return [*found, *([f"and {more} more, which the summary names"] if more > 0 else [])]
