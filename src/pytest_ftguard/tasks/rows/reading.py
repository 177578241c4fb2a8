"""Files, folders, data sets on the hub and functions of the user's become rows."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.importing import imported
from pytest_ftguard.specs.texts import HubText, hub_text, is_function

__all__ = ["Rows", "read_rows"]

_BUILDERS: Final[Mapping[str, str]] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
_COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst")
_LONGEST_REASON: Final = 400


@dataclass(frozen=True)
class Rows:
    """The rows of a data set.

    Attributes:
        place: What the user gave: a path, a name on the hub, or a function.
        role: "training", "validation" or "reference", for messages.
        columns: The names of their columns.
        rows: The rows; each has a value for each column, which may be None.
    """

    place: str
    role: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def name(self) -> str:
        """What messages call them."""
        return f"the {self.role} data {self.place!r}"


def read_rows(place: str, role: str) -> Rows:
    """Return the rows of a data set, as the library `datasets` reads them.

    Nothing is written to the user's cache, unless the rows are on the hub.

    Args:
        place: A file (`.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, `.txt`; compressed too), a folder that
            `save_to_disk` has written, "hub:name[@revision]:split", or "module:function" that returns rows.
        role: "training", "validation" or "reference", for messages.

    Raises:
        ConfigurationError: The rows cannot be read, or there are none.
    """
    name = f"the {role} data {place!r}"
    if is_function(place):
        found = _called(place, name)
    elif (hub := hub_text(place)) is not None:
        found = _from_hub(hub, name)
    elif Path(place).is_dir():
        found = _from_folder(place, name)
    else:
        found = _from_file(place, name)
    try:
        rows = tuple(found)
    except Exception as error:  # what a function of the user's returned may raise anything
        raise ConfigurationError(_unreadable(name, error)) from error
    odd = next((row for row in rows if not isinstance(row, Mapping)), None)
    if odd is not None:
        message = f"{name} gave {odd!r:.80} as a row: each row must map the names of columns to values"
        raise ConfigurationError(message)
    if not rows:
        message = f"{name} has no rows: give data with at least one"
        raise ConfigurationError(message)
    return Rows(place, role, tuple(dict.fromkeys(column for row in rows for column in row)), rows)


def _datasets(name: str) -> ModuleType:
    """Return the library.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        message = f"{name} needs the library datasets, which is not installed: pip install 'pytest-ftguard[chat]'"
        raise ConfigurationError(message) from error
    return cast(ModuleType, datasets)


def _from_file(place: str, name: str) -> Any:
    path = Path(place)
    suffix = Path(path.stem).suffix.lower() if path.suffix.lower() in _COMPRESSED else path.suffix.lower()
    if suffix not in _BUILDERS:
        known = ", ".join(_BUILDERS)
        message = (
            f"{name} ends in {path.suffix or 'nothing'}, which does not say how to read it: name a file that ends in "
            f"one of {known} (compressed too: .gz, .bz2, .xz, .zst)"
        )
        raise ConfigurationError(message)
    if not path.is_file():
        message = f"{name} cannot be read: there is no such file; give one that exists"
        raise ConfigurationError(message)
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    # The library keeps a copy in its cache: here for as long as it takes to read it.
    with tempfile.TemporaryDirectory(prefix="ftguard-rows-") as folder, _quiet(_datasets(name)) as library:
        try:
            found = library.load_dataset(
                _BUILDERS[suffix], data_files=_literally(path), split="train", cache_dir=folder, **options
            )
            return list(found)
        except Exception as error:  # each builder and parser has errors of its own
            raise ConfigurationError(_unreadable(name, error)) from error


def _literally(path: Path) -> str:
    """Return a path as the library takes it for this very file: brackets and stars are a pattern to it."""
    return glob.escape(str(path.absolute()))


def _from_folder(place: str, name: str) -> Any:
    with _quiet(_datasets(name)) as library:
        try:
            found = library.load_from_disk(place)
        except Exception as error:
            message = f"{_unreadable(name, error)}; a folder must be one that save_to_disk has written"
            raise ConfigurationError(message) from error
    return _one_split(found, name, "/".join((place.rstrip("/"), "{}")))


def _from_hub(hub: HubText, name: str) -> Any:
    with _quiet(_datasets(name)) as library:
        try:
            return library.load_dataset(hub.name, revision=hub.revision, split=hub.split)
        except Exception as error:
            raise ConfigurationError(_unreadable(name, error)) from error


def _called(place: str, name: str) -> Any:
    """Return what a function of the user's returns.

    Raises:
        ConfigurationError: There is no such function, or it fails.
    """
    try:
        function = imported(place)
    except Exception as error:  # a user's module may raise anything while it is imported
        message = (
            f"{name} is no file and no function that can be imported ({type(error).__name__}: {error}): give a file "
            "that exists, or module:function"
        )
        raise ConfigurationError(message) from error
    try:
        found = function()
    except Exception as error:
        message = f"{name} failed: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    if not hasattr(found, "__iter__"):
        message = f"{name} returned {found!r:.80}: it must return rows, each a mapping of columns to values"
        raise ConfigurationError(message)
    return _one_split(found, name, f"a function that returns one of them, as in data[{'{!r}'}]")


def _one_split(found: Any, name: str, hint: str) -> Any:
    """Return rows, unless they are a mapping of splits.

    Raises:
        ConfigurationError: They are.
    """
    if isinstance(found, Mapping):
        splits = [str(split) for split in found]
        message = f"{name} has several splits ({', '.join(splits)}): give {hint.format(splits[0] if splits else '')}"
        raise ConfigurationError(message)
    return found


@contextmanager
def _quiet(library: ModuleType) -> Iterator[ModuleType]:
    """Hide the library's progress bars; those of the caller's own code stay as they are."""
    hidden = library.are_progress_bars_disabled()
    library.disable_progress_bars()
    try:
        yield library
    finally:
        if not hidden:
            library.enable_progress_bars()


def _unreadable(name: str, error: Exception) -> str:
    # The library hides what is wrong behind an error that says only that it could not be made.
    cause = error.__cause__ or error
    reason = " ".join(str(cause).split())[:_LONGEST_REASON]
    return f"{name} cannot be read: {type(cause).__name__}: {reason}"
