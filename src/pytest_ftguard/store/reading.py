"""How an entry of a store is read if it may be damaged, or not to be believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results import Trial
from pytest_ftguard.store.entries import read_entry
from pytest_ftguard.store.room import set_aside
from pytest_ftguard.store.trust import Trust, UnsignedError

__all__ = ["read_or_set_aside"]


def read_or_set_aside(folder: Path, path: Path, trust: Trust, complain: Callable[[str], None]) -> Trial | None:
    """Return an entry's result; a damaged entry is set aside, and one that is not believed is passed over.

    Args:
        folder: That of the store.
        path: The file of the entry.
        trust: What is believed.
        complain: Called with what is wrong with it.
    """
    try:
        return read_entry(path, trust)
    except FileNotFoundError:
        return None  # removed meanwhile to make room
    except UnsignedError as error:
        complain(f"the stored result {str(path)!r} is not used: {error}")
    except OSError as error:
        complain(f"the stored result {str(path)!r} cannot be read: {error.strerror or error}")
    except (FtguardError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        moved = set_aside(folder, path)
        complain(
            f"the stored result {str(path)!r} is damaged ({type(error).__name__}: {error}): {moved}, and its trial is "
            "trained again"
        )
    return None
