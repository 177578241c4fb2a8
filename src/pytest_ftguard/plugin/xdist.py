"""What xdist's workers and their controller share."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pytest

__all__ = ["SharedFolder", "disturbance", "is_worker", "name_of", "process_name"]

_FOLDER: Final = "ftguard_folder"


def is_worker(config: pytest.Config) -> bool:
    """Return whether this is a worker of xdist; its controller collects its results."""
    return hasattr(config, "workerinput")


def process_name(config: pytest.Config) -> str:
    """Return the name of a worker, or "main"."""
    return str(getattr(config, "workerinput", {}).get("workerid", "main"))


def name_of(item: pytest.Item) -> str:
    """Return the name of a test, without the groups that xdist's workers may add to it under --dist=loadgroup."""
    marks = item.iter_markers("xdist_group") if is_worker(item.config) else ()
    groups = {str(mark.args[0] if mark.args else mark.kwargs.get("name", "default")) for mark in marks}
    return item.nodeid.removesuffix(f"@{'_'.join(sorted(groups))}") if groups else item.nodeid


def disturbance(config: pytest.Config) -> str | None:
    """Return what keeps the processor busy next to a trial, for instance the tests of xdist's other workers."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers == 1:
        return None
    return (
        f"{workers} workers of xdist run tests on the same processor: run the time gates in a run of their own, "
        "without xdist"
    )


class SharedFolder:
    """A temporary folder that all processes of a run share; the controller removes it.

    Args:
        config: pytest's configuration.

    Attributes:
        place: The folder; None until somebody needs it.
    """

    def __init__(self, config: pytest.Config) -> None:
        given = getattr(config, "workerinput", {}).get(_FOLDER)
        self.place: Path | None = Path(given) if given else None
        self._is_ours = not is_worker(config)

    def make(self) -> Path:
        """Return the folder, made now if there is none."""
        if self.place is None:
            self.place = Path(tempfile.mkdtemp(prefix="pytest-ftguard-"))
        return self.place

    def share_with(self, workerinput: dict[str, Any]) -> None:
        """Tell a worker of xdist of the folder."""
        workerinput[_FOLDER] = str(self.make())

    def remove(self) -> None:
        """Remove the folder, if it is this process's to remove."""
        if self.place is not None and self._is_ours:
            shutil.rmtree(self.place, ignore_errors=True)
