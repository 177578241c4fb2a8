"""The files of accepted results that one test asks about: found by its name, read, and written once it has passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_ftguard.accepting.history import AcceptedFile, History, read_history, write_history
from pytest_ftguard.accepting.names import file_name, read_test
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import key_of

__all__ = ["AcceptedFiles"]


class _Queued(NamedTuple):
    """What a file is to hold, and whether it holds that already."""

    history: History
    is_unchanged: bool


class AcceptedFiles:
    """The accepted results of one test, one file for each pair of variants that it asks about.

    The test's first question is about the first file, a question about another pair about the second, and so on. The
    variants' settings do not decide, because a changed setting may be the cause of a regression. What the test accepts
    is queued until it has passed or failed; its later questions still use the file.

    Args:
        test: pytest's name of the test.
        folder: Where the files are.
        write: Writes files so that all of them are there whole, or none is.
        root: pytest's root folder, from which messages show a file.
    """

    def __init__(
        self,
        test: str,
        folder: Path,
        write: Callable[[Mapping[Path, str]], None],
        root: Path | None = None,
    ) -> None:
        self._test = test
        self._folder = folder
        self._write = write
        self._root = root
        self._pairs: list[Any] = []
        self._queue: dict[Path, _Queued] = {}
        self._written: list[str] = []
        self._unchanged: list[str] = []

    def start(self) -> None:
        """Forget an earlier run of the test: a rerun asks about the same pairs, and accepts again."""
        self._pairs.clear()
        self.drop()

    def find(self, candidate: TrainedVariant, baseline: TrainedVariant | None) -> AcceptedFile:
        """Return the file of a pair of variants, or of one variant without a baseline, read if there is one.

        Raises:
            ConfigurationError: It cannot be read, is not a file of accepted results, or is that of another test.
        """
        pair = [(side.workload, side.variant) for side in (candidate, baseline) if side is not None]
        if pair not in self._pairs:
            self._pairs.append(pair)
        number = 1 + self._pairs.index(pair)
        place = self._folder / file_name(self._test, number)
        history = self._held(place)
        if history is not None and not _is_same_training(history, candidate):
            self._refuse_exchanged(candidate, baseline or candidate, history, place)
        return AcceptedFile(place, self._test, history, self._root)

    def _held(self, place: Path) -> History | None:
        """Return what a file of this test holds; None if there is none."""
        try:
            history = read_history(place.read_text(encoding="utf-8"), place)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            message = f"the accepted results in {str(place)!r} cannot be read: {reason}"
            raise ConfigurationError(message) from None
        if history.test != self._test:
            message = (
                f"the accepted results in {str(place)!r} are those of the test {history.test!r}, and this is the test "
                f'{self._test!r}: if the file was renamed on purpose, write this name into its "test"; if not, '
                "delete it and accept again with --ftguard-update"
            )
            raise ConfigurationError(message)
        return history

    def _refuse_exchanged(
        self, candidate: TrainedVariant, baseline: TrainedVariant, history: History, place: Path
    ) -> None:
        """Refuse a file if another one of the test holds the pair: the test asks in another order than before.

        The files of other parameters count too: if a list of parameters changes, so do the names of the tests.
        """
        for other in sorted(self._folder.glob("*.json")):
            held = self._queue[other].history if other in self._queue else self._of_the_same_function(other)
            if other == place or held is None or not _is_same_training(held, candidate):
                continue
            if _is_same_text(held, baseline):
                recorded = history.accepted.candidate.variant.label
                message = (
                    f"the accepted result in {str(place)!r} is that of {recorded}, and that of "
                    f"{candidate.label} is in {other.name!r}: call the helpers in the same order and with the same "
                    "parameters as when they were accepted, or remove the files and accept again"
                )
                raise ConfigurationError(message)

    def _of_the_same_function(self, place: Path) -> History | None:
        try:
            text = place.read_text(encoding="utf-8")
            test = read_test(text)
            same = test is not None and test.partition("[")[0] == self._test.partition("[")[0]
            return read_history(text, place) if same else None
        except (OSError, UnicodeDecodeError, ConfigurationError):
            return None  # the test that it belongs to says so

    def queue(self, file: AcceptedFile, history: History) -> None:
        """Keep what a file is to hold once the test has passed.

        A test may accept a pair by several metrics. Each of them has checked its own figures only, so the records are
        put together.
        """
        earlier = self._queue.get(file.place)
        if earlier is not None:
            record = history.accepted.completed_by(earlier.history.accepted)
            history = History(history.test, record, file.history.anchor if file.history else record)
        self._queue[file.place] = _Queued(history, history == file.history)

    def write(self) -> None:
        """Write all that is queued, or nothing, for a test that has passed.

        Raises:
            ConfigurationError: It cannot be written.
        """
        queue, self._queue = self._queue, {}
        # Somebody may have removed a file since it was read.
        unchanged = [place for place, queued in queue.items() if queued.is_unchanged and place.exists()]
        self._unchanged += map(str, unchanged)
        fresh = {place: queued.history for place, queued in queue.items() if place not in unchanged}
        places = list(map(str, fresh))
        try:
            self._write({place: write_history(history) for place, history in fresh.items()})
        except OSError as error:
            message = (
                f"the accepted results {', '.join(map(repr, places))} cannot be written: {error.strerror or error}"
            )
            raise ConfigurationError(message) from None
        self._written += places

    def drop(self) -> None:
        """Forget what is queued."""
        self._queue.clear()

    def news(self) -> tuple[list[str], list[str]]:
        """Return the files that were written since the last call, and those that were accepted as they are."""
        news = self._written, self._unchanged
        self._written, self._unchanged = [], []
        return news


def _is_same_training(held: History, candidate: TrainedVariant) -> bool:
    """Return whether a result is that of a candidate's settings, whatever an earlier version called them."""
    return key_of(held.accepted.candidate.variant, "training") == key_of(candidate.variant, "training")


def _is_same_text(held: History, baseline: TrainedVariant) -> bool:
    """Return whether a result was trained and judged on the texts of a pair's baseline."""
    trial, record = baseline.trials[0], held.accepted
    base = trial.measured.base_validation
    return base is not None and base.digest == record.base.digest and trial.measured.data_order in record.data_orders
