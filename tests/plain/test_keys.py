"""What users write, in the types of an ini file and in those of TOML, becomes one value or a clear error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.plugin.policy import absolute
from pytest_ftguard.settings import keys
from pytest_ftguard.settings.keys import BY_NAME, KEYS, keys_of_fields
from pytest_ftguard.specs import Full, LoRA, Workload
from pytest_ftguard.specs.texts import hub_text
from pytest_ftguard.specs.values import Spec

ORIGIN = Origin("ini", "ftguard_key in pyproject.toml", Path("/root-folder"))


REPORTS = (("a:b", "/x"), ("json", "/y=z"))


def test_data_may_be_a_path_a_name_on_the_hub_or_a_function(tmp_path: Path) -> None:
    """A file that has such a name is a path all the same."""
    place = Origin("ini", "ftguard_train in pytest.ini", tmp_path)
    read = BY_NAME["train"].parse
    assert read("rows.jsonl", place) == str(tmp_path / "rows.jsonl")
    for text in ("hub:someone/rows@main:train", "mine.data:rows"):
        assert read(text, place) == text
    (tmp_path / "mine.data:rows").touch()
    assert read("mine.data:rows", place) == str(tmp_path / "mine.data:rows")
    assert absolute(Workload(model="m", train="hub:a/b:train", validation="a:b"), tmp_path).train == "hub:a/b:train"


@pytest.mark.parametrize("text", ["hub:", "hub:name", "hub:name@:train", "hub:a b:train"])
def test_a_name_on_the_hub_needs_its_split(text: str) -> None:
    """The message shows how it is written."""
    with pytest.raises(ConfigurationError, match='write "hub:name:split"'):
        hub_text(text)


def test_a_chat_template_is_a_file_or_the_template_itself(tmp_path: Path) -> None:
    """Its text is part of the workload, so it needs no file on another machine."""
    place = Origin("ini", "ftguard_chat_template in pytest.ini", tmp_path)
    read = BY_NAME["chat_template"].parse
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    assert read("mine.jinja", place) == "{{ messages }}" == read("{{ messages }}", place)
    with pytest.raises(ValueError, match=r"nothing\.jinja' cannot be read \(No such file or directory\)"):
        read("nothing.jinja", place)


def parse(name: str, value: Any) -> Any:
    found = BY_NAME[name].parse(value, ORIGIN)
    return getattr(found, "value", found)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("steps", [30, "30", " 30 "], 30),
        ("seeds", [[0, 1], "0, 1", "0\n1", ["0", "1"], ["0, 1"]], (0, 1)),
        ("seeds", [0, "0", [0]], (0,)),
        ("seeds", ["3..8", ["3..8"]], "3..8"),
        ("full_learning_rate", [1e-4, "1e-4", 0.0001], 0.0001),
        ("full_learning_rate", [1, "1", 1.0], 1.0),
        ("full_learning_rate", [1.2345678901234567e-5], 1.2345678901234567e-5),
        ("final", [True, "true", "True", "yes", 1, "1"], True),
        ("final", [False, "no", 0], False),
        ("lora_target_modules", ["c_attn, c_proj", ["c_attn", "c_proj"], "c_attn\nc_proj"], ("c_attn", "c_proj")),
        ("lora_target_modules", ["all-linear", ["all-linear"]], "all-linear"),
        ("lora_target_modules", [".*attn"], ".*attn"),
        ("training_args", ["optim=sgd\nfp16=false", ["optim=sgd", "fp16=false"]], {"optim": "sgd", "fp16": False}),
        ("training_args", [{"optim": "sgd", "more": {"cycles": 2}}], {"optim": "sgd", "more": {"cycles": 2}}),
        ("max_memory", ["60%"], 0.6),
        ("max_loss_gap", [0.02, "0.02"], 0.02),
        ("max_loss_gap", [5, "5"], 5.0),
        ("forecast", [False, "no"], "no"),
        ("keep_models", [True, "yes"], "yes"),
        ("keep_models", ["auto"], "auto"),
        ("timeout", [90, "90", "90 s", 90.0], 90.0),
        ("revision", [123, "123"], "123"),
        ("github", ["off"], "off"),
        ("reports", [{"a:b": "/x", "json": "/y=z"}, ["a:b=/x", "json=/y=z"], "\na:b = /x\n\n json = /y=z "], REPORTS),
    ],
)  # fmt: skip
def test_the_types_of_toml_and_texts_mean_the_same(name: str, values: list[Any], expected: Any) -> None:
    """A number, a boolean, a list or a table is what its text would be."""
    for value in values:
        found = parse(name, value)
        assert found == expected
        assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("github", False, "it must be a text in quotes"),
        ("github", "no", "it must be one of auto, off"),
        ("reports", "a:b", "each line must be renderer=path, for example"),
        ("reports", "=x", "each line must be renderer=path, for example"),
        ("reports", "a:b=", "each line must be renderer=path, for example"),
        ("reports", "a:b=/no/such/folder/x", "there is no folder '/no/such/folder'"),
        ("reports", {"a:b": ["x"]}, "it must be a text in quotes"),
        ("json", "/dev/null", "it is not a regular file: give a file name"),
        ("markdown", "/", "it is a folder: give a file name"),
        ("markdown", "/no/such/folder/x", "there is no folder '/no/such/folder'"),
        ("steps", 30.0, "a whole number, written as 30"),
        ("steps", 30.5, "a whole number$"),
        ("steps", True, "a whole number"),
        ("steps", [30], "a whole number"),
        ("seeds", [0.0, 1], "whole number"),
        ("seeds", [True], "whole number"),
        ("seeds", {"a": 1}, "whole number"),
        ("full_learning_rate", True, "a number"),
        ("full_learning_rate", [1e-4], "a number"),
        ("full_learning_rate", 10**400, "a number"),
        ("final", 2, "true or false"),
        ("final", 1.0, "true or false"),
        ("train", 3, None),
        ("train", ["a.txt"], "a text in quotes"),
        ("model", True, "a text in quotes"),
        ("on_inconclusive", True, "a text in quotes"),
        ("forecast", "auto", "yes, no"),
        ("lora_target_modules", [True], "a list of texts"),
        ("training_args", ["optim"], "name=value"),
        ("training_args", [1], "name=value"),
        ("training_args", 3, "name=value"),
        ("training_args", {"when": date(2020, 1, 1)}, "a text, a number"),
        ("max_memory", 60, "60%"),
        ("max_memory", ["60%"], "60%"),
        ("max_loss_gap", True, "finite number"),
        ("min_retention", 0.9, "80%"),
        ("timeout", True, "a time"),
        ("timeout", [1], "a time"),
        ("cache_size", 5, "a size with a unit"),
        ("confidence", 1, "between 0.5 and 1"),
    ],
)  # fmt: skip
def test_a_wrong_type_says_what_is_meant(name: str, value: Any, words: str | None) -> None:
    """Nothing is turned into text and taken for what it is not."""
    if words is None:  # a file's name may be made of digits only
        assert parse(name, value) == "/root-folder/3"
        return
    with pytest.raises(Exception, match=words):
        parse(name, value)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
@pytest.mark.parametrize("value", [date(2020, 1, 1), [[{}]], {"a": {"b": date(2020, 1, 1)}}], ids=repr)
def test_no_key_takes_what_nobody_means(key: Any, value: Any) -> None:
    """Every key refuses a date, lists of tables and tables with dates."""
    with pytest.raises((ValueError, TypeError, Exception), match=r"."):
        key.parse(value, ORIGIN)


def test_a_report_needs_a_folder_that_exists(tmp_path: Path) -> None:
    """A folder that is misspelt is not made; the file itself need not exist."""
    for name in ("json", "calibration"):
        assert parse(name, str(tmp_path / "r.json")) == str(tmp_path / "r.json")
        with pytest.raises(ValueError, match=r"there is no folder .*nope.*create it"):
            parse(name, str(tmp_path / "nope" / "r.json"))


def test_a_name_that_is_no_utf_8_is_refused() -> None:
    """Reports and fingerprints could not hold it."""
    for name in ("json", "train", "model", "cache_dir"):
        with pytest.raises(ValueError, match="not valid UTF-8"):
            parse(name, "a\udcff")


@pytest.mark.parametrize("kind", [Workload, Full, LoRA])
def test_each_field_of_a_spec_is_a_setting_with_a_meaning(kind: type[Spec]) -> None:
    """Option, key and help follow from the field; what no setting fills is named where the others are made."""
    names = keys_of_fields(kind)
    assert {item.name for item in fields(kind)} - set(names) <= set(keys._NO_SETTINGS)  # type: ignore[arg-type]
    assert all(len(BY_NAME[name].help) > 10 for name in names.values())


@dataclass(frozen=True, kw_only=True)
class Dummy(Spec):
    """A spec of this test.

    Attributes:
        warmup: Steps of the warm-up, which
            come first. They count.
        share: A share of "100%"; None is all of it.
        words: What is switched on.
        shuffled: Whether the text is shuffled.
    """

    warmup: int = 10
    share: float | None = None
    words: Mapping[str, Any] = field(default_factory=dict)
    shuffled: bool = False


def test_a_new_field_needs_no_second_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its type says how its text is read, and its line in the docstring what help and reference say of it."""
    monkeypatch.setattr(keys, "_PREFIXES", {Dummy: "dummy_"})
    made = {key.name: key for key in keys._keys(Dummy)}
    assert {name: (key.help, key.flag) for name, key in made.items()} == {
        "dummy_warmup": ("steps of the warm-up, which come first (10)", False),
        "dummy_share": ('a share of "100%%" (all of it)', False),
        "dummy_words": ("what is switched on; one name=value a line", False),
        "dummy_shuffled": ("whether the text is shuffled", True),
    }
    values = {"warmup": "12", "share": "0.5", "words": "a=1", "shuffled": "no"}
    read = {name: made[f"dummy_{name}"].read(text, ORIGIN).value for name, text in values.items()}
    assert Dummy(**read) == Dummy(warmup=12, share=0.5, words={"a": 1}, shuffled=False)
