"""How a base is held in few bits, as plain data."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.settings.parsers import quantization_of_setting
from pytest_ftguard.specs import LoRA, Peft, Variant
from pytest_ftguard.specs.methods.quantization import QUANTIZATIONS, quantization_options

DOUBLE: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
ORIGIN = Origin("ini", "the ini file")


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_a_name_and_its_options_are_one(name: str) -> None:
    """A result is found again however the user wrote it."""
    by_name, by_options = LoRA(quantization=f" {name.upper()}"), LoRA(quantization=dict(QUANTIZATIONS[name]))
    assert by_name == by_options
    assert by_name.quantization == name
    assert quantization_options(by_name.quantization) == QUANTIZATIONS[name]
    assert LoRA.from_dict(by_name.to_dict()) == by_name


@pytest.mark.parametrize(
    ("variant", "label"),
    [
        (LoRA(quantization="nf4"), "lora r=16 nf4"),
        (LoRA(r=8, quantization=DOUBLE), "lora r=8 nf4 use_double_quant"),
        (LoRA(quantization={"load_in_4bit": True}), "lora r=16 fp4"),
        (LoRA(quantization={"load_in_8bit": True, "llm_int8_threshold": 0.0}), "lora r=16 int8 threshold=0.0"),
        (LoRA(quantization="nf4", options={"use_dora": True}), "lora r=16 nf4 dora"),
        (Peft("ia3", quantization="int8"), "ia3 int8"),
        (Peft("ia3", quantization="int8", label="mine"), "mine"),
        (LoRA(), "lora r=16"),
    ],
)
def test_a_label_tells_it(variant: Variant, label: str) -> None:
    """Two variants that differ in it alone have two names, and full precision has none."""
    assert variant.label == label
    assert type(variant).from_dict(variant.to_dict()) == variant


@pytest.mark.parametrize("kind", [LoRA, lambda **values: Peft("ia3", **values)])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nf5", "must be one of nf4, fp4, int8, or options of transformers.BitsAndBytesConfig, got 'nf5'"),
        ({"bnb_4bit_quant_type": "nf4"}, "must set load_in_4bit or load_in_8bit to true, and only one of them"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "and only one of them"),
        ({"load_in_4bit": False}, "must set load_in_4bit or load_in_8bit"),
        ({"quant_method": "gptq"}, "other ways of quantization are not offered"),
        (4, "must map names to values, got 4"),
        ({"load_in_4bit": {1}}, "must hold values that can be written as JSON"),
    ],
)
def test_what_is_no_quantization_is_refused(kind: Any, value: Any, words: str) -> None:
    """The message names the field and the value."""
    with pytest.raises(ConfigurationError, match=rf"(LoRA|Peft)\.quantization .*{words}"):
        kind(quantization=value)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("nf4", "nf4"),
        ("load_in_4bit=true\nbnb_4bit_quant_type=nf4\nbnb_4bit_use_double_quant=true", DOUBLE),
        (DOUBLE, DOUBLE),
    ],
)
def test_a_setting_is_a_name_or_options(text: Any, made: Any) -> None:
    """Options are lines of name=value, or a table."""
    assert quantization_of_setting(text, ORIGIN) == made
