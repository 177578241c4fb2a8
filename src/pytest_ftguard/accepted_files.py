"""The files of accepted results that one test asks about: found by its name, read, and written whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_ftguard.accepted import AcceptedFile, History, file_name, read_history, write_history
from pytest_ftguard.errors import ConfigurationError, hide_our_frames
from pytest_ftguard.results import TrainedVariant

__all__ = ["AcceptedFiles"]

__tracebackhide__ = hide_our_frames

_MOST_FILES = 20


class AcceptedFiles:
    """The accepted results of one test, one file for each pair of variants that it asks about.

    The files are told by the order in which the test first asks about each pair, not by the variants' settings: a
    changed setting is what a regression may come from.

    Args:
        test: pytest's name of the test.
        folder: Where the files are.
        write: Writes a file so that it is there whole or not at all.
    """

    def __init__(self, test: str, folder: Path, write: Callable[[Path, str], None]) -> None:
        self._test = test
        self._folder = folder
        self._write = write
        self._pairs: list[Any] = []
        self._fresh: list[str] = []

    def start(self) -> None:
        """Count the pairs anew: a rerun of the test asks about the same ones."""
        self._pairs.clear()

    def find(self, candidate: TrainedVariant, baseline: TrainedVariant) -> AcceptedFile:
        """Return the file of a pair of variants, read where there is one.

        Raises:
            ConfigurationError: It cannot be read, or is not a file of accepted results.
        """
        pair = [(side.workload, side.variant) for side in (candidate, baseline)]
        if pair not in self._pairs:
            self._pairs.append(pair)
        place = self._folder / file_name(self._test, 1 + self._pairs.index(pair))
        try:
            history = read_history(place.read_text(encoding="utf-8"), place)
        except FileNotFoundError:
            history = None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            message = f"the accepted results in {str(place)!r} cannot be read: {reason}"
            raise ConfigurationError(message) from None
        if history is not None and history.accepted.candidate.variant != candidate.variant:
            self._refuse_exchanged(candidate, history, place)
        return AcceptedFile(place, self._test, history)

    def _refuse_exchanged(self, candidate: TrainedVariant, history: History, place: Path) -> None:
        """Refuse a file where another one of the test holds the pair: it asks otherwise than when it was accepted."""
        for number in range(1, _MOST_FILES):
            other = self._folder / file_name(self._test, number)
            if other == place or not other.is_file():
                continue
            if read_history(other.read_text(encoding="utf-8"), other).accepted.candidate.variant == candidate.variant:
                recorded = history.accepted.candidate.variant.label
                message = (
                    f"the accepted result in {str(place)!r} is that of {recorded}, and that of "
                    f"{candidate.label} is in {other.name!r}: ask in the order in which they were accepted, or remove "
                    "the files and accept anew"
                )
                raise ConfigurationError(message)

    def write(self, file: AcceptedFile, history: History) -> None:
        """Write what a file is to hold.

        Raises:
            ConfigurationError: It cannot be written.
        """
        try:
            self._write(file.place, write_history(history))
        except OSError as error:
            message = f"the accepted results {file} cannot be written: {error.strerror or error}"
            raise ConfigurationError(message) from None
        self._fresh.append(str(file.place))

    def new_files(self) -> list[str]:
        """Return the files that were written since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh
