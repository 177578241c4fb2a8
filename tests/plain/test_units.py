"""Sizes, shares and times as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ftguard.units import (
    decimals_apart,
    format_bytes,
    format_bytes_apart,
    format_duration,
    parse_bytes,
    parse_duration,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0.9 GB", 900_000_000), ("2 GiB", 2 << 30), ("1_000kb", 1_000_000), (".5 KiB", 512), ("1e3 B", 1000)],
)
def test_sizes_are_decimal_or_binary_as_written(text: str, size: int) -> None:
    """GB is a thousand million bytes, GiB 2 to the 30."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["60", "GB", "0 GB", "-1 GB", "1 XB", "", "nan GB", "1e999 GB", "60%", "0.1 B"])
def test_a_text_that_is_no_size_is_refused_by_name(text: str) -> None:
    """A number without a unit, no bytes at all, and other words are errors that repeat the text."""
    with pytest.raises(ValueError, match="is not a size") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["60", "0%", "-5%", "x%", "60 GB"])
def test_a_text_that_is_no_share_is_refused(text: str) -> None:
    """A share needs its percent sign and is above 0."""
    with pytest.raises(ValueError, match="is not a share"):
        parse_share(text)


@given(st.floats(0.1, 1000))
def test_a_share_is_a_hundredth(percent: float) -> None:
    """60% is 0.6."""
    assert parse_share(f"{percent:f}%") == pytest.approx(percent / 100, abs=1e-8)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("30 s", 30), ("10 min", 600), ("2h", 7200), ("1.5 m", 90)])
def test_times_are_in_seconds_unless_they_say_otherwise(text: str, seconds: float) -> None:
    """Minutes and hours are known."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1 s", "3 days", "soon"])
def test_a_text_that_is_no_time_is_refused(text: str) -> None:
    """No time, and words, are errors."""
    with pytest.raises(ValueError, match="is not a time"):
        parse_duration(text)


@given(st.integers(1, 10**14))
def test_a_formatted_size_is_the_size_to_three_digits(size: int) -> None:
    """What is shown can be parsed, and is within half a unit of the last digit."""
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.0051)


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 B"), (999_600, "1.00 MB"), (1_489_000_000, "1.49 GB"), (12_345_678, "12.3 MB"), (0, "0 B")],
)
def test_sizes_have_three_digits(size: int, text: str) -> None:
    """Rounding carries into the next unit."""
    assert format_bytes(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (3675, "1:01:15")])
def test_durations_are_shown_like_a_clock(seconds: float, text: str) -> None:
    """Hours appear when they are needed."""
    assert format_duration(seconds) == text


@given(st.floats(-10, 10), st.floats(0, 10))
def test_a_rounded_number_stays_on_its_side_of_the_limit(number: float, limit: float) -> None:
    """Unless they differ by less than twelve decimals or nine digits show, it compares as what was measured."""
    limit = round(limit, 6)
    decimals = decimals_apart([number], limit, 3)
    assert 3 <= decimals <= 12
    shown = round(number, decimals)
    assert (
        decimals == 12
        or math.isclose(number, limit, rel_tol=1e-9)
        or (shown > limit, shown < limit) == (number > limit, number < limit)
    )


@given(st.integers(1, 10**11), st.integers(1, 10**11))
def test_different_sizes_are_shown_as_different(size: int, limit: int) -> None:
    """A size and its limit look the same only if they are."""
    shown, allowed = format_bytes_apart(size, limit)
    assert (shown == allowed) == (size == limit)
