"""Files of accepted results that no test looks for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from pytest_ftguard.accepting.names import file_name, file_number, read_test

__all__ = ["UnusedFile", "find_unused", "unused_note"]


@dataclass(frozen=True)
class UnusedFile:
    """A file that no test looks for: its test was renamed or removed, or the file was.

    Attributes:
        place: Where it is.
        test: The test that it belongs to, by what is written in it.
        number: Which of the test's pairs of variants it is about, from 1.
    """

    place: Path
    test: str
    number: int

    def __str__(self) -> str:
        """Return what it is, as messages show it."""
        return f"{str(self.place)!r} holds what was accepted of {self.test}"


def find_unused(folder: Path, tests: Collection[str], has_looked_for: Callable[[str], bool]) -> list[UnusedFile]:
    """Return the files of accepted results that no test looks for.

    Args:
        folder: Where the files are.
        tests: pytest's names of all tests that were collected.
        has_looked_for: Whether a test of a name would have been collected if there were one.
    """
    places, found = sorted(folder.glob("*.json")), []
    names = {file_name(test, 1) for test in tests} if places else set()
    for place in places:
        first, number = file_number(place.name)
        if first in names:
            continue
        try:
            test = read_test(place.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        if test is not None and has_looked_for(test):
            found.append(UnusedFile(place, test, number))
    return found


def unused_note(unused: UnusedFile, tests: Collection[str]) -> str:
    """Return what is to be done about a file that no test looks for.

    Args:
        unused: The file.
        tests: pytest's names of all tests that were collected.
    """
    if unused.test in tests:
        return f"{unused}, which looks for it in {file_name(unused.test, unused.number)!r}: rename it, or delete it"
    return (
        f"{unused}, which was not collected here: leave it if that test exists elsewhere, on other machines or in "
        "another project; delete it if the test is gone; or, if the test was renamed, rename the file to the name that "
        'the renamed test asks for, and write the new name of the test into its "test"'
    )
