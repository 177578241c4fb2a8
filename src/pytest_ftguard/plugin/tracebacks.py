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

    pytest asks a frame's module for `__tracebackhide__` when it shows a traceback. Each module that is in one is given
    it here, so that none of them has to think of it.
    """
    for entry in excinfo.traceback:
        if _OURS in Path(entry.path).parents:
            entry.frame.f_globals["__tracebackhide__"] = _is_the_users


def _is_the_users(excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    return excinfo.errisinstance((FtguardError, GateFailure))
