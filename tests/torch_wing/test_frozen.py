"""Frozen weights are held in bf16 if the training computes in it, and every loss and gradient stays what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from pytest_ftguard.results import Trial
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.tasks.causal_lm.task import CausalLM
from pytest_ftguard.training import frozen, machine, trial
from pytest_ftguard.training.changed import checksums_of
from pytest_ftguard.training.forecast import forecast, plan_trial, will_not_fit
from pytest_ftguard.training.frozen import SAME_NUMBERS, hold_frozen
from pytest_ftguard.training.kept import digests_of, load_trained
from pytest_ftguard.training.trial import TrialFolder, run_trial

# peft's own code calls transformers by old names, and says what it has set by itself.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
PROJECTIONS = ["q_proj", "v_proj", "o_proj", "down_proj"]
NO_CONV1D = {"boft", "delora", "hra", "loha", "lokr", "oft"}
HALF, WHOLE = torch.bfloat16, torch.float32


def llama(**options: Any) -> Any:
    torch.manual_seed(0)
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **heads, **options))


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1)
    )


def adapted(model: Any, method: str, options: Mapping[str, Any]) -> nn.Module:
    """A model with new adapters, with the same random numbers each time."""
    torch.manual_seed(1)
    is_gpt2 = isinstance(model, GPT2LMHeadModel)
    targets: Any = ["c_attn", "c_proj"] if is_gpt2 else PROJECTIONS
    more: dict[str, Any] = {"target_modules": targets} if "tokens" not in str(options) else {}
    if method == "ia3":
        more["feedforward_modules"] = ["c_proj" if is_gpt2 else "down_proj"]
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method.upper())]
    return get_peft_model(model, config(task_type="CAUSAL_LM", **more, **options))


def trained(model: Any) -> list[tuple[float, float]]:
    """The loss and the norm of the gradient in each of six steps under autocast, and the loss after them."""
    torch.manual_seed(2)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    model.train()
    found = []
    for _ in range(6):
        ids = torch.randint(0, 64, (4, 16))
        with torch.autocast("cpu", dtype=HALF):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        found.append((float(loss), float(nn.utils.clip_grad_norm_(weights, 1.0))))
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=HALF):
        found.append((float(model(input_ids=ids, labels=ids).loss), 0.0))
        with model.disable_adapter():
            found.append((float(model(input_ids=ids, labels=ids).loss), 0.0))
    return found


def held(model: nn.Module) -> set[str]:
    """The names of what is in bf16, in the model without adapters."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return {name.replace(".base_layer", "") for name, one in base.named_parameters() if one.dtype == HALF}


CASES: list[tuple[str, Mapping[str, Any]]] = [
    *((method, {"r": 4} if method in {"vera", "randlora"} else {}) for method in sorted(SAME_NUMBERS)),
    *(
        ("lora", options)
        for options in (
            {"use_rslora": True},
            {"lora_dropout": 0.1},
            {"lora_bias": True},
            {"bias": "all"},
            {"bias": "lora_only"},
            {"init_lora_weights": "gaussian"},
            {"init_lora_weights": "orthogonal"},
            {"modules_to_save": ["lm_head"]},
            {"trainable_token_indices": [1, 2]},
        )
    ),
    ("prompt_tuning", {"num_virtual_tokens": 4}),
    ("prefix_tuning", {"num_virtual_tokens": 4}),
    ("p_tuning", {"num_virtual_tokens": 4, "encoder_hidden_size": 16}),
]


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize(("method", "options"), CASES, ids=[f"{method}-{options}" for method, options in CASES])
def test_losses_and_gradients_are_equal_bit_for_bit(
    make: Callable[[], Any], method: str, options: Mapping[str, Any]
) -> None:
    """As autocast over fp32 weights has them, with the adapter and without, and what was frozen is in bf16."""
    if make is gpt2 and method in NO_CONV1D:
        with pytest.raises((TypeError, ValueError), match="Conv1D"):
            adapted(gpt2(), method, options)
        return
    expected = trained(adapted(make(), method, options))
    model = adapted(make(), method, options)
    hold_frozen(model)
    assert trained(model) == expected
    under = "transformer.h.0.attn.c_attn.weight" if make is gpt2 else "model.layers.0.self_attn.q_proj.weight"
    beside = "transformer.h.0.mlp.c_fc.weight" if make is gpt2 else "model.layers.0.mlp.up_proj.weight"
    assert {under, beside} <= held(model)
    assert all(one.dtype == WHOLE for one in model.parameters() if one.requires_grad)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"use_dora": True}),
        ("hira", {}),
        ("glora", {}),
        ("lora", {"target_modules": ["q_proj"], "target_parameters": ["model.layers.0.mlp.up_proj.weight"]}),
    ],
    ids=str,
)
def test_what_a_method_takes_apart_stays_in_fp32(method: str, options: Mapping[str, Any]) -> None:
    """DoRA takes the norm of a weight, and others add to it or multiply it before the product; the rest is in bf16."""

    def made() -> nn.Module:
        if "target_modules" not in options:
            return adapted(llama(), method, options)
        torch.manual_seed(1)
        return get_peft_model(llama(), PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LORA](**options))

    if not hasattr(PeftType, method.upper()):
        pytest.fail(f"peft has no {method} any more: name another method that takes a weight apart")
    expected = trained(made())
    model = made()
    hold_frozen(model)
    assert trained(model) == expected
    taken = "mlp.up_proj" if "target_parameters" in options else "self_attn.q_proj"
    assert f"model.layers.0.{taken}.weight" not in held(model)
    assert "model.layers.1.mlp.gate_proj.weight" in held(model)


def test_a_weight_held_although_it_is_taken_apart_would_change_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the tests above can fail: with DoRA counted among the others, its losses are not equal."""
    expected = trained(adapted(llama(), "lora", {"use_dora": True}))
    monkeypatch.setattr(frozen, "_only_multiplies", lambda _: True)
    model = adapted(llama(), "lora", {"use_dora": True})
    hold_frozen(model)
    assert trained(model) != expected


def test_what_is_used_in_other_ways_stays_in_fp32() -> None:
    """Embeddings, and an output layer that is tied to them, norms, and what the model's code keeps in fp32."""
    names = {name for name, _ in llama().named_parameters()}
    linear = {name for name in names if "proj" in name}
    model = adapted(llama(), "lora", {})
    hold_frozen(model)
    assert held(model) == linear | {"lm_head.weight"}
    tied = adapted(llama(tie_word_embeddings=True), "lora", {})
    hold_frozen(tied)
    assert held(tied) == linear
    careful = llama()
    careful._keep_in_fp32_modules = ["up_proj"]
    kept = adapted(careful, "lora", {})
    hold_frozen(kept)
    assert held(kept) == {name for name in held(model) if "up_proj" not in name}


def test_a_layer_of_another_class_is_left_alone() -> None:
    """What derives from a linear layer may use its weight in any way, and so may attention of torch."""

    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Own(2, 2), nn.MultiheadAttention(2, 1), nn.Conv1d(2, 2, 1))
    model.requires_grad_(requires_grad=False)
    hold_frozen(model)
    assert held(model) == {"0.weight", "0.bias"}


def test_what_the_method_has_changed_stays_as_exact_as_it_is_kept() -> None:
    """PiSSA takes a part out of the weights under it; what is left is stored with the trained weights."""
    model = llama()
    digests = digests_of(model)
    wrapped = adapted(model, "lora", {"init_lora_weights": "pissa"})
    hold_frozen(wrapped, digests)
    assert not any(name.endswith(f"{one}.weight") for name in held(wrapped) for one in PROJECTIONS)
    assert "model.layers.1.mlp.gate_proj.weight" in held(wrapped)
    now = checksums_of(wrapped)
    assert all(digests[one] == now[name] for name, one in wrapped.named_parameters() if one.dtype == HALF)


@contextmanager
def in_fp32() -> Iterator[None]:
    """Trials hold their frozen weights in fp32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "hold_frozen", lambda *_: None)
        yield


def run(workload: Workload, variant: Variant, folder: Path) -> Trial:
    spec = TrialSpec(workload=workload, variant=variant, seed=0, device="cpu")
    return run_trial(spec, TrialFolder(folder, None), lambda *_: None)


VARIANTS: list[Variant] = [
    LoRA(r=4, learning_rate=1e-2),
    Peft("lora", r=4, init_lora_weights="pissa", learning_rate=1e-2),
    Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-2),
    Peft("ia3", learning_rate=1e-2),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda one: one.label)
def test_a_trial_measures_the_same_losses_and_less_memory(workload: Workload, tmp_path: Path, variant: Variant) -> None:
    """Curve, start, and what loaded weights come to again are equal; nothing counts as changed in the base."""
    work = replace(workload, precision="bf16")
    with in_fp32():
        before = run(work, variant, tmp_path / "before").measured
    result = run(work, variant, tmp_path / "after")
    now = result.measured
    for name in ("outcome", "validation", "base_validation", "curve", "start", "probe", "updates", "parameters"):
        assert getattr(now, name) == getattr(before, name), name
    assert now.updates is not None
    assert now.updates.base_changed == ()
    assert now.memory is not None
    assert before.memory is not None
    assert now.memory.breakdown is not None
    assert before.memory.breakdown is not None
    assert now.memory.breakdown.weights_bytes < before.memory.breakdown.weights_bytes
    assert (now.memory.peak_bytes or 0) < (before.memory.peak_bytes or 0)
    model, tokenizer = load_trained(result.spec, str(result.provenance.model_dir))
    assert {parameter.dtype for parameter in model.parameters()} == {WHOLE}
    task = CausalLM()
    sequences = task.load_examples(work, tokenizer).validation
    assert task.losses(model, sequences, batch_size=8, bf16=True) == now.validation


@pytest.mark.parametrize(
    ("changes", "variant"),
    [
        ({"precision": "fp32"}, VARIANTS[0]),
        ({"precision": "bf16"}, Full(learning_rate=1e-3)),
        ({"precision": "bf16", "training_function": f"{__name__}:steps"}, VARIANTS[0]),
    ],
    ids=["fp32", "full", "function"],
)
def test_nothing_is_held_in_bf16(workload: Workload, tmp_path: Path, changes: dict[str, Any], variant: Variant) -> None:
    """In fp32, in full fine-tuning, and for a training of the user's own, which may use weights in its own ways."""
    work = replace(workload, steps=4, **changes)
    with in_fp32():
        before = run(work, variant, tmp_path / "before").measured.memory
    now = run(work, variant, tmp_path / "after").measured.memory
    assert now is not None
    assert before is not None
    assert now.breakdown == before.breakdown


def steps(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    """A training function."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-3)
    for batch in data:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_forecast_follows(workload: Workload, tmp_path: Path) -> None:
    """Its weights are those of the training to the byte, and its peak is within a twentieth."""
    work = replace(workload, precision="bf16", steps=4)
    for variant in (VARIANTS[0], VARIANTS[3]):
        result = run(work, variant, tmp_path / variant.label.replace(" ", ""))
        measured, foretold = result.measured.memory, forecast(result.spec)
        assert measured is not None
        assert measured.breakdown is not None
        assert foretold.breakdown is not None
        assert foretold.breakdown.weights_bytes == measured.breakdown.weights_bytes
        assert foretold.forecast_bytes == pytest.approx(measured.peak_bytes, rel=0.05)


@pytest.mark.parametrize(("share", "fits"), [(0.99, True), (0.9, False)])
def test_the_base_must_fit_in_fp32_before_it_is_held_in_bf16(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, fits: bool
) -> None:
    """The training itself takes less; of a device with a tenth less than the base takes the reason is given."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**SIZES, "vocab_size": 384, "hidden_size": 256, "intermediate_size": 1024}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, bos_token_id=1, eos_token_id=1))
    model.save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    work = replace(workload, model=str(tmp_path), precision="bf16", batch_size=1, block_size=8)
    spec = TrialSpec(workload=work, variant=VARIANTS[0], seed=0, device="cpu")
    base = 4 * sum(one.numel() for one in model.parameters())
    assert (forecast(spec).forecast_bytes or base) < 0.8 * base
    monkeypatch.setattr(machine, "memory_bytes", lambda _: int(share * base))
    found = will_not_fit(spec, machine.describe(torch.device("cpu"), precision="bf16"), torch.device("cpu"))
    assert (found is None) is fits
    if found is not None:
        assert found.measured.error is not None
        assert "the base model takes 9.18 MB in fp32 before the training" in found.measured.error.message
    planned = plan_trial(spec).measured.error
    assert planned is not None
    assert planned.message.startswith("it will not fit: ")
    assert planned.message.endswith("the base model takes 9.18 MB in fp32 before the training")
