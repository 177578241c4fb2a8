"""Which specs hold for a test: a conftest.py or a module may override their fixtures for its own tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest

__all__ = ["Overrides"]

_SPECS: Final = ("ftguard_workload", "ftguard_full", "ftguard_lora")


class Overrides:
    """Sees to it that a variant of the session is not taken for that of a test with other specs.

    pytest keeps the value of a session's fixture for all tests, although the fixtures that it asks for while it runs
    depend on the test. What was trained is remembered by its spec, so making the fixture anew costs nothing twice.
    """

    def __init__(self) -> None:
        self._present: Sequence[object] = ()
        self._made_for: dict[str, Sequence[object]] = {}

    def start(self, item: pytest.Item) -> None:
        """Forget each variant that was made for a test with other specs; to be called before fixtures are set up."""
        manager: Any = item.session._fixturemanager
        # pytest has no public way to ask which of several fixtures of one name a test gets.
        self._present = [_last(manager, name, item) for name in _SPECS]
        for variant, specs in list(self._made_for.items()):
            if specs != self._present:
                del self._made_for[variant]
                for definition in manager.getfixturedefs(variant, item) or ():
                    if definition.func.__module__.startswith("pytest_ftguard."):
                        definition.finish(item._request)  # type: ignore[attr-defined]

    def note_made(self, variant: str) -> None:
        """Note that a variant of the session is made for the test that is running."""
        self._made_for[variant] = self._present


def _last(manager: Any, name: str, item: pytest.Item) -> object:
    definitions = manager.getfixturedefs(name, item)
    return definitions[-1] if definitions else None
