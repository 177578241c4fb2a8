"""A trained model as it ships: what is saved, merged and loaded again has the trained losses, or the drift shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tests.plain.builders import GivenSource
from transformers import AutoModelForCausalLM, ByT5Tokenizer, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.merge_drift import assess_merge_drift
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.running import work
from pytest_ftguard.running.executor import Answer, FormsJob, job_from_dict
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.training.forms import measure_forms
from pytest_ftguard.training.trial import TrialFolder, run_trial

FULL = Full(learning_rate=1e-3)
LORA = LoRA(r=4, learning_rate=1e-2)
SAVED, FP32, BF16 = (
    "saved and reloaded",
    "merged, saved in fp32 and reloaded",
    "merged, saved in bf16 and reloaded",
)
# fp32 weights that are merged round otherwise than those next to an adapter.
ROUNDING = 1e-5


def trained(workload: Workload, variant: Variant, folder: Path) -> Trial:
    spec = TrialSpec(workload=workload, variant=variant, seed=0, device="cpu")
    result = run_trial(spec, TrialFolder(folder, None), lambda *_: None)
    assert result.measured.outcome == "ok"
    return result


def forms_of(result: Trial, folder: Path, shipping: Shipping = Shipping()) -> dict[str, FormLosses]:  # noqa: B008
    found = measure_forms(result.spec, folder / "model", folder, shipping)
    return {one.form: one for one in found}


def drift(result: Trial, form: FormLosses) -> float:
    assert result.measured.validation is not None
    assert form.nll is not None, form.cause
    assert form.digest == result.measured.validation.digest
    return (math.fsum(form.nll) - math.fsum(result.measured.validation.nll)) / sum(result.measured.validation.tokens)


def drop(file: Path, tensor: str) -> None:
    """Remove a tensor from a model's file."""
    save_file({name: one for name, one in load_file(file).items() if name != tensor}, file, metadata={"format": "pt"})


def distance(result: Trial, form: FormLosses) -> float:
    """The largest change of an example's loss, in nats per token."""
    then = result.measured.validation
    assert then is not None
    assert form.nll is not None, form.cause
    return max(abs(a - b) / count for a, b, count in zip(form.nll, then.nll, then.tokens, strict=True))


def verdict(result: Trial, folder: Path, at_most: float = 0.01, shipping: Shipping = Shipping()) -> Verdict:  # noqa: B008
    """The gate's answer about what a training left in a folder."""
    return verdict_on(forms_of(result, folder, shipping), result, at_most, shipping)


def verdict_on(
    found: Mapping[str, FormLosses],
    result: Trial,
    at_most: float = 0.01,
    shipping: Shipping = Shipping(),  # noqa: B008
) -> Verdict:
    """The gate's answer about forms that were measured."""
    source = GivenSource(forms=lambda *_: tuple(found.values()))
    variant = TrainedVariant(result.spec.workload, result.spec.variant, (result,), source=source)
    limit = Limit(at_most, NATS_PER_TOKEN, Origin("argument", "the argument at_most"))
    return assess_merge_drift(variant, limit, Rule(gain_factor=0), shipping)


def llama(**options: Any) -> Any:
    """A random Llama with weights by a seed."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    more: dict[str, Any] = {
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes, **more, **options))


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a head of its own."""
    folder = tmp_path_factory.mktemp("untied") / "tiny-llama"
    llama(tie_word_embeddings=False).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("variant", "model"),
    [
        (LORA, "gpt2"),
        (LORA, "llama"),
        (replace(LORA, options={"use_dora": True}), "gpt2"),
        (replace(LORA, options={"use_dora": True}), "llama"),
        (replace(LORA, bias="all"), "gpt2"),
        (replace(LORA, options={"modules_to_save": ["ln_f"]}), "gpt2"),
        (replace(LORA, options={"modules_to_save": ["lm_head", "embed_tokens"]}), "llama"),
        (replace(LORA, options={"trainable_token_indices": [260, 261, 262]}), "llama"),
        (Peft("ia3", learning_rate=1e-2), "llama"),
    ],
    ids=str,
)
def test_each_form_has_the_losses_of_the_trained_model(
    workload: Workload, tmp_path: Path, untied: Path, variant: Variant, model: str
) -> None:
    """In fp32 but for rounding, also of Conv1D layers, DoRA, modules that are saved whole and new tokens."""
    if model == "llama":
        workload = replace(workload, model=str(untied))
    result = trained(workload, variant, tmp_path)
    found = forms_of(result, tmp_path)
    assert list(found) == [SAVED, FP32, BF16]
    assert distance(result, found[SAVED]) == 0
    assert found[SAVED].changed == found[FP32].changed == found[BF16].changed == ()
    assert distance(result, found[FP32]) < ROUNDING < distance(result, found[BF16])
    assert abs(drift(result, found[BF16])) < 0.01
    assert sorted(one.name for one in tmp_path.iterdir()) == ["model", "trainer"]  # no form is left


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"trainable_token_indices": [100, 384]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_embeddings_that_were_resized_are_shipped_at_their_size(
    workload: Workload, tmp_path: Path, is_tied: bool, options: dict[str, Any]
) -> None:
    """Of a base with sixteen tokens more than it was trained with, whether the adapter trains them or not."""
    model = llama(tie_word_embeddings=is_tied)
    model.resize_token_embeddings(400)
    model.save_pretrained(tmp_path / "resized")
    ByT5Tokenizer().save_pretrained(tmp_path / "resized")
    result = trained(replace(workload, model=str(tmp_path / "resized")), replace(LORA, options=options), tmp_path)
    found = forms_of(result, tmp_path)
    assert list(found) == [SAVED, FP32, BF16]
    assert distance(result, found[SAVED]) == 0
    assert found[SAVED].changed == found[FP32].changed == found[BF16].changed == ()
    assert distance(result, found[FP32]) < ROUNDING
    assert abs(drift(result, found[BF16])) < 0.01
    told = verdict_on(found, result)
    assert told.status == "PASS", told.message


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_full_is_saved_and_reloaded(workload: Workload, tmp_path: Path, precision: Any) -> None:
    """There is nothing to merge; in the precision of the training its losses are the same to the last digit."""
    result = trained(replace(workload, precision=precision), FULL, tmp_path)
    found = forms_of(result, tmp_path, Shipping("fp16"))
    assert list(found) == [SAVED, "saved in fp16 and reloaded"]
    assert distance(result, found[SAVED]) == 0
    assert 0 < distance(result, found["saved in fp16 and reloaded"]) < 0.01
    assert list(forms_of(result, tmp_path, Shipping("fp32"))) == [SAVED]


def test_the_adapter_under_bf16_autocast_is_reloaded_as_it_was(workload: Workload, tmp_path: Path) -> None:
    """The forms with fp32 weights are evaluated in the precision of the training."""
    result = trained(replace(workload, precision="bf16"), LORA, tmp_path)
    found = forms_of(result, tmp_path)
    assert distance(result, found[SAVED]) == 0
    assert 0 < distance(result, found[FP32]) < 0.01


def test_a_zeroed_tensor_of_the_adapter_fails(workload: Workload, tmp_path: Path) -> None:
    """Nobody but the trial's own losses knows what the file should have held."""
    result = trained(workload, LORA, tmp_path)
    assert verdict(result, tmp_path).status == "PASS"
    file = tmp_path / "model" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = max((one for one in tensors if "lora_B" in one), key=lambda one: float(tensors[one].norm()))
    save_file({**tensors, name: torch.zeros_like(tensors[name])}, file)
    forms = forms_of(result, tmp_path)
    limit = drift(result, forms[SAVED]) / 4
    assert limit > 1e-4
    found = verdict_on(forms, result, limit)
    assert found.status == "FAIL"
    assert found.headline.startswith("merge drift FAIL: +")
    assert "What to do: look at what save_pretrained leaves out of the file" in found.message


def test_an_adapter_file_that_is_written_wrong_names_the_tensor(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model in memory is right, and what its own save_pretrained wrote is not."""
    result = trained(workload, LORA, tmp_path)
    save = PeftModel.save_pretrained

    def damaged(self: Any, folder: str, **options: Any) -> None:
        save(self, folder, **options)
        file = Path(folder) / "adapter_model.safetensors"
        save_file({name: torch.zeros_like(one) for name, one in load_file(file).items()}, file)

    monkeypatch.setattr(PeftModel, "save_pretrained", damaged)
    forms = forms_of(result, tmp_path)
    found = verdict_on(forms, result, 0.001)
    assert found.status == "FAIL"
    assert f"{SAVED.capitalize()}, it has the base model's losses: what was trained is lost." in found.message
    assert distance(result, forms[FP32]) < ROUNDING
    assert any("lora_A" in name for name in forms[SAVED].changed)


def test_a_merge_that_changes_nothing_fails(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in peft 2586: the adapter is dropped, and the base model remains."""
    result = trained(workload, LORA, tmp_path)
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self: self.unload(), raising=False)
    found = verdict(result, tmp_path, 0.001)
    assert found.status == "FAIL"
    assert f"{FP32.capitalize()}, it has the base model's losses: what was trained is lost." in found.message
    assert "What to do: ship the adapter next to its base and do not merge it" in found.message


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_a_head_that_is_trained_apart_from_its_tied_embeddings_is_kept_or_missed(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a merged model is saved as tied again, as in unsloth 9331, the file has one tensor for both."""
    result = trained(workload, replace(LORA, options={"modules_to_save": ["lm_head"]}), tmp_path)
    found = forms_of(result, tmp_path)
    assert distance(result, found[SAVED]) == 0
    assert distance(result, found[FP32]) < ROUNDING
    save = GPT2LMHeadModel.save_pretrained

    def tied(self: Any, folder: str, **options: Any) -> None:
        self.config.tie_word_embeddings = True
        save(self, folder, **options)
        drop(Path(folder) / "model.safetensors", "lm_head.weight")

    monkeypatch.setattr(GPT2LMHeadModel, "save_pretrained", tied)
    lost = forms_of(result, tmp_path)
    assert lost[FP32].changed == ("lm_head.weight",)
    told = verdict_on(lost, result, drift(result, lost[FP32]) / 2)
    assert told.status == "FAIL"
    assert "1 tensor is not what it was in memory: lm_head.weight." in told.message


def test_weights_that_the_file_lacks_are_named(
    workload: Workload, tmp_path: Path, untied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be random; nothing is measured of such a model."""
    result = trained(replace(workload, model=str(untied)), LORA, tmp_path)
    save = LlamaForCausalLM.save_pretrained

    def without_head(self: Any, folder: str, **options: Any) -> None:
        save(self, folder, **options)
        drop(Path(folder) / "model.safetensors", "lm_head.weight")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", without_head)
    found = verdict(result, tmp_path)
    assert found.status == "INVALID"
    reason = "its file lacks 1 of its weights (lm_head.weight), so they would be random"
    assert f"lora r=4, seed 0, {FP32}, cannot be evaluated: {reason}" in found.headline


def test_bf16_fails_where_rounding_matters_and_fp32_passes(workload: Workload, tmp_path: Path) -> None:
    """A constant on all embeddings changes nothing in fp32, as LayerNorm and softmax take it out; bf16 has no room."""
    model: Any = AutoModelForCausalLM.from_pretrained(workload.model, dtype=torch.float32)
    with torch.no_grad():
        model.transformer.wte.weight += 8
    model.save_pretrained(tmp_path / "shifted")
    ByT5Tokenizer().save_pretrained(tmp_path / "shifted")
    result = trained(replace(workload, model=str(tmp_path / "shifted")), LORA, tmp_path)
    found = verdict(result, tmp_path, 0.001)
    assert found.status == "FAIL"
    assert f"The worst form is lora r=4 {BF16}." in found.message
    assert 'What to do: ship the weights in fp32 (dtype="fp32")' in found.message
    assert verdict(result, tmp_path, 0.001, Shipping("fp32")).status == "PASS"


def test_a_method_that_cannot_be_merged_is_invalid(workload: Workload, tmp_path: Path) -> None:
    """A prompt has no place in the base's weights."""
    variant = Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-1)
    result = trained(workload, variant, tmp_path)
    found = forms_of(result, tmp_path)
    assert distance(result, found[SAVED]) == 0
    assert "peft cannot merge" in str(found[FP32].cause)


@pytest.mark.parametrize(("init", "is_repeated"), [("pissa", True), ("olora", True), ("pissa_niter_1", False)])
def test_what_a_method_takes_from_the_base_is_taken_again_where_its_adapter_is_loaded(
    workload: Workload, untied: Path, tmp_path: Path, init: str, is_repeated: bool
) -> None:
    """PiSSA and OLoRA repeat it by the adapter's configuration; a fast SVD draws, so it takes another part."""
    work = replace(workload, model=str(untied))
    result = trained(work, replace(LORA, options={"init_lora_weights": init}), tmp_path)
    torch.manual_seed(7)
    found = forms_of(result, tmp_path)
    assert (distance(result, found[SAVED]) < ROUNDING) is is_repeated
    assert any("base_layer.weight" in name for name in found[SAVED].changed) is not is_repeated
    assert distance(result, found[FP32]) < ROUNDING


OWN = """
import torch
from types import SimpleNamespace
from transformers import AutoModelForCausalLM

def export(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

def served(folder):
    model = export(folder).eval()
    def answer(**inputs):
        assert inputs.pop("use_cache") is False
        with torch.no_grad():
            return SimpleNamespace(logits=model(**inputs).logits)
    return answer

def quantized(folder):
    model = export(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.abs().max().clamp_min(1e-9) / 3
            parameter.copy_((parameter / scale).round() * scale)
    return model

def half(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)

def broken(folder):
    raise RuntimeError("no such backend")

def nothing(folder):
    pass

value = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with exports of a user's own."""
    (tmp_path / "own_export.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_an_export_of_ones_own_takes_the_place_of_the_last_form(workload: Workload, tmp_path: Path) -> None:
    """It may return a model, or anything that answers as one; a bad export fails."""
    result = trained(workload, LORA, tmp_path)
    for name in ("export", "served"):
        found = forms_of(result, tmp_path, Shipping(deploy=f"own_export:{name}"))
        assert list(found) == [SAVED, FP32, f"deployed by own_export:{name}"]
        assert distance(result, found[f"deployed by own_export:{name}"]) < ROUNDING
    bad = verdict(result, tmp_path, 0.001, Shipping(deploy="own_export:quantized"))
    assert bad.status == "FAIL"
    assert "The worst form is lora r=4 deployed by own_export:quantized." in bad.message
    assert f"What to do: look at your export, because the model {FP32} is within the limit." in bad.message
    for name, cause in (("broken", "RuntimeError: no such backend"), ("nothing", "returned None")):
        told = verdict(result, tmp_path, 0.001, Shipping(deploy=f"own_export:{name}"))
        assert told.status == "INVALID"
        assert cause in told.headline


@pytest.mark.usefixtures("own")
def test_an_export_computes_as_it_is_served_and_not_under_the_autocast_of_the_training(
    workload: Workload, tmp_path: Path
) -> None:
    """In fp16 the products of this model overflow; bf16 autocast would hide it."""
    model = llama(tie_word_embeddings=False)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight *= 5e5
            layer.mlp.down_proj.weight *= 1e-3
    model.save_pretrained(tmp_path / "large")
    ByT5Tokenizer().save_pretrained(tmp_path / "large")
    work = replace(workload, model=str(tmp_path / "large"), precision="bf16", steps=3)
    result = trained(work, replace(LORA, learning_rate=1e-4), tmp_path)
    told = verdict(result, tmp_path, shipping=Shipping(deploy="own_export:half"))
    assert told.status == "INVALID", told.message
    assert "deployed by own_export:half" in told.headline
    assert verdict(result, tmp_path, shipping=Shipping("fp32")).status == "PASS"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["no_such_module:f", "own_export:no_such_name", "own_export:value"])
def test_an_export_that_is_not_there_is_an_error_of_configuration(
    workload: Workload, tmp_path: Path, name: str
) -> None:
    """It is refused before anything is loaded, and the job says so."""
    spec = TrialSpec(workload=workload, variant=LORA, seed=0, device="cpu")
    with pytest.raises(ConfigurationError, match=f"deploy is '{name}'"):
        measure_forms(spec, tmp_path, tmp_path, Shipping(deploy=name))


def test_the_job_travels_as_json_and_its_answer_too(workload: Workload, tmp_path: Path) -> None:
    """Any executor can carry it out."""
    result = trained(workload, LORA, tmp_path)
    job = FormsJob(spec=result.spec, weights=tmp_path / "model", folder=tmp_path, shipping=Shipping("fp32"))
    assert job_from_dict(job.to_dict()) == job
    answer = work.answer_to(job.to_dict())
    assert [one.form for one in answer.forms] == [SAVED, FP32]
    assert Answer.from_dict(answer.to_dict()) == answer


def test_weights_that_do_not_fit_are_a_finding(workload: Workload, tmp_path: Path) -> None:
    """A folder without weights gives no losses, and says why."""
    spec = TrialSpec(workload=workload, variant=FULL, seed=0, device="cpu")
    (tmp_path / "model").mkdir()
    (found,) = measure_forms(spec, tmp_path / "model", tmp_path, Shipping())
    assert (found.form, found.nll) == (SAVED, None)
    assert found.cause
