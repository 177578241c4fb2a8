"""The summary of a step of GitHub Actions: a file that what a step did is appended to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_ftguard.reporting.markdown import MOST_BYTES, render
from pytest_ftguard.reporting.summary import Summary

__all__ = ["VARIABLE", "append_summary"]

VARIABLE: Final = "GITHUB_STEP_SUMMARY"


def append_summary(path: Path, summary: Summary) -> str | None:
    """Append a summary to the file that GitHub shows, so that the file stays within GitHub's bound.

    Args:
        path: The file, to which others may have written before.
        summary: What is appended.

    Returns:
        Why it was not; None if it was.
    """
    try:
        before = path.stat().st_size if path.exists() else 0
        separator = "\n\n" if before else ""
        text = render(summary, MOST_BYTES - before - len(separator))
        if not text:
            return f"it already holds {before:,} bytes, and GitHub shows nothing of a file of more than 1 MiB"
        with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(f"{separator}{text}")
    except OSError as error:
        return error.strerror or str(error)
    return None
