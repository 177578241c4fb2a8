"""Any method of peft goes through the one path: the same tokens are scored, and what cannot be trained is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.specs import Full, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.tasks.causal_lm import data, models
from pytest_ftguard.tasks.causal_lm.behaviour import check_still_causal
from pytest_ftguard.tasks.causal_lm.evaluation import sequence_nll
from pytest_ftguard.tasks.causal_lm.task import CausalLM
from pytest_ftguard.training.adapters import apply_variant, check_variant
from pytest_ftguard.training.forecast import plan_trial
from pytest_ftguard.training.kept import load_trained
from pytest_ftguard.training.trial import TrialFolder, run_trial

# peft's own code calls transformers by old names, and says what it has set by itself.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]

PROMPT = Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-2)


def spec_of(workload: Workload, variant: Variant) -> TrialSpec:
    short = replace(workload, steps=2, validation_sequences=8)
    return TrialSpec(workload=short, variant=variant, seed=0, device="cpu")


def train(workload: Workload, variant: Variant, folder: Path) -> Trial:
    return run_trial(spec_of(workload, variant), TrialFolder(folder, None), lambda *_: None)


def llama() -> Any:
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))


@pytest.mark.parametrize(
    ("variant", "starts_elsewhere"),
    [
        (Peft("ia3", learning_rate=1e-2), False),
        (Peft("vera", r=4, learning_rate=1e-2), False),
        (Peft(LoraConfig(r=4, use_dora=True), learning_rate=1e-2), False),
        (Peft("lora", r=4, init_lora_weights="pissa", learning_rate=1e-2), False),
        (Peft("lora", r=4, init_lora_weights=False, learning_rate=1e-2), True),
        (PROMPT, True),
        (Peft("prefix_tuning", num_virtual_tokens=4, learning_rate=1e-2), True),
        (Peft("p_tuning", num_virtual_tokens=4, encoder_hidden_size=16, learning_rate=1e-2), True),
    ],
    ids=lambda one: getattr(one, "label", str(one)),
)
def test_the_start_is_measured_and_the_loaded_model_has_the_measured_loss(
    workload: Workload, tmp_path: Path, variant: Peft, starts_elsewhere: bool
) -> None:
    """A start that is not the base model's is explained: with the adapter switched off it is the base model."""
    result = train(workload, variant, tmp_path)
    assert result.measured.start is not None
    assert (abs(result.measured.start.base_gap) > 5e-5) is starts_elsewhere
    if starts_elsewhere:
        assert result.measured.start.disabled_gap == pytest.approx(0, abs=1e-6)
    torch.manual_seed(99)
    model, tokenizer = load_trained(result.spec, str(result.provenance.model_dir))
    sequences = data.evaluation_set(workload.validation, "validation", tokenizer, block_size=32, at_most=8)
    assert result.measured.validation is not None
    assert result.measured.base_validation is not None
    assert result.measured.validation.digest == result.measured.base_validation.digest
    assert result.measured.validation.tokens == result.measured.base_validation.tokens
    assert CausalLM().losses(model, sequences, batch_size=3, bf16=False).nll == pytest.approx(
        result.measured.validation.nll
    )
    assert Trial.from_dict(result.to_dict()) == result


@pytest.mark.parametrize(
    "variant",
    [
        Peft("ia3", learning_rate=1e-2),
        Peft("vera", r=4, learning_rate=1e-2),
        Peft(LoraConfig(r=4, use_dora=True), learning_rate=1e-2),
        PROMPT,
    ],
    ids=lambda variant: variant.label,
)
def test_under_bf16_a_method_can_be_judged_and_its_model_is_loaded(
    workload: Workload, tmp_path: Path, variant: Peft
) -> None:
    """What bf16 rounds is no fault of the start; the losses are near those of fp32, and those of the loaded model."""
    exact = train(workload, variant, tmp_path / "fp32")
    half = replace(workload, precision="bf16")
    result, full = train(half, variant, tmp_path / "bf16"), train(half, Full(learning_rate=1e-3), tmp_path / "full")
    assert exact.measured.validation is not None
    assert result.measured.validation is not None
    assert result.measured.environment is not None
    assert result.measured.environment.precision == "bf16"
    assert result.measured.validation != exact.measured.validation
    assert result.measured.validation.loss == pytest.approx(exact.measured.validation.loss, rel=1e-2)
    sides = [TrainedVariant(one.spec.workload, one.spec.variant, (one,)) for one in (result, full)]
    assert [problem for problem in compare(*sides).loss_problems if "sequences" not in problem.what] == []
    model, tokenizer = load_trained(result.spec, str(result.provenance.model_dir))
    sequences = data.evaluation_set(workload.validation, "validation", tokenizer, block_size=32, at_most=8)
    loaded = CausalLM().losses(model, sequences, batch_size=8, bf16=True)
    assert loaded.nll == pytest.approx(result.measured.validation.nll, rel=1e-3)


def test_measuring_the_start_changes_nothing_that_is_trained(workload: Workload, tmp_path: Path) -> None:
    """Two trials of one seed are equal, whether the adapter was switched off in between or not."""
    measured = train(workload, PROMPT, tmp_path / "a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytest_ftguard.training.trial.measure_start", lambda *_: None)
        plain = train(workload, PROMPT, tmp_path / "b")
    assert plain.measured.start is None
    assert measured.measured.validation == plain.measured.validation
    assert measured.measured.parameters == plain.measured.parameters


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_virtual_tokens_are_not_counted_and_padding_changes_nothing(workload: Workload, method: str) -> None:
    """Of a batch with shorter sequences each has the loss that it has alone: by hand, that of its own tokens."""
    model = apply_variant(models.load_base(workload), Peft(method, num_virtual_tokens=4)).eval()
    long, short = torch.arange(5, 25), torch.arange(40, 50)
    together = sequence_nll(model, [long, short], batch_size=2, bf16=False)
    alone = [sequence_nll(model, [one], batch_size=1, bf16=False)[0] for one in (long, short)]
    assert together == pytest.approx(alone, rel=1e-5)
    logits = model(input_ids=short[None], use_cache=False).logits[0, -10:]
    by_hand = nn.functional.cross_entropy(logits[:-1], short[1:], reduction="sum")
    assert alone[1] == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.parametrize(("tokens", "fits"), [(32, True), (33, False)])
def test_virtual_tokens_must_fit_into_the_models_positions(workload: Workload, tokens: int, fits: bool) -> None:
    """A block of 32 and 32 of them fill the 64 positions; one more is an error in the plan and in the trial."""
    spec = spec_of(workload, Peft("prompt_tuning", num_virtual_tokens=tokens, learning_rate=1e-2))
    if fits:
        planned = plan_trial(spec, texts=True)
        assert planned.measured.memory is not None
        assert planned.measured.memory.forecast_bytes is not None
        return
    with pytest.raises(ConfigurationError, match=r"takes 33 more for its virtual tokens.*set block_size to 31 or less"):
        plan_trial(spec, texts=True)
    with pytest.raises(ConfigurationError, match="takes 33 more for its virtual tokens"):
        run_trial(spec, TrialFolder(Path("nowhere"), None), lambda *_: None)


def test_the_forecast_of_a_prompt_is_that_of_its_training(workload: Workload, tmp_path: Path) -> None:
    """To a percent, as for LoRA."""
    spec = spec_of(workload, PROMPT)
    spec = replace(spec, workload=replace(spec.workload, steps=4))
    planned, result = plan_trial(spec), run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None)
    assert planned.measured.memory is not None
    assert result.measured.memory is not None
    assert planned.measured.memory.forecast_bytes == pytest.approx(result.measured.memory.peak_bytes, rel=0.01)


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (Peft("iaa3"), "no method 'iaa3'; it has adalora, .*, ia3, .*, vera, "),
        (Peft("ia3", r=4), "Peft.options has 'r', which peft.IA3Config does not know; it knows .*target_modules"),
        (Peft("ia3", target_modules=["c_attn", "q"]), r"target_modules'\] names 'q'.*its linear layers end in c_attn"),
        (Peft("lora", init_lora_weights="eva"), "Peft.options may not set init_lora_weights='eva'.*a pass over"),
        (Peft("lora", loftq_config={"loftq_bits": 4}), "Peft.options may not set 'loftq_config'.*quantized"),
        (Peft("xlora", adapters={"a": "b"}), "may not set 'adapters': it names weights that were trained before"),
        (Peft("adalora", total_step=2), "peft must be called after each step"),
        (Peft("multitask_prompt_tuning", num_virtual_tokens=2), "forward pass fails with ValueError: task_ids"),
        (Peft("osf"), "it would train no parameter"),
        (Peft("hra"), "TypeError: Target module Conv1D"),
        (
            Peft("cpt", cpt_token_ids=[5], cpt_mask=[1], cpt_tokens_type_mask=[1]),
            "before any step the loss that peft computes for it is nan",
        ),
    ],
    ids=lambda one: getattr(one, "label", ""),
)
def test_what_cannot_be_trained_is_one_clear_error(workload: Workload, variant: Peft, words: str) -> None:
    """An unknown method, options of another one, no parameters, another task, and what peft would do by half."""
    with pytest.raises(ConfigurationError, match=words):
        apply_variant(models.load_base(workload), variant)


def test_options_that_a_file_of_peft_holds_by_default_are_let_through(workload: Workload, tmp_path: Path) -> None:
    """Each configuration that peft writes names those that would be refused if they were set to anything else."""
    LoraConfig(r=4, target_modules=["c_attn"]).save_pretrained(str(tmp_path))
    written = Peft(tmp_path)
    assert {"loftq_config", "megatron_core", "qalora_group_size"} <= set(written.options)
    check_variant(models.load_base(workload), written)


@pytest.mark.parametrize(("method", "is_causal"), [("ia3", True), ("lily", False)])
def test_a_method_that_sees_what_comes_after_is_refused(method: str, is_causal: bool) -> None:
    """Lily routes by all tokens of a batch: what it says of one depends on the others, so its loss would lie."""
    model = apply_variant(llama(), Peft(method))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    if is_causal:
        check_still_causal(model, 64, method)
        return
    with pytest.raises(ConfigurationError, match="lily cannot be judged: what the trained model predicts depends on"):
        check_still_causal(model, 64, method)
