"""What is loaded is what was measured, whatever the method does to the base before the training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.specs import LoRA, TrialSpec, Workload
from pytest_ftguard.tasks.causal_lm import data
from pytest_ftguard.tasks.causal_lm.task import CausalLM
from pytest_ftguard.training.kept import load_trained
from pytest_ftguard.training.trial import TrialFolder, run_trial

SIZES: dict[str, Any] = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
GPT2, LLAMA, MIXTRAL = "gpt2", "llama", "mixtral"


@pytest.fixture(scope="module")
def workloads(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Workload]:
    """Two steps of a tiny model of three kinds."""
    short = replace(workload, steps=2, validation_sequences=8)
    made = {GPT2: short}
    torch.manual_seed(0)
    models: dict[str, Any] = {
        LLAMA: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)),
        MIXTRAL: MixtralForCausalLM(MixtralConfig(**SIZES, **HEADS, num_local_experts=2)),
    }
    for name, model in models.items():
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(workload.model, folder, dirs_exist_ok=True)
        model.save_pretrained(folder)
        made[name] = replace(short, model=str(folder), tokenizer=workload.model)
    return made


def trial_spec(workload: Workload, variant: LoRA) -> TrialSpec:
    return TrialSpec(workload=workload, variant=variant, seed=0, device="cpu")


def options(**values: Any) -> dict[str, Any]:
    return {"options": values}


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # a copy of the head is what is wanted
@pytest.mark.parametrize(
    ("name", "values", "changes_base"),
    [
        (GPT2, options(init_lora_weights=False), False),
        (GPT2, options(init_lora_weights="pissa", use_dora=True), True),
        (GPT2, options(init_lora_weights="pissa_niter_4", modules_to_save=["lm_head"]), True),
        (GPT2, options(use_dora=True, use_rslora=True, rank_pattern={"c_attn": 2}), False),
        (GPT2, {"bias": "all", **options(modules_to_save=["ln_f", "wte"])}, False),
        (LLAMA, options(init_lora_weights="olora"), True),
        (LLAMA, options(init_lora_weights="orthogonal", lora_bias=False), False),
        (LLAMA, options(init_lora_weights="pissa_niter_4", layer_replication=[[0, 2], [0, 2]]), True),
        (LLAMA, options(trainable_token_indices=[5, 6]), None),
        (MIXTRAL, {"target_modules": ["q_proj"], **options(target_parameters=EXPERTS)}, False),
        (MIXTRAL, {"target_modules": ["q_proj", "v_proj"], **options(init_lora_weights="pissa_niter_4")}, True),
    ],
    ids=str,
)
def test_the_loaded_model_has_the_measured_loss(
    workloads: dict[str, Workload], tmp_path: Path, name: str, values: dict[str, Any], changes_base: bool | None
) -> None:
    """Whatever random numbers were drawn in between; the base is kept only if the method has changed it."""
    spec = trial_spec(workloads[name], LoRA(r=4, learning_rate=1e-2, **values))
    result = run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None)
    folder = str(result.provenance.model_dir)
    torch.manual_seed(99)
    model, tokenizer = load_trained(spec, folder)
    sequences = data.evaluation_set(spec.workload.validation, "validation", tokenizer, block_size=32, at_most=8)
    assert result.measured.validation is not None
    assert CausalLM().losses(model, sequences, batch_size=4, bf16=False).nll == pytest.approx(
        result.measured.validation.nll
    )
    if changes_base is not None:
        assert (Path(folder) / "base_changes.safetensors").exists() is changes_base


def test_weights_that_the_model_does_not_have_are_not_loaded(workloads: dict[str, Workload], tmp_path: Path) -> None:
    """They are named, and nothing is given."""
    spec = trial_spec(workloads[GPT2], LoRA(learning_rate=1e-2, options={"init_lora_weights": "pissa"}))
    folder = str(run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None).provenance.model_dir)
    file = Path(folder) / "base_changes.safetensors"
    save_file({**load_file(file), "nothing.weight": torch.zeros(2)}, file)
    with pytest.raises(FtguardError, match=r"'nothing\.weight' of shape"):
        load_trained(spec, folder)


def test_what_the_method_changed_counts_in_the_size(workloads: dict[str, Workload], tmp_path: Path) -> None:
    """The adapter alone would be small enough, and is kept if the method leaves the base as it is."""
    for init, is_kept in (("pissa", False), ("gaussian", True)):
        spec = trial_spec(workloads[GPT2], LoRA(r=1, learning_rate=1e-2, options={"init_lora_weights": init}))
        result = run_trial(spec, TrialFolder(tmp_path, 50_000), lambda *_: None)
        assert (result.provenance.model_dir is not None) is is_kept
        assert is_kept or "the base that the method has changed" in str(result.provenance.not_kept)
