"""The files of a run, which must stay as they are: trials are told apart by paths within one run."""

from __future__ import annotations

from pathlib import Path

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Workload, places_of
from pytest_ftguard.specs.texts import is_place

__all__ = ["UnchangedFiles", "refuse_missing_texts"]


class UnchangedFiles:
    """Remembers size and time of the files that workloads name."""

    def __init__(self) -> None:
        self._files: dict[str, list[tuple[int, int]]] = {}

    def check(self, workload: Workload) -> None:
        """Note the files of a workload that are new.

        Raises:
            ConfigurationError: One of them was changed since it was noted.
        """
        for role in places_of(Workload, "text", "model"):
            path = getattr(workload, role)
            if path is None or (found := _stats(Path(path))) is None:
                continue  # a name on the hub; or the worker says what is wrong with it
            if self._files.setdefault(path, found) != found:
                message = (
                    f"{path!r}, the workload's {role}, was changed after it was first used in this run: "
                    f"write each {role} to a path of its own"
                )
                raise ConfigurationError(message)


def refuse_missing_texts(workload: Workload) -> None:
    """Check that the texts of a workload are there.

    Raises:
        ConfigurationError: One is not.
    """
    for role in places_of(Workload, "text"):
        path = getattr(workload, role)
        if path is not None and is_place(path) and not Path(path).exists():
            message = f"the {role} text {path!r} cannot be read: there is no such file; give a file that exists"
            raise ConfigurationError(message)


def _stats(path: Path) -> list[tuple[int, int]] | None:
    """Return size and time of a file, or of each file in a folder; None if there is none."""
    try:
        inside = sorted(one for one in path.rglob("*") if one.is_file() and one.suffix != ".pyc")
        stats = [one.stat() for one in (inside if path.is_dir() else [path])]
    except OSError:
        return None
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]
