"""Helpers that are called in a forked process: no verdict comes back from there."""

from __future__ import annotations

import mmap

from pytest_ftguard.errors import ConfigurationError

__all__ = ["Forks", "forked"]


class Forks:
    """Tells this process that a helper was called in one that it has forked: both see the same memory."""

    def __init__(self) -> None:
        self._test = mmap.mmap(-1, 8)

    def mark(self, test: int) -> None:
        """Note, in the forked process, for which test the helper was called; its number is at least 1."""
        self._test[:] = test.to_bytes(8, "little")

    def take(self, test: int | None = None) -> bool:
        """Return whether a helper was called so for a test, or for any, and forget it."""
        marked = int.from_bytes(self._test[:], "little")
        if not marked or test not in (None, marked):
            return False
        self._test[:] = bytes(8)
        return True


def forked(test: object) -> ConfigurationError:
    """Return the error of a helper that was called in a process that a test has forked."""
    return ConfigurationError(
        f"a helper was called in a process that {test} has forked, from which no verdict comes back: call it in the "
        "test itself, or in a thread"
    )
