"""What peft cannot do, or would do in part, is one clear error before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import LoRA
from pytest_ftguard.training.adapters import apply_variant, check_variant
from pytest_ftguard.training.parameters import count_parameters

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=16))


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS))


def mixtral() -> Any:
    return MixtralForCausalLM(MixtralConfig(**SIZES, **HEADS, num_local_experts=4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_lora_weights": "eva"}, 'a pass over training data.*use "pissa"'),
        ({"init_lora_weights": "corda"}, 'a pass over training data.*use "pissa"'),
        ({"init_lora_weights": "lora_ga"}, 'a pass over training data.*use "pissa"'),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "'loftq_config'.*quantized"),
        ({"init_lora_weights": "loftq"}, "a quantized base"),
        ({"eva_config": {"rho": 2.0}}, "only works with its own init_lora_weights"),
        ({"use_qalora": True}, "GPTQ"),
        ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"alora_invocation_tokens": [5]}, "it learns nothing on plain text"),
        ({"arrow_config": {}}, "trains none"),
        ({"kasa_config": {}}, "an extra term of the loss"),
        ({"monteclora_config": {}}, "an extra term of the loss"),
        ({"modules_to_save": ["nothing"]}, r"'modules_to_save'\] names 'nothing', but GPT2LMHeadModel has no such"),
        ({"modules_to_save": "lm_head"}, "must be a list of names"),
        ({"target_parameters": EXPERTS}, r"'target_parameters'\] names 'mlp.experts.gate_up_proj', "),
        ({"exclude_modules": ["nothing"]}, r"'exclude_modules'\] names 'nothing'.*like attn.*attn.c_attn"),
        ({"rank_pattern": {"c_attn": 2, "q_proj": 2}}, r"'rank_pattern'\] names 'q_proj', "),
        ({"alpha_pattern": {"(": 2}}, "not a regular expression"),
        ({"layers_to_transform": [0, 2]}, "names layer 2, but GPT2LMHeadModel has layers 0 to 1"),
        ({"layers_to_transform": "all"}, "must be a list of whole numbers"),
        ({"trainable_token_indices": [63, 64]}, "has 64, but the embedding of GPT2LMHeadModel has the tokens 0 to 63"),
        ({"trainable_token_indices": 5}, "must be a list of whole numbers"),
    ],
    ids=str,
)
def test_options_that_would_do_nothing_or_half_are_refused(options: dict[str, Any], words: str) -> None:
    """With what they need, or what the model has instead."""
    with pytest.raises(ConfigurationError, match=words):
        check_variant(gpt2(), LoRA(target_modules=["c_attn"], options=options))


def test_options_that_name_what_is_there_are_let_through() -> None:
    """The other side of each."""
    options = {"modules_to_save": ["ln_f"], "exclude_modules": ["mlp.c_proj"], "rank_pattern": {r"h\.0\..*c_attn": 2}}
    numbers = {"layers_to_transform": [0, 1], "trainable_token_indices": [0, 63], "use_qalora": False}
    check_variant(gpt2(), LoRA(target_modules=["c_attn"], options={**options, **numbers}))
    check_variant(mixtral(), LoRA(options={"target_parameters": EXPERTS, "rank_pattern": {"gate_up_proj": 8}}))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (gpt2, {"init_lora_weights": "olora"}),
        (gpt2, {"layer_replication": [[0, 2], [0, 2]]}),
        (gpt2, {"init_lora_weights": 3}),
        (llama, {"init_lora_weights": "pissa_niter_x"}),
        (llama, {"use_dora": True, "lora_bias": True}),
        (llama, {"layers_to_transform": [0]}),
        (mixtral, {"use_dora": True, "target_parameters": EXPERTS}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_peft_trips_over_is_one_error(make: Any, options: dict[str, Any], device: str) -> None:
    """Of whatever type, and in a plan, too; it names the variant, the class, and the options to leave out."""
    variant = LoRA(r=4, options=options)
    with torch.device(device), pytest.raises(ConfigurationError) as caught:
        apply_variant(make(), variant)
    said = str(caught.value)
    assert said.startswith(f"peft cannot apply {variant!r} to {make().__class__.__name__}: ")
    assert said.endswith(f"remove the option that does not fit ({', '.join(variant.options)}).")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_each_initialisation_can_be_made_with_values_and_without(device: str) -> None:
    """OLoRA fits the layers of Llama, and PiSSA those of both."""
    for make, init in ((llama, "olora"), (llama, "pissa"), (gpt2, "pissa_niter_4"), (gpt2, "orthogonal")):
        with torch.device(device):
            apply_variant(make(), LoRA(r=4, options={"init_lora_weights": init}))


@pytest.mark.parametrize(
    ("make", "variant", "adapted", "left_alone"),
    [
        (gpt2, LoRA(), {"attn.c_attn": 3, "attn.c_proj": 1, "mlp.c_fc": 4, "mlp.c_proj": 4}, {}),
        (
            gpt2,
            LoRA(target_modules=r".*\.0\.attn\.c_attn"),
            {"attn.c_attn": 1.5},
            {"attn.c_attn": 1.5, "attn.c_proj": 1, "mlp.c_fc": 4, "mlp.c_proj": 4},
        ),
        (
            gpt2,
            LoRA(target_modules=["c_attn", "wte"], options={"modules_to_save": ["mlp"]}),
            {"attn.c_attn": 3, "mlp.c_fc": 4, "mlp.c_proj": 4},
            {"attn.c_proj": 1},
        ),
        (
            gpt2,
            LoRA(options={"exclude_modules": ["mlp.c_fc", "mlp.c_proj"]}),
            {"attn.c_attn": 3, "attn.c_proj": 1},
            {"mlp.c_fc": 4, "mlp.c_proj": 4},
        ),
    ],
)
def test_the_share_of_the_matrices_that_an_adapter_reaches_is_measured(
    make: Any, variant: LoRA, adapted: dict[str, float], left_alone: dict[str, float]
) -> None:
    """In units of the width squared, twelve a layer: embeddings and the head do not count, trained copies do."""
    counts = count_parameters(apply_variant(make(), variant))
    assert counts.adapted == pytest.approx({name: share / 12 for name, share in adapted.items()})
    assert counts.left_alone == pytest.approx({name: share / 12 for name, share in left_alone.items()})


@pytest.mark.parametrize(("options", "share"), [({}, 0.06), ({"target_parameters": EXPERTS}, 0.94)])
def test_fused_experts_count_as_what_they_are(options: dict[str, Any], share: float) -> None:
    """In a mixture they are most of the matrices, and adapted where parameters are targets."""
    variant = LoRA(r=4, target_modules=["q_proj", "v_proj"], options=options)
    counts = count_parameters(apply_variant(mixtral(), variant))
    assert counts.adapted_share == pytest.approx(share, abs=0.015)
    assert (set(EXPERTS) <= set(counts.left_alone or {})) is not bool(options)
    assert bool(counts.skipped_experts) is not bool(options)


def test_adapters_may_be_on_parameters_alone() -> None:
    """An empty list of modules leaves the attention of a mixture alone; without parameters it is an error."""
    counts = count_parameters(apply_variant(mixtral(), LoRA(target_modules=[], options={"target_parameters": EXPERTS})))
    assert set(counts.adapted or {}) == set(EXPERTS)
    assert LoRA(target_modules=(), options={"target_parameters": EXPERTS}).target_modules == ()
    without: list[dict[str, Any]] = [{}, {"target_parameters": []}]
    for options in without:
        with pytest.raises(ConfigurationError, match=r"LoRA\.target_modules must be"):
            LoRA(target_modules=[], options=options)
    with pytest.raises(ConfigurationError, match=r"LoRA\.target_modules must be"):
        LoRA(target_modules="", options={"target_parameters": EXPERTS})


def test_a_model_that_is_trained_as_a_whole_has_no_share() -> None:
    """There is nothing that an adapter could leave alone."""
    assert count_parameters(gpt2()).adapted_share is None
