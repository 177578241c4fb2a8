"""QLoRA: the base is held in few bits as transformers holds it, and that alone is measured apart from the training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, LlamaConfig, PreTrainedModel

from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.results.forms import Shipping
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.specs.methods.quantization import QUANTIZATIONS, quantization_options
from pytest_ftguard.tasks import find_task
from pytest_ftguard.training.adapters import apply_variant, prepare_base
from pytest_ftguard.training.adapters.quantization import quantize
from pytest_ftguard.training.adapters.wrapping import without_pefts_warnings
from pytest_ftguard.training.forecast import plan_trial
from pytest_ftguard.training.forms import measure_forms
from pytest_ftguard.training.kept import load_trained
from pytest_ftguard.training.parameters import count_parameters
from pytest_ftguard.training.recorder import Evaluator
from pytest_ftguard.training.trial import TrialFolder, run_trial

# bitsandbytes looks for kernels of another package on the processor, and says that it is not installed.
pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")

LLAMA = LlamaConfig(
    vocab_size=384,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
GPT2 = GPT2Config(
    vocab_size=384, n_embd=64, n_layer=2, n_head=4, n_positions=64, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0
)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
DOUBLE = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
QUANTIZED: list[Any] = ["nf4", "fp4", "int8", DOUBLE]
LORA = LoRA(r=4, learning_rate=1e-3, quantization="nf4")
Train = Callable[..., Trial]
configured: Any = BitsAndBytesConfig


@pytest.fixture(params=[LLAMA, GPT2], ids=["llama", "gpt2"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of random weights, as save_pretrained writes it."""
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    auto.from_config(request.param, dtype=torch.float32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path, **options: Any) -> PreTrainedModel:
    auto: Any = AutoModelForCausalLM
    found: PreTrainedModel = auto.from_pretrained(folder, dtype=torch.float32, **options)
    found.train()
    return found


def loss_of(model: PreTrainedModel, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


@pytest.fixture
def train(workload: Workload, tmp_path: Path) -> Train:
    def run(variant: Variant, name: str = "trial", **changes: Any) -> Trial:
        spec = TrialSpec(workload=replace(workload, **changes), variant=variant, seed=0, device="cpu")
        return run_trial(spec, TrialFolder(tmp_path / name, None), lambda *_: None)

    return run


@pytest.mark.parametrize("quantization", QUANTIZED, ids=str)
def test_the_base_is_what_transformers_loads(saved: Path, quantization: Any) -> None:
    """Loss, gradients of the adapters and types are those of a model that from_pretrained has quantized."""
    options = quantization_options(LoRA(quantization=quantization).quantization)
    assert options is not None
    ours, theirs = load(saved), load(saved, quantization_config=configured(**options))
    quantize(ours, options, "LoRA.quantization")
    for module in theirs.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  # its type is Tensor | Module
    kinds = [{name: type(module) for name, module in one.named_modules()} for one in (ours, theirs)]
    assert kinds[0] == kinds[1]
    ids = torch.randint(0, 384, (2, 16), generator=torch.Generator().manual_seed(1))
    losses = [loss_of(one, ids) for one in (ours, theirs)]
    assert losses[0] == losses[1]
    assert losses[0] != loss_of(load(saved), ids)


def test_every_adapter_gets_a_gradient_after_an_evaluation(saved: Path) -> None:
    """In evaluation bitsandbytes would pack the weights, and the layers below the last would not be trained."""
    model = load(saved)
    wrapped = apply_variant(model, LORA)
    ids = torch.arange(32)[None]
    wrapped.eval()
    with torch.no_grad():
        before = float(wrapped(input_ids=ids, labels=ids).loss)
    wrapped.train()
    loss = wrapped(input_ids=ids, labels=ids).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(before, abs=1e-6)
    gradients = {name: one.grad for name, one in wrapped.named_parameters() if one.requires_grad}
    assert len(gradients) > 10
    assert all(one is not None for one in gradients.values())
    # A is behind B, which starts at zero: only B's are not.
    assert all(bool(one.any()) for name, one in gradients.items() if "lora_B" in name and one is not None)


@pytest.mark.parametrize("quantization", QUANTIZED, ids=str)
def test_parameters_count_as_what_they_stand_for(saved: Path, quantization: Any) -> None:
    """Two weights of 4 bits lie in each byte, and count as two."""
    plain = count_parameters(apply_variant(load(saved), LoRA(r=4)))
    assert count_parameters(apply_variant(load(saved), LoRA(r=4, quantization=quantization))) == plain


@pytest.mark.parametrize(
    "variant", [LORA, replace(LORA, options={"use_dora": True}), Peft("ia3", quantization="nf4", learning_rate=1e-2)]
)
def test_it_is_trained_next_to_full_in_full_precision(train: Train, variant: Variant) -> None:
    """The pair is sound, what few bits cost alone is measured, memory is that of packed weights."""
    trials = [train(one) for one in (variant, Full(learning_rate=5e-4), replace(variant, quantization=None))]
    sides = [TrainedVariant(one.spec.workload, one.spec.variant, (one,)) for one in trials]
    assert not compare(sides[0], sides[1]).loss_problems
    quantized, full, plain = (one.measured for one in trials)
    assert quantized.start is not None
    assert plain.start is not None
    assert plain.start.quantized_gap is None
    assert quantized.start.quantized_gap is not None
    assert 1e-5 < abs(quantized.start.quantized_gap) < 0.05
    assert quantized.start.disabled_gap == pytest.approx(0, abs=1e-5)
    assert quantized.base_validation == full.base_validation
    assert quantized.data_order == full.data_order
    assert quantized.validation is not None
    assert quantized.base_validation is not None
    assert quantized.validation.loss < quantized.base_validation.loss
    assert quantized.memory is not None
    assert plain.memory is not None
    ours, theirs = quantized.memory.breakdown, plain.memory.breakdown
    assert ours is not None
    assert theirs is not None
    assert ours.weights_bytes < theirs.weights_bytes


def test_the_gap_of_the_base_is_that_of_the_quantized_base(train: Train, workload: Workload) -> None:
    """On every validation sequence, as this task measures it on a base that was quantized by hand."""
    measured = train(LORA).measured
    task = find_task("causal-lm")
    examples = task.load_examples(workload, task.load_tokenizer(workload))
    model = task.load_model(workload)
    assert prepare_base(model, LORA)
    found = Evaluator(task, workload.batch_size, bf16=False).losses(model, examples.validation)
    assert measured.start is not None
    assert measured.base_validation is not None
    assert measured.start.quantized_gap == pytest.approx(found.loss - measured.base_validation.loss, abs=1e-7)


def test_a_start_that_the_quantization_does_not_explain_is_invalid(train: Train) -> None:
    """If the model differs from the quantized base as well, the two variants do not start from one model."""
    lora, full = train(LORA), train(Full(learning_rate=5e-4))
    assert lora.measured.start is not None
    off = lora.remeasured(
        start=replace(lora.measured.start, disabled_gap=0.1),
        curve=(replace(lora.measured.curve[0], loss=9.0), *lora.measured.curve[1:]),
    )
    sides = [TrainedVariant(one.spec.workload, one.spec.variant, (one,)) for one in (off, full)]
    assert any("do not start from the same model" in problem.what for problem in compare(*sides).loss_problems)


@pytest.mark.parametrize("variant", [LORA, replace(LORA, quantization="int8")])
def test_what_is_loaded_is_what_was_measured(train: Train, workload: Workload, tmp_path: Path, variant: LoRA) -> None:
    """The adapter alone is kept; the base is quantized again."""
    trial = train(variant, "kept")
    folder = trial.provenance.model_dir
    assert folder is not None
    assert sorted(path.name for path in Path(folder).glob("*.safetensors")) == ["adapter_model.safetensors"]
    model, tokenizer = load_trained(trial.spec, folder)
    task = find_task("causal-lm")
    examples = task.load_examples(workload, tokenizer)
    found = Evaluator(task, workload.batch_size, bf16=False).losses(model, examples.validation)
    assert trial.measured.validation is not None
    assert found.nll == pytest.approx(trial.measured.validation.nll, rel=1e-6)


def test_it_is_shipped_on_a_base_in_few_bits_or_merged_into_the_full_one(train: Train, tmp_path: Path) -> None:
    """Reloaded it is the trained model; merged it has the loss of its adapter on the base in full precision."""
    trial = train(LORA, "kept")
    folder, measured = trial.provenance.model_dir, trial.measured.validation
    assert folder is not None
    assert measured is not None
    forms = measure_forms(trial.spec, Path(folder), tmp_path, Shipping("bf16", None))
    assert [form.cause for form in forms] == [None, None, None]
    reloaded, merged, rounded = (form.nll for form in forms)
    assert reloaded == pytest.approx(measured.nll, rel=1e-6)
    assert merged is not None
    task = find_task("causal-lm")
    examples = task.load_examples(trial.spec.workload, task.load_tokenizer(trial.spec.workload))
    with without_pefts_warnings():
        full = PeftModel.from_pretrained(task.load_model(trial.spec.workload), folder)
    found = Evaluator(task, trial.spec.workload.batch_size, bf16=False).losses(full, examples.validation)
    assert merged == pytest.approx(found.nll, rel=1e-5)
    assert merged != pytest.approx(measured.nll, rel=1e-5)
    assert rounded == pytest.approx(merged, rel=0.02)


def test_a_plan_has_no_forecast_and_says_so(workload: Workload) -> None:
    """Nothing is guessed."""
    planned = plan_trial(TrialSpec(workload=workload, variant=LORA, seed=0, device="cpu"))
    assert planned.measured.memory is None
    assert planned.measured.error is not None
    assert "no forecast: a model without its weights cannot be quantized" in planned.measured.error.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"load_in_4bit": True, "bnb_4bit_type": "nf4"},
            r"has 'bnb_4bit_type', which BitsAndBytesConfig does not know",
        ),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": 4}, "was refused by BitsAndBytesConfig"),
        ({"load_in_4bit": True, "llm_int8_skip_modules": LINEAR}, "finds no linear layer of LlamaForCausalLM"),
    ],
)
def test_a_wrong_option_is_one_clear_message(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    """It names the setting."""
    auto: Any = AutoModelForCausalLM
    with pytest.raises(ConfigurationError, match=f"LoRA.quantization .*{words}|LoRA.quantization {words}"):
        apply_variant(auto.from_config(LLAMA), LoRA(quantization=options))


@pytest.mark.parametrize("by_us", [True, False])
def test_a_base_is_quantized_in_one_way_as_advised(tmp_path: Path, by_us: bool) -> None:
    """Else its label and its key would name a quantization that it does not have. Either may be left out."""
    auto: Any = AutoModelForCausalLM
    auto.from_config(LLAMA, dtype=torch.float32).save_pretrained(tmp_path)
    options = dict(QUANTIZATIONS["nf4"])
    model = load(tmp_path) if by_us else load(tmp_path, quantization_config=configured(**options))
    if by_us:
        quantize(model, options, "LoRA.quantization")
        quantize(model, options, "LoRA.quantization")
    with pytest.raises(
        ConfigurationError, match=r"LoRA\.quantization is .*8bit.*quantized already, in another way: leave one"
    ):
        apply_variant(model, LoRA(quantization="int8"))
    apply_variant(model, LoRA(r=2))
    apply_variant(auto.from_config(LLAMA), LoRA(r=2, quantization="int8"))


def test_without_bitsandbytes_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no dependency of the package."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    auto: Any = AutoModelForCausalLM
    with pytest.raises(ConfigurationError, match=r"needs bitsandbytes .*pip install 'pytest-ftguard\[quantization\]'"):
        apply_variant(auto.from_config(LLAMA), LORA)


def test_a_model_without_linear_layers_is_refused() -> None:
    """There is nothing to quantize."""
    model: Any = nn.Sequential(nn.Embedding(4, 4))
    assert not prepare_base(model, LoRA())
    assert set(QUANTIZATIONS) == {"nf4", "fp4", "int8"}
