"""Which of a test's markers is the closest, and what they set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.setting import Setting
from pytest_ftguard.settings.reading import Settings, marker_problem, marker_settings

if TYPE_CHECKING:
    import pytest

__all__ = ["closest_first", "find_problem", "limits_of", "memory_budget"]

_NAME = "ftguard"


def closest_first(item: pytest.Item) -> list[pytest.Mark]:
    """Return the ftguard markers of a test, the closest first.

    pytest lists those of `pytest.param` behind the decorators of the function, and those of a base class before those
    of the class itself. The order here:

    1. put in front with `add_marker(..., append=False)`, the last one first
    2. `pytest.param(marks=...)`, of the test or of a fixture
    3. decorators of the function, the lowest first
    4. added with `add_marker` or `request.applymarker`
    5. the class, then its base classes in the order in which Python looks up methods; then the classes around it
    6. module, package, session

    The markers are read again each time, because a test or a fixture may add some while it runs.
    """
    return [mark for node in item.iter_parents() for mark in _of_node(node)]


def limits_of(item: pytest.Item) -> Settings:
    """Return what the markers of a test set, the closest one first.

    Raises:
        ConfigurationError: A marker is wrong.
    """
    markers = closest_first(item)
    problem = _problem_of(markers)
    if problem:
        raise ConfigurationError(problem)
    return marker_settings(mark.kwargs for mark in markers)


def find_problem(item: pytest.Item) -> str | None:
    """Return what is wrong with the markers of a test, or None."""
    return _problem_of(list(item.iter_markers(_NAME)))


def memory_budget(item: pytest.Item) -> Setting | None:
    """Return the memory budget of a test's marker; None if it has none.

    A budget of the settings holds for the tests that call the helper, which is not known before they do.

    Raises:
        ConfigurationError: A marker is wrong.
    """
    return limits_of(item).get("max_memory")


def _problem_of(markers: Sequence[pytest.Mark]) -> str | None:
    return next((problem for mark in markers if (problem := marker_problem(mark.args, mark.kwargs))), None)


def _of_node(node: Any) -> list[pytest.Mark]:
    own: list[pytest.Mark] = [mark for mark in node.own_markers if mark.name == _NAME]
    if len(own) < 2:
        return own
    if (callspec := getattr(node, "callspec", None)) is not None:
        of_params = _ours(callspec.marks)
        return _reordered(own, [*of_params, *_ours(getattr(node, "obj", None))] if of_params else [])
    cls = getattr(node, "obj", None)
    if isinstance(cls, type):
        return _reordered(own, [mark for one in cls.__mro__ for mark in _ours(one.__dict__.get("pytestmark", []))])
    return own


def _ours(marked: Any) -> list[pytest.Mark]:
    """Return the ftguard markers in a list, in a single `pytestmark`, or of a function."""
    found = getattr(marked, "pytestmark", marked)
    marks: list[Any] = [getattr(one, "mark", one) for one in (found if isinstance(found, list | tuple) else [found])]
    return [mark for mark in marks if getattr(mark, "name", None) == _NAME]


def _reordered(own: Sequence[pytest.Mark], wanted: Sequence[pytest.Mark]) -> list[pytest.Mark]:
    """Return a node's markers with those that belong together in the wanted order, wherever pytest has put them.

    What was added in front of them stays in front, what was added behind them stays behind.
    """
    present = [mark for mark in wanted if any(mark is one for one in own)]
    size = len(present)
    identities = sorted(map(id, present))
    for start in range(len(own) - size + 1):
        if sorted(map(id, own[start : start + size])) == identities:
            return [*own[:start], *present, *own[start + size :]]
    return list(own)
