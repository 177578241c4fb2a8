"""Specs are frozen, checked, and written as JSON both ways."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload, variant_from_dict, with_learning_rate

WORKLOAD = Workload(model="m", train="t", validation="v")

VARIANTS: st.SearchStrategy[Variant] = st.one_of(
    st.builds(Full, learning_rate=st.floats(1e-8, 1)),
    st.builds(
        LoRA,
        r=st.integers(1, 512),
        alpha=st.floats(0.5, 512),
        target_modules=st.one_of(st.just("all-linear"), st.lists(st.sampled_from(["q_proj", "v_proj"]), min_size=1)),
        dropout=st.floats(0, 0.9),
        learning_rate=st.floats(1e-8, 1),
        options=st.dictionaries(st.just("use_rslora"), st.booleans()),
    ),
)
WORKLOADS = st.builds(
    Workload,
    model=st.just("m"),
    train=st.just("t"),
    validation=st.just("v"),
    steps=st.integers(1, 10**6),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5, unique=True),
    training_args=st.dictionaries(
        st.sampled_from(["optim", "warmup_steps"]), st.one_of(st.integers(), st.text('aZ é"\\\n0'))
    ),
)


@pytest.mark.parametrize(
    ("seeds", "looks"),
    [("3..8", (3, 5, 8)), ("2..3", (2, 3)), ("3..4", (3, 4)), ("5..20", (5, 8, 13, 20)), ((0, 1), (2,))],
)
def test_seeds_may_grow_in_looks(seeds: Any, looks: tuple[int, ...]) -> None:
    """The first number is trained at once, the others where a gate is in doubt; the trials stay what they are."""
    workload = replace(WORKLOAD, seeds=seeds)
    assert workload.looks == looks
    assert workload.seeds == tuple(range(looks[0]))
    assert Workload.from_dict(json.loads(json.dumps(workload.to_dict()))) == workload
    full = Full(learning_rate=1e-3)
    fingerprints = {TrialSpec(workload=work, variant=full, seed=0).fingerprint for work in (workload, WORKLOAD)}
    assert len(fingerprints) == 1


@pytest.mark.parametrize("seeds", ["8..3", "1..3", "3..3", "..", "3..", "a..b", "0, 1"])
def test_a_range_of_seeds_that_is_none_is_refused(seeds: Any) -> None:
    """At least two, and growing."""
    with pytest.raises(ConfigurationError, match=r"Workload\.seeds.*3\.\.8"):
        replace(WORKLOAD, seeds=seeds)


@given(WORKLOADS, VARIANTS, st.integers(0, 9))
def test_a_trial_spec_survives_json(workload: Workload, variant: Variant, seed: int) -> None:
    """Reading what was written gives an equal spec with the same hash and fingerprint."""
    spec = TrialSpec(workload=workload, variant=variant, seed=seed)
    again = TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.fingerprint == spec.fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 1.5),
        ("steps", True),
        ("batch_size", -1),
        ("block_size", 1),
        ("seeds", ()),
        ("seeds", (1, 1)),
        ("seeds", (-1,)),
        ("seeds", (2**32,)),
        ("seeds", "0"),
        ("precision", "fp8"),
        ("task", "two words"),
        ("task", "mine:"),
        ("task", None),
        ("final", "yes"),
        ("model", " "),
        ("train", None),
        ("training_args", {"learning_rate": 1}),
        ("training_args", {"optim": float("nan")}),
        ("training_args", {"optim": object()}),
        ("training_args", [("optim", 1)]),
    ],
)
def test_a_wrong_field_is_named_with_its_value(field: str, value: Any) -> None:
    """The message names the field, and the value or what is refused."""
    with pytest.raises(ConfigurationError) as caught:
        replace(WORKLOAD, **{field: value})
    assert f"Workload.{field}" in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"r": 0}, {"alpha": 0}, {"alpha": float("inf")}, {"dropout": 1}, {"dropout": -0.1}, {"target_modules": ()},
     {"bias": "some"}, {"learning_rate": float("nan")}, {"learning_rate": 10**400}, {"r": 2**63},
     {"options": {"lora_alpha": 3}}],
)  # fmt: skip
def test_a_wrong_lora_is_refused(values: dict[str, Any]) -> None:
    """Each field has its bounds, and an option may not contradict a field."""
    with pytest.raises(ConfigurationError, match="LoRA"):
        LoRA(**values)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("peft_type", "trains LoRA"), ("task_type", "the workload"), ("inference_mode", "train nothing"),
     ("base_model_name_or_path", "the workload"), ("revision", "the workload"), ("auto_mapping", "the workload"),
     ("peft_version", "installed peft")],
)  # fmt: skip
def test_what_is_no_option_of_lora_is_refused_with_the_reason(name: str, reason: str) -> None:
    """Peft would pass over these, so another method than the one that was asked for would be trained."""
    with pytest.raises(ConfigurationError, match=f"LoRA.options may not set '{name}': .*{reason}"):
        LoRA(options={name: "IA3"})


@pytest.mark.parametrize(
    ("name", "reason"),
    [("load_in_4bit", "full precision"), ("quantization_config", "full precision"), ("device_map", "set device"),
     ("max_memory", "set device"), ("offload_folder", "set device"), ("tp_plan", "set device"),
     ("state_dict", "the model's files"), ("config", "themselves"), ("adapter_kwargs", "merge the adapter"),
     ("output_loading_info", "the same for every variant"), ("return_dict", "the same for every variant"),
     ("revision", "revision of the workload")],
)  # fmt: skip
def test_options_of_loading_that_cannot_work_are_refused_with_the_reason(name: str, reason: str) -> None:
    """Before a model is looked for."""
    with pytest.raises(ConfigurationError, match=f"Workload.model_args may not set '{name}': .*{reason}"):
        replace(WORKLOAD, model_args={name: True})


def test_smallest_and_largest_values_are_allowed() -> None:
    """The other side of the boundaries."""
    spec = replace(WORKLOAD, steps=1, block_size=2, seeds=(0, 2**32 - 1))
    assert (spec.steps, spec.block_size) == (1, 2)
    assert LoRA(r=1, dropout=0.99).r == 1


@pytest.mark.parametrize("rate", [3e-5, 5e-5, 1e-4])
def test_lora_trains_at_ten_times_fulls_rate_by_default(rate: float) -> None:
    """The product is what a person would type, and a rate that was set is left alone."""
    assert repr(with_learning_rate(LoRA(), Full(learning_rate=rate)).learning_rate) == repr(float(f"{rate * 10:g}"))
    assert with_learning_rate(LoRA(learning_rate=7.0), Full()).learning_rate == 7.0
    with pytest.raises(ConfigurationError, match="learning rate"):
        TrialSpec(workload=WORKLOAD, variant=LoRA(), seed=0)


@pytest.mark.parametrize("count", [0, -1, 1.5, "two", True])
def test_an_accumulation_of_no_batches_is_refused(count: object) -> None:
    """The Trainer would take it, and divide by zero when the weights are loaded."""
    with pytest.raises(ConfigurationError, match="gradient_accumulation_steps must be a whole number of at least 1"):
        replace(WORKLOAD, training_args={"gradient_accumulation_steps": count})


def test_the_fingerprint_depends_on_what_decides_a_trial_alone() -> None:
    """Other seeds of the workload do not matter; the trial's seed, steps and rank do."""

    def fingerprint(workload: Workload = WORKLOAD, seed: int = 0, r: int = 8) -> str:
        return TrialSpec(workload=workload, variant=LoRA(r=r, learning_rate=1e-3), seed=seed).fingerprint

    assert fingerprint(replace(WORKLOAD, seeds=(0,))) == fingerprint(replace(WORKLOAD, seeds=(0, 1)))
    assert len({fingerprint(), fingerprint(seed=1), fingerprint(r=4), fingerprint(replace(WORKLOAD, steps=7))}) == 4


@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern"])
def test_the_order_of_patterns_is_part_of_a_lora(name: str) -> None:
    """The first that matches counts, so another order is another training; JSON brings back the same one."""

    def spec(patterns: Any) -> TrialSpec:
        return TrialSpec(workload=WORKLOAD, variant=LoRA(learning_rate=1e-3, options={name: patterns}), seed=0)

    narrow_first, wide_first = spec({"q_proj": 4, ".*": 2}), spec({".*": 2, "q_proj": 4})
    assert narrow_first != wide_first
    assert narrow_first.fingerprint != wide_first.fingerprint
    for one, pairs in ((narrow_first, [["q_proj", 4], [".*", 2]]), (wide_first, [[".*", 2], ["q_proj", 4]])):
        again = TrialSpec.from_dict(json.loads(json.dumps(one.to_dict(), sort_keys=True)))
        assert again == one == spec(pairs) == spec([tuple(pair) for pair in pairs])
        assert again.fingerprint == one.fingerprint
        assert isinstance(again.variant, LoRA)
        assert list(again.variant.peft_options[name].items()) == [tuple(pair) for pair in pairs]


def test_a_pattern_that_is_named_twice_counts_as_peft_counts_it() -> None:
    """A mapping has one value for it, the last; no patterns at all are none in each of their forms."""
    twice, once = ({"rank_pattern": [["q", 4], ["k", 3], ["q", 2]]}, {"rank_pattern": {"q": 2, "k": 3}})
    assert LoRA(options=twice) == LoRA(options=once)
    assert LoRA(options={"rank_pattern": None}) == LoRA(options={"rank_pattern": {}})


@pytest.mark.parametrize("value", [0, "ab", ["ab", "cd"], [["q_proj"]], [["q_proj", 4, 2]], [[1, 2]], {1: 2}])
@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern"])
def test_patterns_that_are_none_are_refused(name: str, value: Any) -> None:
    """The message names the option and its value."""
    with pytest.raises(ConfigurationError) as caught:
        LoRA(options={name: value})
    assert f"LoRA.options[{name!r}] must map patterns to numbers" in str(caught.value)
    assert repr(value) in str(caught.value)


def test_specs_cannot_be_changed() -> None:
    """Neither a field nor an option."""
    with pytest.raises(FrozenInstanceError):
        WORKLOAD.steps = 1  # type: ignore[misc]
    options = LoRA(options={"a": [1]}).options
    options["a"].append(2)
    assert options == {"a": [1]}


def test_unknown_kinds_and_fields_are_refused_by_name() -> None:
    """A spec of a later version is not half understood."""
    with pytest.raises(ConfigurationError, match="'ia3'"):
        variant_from_dict({"kind": "ia3"})
    with pytest.raises(ConfigurationError, match="'rank'"):
        variant_from_dict({"kind": "lora", "rank": 3})


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"r": 8}, "lora r=8"),
        ({"r": 8, "options": {"use_dora": True}}, "lora r=8 dora"),
        ({"r": 8, "options": {"use_dora": False, "init_lora_weights": True}}, "lora r=8"),
        ({"r": 8, "options": {"use_rslora": True, "init_lora_weights": "PiSSA"}}, "lora r=8 rslora pissa"),
        ({"r": 8, "options": {"init_lora_weights": "olora"}}, "lora r=8 olora"),
        ({"alpha": 32.0, "dropout": 0, "bias": "none", "target_modules": "all-linear"}, "lora r=16"),
        ({"alpha": 16}, "lora r=16 alpha=16"),
        ({"dropout": 0.05, "bias": "all"}, "lora r=16 dropout=0.05 bias=all"),
        ({"target_modules": ["v", "q"]}, "lora r=16 targets=q,v"),
        ({"target_modules": ["v", "q", "k", "o"]}, "lora r=16 targets=k,o+2"),
        ({"target_modules": "x" * 24}, f"lora r=16 targets={'x' * 24}"),
        ({"target_modules": "x" * 25}, f"lora r=16 targets={'x' * 24}..."),
        ({"target_modules": [], "options": {"target_parameters": ["e"]}}, "lora r=16"),
    ],
)
def test_the_label_of_lora_tells_its_method_and_what_is_not_the_default(settings: dict[str, Any], label: str) -> None:
    """In the words of peft's users; the learning rate is told elsewhere."""
    assert LoRA(**settings, learning_rate=1e-3).label == label
