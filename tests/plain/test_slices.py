"""What is known of rows that are evaluated: their names, slices and groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.rows import Rows, RowSet, described

from .builders import WORKLOAD


@dataclass
class Example:
    """A row in tokens, as far as it matters here."""

    ids: list[int]


def known(rows: list[dict[str, Any]], **fields: Any) -> RowSet:
    """What is known of rows, each with a token more than the one before it."""
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    examples = RowSet(tuple(Example([0] * place) for place in range(len(rows))))
    found = Rows("data.jsonl", "validation", columns, tuple(rows))
    return described(replace(WORKLOAD, task="chat", **fields), found, range(len(rows)), examples)


def slices(rows: list[dict[str, Any]], column: str) -> tuple[str, ...]:
    """The slice of each row by a column."""
    about = known(rows, slices=(column,)).about
    assert about is not None
    return about.slices[column]


def test_an_example_is_called_by_its_id_or_by_the_number_of_its_row() -> None:
    """An id counts only if every row has one of its own: otherwise a name would be that of two rows."""
    cases: list[tuple[list[Any], tuple[str, str]]] = [
        (["a", "b"], ("a", "b")),
        ([7, 3], ("7", "3")),
        (["a", "a"], ("1", "2")),
        ([None, 1], ("1", "2")),
    ]
    for ids, names in cases:
        about = known([{"id": one} for one in ids]).about
        assert about is not None
        assert about.names == names


def test_each_value_of_a_column_is_a_slice() -> None:
    """A row without a value is in a slice of its own, and so are true and false."""
    rows: list[dict[str, Any]] = [{"language": value} for value in ("de", None, " en ", "")]
    assert slices(rows, "language") == ("de", "none", "en", "none")
    assert slices([{"is_short": True}, {"is_short": False}], "is_short") == ("True", "False")
    assert slices([{"hops": 1}, {"hops": 2}, {"hops": 1}], "hops") == ("1", "2", "1")


def test_many_different_numbers_are_cut_into_thirds() -> None:
    """Equal numbers are never parted; "length" stands for the tokens unless a column has that name."""
    rows = [{"year": 1990 + place} for place in range(30)]
    found = slices(rows, "year")
    assert found == ("up to 1999",) * 10 + ("1999 to 2009",) * 10 + ("above 2009",) * 10
    assert slices(rows, "length") == ("up to 9",) * 10 + ("9 to 19",) * 10 + ("above 19",) * 10
    assert slices([{"length": "short"}, {"length": "long"}], "length") == ("short", "long")


@given(st.lists(st.integers(-5, 100), min_size=12).filter(lambda values: len(set(values)) > 8))
def test_thirds_are_ordered_and_cover_all(values: list[int]) -> None:
    """Every number is in one of at most three slices, and a larger one is never in a lower third."""
    found = slices([{"n": value} for value in values], "n")
    order = sorted(set(found), key=lambda name: (name.startswith("above"), not name.startswith("up to")))
    ranks = [order.index(name) for _, name in sorted(zip(values, found, strict=True), key=lambda pair: pair[0])]
    assert ranks == sorted(ranks)
    assert len({(value, name) for value, name in zip(values, found, strict=True)}) == len(set(values))


def test_a_column_that_makes_no_slices_is_an_error_that_names_it() -> None:
    """There is no such column, or nearly every row has a value of its own."""
    with pytest.raises(ConfigurationError, match=r"no column named 'country' \(ftguard_slices\): its columns are"):
        slices([{"text": "a"}], "country")
    rows = [{"text": f"text {place}"} for place in range(21)]
    assert len(set(slices(rows[:20], "text"))) == 20
    with pytest.raises(ConfigurationError, match="has 21 different values"):
        slices(rows, "text")


def test_rows_of_one_group_are_one_unit() -> None:
    """By equal values; a row without one is a unit of its own; numbers and texts are never the same value."""
    films: list[Any] = ["a", "b", "a", None, None, 1, "1"]
    rows = [{"film": film} for film in films]
    found = known(rows, group="film")
    assert found.documents == (0, 1, 0, 2, 3, 4, 5)
    assert found.about is not None
    assert found.about.group == "film"
    assert known(rows).documents is None
    with pytest.raises(ConfigurationError, match=r"no column named 'book' \(ftguard_group\)"):
        known(rows, group="book")


def test_what_would_change_nothing_is_refused() -> None:
    """Columns named twice, and names that are no texts."""
    for value in (("a", "a"), 3, (1,), ("",)):
        with pytest.raises(ConfigurationError, match=r"Workload\.slices"):
            replace(WORKLOAD, slices=value)  # type: ignore[arg-type]
    assert replace(WORKLOAD, slices="language").slices == ("language",)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r'Workload\.score must be "module:function"'):
        replace(WORKLOAD, score="exact_match")
