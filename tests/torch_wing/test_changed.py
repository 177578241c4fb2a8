"""After a training it is known whether every adapter moved, and whether the frozen base is what it was."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from pytest_ftguard.comparison.problem import failure_of
from pytest_ftguard.reporting.notes import fairness_notes
from pytest_ftguard.results import Parameters, TrainedVariant, Trial, Updates
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.training.adapters import apply_variant
from pytest_ftguard.training.changed import Watch, checksum, checksums_of
from pytest_ftguard.training.parameters import count_parameters
from pytest_ftguard.training.trial import TrialFolder, run_trial

FULL, LORA = Full(learning_rate=1e-3), LoRA(r=4, learning_rate=1e-2)


def loop(model: nn.Module, data: Any, spec: TrialSpec, *, decay: float = 0.0) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=float(spec.variant.learning_rate or 0), weight_decay=decay)
    for batch in data:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def freezing_an_adapter(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    for name, parameter in model.named_parameters():
        if "lora_" in name and "h.0.attn.c_attn" in name:
            parameter.requires_grad_(False)
    loop(model, data, spec)


def freezing_b_alone(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    for name, parameter in model.named_parameters():
        if "lora_B" in name and "h.0.attn.c_attn" in name:
            parameter.requires_grad_(False)
    loop(model, data, spec, decay=0.1)


def freezing_a_weight(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    model.get_parameter("transformer.h.0.attn.c_attn.weight").requires_grad_(False)
    loop(model, data, spec)


def changing_the_base(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    loop(model, data, spec)
    weight = next(one for name, one in model.named_parameters() if name.endswith("h.1.mlp.c_fc.base_layer.weight"))
    weight.data[0, 0] += 1e-3


def without_an_optimizer_for_one(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    model.eval()  # to go without dropout
    trained = [one for name, one in model.named_parameters() if one.requires_grad and "h.0.attn.c_attn" not in name]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for batch in data:
        model(**batch).loss.backward()
        optimizer.step()
        model.zero_grad()


def without_an_optimizer_for_norms(model: nn.Module, data: Any, spec: TrialSpec) -> None:
    trained = [parameter for name, parameter in model.named_parameters() if "ln_1" not in name]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for batch in data:
        model(**batch).loss.backward()
        optimizer.step()
        model.zero_grad()


@pytest.fixture
def train(workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trial]:
    def run(function: Any, variant: Variant, **changes: Any) -> Trial:
        if function is not None:
            module = types.ModuleType("my_training")
            module.train = function  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, "my_training", module)
            changes["training_function"] = "my_training:train"
        work = replace(workload, **{"steps": 3, "validation_sequences": 8, **changes})
        spec = TrialSpec(workload=work, variant=variant, seed=0, device="cpu")
        return run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None)

    return run


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # peft says what it has set by itself
@pytest.mark.parametrize(
    "variant",
    [
        FULL,
        LORA,
        LoRA(r=4, learning_rate=1e-2, bias="all", options={"use_dora": True, "modules_to_save": ["ln_f"]}),
        LoRA(r=4, learning_rate=1e-2, options={"init_lora_weights": "pissa"}),
        LoRA(r=4, learning_rate=1e-2, options={"trainable_token_indices": [5, 6]}),
        Peft("ia3", learning_rate=1e-2),
        Peft("vera", r=4, learning_rate=1e-2),
        Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-2),
        Peft("p_tuning", num_virtual_tokens=4, encoder_hidden_size=16, learning_rate=1e-2),
        Peft("ln_tuning", target_modules=["ln_1"], learning_rate=1e-2),
    ],
    ids=lambda one: f"{one.label} {dict(getattr(one, 'options', {}))}",
)
def test_a_sound_training_has_nothing_to_tell(train: Callable[..., Trial], variant: Variant) -> None:
    """Whatever the method starts with (B = 0, ones, a part of the base): all moved, and the rest did not."""
    result = train(None, variant)
    updates = result.measured.updates
    assert updates is not None
    assert (updates.unmoved, updates.unused, updates.base_changed) == ((), (), ())
    assert updates.adapters + updates.weights > 0
    assert failure_of(result) is None
    assert Trial.from_dict(result.to_dict()) == result


@pytest.mark.parametrize(
    ("function", "variant", "words"),
    [
        (freezing_an_adapter, LORA, "1 of 8 adapters never received a gradient"),
        (freezing_b_alone, LORA, "1 of 8 adapters never received a gradient"),
        (without_an_optimizer_for_one, LORA, "1 of 8 adapters never received a gradient"),
        (freezing_a_weight, FULL, "1 of 28 trained weights never received a gradient"),
        (without_an_optimizer_for_norms, FULL, "4 of 28 trained weights never received a gradient"),
        (changing_the_base, LORA, "1 frozen weights of the base model changed"),
    ],
)
def test_what_was_not_trained_as_it_should_be_is_a_problem(
    train: Callable[..., Trial], function: Any, variant: Variant, words: str
) -> None:
    """By the hand of a training function: frozen, left out of the optimizer, moved by weight decay alone, changed."""
    problem = failure_of(train(function, variant))
    assert problem is not None
    assert words in problem.what
    assert "h.0." in problem.why or "h.1.mlp.c_fc.weight" in problem.why


@pytest.mark.parametrize("frozen", ["layers.0", "layers.0.self_attn.q_proj.lora_B"])
def test_an_adapter_that_was_frozen_before_the_training_is_missed(frozen: str) -> None:
    """As by a callback, or before a Trainer of the user's own begins; A alone changes nothing, whatever decays it."""
    model = apply_variant(mixture(), LoRA(r=2, target_modules=["q_proj"]))
    for name, parameter in model.named_parameters():
        if frozen in name:
            parameter.requires_grad_(False)
    watch = Watch(model)
    step(model, weight_decay=0.1)
    assert watch.result(checksums_of(model)).unmoved == ("model.layers.0.self_attn.q_proj",)


@pytest.mark.parametrize(("frozen", "is_missed"), [("lora_embedding_A", True), ("lora_embedding_B", False)])
def test_of_an_embedding_it_is_a_that_must_move(frozen: str, is_missed: bool) -> None:
    """There peft begins with A = 0, so B alone changes nothing, whatever decays it."""
    model = apply_variant(mixture(), LoRA(r=2, target_modules=["embed_tokens", "q_proj"]))
    for name, parameter in model.named_parameters():
        if frozen in name:
            parameter.requires_grad_(False)
    watch = Watch(model)
    step(model, weight_decay=0.1)
    assert watch.result(checksums_of(model)).unmoved == (("model.embed_tokens",) if is_missed else ())


def mixture() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **heads, **experts))


def step(model: nn.Module, weight_decay: float = 0.0) -> None:
    model.train()
    ids = torch.arange(16)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    trained = [one for one in model.parameters() if one.grad is not None]
    torch.optim.SGD(trained, lr=0.1, weight_decay=weight_decay).step()


class Branched(nn.Module):
    """One layer that counts, one that is not called, and one with an output that passes no gradient on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.detached = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.used(values) + self.detached(values).detach()
        return found


def test_a_branch_that_the_model_never_used_is_no_fault() -> None:
    """Such as an expert without a token: it is named apart; if nothing at all moved, it is a fault."""
    model = Branched()
    watch = Watch(model)
    model(torch.ones(1, 4)).sum().backward()
    torch.optim.SGD([one for one in model.parameters() if one.grad is not None], lr=0.1).step()
    updates = watch.result(checksums_of(model))
    assert (updates.unmoved, set(updates.unused)) == (
        (),
        {"unused.weight", "unused.bias", "detached.weight", "detached.bias"},
    )
    still = Watch(model)
    assert len(still.result(checksums_of(model)).unmoved) == 6


def test_an_adapter_whose_output_is_cut_off_is_a_fault() -> None:
    """It ran in the training, and no gradient came back to it; one that never ran is named apart."""
    from peft import LoraConfig, inject_adapter_in_model

    model = inject_adapter_in_model(LoraConfig(r=2, target_modules=["used", "unused", "detached"]), Branched())
    watch = Watch(model)
    model(torch.ones(1, 4)).sum().backward()
    torch.optim.SGD([one for one in model.parameters() if one.grad is not None], lr=0.1).step()
    updates = watch.result(checksums_of(model))
    assert (updates.adapters, updates.unmoved, updates.unused) == (3, ("detached",), ("unused",))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.bool])
def test_a_checksum_changes_with_any_number_and_with_their_order(dtype: torch.dtype) -> None:
    """Whatever the type; the same numbers have the same."""
    values = (torch.arange(300_001) % 7).to(dtype)
    assert checksum(values) == checksum(values.clone())
    other = values.clone()
    other[300_000] = not other[300_000]
    assert checksum(values) != checksum(other)
    assert checksum(values) != checksum(values.flip(0))
    assert checksum(values[:0]) == 0


def test_experts_that_all_linear_skips_are_named(workload: Workload) -> None:
    """With their share of the parameters: peft passes over those of GPT-OSS without a word."""
    variant = LoRA(r=2)
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    model = GptOssForCausalLM(GptOssConfig(**sizes, **heads, num_local_experts=4, layer_types=["full_attention"] * 2))
    base = sum(one.numel() for one in model.parameters())
    counts = count_parameters(apply_variant(model, variant))
    experts = 2 * 4 * (32 * 128 + 64 * 32)
    assert counts.skipped_experts == pytest.approx({"model.layers.*.mlp.experts": experts / base})
    assert counts.under_adapters == pytest.approx(2 * (32 * 32 * 2 + 2 * 16 * 32) / base)
    [note] = [one for one in fairness_notes([trained(workload, variant, counts)]) if "skips" in one]
    assert note.startswith("lora r=2: all-linear skips model.layers.*.mlp.experts (80 % of the parameters)")


@pytest.mark.filterwarnings("ignore:The following:RuntimeWarning")  # of patterns that peft makes itself
def test_experts_with_adapters_are_not_called_skipped(workload: Workload) -> None:
    """For some mixtures peft turns all-linear into parameters; what was measured is said, not what was asked for."""
    counts = count_parameters(apply_variant(mixture(), LoRA(r=2)))
    assert not counts.skipped_experts
    assert counts.under_adapters == pytest.approx(0.88, abs=0.01)
    assert not [one for one in fairness_notes([trained(workload, LORA, counts)]) if "skips" in one]


def test_what_the_training_never_used_is_noted(workload: Workload) -> None:
    """It is no fault, but nothing was learned there."""
    updates = Updates(adapters=3, weights=0, unused=("experts.7",))
    notes = fairness_notes([trained(workload, LORA, Parameters(10, 1), updates)])
    assert [one for one in notes if "the training never used experts.7" in one]


def trained(workload: Workload, variant: Variant, counts: Parameters, updates: Updates | None = None) -> TrainedVariant:
    from pytest_ftguard.results import Measured

    spec = TrialSpec(workload=workload, variant=replace(variant, learning_rate=1e-2), seed=0, device="cpu")
    return TrainedVariant(
        workload=workload,
        variant=spec.variant,
        trials=(Trial(spec, Measured(outcome="ok", parameters=counts, updates=updates)),),
    )
