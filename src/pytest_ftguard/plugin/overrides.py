"""Which specs hold for a test, and which variants of them it asks for together.

A conftest.py or a module may override the fixtures of specs for its own tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pytest_ftguard.results import TrainedVariant

__all__ = ["Overrides"]

_SPECS: Final = ("ftguard_workload", "ftguard_full", "ftguard_lora")
_VARIANTS: Final = ("full_variant", "lora_variant")


class Overrides:
    """Sees to it that a variant of the session is not taken for that of a test with other specs.

    pytest keeps the value of a session's fixture for all tests, although the fixtures that it asks for while it runs
    depend on the test. What was trained is remembered by its spec, so making the fixture again costs nothing twice.
    """

    def __init__(self) -> None:
        self._present: Sequence[object] = ()
        self._made_for: dict[str, Sequence[object]] = {}
        self._trained: dict[str, TrainedVariant] = {}
        self._spared: set[str] = set()
        self._together: Sequence[str] = ()

    def start(self, item: pytest.Item) -> None:
        """Forget each variant that was made for a test with other specs; to be called before fixtures are set up."""
        manager: Any = item.session._fixturemanager
        # pytest has no public way to ask which of several fixtures of one name a test gets.
        self._present = [_last(manager, name, item) for name in _SPECS]
        names = getattr(item, "fixturenames", ())
        self._together = [name for name in _VARIANTS if name in names and _is_ours(_last(manager, name, item))]
        for variant, specs in list(self._made_for.items()):
            if specs != self._present or variant in self._spared:
                del self._made_for[variant]
                self._trained.pop(variant, None)
                self._spared.discard(variant)
                for definition in manager.getfixturedefs(variant, item) or ():
                    if _is_ours(definition):
                        definition.finish(item._request)  # type: ignore[attr-defined]

    def note_made(self, variant: str) -> None:
        """Note that a variant of the session is made for the test that is running."""
        self._made_for[variant] = self._present
        self._trained.pop(variant, None)

    def note_trained(self, variant: str, trained: TrainedVariant, *, spared: bool) -> None:
        """Note what became of a variant of the session; one that was spared is made again for the next test."""
        self._trained[variant] = trained
        if spared:
            self._spared.add(variant)

    def why_not_train(self, variant: str) -> str | None:
        """Return why a variant is of no use to the test that is running; None if it is of use.

        A test that asks for both variants compares them, and no gate compares anything with a variant that failed.
        """
        others = self._together if variant in self._together else ()
        found = (self._trained[name] for name in others if name != variant and name in self._trained)
        failed = next(
            (trial for other in found for trial in other.trials if trial.measured.outcome not in _NO_FAILURES), None
        )
        if failed is None:
            return None
        reason = failed.measured.error.message.partition("\n")[0].partition(". ")[0] if failed.measured.error else ""
        return (
            f"its partner {failed.spec.variant.label}, seed {failed.spec.seed}, {failed.ending}"
            f"{f' ({reason})' if reason else ''}, so no gate can compare the two; a test that asks for {variant} alone "
            "trains it"
        )


_NO_FAILURES: Final = ("ok", "planned", "not_trained")


def _last(manager: Any, name: str, item: pytest.Item) -> object:
    definitions = manager.getfixturedefs(name, item)
    return definitions[-1] if definitions else None


def _is_ours(definition: Any) -> bool:
    return definition is not None and definition.func.__module__.startswith("pytest_ftguard.")
