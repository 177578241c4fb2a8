"""Each kind of variant is found by its name, and a method of peft is plain data like any other."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from pytest_ftguard.comparison.same_work import step_0
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import CurvePoint, Start, Trial
from pytest_ftguard.specs import (
    Full,
    LoRA,
    Peft,
    TrialSpec,
    Variant,
    Workload,
    find_variant_class,
    import_path,
    register_variant,
    variant_from_dict,
    variant_to_dict,
    with_learning_rate,
)
from pytest_ftguard.store.contents import UnknownContentError
from pytest_ftguard.store.fingerprint import fingerprint_of
from tests.plain.builders import losses, trial


@register_variant
@dataclass(frozen=True, kw_only=True)
class Mine(Variant):
    """A kind of this module's own."""

    kind: ClassVar[str] = "mine"
    learning_rate: float | None = None
    search_learning_rate: bool = False


PATH = f"{__name__}:Mine"


def write(folder: Path, **values: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


def test_a_kind_of_its_own_is_found_by_name_and_by_import_path() -> None:
    """What is written of it is read back; those of the package need no import."""
    assert variant_from_dict(variant_to_dict(Mine(learning_rate=0.1))) == Mine(learning_rate=0.1)
    assert import_path(Mine()) == PATH
    assert find_variant_class(PATH) is Mine
    assert [import_path(one) for one in (Full(), LoRA(), Peft("ia3"))] == [None, None, None]


def test_data_never_say_what_is_imported() -> None:
    """A report or a stored result may come from anyone: an unknown kind is an error, whatever else stands there."""
    with pytest.raises(ConfigurationError, match=r"one of full, lora, peft.*got 'other'.*register_variant"):
        variant_from_dict({"kind": "other", "class": "os:getcwd", "adapter": "os:getcwd"})


def test_a_class_that_cannot_be_used_is_told_what_it_lacks() -> None:
    """Another kind's name, no kind, no dataclass, no learning rate, no module that holds it."""
    with pytest.raises(ConfigurationError, match="has the kind 'lora', which is that of"):
        register_variant(type("Twin", (Variant,), {"kind": "lora"}))
    with pytest.raises(ConfigurationError, match="needs a kind"):
        register_variant(type("Nameless", (Variant,), {}))
    with pytest.raises(ConfigurationError, match="must be derived from"):
        register_variant(int)  # type: ignore[type-var]
    with pytest.raises(ConfigurationError, match="cannot be imported: ModuleNotFoundError"):
        find_variant_class("there.is.none:Such")
    with pytest.raises(ConfigurationError, match=r"must be a dataclass\(frozen=True"):
        import_path(type("Loose", (Variant,), {"kind": "loose"})())


def test_a_rate_without_a_rule_must_be_given_or_searched() -> None:
    """A search starts at LoRA's rule, ten times full's; it is made unless that is forbidden. LoRA needs neither."""
    with pytest.raises(ConfigurationError, match=r"ia3 has no learning rate.*learning_rate=\.\.\., or search_learning"):
        with_learning_rate(Peft("ia3", search_learning_rate="no"), Full())
    for searched in (Peft("ia3"), Peft("ia3", search_learning_rate=True)):
        found = with_learning_rate(searched, Full(learning_rate=3e-5))
        assert (found.learning_rate, found.search) == (3e-4, "yes")
    assert with_learning_rate(Peft("ia3", learning_rate=0.1), Full()).learning_rate == 0.1
    assert with_learning_rate(LoRA(), Full(learning_rate=3e-5)).learning_rate == 3e-4


def test_one_method_is_one_spec_however_it_is_written() -> None:
    """Case, hyphens, and the order of what peft looks up in any order do not count; the order of patterns does."""
    one = Peft("IA3", target_modules=["b", "a"])
    assert one == Peft("ia3", target_modules=("a", "b")) == replace(one)
    assert hash(one) == hash(variant_from_dict(variant_to_dict(one)))
    assert Peft("prompt-tuning").method == "prompt_tuning"
    patterns = [Peft("lora", rank_pattern=dict(pairs)) for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)])]
    assert patterns[0] != patterns[1]
    assert list(patterns[1].peft_options["rank_pattern"]) == ["b", "a"]
    assert Peft("fourierft", n_frequency_pattern={}).peft_options == {"n_frequency_pattern": {}}


def test_a_label_tells_the_method_its_size_and_what_was_switched_on() -> None:
    """Or whatever the user calls it."""
    assert Peft("lora", r=8, use_dora=True, use_rslora=False).label == "lora r=8 dora"
    assert Peft("lora", r=8, init_lora_weights="pissa").label == "lora r=8 pissa"
    assert Peft("prompt_tuning", num_virtual_tokens=4).label == "prompt_tuning tokens=4"
    assert Peft("ia3", label="scales").label == "scales"


def test_a_file_of_peft_counts_by_what_decides(tmp_path: Path) -> None:
    """The base model that an adapter was trained on, versions and the folder's name change nothing; options do."""
    one = write(tmp_path / "a", peft_type="IA3", target_modules=["q"], base_model_name_or_path="x", peft_version="1")
    other = write(tmp_path / "b", peft_type="IA3", target_modules=["q"], inference_mode=True, task_type="CAUSAL_LM")
    assert Peft(one) == Peft(str(other)) == Peft(other / "adapter_config.json") == Peft("ia3", target_modules=["q"])
    assert Peft(write(tmp_path / "c", peft_type="IA3", target_modules=["k"])) != Peft(one)
    assert Peft(one, init_ia3_weights=False).options == {"target_modules": ["q"], "init_ia3_weights": False}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: Peft(), "takes a configuration of peft"),
        (lambda _: Peft(3), "takes a configuration of peft.*got 3"),
        (lambda _: Peft("two words"), "must be a name"),
        (lambda _: Peft("./nowhere"), r"there is no 'nowhere': give a folder with an adapter_config\.json"),
        (Peft, "adapter_config.json'.*let"),
        (lambda folder: Peft(write(folder, r=4)), "has no peft_type"),
        (lambda folder: Peft(write(folder, peft_type="IA3", task_type="QUESTION_ANS")), "the task_type 'QUESTION_ANS'"),
        (lambda folder: Peft(write(folder, peft_type="LORA", r=4), r=8), "sets r, and so does Peft"),
        (lambda _: Peft("ia3", inference_mode=True), "may not set 'inference_mode': it would train nothing"),
        (lambda _: Peft("ia3", peft_type="LORA"), r"'peft_type'.*Peft\('LORA', \.\.\.\)"),
        (lambda _: Peft("ia3", target_modules=object()), "can be written as JSON"),
        (lambda _: Peft("ia3", learning_rate=0), r"Peft\.learning_rate must be a finite number above 0"),
        (
            lambda _: Peft("ia3", search_learning_rate=cast(Any, "maybe")),
            r"Peft\.search_learning_rate must be one of auto, yes, no, got 'maybe'",
        ),
    ],
)
def test_what_is_no_method_of_peft_is_one_clear_error(tmp_path: Path, make: Any, words: str) -> None:
    """It names the value, and what to give."""
    (tmp_path / "adapter_config.json").write_text("[")
    with pytest.raises(ConfigurationError, match=words):
        make(tmp_path)


class Kind(StrEnum):
    """As peft's types are."""

    IA3 = "IA3"


@dataclass
class Foreign:
    """A configuration that no method of peft is registered for."""

    peft_type: Any = Kind.IA3


def test_a_configuration_that_is_not_pefts_is_refused() -> None:
    """Another process would not know its method."""
    with pytest.raises(ConfigurationError, match="Foreign, which is not the configuration of a method"):
        Peft(Foreign())


def test_files_that_options_name_count_by_content(workload: Workload, tmp_path: Path) -> None:
    """A folder's files decide, not its name; what is on the hub may change, so it is not stored."""

    def key(name: str, text: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_text(text)
        return fingerprint(str(folder))

    def fingerprint(place: str) -> str:
        text = "a text that is longer than any name of a file can be " * 10
        variant = Peft("prompt_tuning", tokenizer_name_or_path=place, prompt_tuning_init_text=text, learning_rate=1.0)
        return fingerprint_of(TrialSpec(workload=workload, variant=variant, seed=0), "cpu", "fp32", {}).key

    assert key("one", "a") == key("two", "a") != key("one", "b")
    with pytest.raises(UnknownContentError, match="which revision 'gpt2'"):
        fingerprint("gpt2")


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    """Files that are there, and say nothing."""
    model = tmp_path / "model"
    model.mkdir()
    for path in (model / "config.json", tmp_path / "train.txt", tmp_path / "validation.txt"):
        path.write_text("{}")
    return Workload(
        model=str(model),
        train=str(tmp_path / "train.txt"),
        validation=str(tmp_path / "validation.txt"),
        precision="fp32",
    )


def started(variant: Variant, loss: float, start: Start | None) -> Trial:
    """Return a trial that starts at a loss, next to a base model at 2.0."""
    nll = [20.0] * 64
    made = trial(variant, nll, base_validation=losses(nll))
    return made.remeasured(curve=(CurvePoint(0, loss, (10 * loss,) * 64), *made.measured.curve[1:]), start=start)


@pytest.mark.parametrize(
    ("loss", "start", "is_fault"),
    [
        (2.0, Start(0.0), False),
        (2.0, Start(1e-7, 0.5), False),  # PiSSA: the base was changed, and the sum is equal
        (2.5, Start(0.5, 0.0), False),  # a prompt: the base is intact
        (2.5, Start(0.5, 0.0019), False),
        (2.5, Start(0.5, 0.0021), True),  # the base is not intact
        (2.5, Start(0.5, float("nan")), True),
        (2.5, Start(0.5, None), True),  # nobody has asked, as for LoRA
        (2.5, None, True),
        (2.5, Start(0.4, 0.0), True),  # the method explains a part of it
    ],
)
def test_a_start_that_differs_is_a_fault_unless_the_method_explains_it(
    loss: float, start: Start | None, is_fault: bool
) -> None:
    """It does if the model is the base model with the adapter switched off, within a thousandth of the loss."""
    ours = started(Peft("ia3", learning_rate=0.1), loss, start)
    theirs = started(Full(learning_rate=1e-4), 2.0, Start(0.0))
    found = list(step_0(ours, theirs))
    assert bool(found) is is_fault
    if start is not None and start.disabled_gap == 0.0021:
        assert "with the adapter of ia3 switched off, a sequence is still 0.0021 nats per token from" in found[0].why
