"""The room that a store takes: what its folders hold, when it was last used, and what goes first."""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pytest_ftguard.files import write_whole
from pytest_ftguard.store.weights import size_of

__all__ = [
    "Held",
    "held_results",
    "keep_latest",
    "listed",
    "make_checkpoints",
    "make_room",
    "prepare",
    "remove",
    "remove_older",
    "set_aside",
]

_CACHE_TAG: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache of pytest-ftguard, see https://bford.info/cachedir/\n"
)
_MOST_DAMAGED: Final = 20

_ABANDONED_SECONDS: Final = 3600.0
# A training that was killed is tried again soon, or never.
_GIVEN_UP_SECONDS: Final = 7 * 24 * 3600.0


def prepare(folder: Path) -> None:
    """Make the folder of a store, which git and backups leave out.

    Raises:
        OSError: It cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((".gitignore", "*\n"), ("CACHEDIR.TAG", _CACHE_TAG)):
        if not (folder / name).exists():
            write_whole(folder / name, text)


def make_checkpoints(folder: Path, key: str) -> Path:
    """Return the folder for a trial's checkpoints, made if it is not there yet.

    Raises:
        OSError: It cannot be made, or leads to somewhere else.
    """
    place = folder / "checkpoints" / key
    if place.is_symlink() or place.parent.is_symlink():
        raise OSError(errno.ELOOP, "it is a link to another folder")
    place.mkdir(parents=True, exist_ok=True)
    return place


def set_aside(folder: Path, path: Path) -> str:
    """Move a damaged entry to where it can be looked at; return what became of it, as part of a sentence."""
    place = folder / "damaged" / path.name
    try:
        if place.parent.is_symlink():
            raise OSError(errno.ELOOP, f"{str(place.parent)!r} is a link to another folder")
        place.parent.mkdir(exist_ok=True)
        keep_latest(place.parent, _MOST_DAMAGED - 1)
        path.replace(place)
    except OSError as error:
        return f"it could not be moved ({error.strerror or error})"
    return f"it was moved to {str(place)!r}"


class Held(NamedTuple):
    """A file or folder of the store: its bytes, the time of its last use, and where it is."""

    size: int
    used: float
    path: Path


def make_room(folder: Path, limit_bytes: int) -> list[Held]:
    """Remove what was not used for longest until the rest is within the limit, and what a killed process left.

    Weights go before what they came to as they ship, and that before results, which are small and spare whole
    trainings.

    Args:
        folder: That of the store.
        limit_bytes: Size of all of them together.

    Returns:
        What was removed of them.
    """
    kinds = (_held_weights(folder), _held_files(folder / "forms"), held_results(folder))
    in_order = [one for held in kinds for one in sorted(held, key=_use)]
    total = sum(held.size for held in in_order)
    now = time.time()
    removed = []
    for held in in_order:
        is_draft = held.path.suffix == ".draft"
        if (is_draft and now - held.used > _ABANDONED_SECONDS) or (not is_draft and total > limit_bytes):
            remove(held.path)
            total -= held.size
            removed.append(held)
    remove_older(folder / "checkpoints", _GIVEN_UP_SECONDS)
    return removed


def remove_older(folder: Path, seconds: float) -> None:
    """Remove what has not changed for so long in a folder."""
    for entry in listed(folder):
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > seconds:
                remove(Path(entry.path))


def keep_latest(folder: Path, most: int) -> None:
    """Remove from a folder what was put there first, until so many are left."""
    with suppress(OSError):
        # The time of content is that of its last use; that of the inode is when it was moved here.
        oldest = sorted(listed(folder), key=lambda entry: -entry.stat().st_ctime_ns)[most:]
        for entry in oldest:
            remove(Path(entry.path))


def held_results(folder: Path) -> list[Held]:
    """Return each file among the results."""
    return [held for part in listed(folder / "results") for held in _held_files(Path(part.path))]


def _held_files(folder: Path) -> list[Held]:
    found = []
    for file in listed(folder):
        with suppress(OSError):
            stat = file.stat()
            found.append(Held(stat.st_size, stat.st_mtime, Path(file.path)))
    return found


def _held_weights(folder: Path) -> list[Held]:
    found = []
    for place in listed(folder / "weights"):
        with suppress(OSError):
            path = Path(place.path)
            found.append(Held(size_of(path), place.stat().st_mtime, path))
    return found


def _use(held: Held) -> float:
    return held.used


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder of the store holds, without links: nothing outside it may be measured or removed."""
    if folder.is_symlink():
        return []
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.is_symlink()]
    except OSError:
        return []
