"""Results as JSON and back: nothing is lost, and nothing of another type, of no field or of any size gets through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results import (
    Breakdown,
    CurvePoint,
    Environment,
    Measured,
    Memory,
    Parameters,
    SequenceLosses,
    Start,
    Timing,
    Trial,
    TrialError,
    from_plain,
    to_plain,
)
from tests.plain.builders import LORA, losses, trial

FLOATS = st.floats(allow_nan=False, width=64)
COUNTS = st.integers(0, 2**63)
ROWS = st.lists(st.tuples(FLOATS, st.integers(1, 512), st.integers(0, 9)), min_size=1, max_size=5)


@st.composite
def texts(draw: st.DrawFn) -> SequenceLosses:
    """Losses of a text of a few sequences."""
    nll, tokens, documents = zip(*draw(ROWS), strict=True)
    return SequenceLosses(nll, tokens, draw(st.sampled_from([None, documents])), draw(st.text()), draw(COUNTS))


SHARES = st.none() | st.dictionaries(st.text(), FLOATS, max_size=2)
MEASURED = st.builds(
    Measured,
    outcome=st.sampled_from(["ok", "diverged", "planned"]),
    parameters=st.none() | st.builds(Parameters, COUNTS, COUNTS, SHARES, SHARES),
    validation=st.none() | texts(),
    base_reference=st.none() | texts(),
    start=st.none() | st.builds(Start, FLOATS, st.none() | FLOATS),
    curve=st.lists(st.builds(CurvePoint, COUNTS, FLOATS, st.lists(FLOATS).map(tuple)), max_size=3).map(tuple),
    memory=st.none()
    | st.builds(
        Memory,
        st.none() | COUNTS,
        st.text(),
        breakdown=st.none() | st.builds(Breakdown, COUNTS, COUNTS, COUNTS, COUNTS, st.text()),
        phases=st.none() | st.dictionaries(st.text(), COUNTS, max_size=2),
    ),
    time=st.none() | st.builds(Timing, st.none() | FLOATS, COUNTS, FLOATS, st.text()),
    environment=st.none()
    | st.builds(Environment, *[st.text()] * 3, COUNTS, st.text(), st.dictionaries(st.text(), st.text(), max_size=2)),
    error=st.none() | st.builds(TrialError, st.text(), st.text()),
    notes=st.lists(st.text(), max_size=2).map(tuple),
)


@given(MEASURED)
def test_what_was_measured_is_read_as_it_was_written(measured: Measured) -> None:
    """Through JSON's text and back, whatever was measured."""
    assert from_plain(json.loads(json.dumps(to_plain(measured))), Measured) == measured


def test_losses_that_are_not_finite_stay_what_they_are() -> None:
    """A sequence that diverged is no missing one."""
    read = from_plain(json.loads(json.dumps(to_plain(losses([float("nan"), float("inf")])))), SequenceLosses)
    assert str(read.nll) == "(nan, inf)"


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("memory", "peak"), 3, "Measured.memory has no field 'peak'"),
        (("curve", 0, "losses"), [], "Measured.curve has no field 'losses'"),
        (("environment", "versions"), {"torch": 2}, r"Expected `str`, got `int` - at `\$.environment.versions\[...\]`"),
        (("memory", "peak_bytes"), 10**400, "Measured.memory.peak_bytes cannot be 1000"),
        (("validation", "tokens"), [10**400, 10], "Measured.validation.tokens cannot be 1000"),
        (("validation", "tokens"), [10], "token counts and documents of a text differ in number"),
        (("outcome",), "fine", "Invalid enum value 'fine'"),
        (("time",), [1.0], r"Expected `object \| null`, got `array`"),
    ],
)
def test_what_is_not_of_its_field_is_refused(place: tuple[Any, ...], value: Any, words: str) -> None:
    """The message names the field, and its value if the field alone says too little."""
    values = json.loads(json.dumps(to_plain(trial(LORA, [20.0, 20.0]).measured)))
    owner = values
    for name in place[:-1]:
        owner = owner[name]
    owner[place[-1]] = value
    with pytest.raises(FtguardError, match=words):
        from_plain(values, Measured)


def test_what_an_earlier_version_did_not_write_takes_its_default() -> None:
    """A field with a default may be missing, one without may not."""
    values = to_plain(losses([20.0]))
    del values["unknown"]
    assert from_plain(values, SequenceLosses).unknown == 0.0
    del values["digest"]
    with pytest.raises(FtguardError, match="missing required field `digest`"):
        from_plain(values, SequenceLosses)


@pytest.mark.parametrize("values", [None, [], {}, {"schema": 2}, {"schema": 2, "spec": "x", "measured": {}}])
def test_what_is_no_trial_is_refused_with_our_error(values: Any) -> None:
    """Whatever an executor or a file gives."""
    with pytest.raises(FtguardError):
        Trial.from_dict(values)
