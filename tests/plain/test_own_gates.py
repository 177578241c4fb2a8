"""A row that a user adds is known like one of ours, and a wrong one is refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.catalogue import (
    GATES,
    MARKER_KEYS,
    GateRow,
    Key,
    add_gate,
    added_keys,
    argument_setting,
    number_limit,
    share_limit,
)
from pytest_ftguard.gates.limits import Amount, Limit
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import RecordedVerdict, Verdict, decide, invalid
from pytest_ftguard.settings.keys import BY_NAME, KEYS
from pytest_ftguard.statistics import Interval
from tests.plain.builders import FULL, LORA, summary_lines, trained, trial

NATS = "nats per token"
ORIGIN = Origin("ini", "ftguard_max_worst in pytest.ini")
KEY = Key("max_worst", number_limit("worst sequence", NATS), "largest accepted gap of a sequence")
ROW = GateRow("worst", "worst sequence", KEY, ("assert_worst", "my_package.gates"))


@pytest.fixture(autouse=True)
def restored(gates_restored: None) -> None:
    """What a test adds is gone after it."""


def between(lower: float, upper: float) -> Interval:
    """An interval with these bounds."""
    return Interval((lower + upper) / 2, lower, upper, 0.0, 0.0, 1.0)


def verdict(gate: str) -> Verdict:
    """A verdict that another process gave."""
    limit = Limit(0.5, NATS, ORIGIN)
    return Verdict(
        gate=gate,
        status="PASS",
        candidate="lora",
        baseline="full",
        value=0.1,
        interval=(0.0, 0.2),
        limit=limit,
        details=("fine",),
    )


def test_all_names_follow_from_a_row() -> None:
    """Its key is a setting and a keyword of the marker, next to the other limits, and its limit has a unit."""
    assert added_keys() == ()
    add_gate(ROW)
    assert added_keys() == (KEY,)
    assert GATES["worst"] is ROW
    names = [key.name for key in KEYS]
    assert names.index("max_regression") + 1 == names.index("max_worst") == names.index("confidence") - 1
    assert BY_NAME["max_worst"] is MARKER_KEYS["max_worst"] is KEY
    limit = Limit.of(argument_setting("max_worst", "0.5"))
    assert (limit.value, limit.unit, limit.origin.name) == (0.5, NATS, "the argument at_most")


@pytest.mark.parametrize("value", ["much", float("nan"), "inf", True, [1]])
def test_a_wrong_limit_says_what_is_meant(value: Any) -> None:
    """The message has the name and the unit that the row gave."""
    add_gate(ROW)
    with pytest.raises(ConfigurationError, match=r"limit of the worst sequence must be a finite number \(nats per to"):
        MARKER_KEYS["max_worst"].read(value, ORIGIN)


@pytest.mark.parametrize("value", [0.5, Amount(float("inf"), NATS), Amount(float("nan"), NATS), None])
def test_a_parser_that_gives_no_finite_amount_is_an_error(value: Any) -> None:
    """A limit that nothing exceeds would never fail."""
    add_gate(replace(ROW, limit=Key("max_worst", lambda _, __: value, "")))
    with pytest.raises(ConfigurationError, match=r"no finite amount.*number_limit"):
        Limit.of(argument_setting("max_worst", 1))


def test_the_name_of_the_key_says_which_side_is_accepted() -> None:
    """max_ accepts what is at most the limit, min_ what is at least; on the limit itself both do."""
    least = Key("min_kept", share_limit("kept", "of the gain"), "")
    add_gate(ROW)
    add_gate(GateRow("kept", "kept share", least, ("assert_kept", "my_package.gates")))
    for gate, below, above in (("worst", "PASS", "FAIL"), ("kept", "FAIL", "PASS")):
        assert decide(gate, between(0.4, 0.4), 0.5) == below
        assert decide(gate, between(0.5, 0.5), 0.5) == "PASS"
        assert decide(gate, between(0.6, 0.6), 0.5) == above
        assert decide(gate, between(0.4, 0.6), 0.5) == "INCONCLUSIVE"


def test_nothing_is_decided_for_a_gate_that_nobody_added() -> None:
    """Its limit has no side, so a guess could be green."""
    variant = trained(LORA, trial(LORA, [1.0]))
    with pytest.raises(ConfigurationError, match=r"no gate 'worst': call add_gate.*known are loss_gap, "):
        decide("worst", between(0.4, 0.4), 0.5)
    with pytest.raises(ConfigurationError, match="no gate 'worst'"):
        invalid("worst", variant, None, Limit(0.5, NATS, ORIGIN), [])


@pytest.mark.parametrize(("known", "shown"), [(True, "worst sequence  .* <= 0.5  "), (False, "worst  .*  0.5  ")])
def test_a_verdict_on_an_unknown_gate_is_shown_by_its_name(known: bool, shown: str) -> None:
    """What another process decided is still shown, without the side of the limit, which nobody knows here."""
    if known:
        add_gate(ROW)
    given = Verdict.from_dict(verdict("worst").to_dict())
    assert given.title == ("worst sequence" if known else "worst")
    lines = summary_lines([trial(FULL, [1.0])], [RecordedVerdict("test_it", given)])
    (row,) = [line for line in lines if line.endswith("PASS")]
    assert pytest.RaisesExc(ValueError, match=shown).matches(ValueError(row)), row
    assert ("<=" in row) is known


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (replace(ROW, name="loss_gap"), "there is the gate 'loss_gap' of gates.quality.assert_loss_gap already"),
        (replace(ROW, title="loss gap"), "title 'loss gap' belongs to the gate 'loss_gap'"),
        (
            replace(ROW, limit=KEY._replace(name="max_memory")),
            r"key max_memory \(option --ftguard-max-memory\) belongs",
        ),
        (replace(ROW, limit=KEY._replace(name="worst")), "'worst', which must begin with max_ .* or min_"),
        (replace(ROW, limit=KEY._replace(name="maxworst")), "'maxworst', which must begin with max_"),
        (replace(ROW, limit=KEY._replace(name="max_Worst")), "name of a key must be made of lower-case"),
        (replace(ROW, limit=KEY._replace(name="max-worst")), "name of a key must be made of lower-case"),
        (replace(ROW, limit=KEY._replace(help="50% of it")), "must have %% where % is meant"),
        (replace(ROW, limit=KEY._replace(flag=True)), "is a flag"),
        (replace(ROW, name="loss_gap.2"), "name of a gate must be made of lower-case"),
        (replace(ROW, title=""), "its title must be a line of text"),
        (replace(ROW, title="a\nb"), "its title must be a line of text"),
    ],
)
def test_a_wrong_row_is_refused(row: GateRow, words: str) -> None:
    """The message names the row and what is wrong with it; nothing of it is kept."""
    before = list(GATES), list(MARKER_KEYS)
    with pytest.raises(ConfigurationError, match=rf"gate '{row.name}' of my_package.gates.assert_worst .*: .*{words}"):
        add_gate(row)
    assert (list(GATES), list(MARKER_KEYS)) == before


@pytest.mark.parametrize("row", [None, "worst", GateRow("worst", "w", "max_worst", ("a", "b"))])  # type: ignore[arg-type]
def test_what_is_no_row_is_refused(row: Any) -> None:
    """The message says what a row is."""
    with pytest.raises(ConfigurationError, match=r"add_gate takes a GateRow\(name, title, Key"):
        add_gate(row)


def test_two_packages_cannot_have_the_same_gate() -> None:
    """Neither its name nor its key nor its title."""
    add_gate(ROW)
    other = replace(ROW, helper=("assert_worst", "other.gates"))
    with pytest.raises(
        ConfigurationError, match=r"of other.gates.assert_worst .* of my_package.gates.assert_worst alre"
    ):
        add_gate(other)
    with pytest.raises(ConfigurationError, match=r"key max_worst .* belongs to the gate 'worst' of my_package"):
        add_gate(replace(other, name="other", title="other"))


def test_a_module_may_be_imported_again() -> None:
    """Its row takes the place of the former one, with its key; a row of ours is replaced by nobody."""
    add_gate(ROW)
    changed = replace(ROW, limit=KEY._replace(name="max_worst_gap"))
    add_gate(changed)
    assert GATES["worst"] is changed
    assert [key.name for key in added_keys()] == ["max_worst_gap"]
    assert "max_worst" not in BY_NAME
    with pytest.raises(ConfigurationError, match="there is the gate 'loss_gap'"):
        add_gate(replace(GATES["loss_gap"]))


def test_no_other_setting_is_named_like_a_limit() -> None:
    """So the key of an added gate, which begins with max_ or min_, can only be that of another gate."""
    limits = {row.limit.name for row in GATES.values()}
    assert {key.name for key in KEYS if key.name.startswith(("max_", "min_"))} == limits
