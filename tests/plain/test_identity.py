"""Everything is found again by keys that are made from one table: what each field of a spec decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import pytest

from pytest_ftguard.plugin.received import identity
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.specs.identity import Purpose, Row, content_of, fields_of, key_of, places_of, rows_of
from pytest_ftguard.specs.short import search_workloads, timing_workload
from pytest_ftguard.specs.values import Spec
from tests.plain.builders import trial

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
WORKLOAD = Workload(model="model", train="train.txt", validation="validation.txt")
LONG = replace(
    WORKLOAD, reference="general.txt", seeds=(0, 1, 2), most_seeds=8, final=True, training_args={"weight_decay": 0.1}
)
FULL = Full(learning_rate=1e-4)
LORA = LoRA(learning_rate=1e-3)
PEFT = Peft("ia3", learning_rate=1e-3)
# Another value of each field than that of the specs above.
OTHER: dict[type[Spec], dict[str, Any]] = {
    Workload: {
        "model": "models/other",
        "train": "texts/other.txt",
        "validation": "texts/other.txt",
        "revision": "v2",
        "tokenizer": "models/other",
        "reference": "texts/general.txt",
        "task": "mine:Task",
        "block_size": 64,
        "batch_size": 2,
        "steps": 7,
        "seeds": (4, 5),
        "precision": "bf16",
        "final": True,
        "validation_sequences": 80,
        "model_args": {"attn_implementation": "eager"},
        "training_args": {"weight_decay": 0.1},
        "training_function": "mine:train",
        "trainer": "mine:Mine",
        "most_seeds": 8,
        "purpose": "search",
        "chat_template": "{{ messages }}",
        "completion_only_loss": True,
        "assistant_only_loss": True,
        "packing": True,
        "score": "mine:exact_match",
        "slices": ("language",),
        "group": "movie",
    },
    Full: {"learning_rate": 2e-4, "search_learning_rate": True},
    LoRA: {
        "r": 8,
        "alpha": 8,
        "target_modules": ["q_proj"],
        "dropout": 0.1,
        "bias": "all",
        "learning_rate": 2e-3,
        "search_learning_rate": True,
        "options": {"use_rslora": True},
        "quantization": "nf4",
    },
    Peft: {
        "method": "vera",
        "options": {"target_modules": ["q_proj"]},
        "quantization": "int8",
        "label": "mine",
        "learning_rate": 2e-3,
        "search_learning_rate": True,
    },
    TrialSpec: {"workload": replace(WORKLOAD, block_size=64), "variant": LORA, "seed": 1, "device": "cuda"},
}
FIELDS = [(kind, name) for kind, values in OTHER.items() for name in values]


def trials(kind: type[Spec], name: str) -> tuple[TrialSpec, TrialSpec]:
    """Return two trials that differ in one field of a kind of spec."""
    variants: dict[type[Spec], Variant] = {LoRA: LORA, Peft: PEFT}
    trial = TrialSpec(workload=WORKLOAD, variant=variants.get(kind, FULL), seed=0)
    value = OTHER[kind][name]
    if kind is TrialSpec:
        return trial, replace(trial, **{name: value})
    part = "workload" if kind is Workload else "variant"
    return trial, replace(trial, **{part: replace(getattr(trial, part), **{name: value})})


def all_kinds(kind: type[Spec] = Spec) -> Iterator[type[Spec]]:
    """Yield every kind of spec of the package."""
    for one in kind.__subclasses__():
        if one.__module__.startswith("pytest_ftguard.") and one is not Variant:
            yield one
        yield from all_kinds(one)


@pytest.mark.parametrize("kind", [*all_kinds()], ids=lambda kind: kind.__name__)
def test_every_field_has_a_row(kind: type[Spec]) -> None:
    """What a new field decides must be thought of, and is tested below; there is no row without a field."""
    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    assert sorted(kind.rows) == sorted(names) == sorted(OTHER[kind])


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda one: one if isinstance(one, str) else one.__name__)
def test_a_field_changes_the_keys_that_its_row_names(kind: type[Spec], name: str, purpose: Purpose) -> None:
    """Those of the trial that it is a part of, and no others; what decides nothing of a part changes no key."""
    one, other = trials(kind, name)
    decides = kind.rows[name].decides(purpose)
    if (kind, name) == (TrialSpec, "variant"):  # which is full here, and LoRA there
        decides = purpose not in ("evaluation", "base")
    assert (key_of(one, purpose) != key_of(other, purpose)) is decides


def names_of(purpose: Purpose) -> set[str]:
    """Return all fields that belong to a purpose."""
    return {name for kind in (Workload, Full, LoRA, Peft, TrialSpec) for name in fields_of(kind, purpose)}


def test_weights_do_not_depend_on_how_they_are_evaluated() -> None:
    """Another validation or reference text, or another number of sequences, is another result of one training."""
    assert names_of("result") - names_of("training") == {
        "validation",
        "reference",
        "validation_sequences",
        "purpose",
        "score",
        "slices",
        "group",
    }
    assert names_of("trial") - names_of("result") == {"final", "label"}


def test_an_evaluation_does_not_depend_on_how_the_weights_came_about() -> None:
    """Steps, seed, variant and how examples are packed belong to the weights, which it is given."""
    assert fields_of(Full, "evaluation") == fields_of(LoRA, "evaluation") == ()
    assert {"steps", "seed", "packing"} == {*fields_of(Workload, "training"), *fields_of(TrialSpec, "training")} - {
        *fields_of(Workload, "evaluation"),
        *fields_of(TrialSpec, "evaluation"),
    }


def test_the_losses_of_the_base_model_are_shared_as_far_as_they_are_the_same() -> None:
    """No training is done to it, so what only a training needs is left out; the device rounds."""
    assert set(fields_of(Workload, "base")) == {
        "model",
        "revision",
        "tokenizer",
        "validation",
        "reference",
        "task",
        "block_size",
        "batch_size",
        "precision",
        "validation_sequences",
        "purpose",
        "model_args",
        "chat_template",
        "completion_only_loss",
        "assistant_only_loss",
        "score",
        "slices",
        "group",
    }
    assert fields_of(Full, "base") == fields_of(LoRA, "base") == ()
    assert content_of(TrialSpec(workload=WORKLOAD, variant=FULL, seed=3), "base")["device"] == "auto"


def test_more_steps_and_seeds_or_another_rate_need_no_other_memory() -> None:
    """These alone do not belong to a forecast: it is made once for them all."""
    rest = {name for kind in (Workload, Full, LoRA, Peft, TrialSpec) for name in rows_of(kind)} - names_of("memory")
    assert rest == {"steps", "seeds", "most_seeds", "final", "seed", "learning_rate", "alpha", "label"}


def test_a_trial_is_told_apart_as_it_was_before_there_was_a_table() -> None:
    """Digests of an earlier version: reports that were written then hold them."""
    workload = Workload(
        model="base/model",
        train="texts/train.txt",
        validation="texts/validation.txt",
        revision="main",
        tokenizer="own",
        reference="general.jsonl",
        steps=7,
        seeds="3..8",  # type: ignore[arg-type]
        precision="bf16",
        final=True,
        validation_sequences=80,
        model_args={"attn_implementation": "eager"},
        training_args={"weight_decay": 0.1, "run_name": "x"},
        purpose="search",
    )
    lora = LoRA(
        r=4,
        alpha=2.5,
        target_modules=["q", "v"],
        dropout=0.1,
        bias="all",
        learning_rate=1e-3,
        search_learning_rate=True,
        options={"use_dora": True},
    )
    assert TrialSpec(workload=workload, variant=lora, seed=3, device="cuda:1").fingerprint == (
        "844d346305e3ba8c086644bd2304ec238354272352595dac55d4fa906f193735"
    )
    work = replace(WORKLOAD, steps=100, seeds=(0,))
    assert TrialSpec(workload=work, variant=FULL, seed=0).fingerprint == (
        "368bd37417ba7255bc8ca4df36cd57e83bfe5cc0c3b3a50418e37373abcf15b2"
    )


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_field_that_came_later_belongs_to_no_key_at_its_default(purpose: Purpose) -> None:
    """Else nothing that an earlier version wrote would be found; any other value counts."""
    later = [(kind, name) for kind, name in FIELDS if kind.rows[name].is_later]
    assert later
    for kind, name in later:
        one, other = trials(kind, name)
        assert f'"{name}"' not in key_of(one, purpose)
        assert (f'"{name}"' in key_of(other, purpose)) is kind.rows[name].decides(purpose)


@dataclass(frozen=True, kw_only=True)
class Prompt(Spec):
    """A kind of spec that another package adds, with a row for one of its fields."""

    kind = "prompt"
    rows = {"title": Row(label=True)}  # noqa: RUF012 - as short as a user writes it
    tokens: int = 8
    title: str = ""


def test_a_field_without_a_row_decides_everything() -> None:
    """A kind of another package may forget one: too much is trained again then, and nothing wrong is found."""
    for purpose in PURPOSES:
        assert key_of(Prompt(), purpose) != key_of(Prompt(tokens=9), purpose)
        assert (key_of(Prompt(), purpose) != key_of(Prompt(title="a"), purpose)) is (purpose == "trial")
    assert content_of(Prompt(), "training") == {"kind": "prompt", "tokens": 8}


def test_places_are_told_by_their_kind() -> None:
    """The kinds stand in the order in which they are asked for."""
    assert places_of(Workload, "text", "model") == ("train", "validation", "reference", "model", "tokenizer")
    assert places_of(Workload, "revision") == ("revision",)
    assert not set(places_of(Workload, "text", "model", "revision")) & set(fields_of(Workload, "trial", places=False))
    assert fields_of(Workload, "trial", resolved=False) == tuple(
        name for name in fields_of(Workload, "trial") if name != "precision"
    )


def test_a_place_may_be_known_by_its_name_alone() -> None:
    """Another folder makes no other key then, another name does; the revision is no path, and stays."""
    there = replace(
        WORKLOAD, model="/there/model", train="/there/train.txt", validation="/there/validation.txt", tokenizer="/t"
    )
    key = key_of(WORKLOAD, "trial", places="named")
    assert key_of(there, "trial", places="named") == key
    others: list[dict[str, Any]] = [
        {"train": "other.txt"},
        {"model": "other"},
        {"validation": "other.txt"},
        {"revision": "v2"},
    ]
    for changes in others:
        assert key_of(replace(there, **changes), "trial", places="named") != key
    assert content_of(replace(WORKLOAD, model="/"), "trial", places="named")["model"] == "-"
    assert "model" not in content_of(WORKLOAD, "trial", places="left out")


def test_a_trial_of_two_processes_is_shown_once() -> None:
    """Each process may have had its own folder; a label, a text of another name or another content makes two."""

    def shown(content: str = "content", **changes: Any) -> object:
        return identity(trial(FULL, [20.0], workload=replace(WORKLOAD, **changes), content=content))

    assert shown(train="/one/train.txt", seeds=(0, 1)) == shown(train="/other/train.txt")
    assert len({shown(), shown(final=True), shown(train="other.txt"), shown("other")}) == 4


@pytest.mark.parametrize(
    "short",
    [*search_workloads(LONG), timing_workload(LONG, (0, 1), 0.5)],
    ids=lambda short: f"{short.purpose} {short.steps}",
)
def test_a_short_trial_takes_the_steps_of_the_whole_one(short: Workload) -> None:
    """There are fewer of them; otherwise a search or a timing changes only what is evaluated, and the seeds."""
    changed = {name for name in rows_of(Workload) if getattr(short, name) != getattr(LONG, name)}
    assert changed & set(fields_of(Workload, "training")) == {"steps"}
    assert changed - set(fields_of(Workload, "result")) == {"seeds", "most_seeds"}
