"""What is said if a test has no accepted result."""

from __future__ import annotations

import json

from pytest_ftguard.accepting.history import AcceptedFile
from pytest_ftguard.comparison.problem import Problem
from pytest_ftguard.gates.setting import Setting

__all__ = ["missing", "missing_in_plan"]


def missing(file: AcceptedFile, on_missing: Setting | None, seeds: str = "") -> Problem:
    """Return that there is no accepted result, and what to do.

    Args:
        file: Where it would be.
        on_missing: What a missing accepted result does to the test, if somebody has set it.
        seeds: How the test gets enough seeds; "" if it has them.
    """
    warns = "; or set ftguard_on_missing = warn"
    if on_missing is not None:
        place = f", which is set by {on_missing.origin.name}"
        warns = "" if on_missing.value == "warn" else f"; or have on_missing{place}, be warn"
    return Problem(
        "there is no accepted result of this test",
        why=f"{file} does not exist.",
        remedy=(f"set {seeds}, " if seeds else "")
        + "run it with --ftguard-update on the commit that later ones are to be held to, review the file and "
        f"commit it{warns}; or, if the test was renamed, rename its old file to {file.place.name} and write "
        f'"test": {json.dumps(file.test, ensure_ascii=False)} into it',
    )


def missing_in_plan(file: AcceptedFile, on_missing: str) -> str:
    """Return in a line that a planned test would find no accepted result."""
    does = "warn" if on_missing == "warn" else "fail"
    return f"{file.test} has no accepted result ({file} does not exist), so it would {does} without --ftguard-update"
