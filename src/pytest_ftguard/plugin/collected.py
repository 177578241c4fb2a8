"""The tests that were collected. They tell which accepted results no test looks for any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["Collected", "collected"]


@dataclass(frozen=True)
class Collected:
    """All tests that a run found, also those that it then left out.

    Attributes:
        names: pytest's names of them.
        root: The folder in which the names start.
        partly: The files from which the command line asked for single tests, so that the others were not collected.
        only_some: Whether any file may have tests that were not collected.
    """

    names: frozenset[str]
    root: Path
    partly: frozenset[Path]
    only_some: bool

    def has_looked_for(self, test: str) -> bool:
        """Return whether the run would have collected a test of this name, if there were one."""
        if self.only_some:
            return False
        file = _file(test)
        place = (self.root / file).resolve()
        return not place.exists() or (place not in self.partly and file in map(_file, self.names))


def _file(test: str) -> str:
    return test.partition("::")[0]


def collected(config: pytest.Config, names: Iterable[str]) -> Collected:
    """Return the tests that were collected, and which files were collected whole.

    Args:
        config: pytest's configuration.
        names: pytest's names of the tests.
    """
    # The files of single tests that the command line names, as in tests/test_it.py::test_one.
    files = [Path(config.invocation_params.dir, _file(one)) for one in config.args if "::" in one]
    return Collected(
        names=frozenset(names),
        root=config.rootpath,
        partly=frozenset(file.resolve() for file in files),
        # Only the tests that failed last (--lf), or a module (--pyargs): its file is not known here.
        only_some=bool(config.getoption("lf", False)) or not all(file.exists() for file in files),
    )
