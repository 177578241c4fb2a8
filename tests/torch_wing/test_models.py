"""Variants change the model as they say, and mistakes are named before anything is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
)

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Full, LoRA, Workload
from pytest_ftguard.tasks.causal_lm.behaviour import check_causality
from pytest_ftguard.tasks.causal_lm.models import load_base, load_tokenizer
from pytest_ftguard.training.adapters import apply_variant, check_variant
from pytest_ftguard.training.parameters import count_parameters

GPT2_PARAMETERS = 124_439_808


def gpt2() -> Any:
    """GPT-2's shape without its weights."""
    with torch.device("meta"):
        return GPT2LMHeadModel(GPT2Config())


def test_full_fine_tuning_trains_every_parameter_of_gpt2() -> None:
    """Tied embeddings count once."""
    counts = count_parameters(apply_variant(gpt2(), Full()))
    assert (counts.total, counts.trainable) == (GPT2_PARAMETERS, GPT2_PARAMETERS)


@pytest.mark.parametrize(
    ("variant", "trainable"),
    [
        (LoRA(r=8, target_modules=["c_attn"]), 12 * (768 * 8 + 8 * 2304)),
        (LoRA(r=4, target_modules=("c_attn",)), 147_456),
        (LoRA(r=8), 1_179_648),
        (LoRA(r=8, target_modules=r".*\.h\.0\.attn\.c_attn"), 768 * 8 + 8 * 2304),
    ],
)
def test_lora_on_gpt2_trains_as_many_parameters_as_the_formula_says(variant: LoRA, trainable: int) -> None:
    """Adapters of rank r on a layer of n inputs and m outputs have r (n + m) parameters, and the rest is frozen."""
    counts = count_parameters(apply_variant(gpt2(), variant))
    assert counts.trainable == trainable
    assert counts.total == GPT2_PARAMETERS + trainable


def test_the_articles_adapter_has_294912_parameters() -> None:
    """GPT-2 with r=8 on c_attn trains 294,912 parameters, not the 147,456 that are often quoted."""
    assert count_parameters(apply_variant(gpt2(), LoRA(r=8, target_modules=("c_attn",)))).trainable == 294_912


@pytest.mark.parametrize("targets", [("q_proj",), ("c_attn", "v_proj"), "nothing.*", ("attn_c",)])
def test_a_target_that_the_model_does_not_have_is_refused(targets: Any) -> None:
    """A full and a partial miss are errors that list the suffixes the model does have."""
    with pytest.raises(ConfigurationError) as caught:
        check_variant(gpt2(), LoRA(target_modules=targets))
    missing = targets if isinstance(targets, str) else targets[-1]
    assert repr(missing) in str(caught.value)
    assert "c_attn, c_fc, c_proj" in str(caught.value)


def test_a_broken_regular_expression_is_refused() -> None:
    """The message says that the targets are not a regular expression."""
    with pytest.raises(ConfigurationError, match="not a regular expression"):
        check_variant(gpt2(), LoRA(target_modules="c_attn("))


def test_an_option_that_peft_does_not_know_is_refused() -> None:
    """The message names it and the options that exist."""
    with pytest.raises(ConfigurationError, match=r"'use_rslor'.*use_rslora"):
        check_variant(gpt2(), LoRA(options={"use_rslor": True}))


def test_further_options_reach_peft() -> None:
    """modules_to_save trains a copy of that module."""
    counts = count_parameters(
        apply_variant(gpt2(), LoRA(r=8, target_modules=("c_attn",), options={"modules_to_save": ["ln_f"]}))
    )
    assert counts.trainable == 294_912 + 2 * 768


@pytest.mark.parametrize(
    ("patterns", "rank"), [({r"h\.0\..*c_attn": 4, "c_attn": 2}, 4), ({"c_attn": 2, r"h\.0\..*c_attn": 4}, 2)]
)
def test_patterns_reach_peft_in_their_order(patterns: dict[str, int], rank: int) -> None:
    """The first that matches a layer gives its rank."""
    variant = LoRA(target_modules=("c_attn",), options={"rank_pattern": patterns, "alpha_pattern": patterns})
    model: Any = apply_variant(gpt2(), variant)
    config = model.peft_config["default"]
    assert list(config.rank_pattern.items()) == list(config.alpha_pattern.items()) == list(patterns.items())
    layers = [block.attn.c_attn for block in model.base_model.model.transformer.h]
    assert [(layer.r["default"], layer.lora_alpha["default"]) for layer in layers[:2]] == [(rank, rank), (2, 2)]


def test_the_base_model_is_fp32_and_has_no_dropout(workload: Workload) -> None:
    """GPT-2's dropout of 0.1 is switched off, unless it is asked for."""
    model = load_base(workload)
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.0}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    kept = load_base(replace(workload, model_args={"resid_pdrop": 0.25}))
    assert kept.config.resid_pdrop == 0.25
    assert kept.config.attn_pdrop == 0.0


def test_a_model_that_does_not_exist_is_named(workload: Workload, tmp_path: Path) -> None:
    """The message names the model, and says what can be given."""
    missing = replace(workload, model=str(tmp_path / "nothing"))
    for load in (load_base, load_tokenizer):
        with pytest.raises(ConfigurationError, match=r"Workload\.model is .*nothing.*there is no such folder"):
            load(missing)
        with pytest.raises(ConfigurationError, match=r"(?s)'nobody/nothing'.*HF_HUB_OFFLINE is set"):
            load(replace(workload, model="nobody/nothing"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigurationError, match=r"(?s)nothing.*which is an empty folder"):
        load_base(missing)


@pytest.mark.parametrize("size", [64, 65])
def test_a_block_longer_than_the_context_is_refused(workload: Workload, size: int) -> None:
    """The tiny model has 64 positions: 64 fit, 65 do not."""
    if size <= 64:
        load_base(replace(workload, block_size=size))
    else:
        with pytest.raises(ConfigurationError, match="64 positions"):
            load_base(replace(workload, block_size=size))


def test_a_checkpoint_without_all_weights_is_refused(workload: Workload, tmp_path: Path) -> None:
    """What is missing would be drawn at random, alike for both variants, and no loss would show it."""
    folder = tmp_path / "half"
    load_base(workload).save_pretrained(folder)
    state = GPT2LMHeadModel.from_pretrained(folder).state_dict()
    lacking = {name: value for name, value in state.items() if "h.1.mlp" not in name}
    GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder, state_dict=lacking)
    with pytest.raises(ConfigurationError, match=r"lacks 4 of the weights.*mlp"):
        load_base(replace(workload, model=str(folder)))


def test_a_checkpoint_of_the_bare_model_is_complete_where_the_head_is_tied(workload: Workload, tmp_path: Path) -> None:
    """The other side: GPT-2 saved without its head has all weights, because the head is the embedding."""
    GPT2Model.from_pretrained(workload.model).save_pretrained(tmp_path / "bare")
    load_base(replace(workload, model=str(tmp_path / "bare")))


def with_config(folder: Path, **values: Any) -> str:
    """Change values of a saved model's configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return str(folder)


@pytest.mark.parametrize("kind", [GPT2LMHeadModel, GPT2Model])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_configuration_that_cuts_layers_off_is_refused(
    workload: Workload, tmp_path: Path, layers: int, kind: Any
) -> None:
    """The checkpoint has two: with one, half of the model would be trained as the whole, and no loss would show it."""
    kind.from_pretrained(workload.model).save_pretrained(tmp_path)
    cut = replace(workload, model=with_config(tmp_path, n_layer=layers))
    if layers == 2:
        load_base(cut)
        return
    with pytest.raises(ConfigurationError, match=r"holds 1 layers that its configuration leaves out \(.*h\.1\)"):
        load_base(cut)


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer"])
def test_fewer_layers_may_be_asked_for(workload: Workload, name: str) -> None:
    """Whoever writes the number in model_args means it."""
    model: Any = load_base(replace(workload, model_args={name: 1}))
    assert len(model.transformer.h) == 1


@pytest.mark.parametrize(
    ("extra", "values", "refused"),
    [
        ("mtp.layers.0.weight", {}, False),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", {}, False),
        ("vision.encoder.layers.3.weight", {}, False),
        ("lm_head_2.weight", {}, False),
        ("model.layers.1.eh_proj.weight", {"num_nextn_predict_layers": 1}, False),
        ("model.layers.2.eh_proj.weight", {"num_nextn_predict_layers": 1}, True),
        ("model.layers.1.eh_proj.weight", {}, True),
    ],
)
def test_other_weights_without_a_use_are_allowed(
    workload: Workload, tmp_path: Path, extra: str, values: dict[str, int], refused: bool
) -> None:
    """Buffers, further heads, other parts, and as many layers as the configuration has to predict further tokens."""
    sizes: dict[str, Any] = {"vocab_size": 384, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1))
    model.save_pretrained(tmp_path, state_dict={**model.state_dict(), extra: torch.ones(2)})
    found = replace(workload, model=with_config(tmp_path, **values))
    if not refused:
        load_base(found)
        return
    with pytest.raises(ConfigurationError, match=rf"leaves out \({extra.partition('.eh')[0]}\)"):
        load_base(found)


def test_a_model_that_sees_the_next_token_is_refused(workload: Workload) -> None:
    """BERT loads as a causal language model but is none; the tiny GPT-2 is one."""
    check_causality(load_base(workload))
    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(ConfigurationError, match="BertLMHeadModel is not causal"):
        check_causality(BertLMHeadModel(config))
    config.is_decoder = True
    check_causality(BertLMHeadModel(config))
