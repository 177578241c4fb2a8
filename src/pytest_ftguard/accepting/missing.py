"""What is said if a test has no accepted result."""

from __future__ import annotations

import json

from pytest_ftguard.accepting.history import AcceptedFile
from pytest_ftguard.comparison.problem import Problem

__all__ = ["missing", "missing_in_plan"]


def missing(file: AcceptedFile, on_missing: str) -> Problem:
    """Return that there is no accepted result, and what to do."""
    return Problem(
        "there is no accepted result of this test",
        why=f"{file} does not exist.",
        remedy="run it with --ftguard-update on the commit that later ones are to be held to, review the file and "
        "commit it"
        + ("" if on_missing == "warn" else "; or set ftguard_on_missing = warn")
        + f"; or, if the test was renamed, rename its old file to {file.place.name} and write "
        f'"test": {json.dumps(file.test, ensure_ascii=False)} into it',
    )


def missing_in_plan(file: AcceptedFile, on_missing: str) -> str:
    """Return in a line that a planned test would find no accepted result."""
    does = "warn" if on_missing == "warn" else "fail"
    return f"{file.test} has no accepted result ({file} does not exist), so it would {does} without --ftguard-update"
