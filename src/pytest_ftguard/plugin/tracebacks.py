"""Which frames of a traceback pytest shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_ftguard.errors import FtguardError, GateFailure

if TYPE_CHECKING:
    import pytest

__all__ = ["hide_our_frames"]

_OURS: Final = Path(__file__).parents[1]


def hide_our_frames(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Leave our own frames out if the error is the user's to mend; those of any other error are shown, for it is ours.

    At least one frame stays.
    """
    if not excinfo.errisinstance((FtguardError, GateFailure)):
        return
    kept = excinfo.traceback.filter(lambda entry: _OURS not in Path(entry.path).parents)
    if kept:
        excinfo.traceback = kept
