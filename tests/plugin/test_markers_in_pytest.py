"""Which of several markers is the closest one, for every way in which pytest lets a test have several."""

from __future__ import annotations

import pytest

from pytest_ftguard.settings.markers import closest_first, limits_of

MODULE = """
import unittest
import pytest

def mark(value):
    return pytest.mark.ftguard(max_loss_gap=value)

SAME = mark(1)
pytestmark = [mark(90), mark(91)]

@mark(3)
@mark(2)
def test_decorators(): pass

@mark(3)
@pytest.mark.parametrize("a", [pytest.param(0, marks=mark(1))])
@mark(2)
def test_param(a): pass

@mark(4)
@pytest.mark.parametrize("b", [pytest.param(0, marks=mark(2))])
@pytest.mark.parametrize("a", [pytest.param(0, marks=[mark(1)])])
def test_nested_params(a, b): pass

@pytest.fixture(params=[pytest.param(0, marks=mark(1))])
def parametrized(request): pass

@mark(2)
def test_param_of_a_fixture(parametrized): pass

@SAME
@mark(2)
@pytest.mark.parametrize("a", [pytest.param(0, marks=SAME)])
def test_one_marker_in_two_places(a): pass

@mark(5)
class Base:
    @mark(2)
    @pytest.mark.parametrize("a", [pytest.param(0, marks=mark(1))])
    def test_inherited_param(self, a): pass

    def test_inherited(self): pass

@mark(4)
class Other:
    pytestmark_is_by_decorator = True

@mark(3)
class TestDerived(Base): pass

class TestWithoutOwn(Other, Base): pass

class TestList(Other, Base):
    pytestmark = [mark(2), mark(3)]

@mark(6)
class TestOuter:
    @mark(5)
    class TestInner(Base):
        pytestmark = mark(4)

@mark(3)
class TestUnit(unittest.TestCase):
    @mark(2)
    def test_method(self): pass
"""
# Of each test what its markers set, the closest first.
ORDERS = {
    "test_decorators": [2, 3],
    "test_param[0]": [1, 2, 3],
    "test_nested_params[0-0]": [1, 2, 4],
    "test_param_of_a_fixture[0]": [1, 2],
    "test_one_marker_in_two_places[0]": [1, 2, 1],
    "TestDerived::test_inherited_param[0]": [1, 2, 3, 5],
    "TestDerived::test_inherited": [3, 5],
    "TestWithoutOwn::test_inherited": [4, 5],
    "TestList::test_inherited": [2, 3, 4, 5],
    "TestOuter::TestInner::test_inherited": [4, 5, 5, 6],
    "TestUnit::test_method": [2, 3],
}


def values(item: pytest.Item) -> list[float]:
    return [mark.kwargs["max_loss_gap"] for mark in closest_first(item)]


def test_the_closest_marker_is_the_first(pytester: pytest.Pytester) -> None:
    """Parameters come before decorators, a class before its bases, and the module behind all of them."""
    pytester.makepyfile(MODULE)
    items, _ = pytester.inline_genitems()
    found = {item.nodeid.partition("::")[2]: item for item in items}
    orders = {name: values(item) for name, item in found.items() if name in ORDERS}
    assert orders == {name: [*order, 90, 91] for name, order in ORDERS.items()}
    for name, order in ORDERS.items():
        assert limits_of(found[name]).value("max_loss_gap", None).value == order[0]


def test_an_added_marker_is_the_closest_only_if_it_is_put_in_front(pytester: pytest.Pytester) -> None:
    """As in pytest, one that is appended stands behind the decorators, and before those of the class."""
    pytester.makepyfile(MODULE)
    items, _ = pytester.inline_genitems()
    for item in items:
        for value, append in ((70, True), (71, True), (80, False), (81, False)):
            item.add_marker(pytest.mark.ftguard(max_loss_gap=value), append=append)
        if isinstance(item.parent, pytest.Class):
            item.parent.add_marker(pytest.mark.ftguard(max_loss_gap=60), append=False)
            break
    found = {item.nodeid.partition("::")[2]: values(item) for item in items}
    assert found["test_param[0]"] == [81, 80, 1, 2, 3, 70, 71, 90, 91]
    assert found["test_decorators"] == [81, 80, 2, 3, 70, 71, 90, 91]
    assert found["TestDerived::test_inherited_param[0]"] == [81, 80, 1, 2, 70, 71, 60, 3, 5, 90, 91]


RUNTIME = """
import pytest

def limit(ftguard):
    return ftguard.limits.value("max_loss_gap", None).value

@pytest.fixture
def strict(request):
    request.applymarker(pytest.mark.ftguard(max_loss_gap=1))

def test_by_a_fixture(strict, ftguard):
    assert limit(ftguard) == 1

def test_by_the_test(request, ftguard):
    assert ftguard.limits.get("max_loss_gap") is None
    request.node.add_marker(pytest.mark.ftguard(max_loss_gap=2))
    assert limit(ftguard) == 2
    request.node.add_marker(pytest.mark.ftguard(max_loss_gap=3), append=False)
    assert limit(ftguard) == 3
"""
WRONG = """
import pytest
from pytest_ftguard import assert_loss_gap

def test_wrong_while_it_runs(request, full_variant, lora_variant):
    request.node.add_marker(pytest.mark.ftguard(max_los_gap=2))
    assert_loss_gap(lora_variant, full_variant, at_most=3)

def test_wrong_by_a_hook(full_variant): pass

def test_without_ftguard(): pass
"""
HOOK = """

import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if "hook" in item.name:
            item.add_marker(pytest.mark.ftguard(max_memory="lots"))
"""


@pytest.mark.parametrize("options", [[], ["-n", "2"], ["--ftguard-plan", "-k", "hook or without"]])
def test_markers_that_are_added_while_a_test_runs(made_up: pytest.Pytester, options: list[str]) -> None:
    """They are limits, and a wrong one is an error of its test: under a plan too."""
    made_up.makepyfile(test_it="", test_right=RUNTIME, test_wrong=WRONG)
    with (made_up.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(HOOK)
    result = made_up.runpytest_inprocess("test_wrong.py", *options)
    is_planned = "--ftguard-plan" in options
    result.assert_outcomes(errors=1, failed=not is_planned, passed=not is_planned, skipped=is_planned)
    assert "a limit of the peak memory must be a size such as" in result.stdout.str()
    if not is_planned:
        assert "the marker ftguard has no keyword 'max_los_gap'" in result.stdout.str()
        made_up.runpytest_inprocess("test_right.py", *options).assert_outcomes(passed=2)
