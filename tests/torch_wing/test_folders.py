"""Each kind of folder that is not a whole causal language model is named, with what to give instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Workload
from pytest_ftguard.tasks.causal_lm.models import build_without_weights, load_base, load_tokenizer
from pytest_ftguard.training.adapters import apply_variant
from pytest_ftguard.training.forecast import plan_trial

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n"
ENCODER: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL: dict[str, Any] = {**ENCODER, "intermediate_size": 16}


def adapter(folder: Path, base: str | None = "someone/base") -> None:
    bare = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2))
    model: Any = apply_variant(bare, LoRA(r=1, target_modules=["c_attn"]))
    model.save_pretrained(folder)
    configure(folder, "adapter_config.json", base_model_name_or_path=base)


def configure(folder: Path, name: str = "config.json", /, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without_weights(folder: Path, *others: str) -> None:
    (folder / "model.safetensors").unlink()
    for name in others:
        (folder / name).write_bytes(b"weights" * 400)


def in_parts(folder: Path) -> None:
    GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def only_checkpoints(folder: Path) -> None:
    for steps in (5, 20):
        shutil.copytree(folder, folder / f"checkpoint-{steps}", ignore=shutil.ignore_patterns("checkpoint-*"))
    for path in folder.glob("*.*"):
        path.unlink()


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def only(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        emptied(folder)
        make(folder)

    return change


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "sequence to sequence": (
        T5ForConditionalGeneration(
            T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ).save_pretrained,
        r"is a sequence-to-sequence model \(t5\)",
    ),
    "encoder": (BertForMaskedLM(BertConfig(**SMALL)).save_pretrained, r"is an encoder .*\(bert, BertForMaskedLM\)"),
    "classifier": (BertForSequenceClassification(BertConfig(**SMALL)).save_pretrained, "is a classifier of texts"),
    "classifier of a causal class": (
        GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=1, n_head=2)).save_pretrained,
        r"is a classifier of texts \(gpt2, GPT2ForSequenceClassification\)",
    ),
    "vision": (
        ViTForImageClassification(ViTConfig(**{**SMALL, "image_size": 8, "patch_size": 4})).save_pretrained,
        "is a vision model",
    ),
    "adapter": (only(adapter), "is an adapter of someone/base: give its base, or merge it"),
    "adapter of an unnamed base": (
        only(lambda folder: adapter(folder, None)),
        "is an adapter of a model that it does not name",
    ),
    "adapter beside a model": (adapter, "adapter_config.json.*next to the whole model.*remove adapter_config.json"),
    "sentence transformers": (lambda f: (f / "modules.json").write_text("[]"), "is a sentence-transformers model"),
    "diffusers": (lambda f: (f / "model_index.json").write_text("{}"), "is a diffusers pipeline"),
    "GGUF alone": (lambda f: without_weights(f, "a.gguf"), r'GGUF weights only.*\{"gguf_file": "a.gguf"\}'),
    "ONNX alone": (lambda f: without_weights(f, "model.onnx"), r"another format only \(ONNX\)"),
    "TensorFlow alone": (lambda f: without_weights(f, "tf_model.h5"), r"another format only \(TensorFlow\)"),
    "a part is missing": (in_parts, r"names model-00002-of-\d+\.safetensors, which is not there"),
    "weights are a pointer": (
        lambda f: (f / "model.safetensors").write_text(POINTER),
        "model.safetensors is a pointer of git-LFS.*git lfs pull",
    ),
    "configuration is a pointer": (
        lambda f: (f / "config.json").write_text(POINTER),
        "config.json is a pointer of git-LFS.*git lfs pull",
    ),
    "one byte is missing": (cut, r"model.safetensors is damaged \(it has [\d,]+ of its [\d,]+ bytes\)"),
    "empty": (emptied, "is an empty folder"),
    "something else": (only(lambda f: (f / "notes.txt").write_text("x")), "has no config.json.*notes.txt"),
    "checkpoints": (only_checkpoints, "holds checkpoint-5, checkpoint-20: give '.*checkpoint-20'"),
    "quantized": (
        lambda f: configure(f, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        r"is quantized \(bitsandbytes, 4 bits\)",
    ),
    "unknown type": (lambda f: configure(f, model_type="future"), "model_type 'future' is not known"),
    "own code": (
        lambda f: configure(f, model_type="own", auto_map={"AutoModelForCausalLM": "m.M"}),
        '"trust_remote_code": true',
    ),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
}


@pytest.fixture
def copy(workload: Workload, tmp_path: Path) -> Workload:
    """The tiny model in a folder that a test may change."""
    return replace(workload, model=str(shutil.copytree(workload.model, tmp_path / "model")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_another_kind_is_named(copy: Workload, kind: str) -> None:
    """With its weights or without, in a few lines, by the model and never by a list of classes."""
    change, words = KINDS[kind]
    change(Path(copy.model))
    for load in (load_base, build_without_weights):
        with pytest.raises(ConfigurationError, match=words) as caught:
            load(copy)
        assert str(caught.value).startswith(f"Workload.model is {copy.model!r}")
        assert len(str(caught.value)) < 600 + len(copy.model)
        assert "not complete" not in str(caught.value)


@pytest.mark.parametrize("place", ["", "inner"])
def test_an_adapter_beside_a_model_in_a_subfolder_is_found(copy: Workload, tmp_path: Path, place: str) -> None:
    """Transformers looks for adapters in the folder and in the subfolder, so both are looked at."""
    shutil.copytree(copy.model, tmp_path / "outer" / "inner")
    inside = replace(copy, model=str(tmp_path / "outer"), model_args={"subfolder": "inner"})
    load_base(inside)
    load_tokenizer(inside)
    adapter(tmp_path / "outer" / place)
    with pytest.raises(ConfigurationError, match="next to the whole model"):
        load_base(inside)


def test_whole_models_are_let_through(copy: Workload) -> None:
    """A leftover index, other formats beside the weights, and a decoder of BERT's kind do not matter."""
    folder = Path(copy.model)
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-1.bin"}}')
    (folder / "model.onnx").write_text(POINTER)
    load_base(copy)
    decoder = BertConfig(**SMALL, is_decoder=True)
    BertLMHeadModel(decoder).save_pretrained(folder)
    load_base(copy)


def test_a_file_is_no_folder(copy: Workload) -> None:
    """The message names the folder, and for GGUF the setting."""
    path = Path(copy.model) / "a.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(
        ConfigurationError, match=r'is a file: set it to .*, and model_args to \{"gguf_file": "a.gguf"\}'
    ):
        load_base(replace(copy, model=str(path)))
    with pytest.raises(ConfigurationError, match="is a file: give the folder"):
        load_base(replace(copy, model=str(Path(copy.model) / "model.safetensors")))


def no_files(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def configured(kind: str) -> Callable[[Path], object]:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    content = json.dumps({"tokenizer_class": kind, **names})
    return lambda folder: (folder / "tokenizer_config.json").write_text(content)


@pytest.mark.parametrize(
    "change",
    [no_files, *map(configured, ("XGLMTokenizer", "LlamaTokenizer", "T5Tokenizer", "PreTrainedTokenizerFast"))],
    ids=["no files", "XGLM", "Llama", "T5", "fast"],
)
def test_a_tokenizer_without_vocabulary_is_refused(copy: Workload, change: Callable[[Path], object]) -> None:
    """Transformers makes one of the special tokens alone, which turns every text into nothing; a plan says so."""
    change(Path(copy.model))
    with pytest.raises(ConfigurationError, match="its tokenizer has no vocabulary"):
        load_tokenizer(copy)
    with pytest.raises(ConfigurationError, match="its tokenizer has no vocabulary"):
        plan_trial(TrialSpec(workload=copy, variant=Full(learning_rate=5e-5), seed=0, device="cpu"), texts=True)


def test_a_tokenizer_that_git_did_not_fetch_is_named(copy: Workload, workload: Workload) -> None:
    """Unless another is given."""
    (Path(copy.model) / "tokenizer.json").write_text(POINTER)
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json is a pointer of git-LFS.*git lfs pull"):
        load_tokenizer(copy)
    load_tokenizer(replace(copy, tokenizer=workload.model))
    load_base(copy)


def test_options_that_do_not_fit_are_named(copy: Workload) -> None:
    """Instead of a folder that is not complete."""
    with pytest.raises(ConfigurationError, match=r"other shapes.*\n.*model_args \(n_embd\)"):
        load_base(replace(copy, model_args={"n_embd": 64}))
    with pytest.raises(ConfigurationError, match=r"model_args \(nonsense\)"):
        load_base(replace(copy, model_args={"nonsense": 3}))
