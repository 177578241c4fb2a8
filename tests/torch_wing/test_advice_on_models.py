"""Whoever follows the advice of an error about a model, its tokenizer or its texts sees them loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.plain.test_advice_on_settings import refused, said
from tests.torch_wing.test_folders import POINTER, configure, emptied, in_parts, no_files, only, only_checkpoints
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from pytest_ftguard.specs import LoRA, Workload
from pytest_ftguard.tasks.causal_lm.behaviour import check_causality, check_loss, check_still_causal
from pytest_ftguard.tasks.causal_lm.data import check_texts, evaluation_set_of_ids
from pytest_ftguard.tasks.causal_lm.models import load_base, load_tokenizer
from pytest_ftguard.tasks.causal_lm.texts import check_context, workload_texts
from pytest_ftguard.tasks.rows.reading import read_rows
from pytest_ftguard.tasks.text.files import Text
from pytest_ftguard.tasks.text.tokens import tokenized
from pytest_ftguard.training.adapters import apply_variant

BYTES: Any = ByT5Tokenizer()


@pytest.fixture
def copy(workload: Workload, tmp_path: Path) -> Workload:
    """The tiny model in a folder that a test may change."""
    return replace(workload, model=str(shutil.copytree(workload.model, tmp_path / "model")))


def load(work: Workload) -> None:
    load_base(work)
    load_tokenizer(work)


def put_back(name: str) -> Callable[[Workload, Workload, str], Workload]:
    """Fetch a file again, as a download would."""

    def follow(wrong: Workload, sound: Workload, _: str) -> Workload:
        shutil.copy(Path(sound.model) / name, wrong.model)
        return wrong

    return follow


def sound_model(wrong: Workload, sound: Workload, _: str) -> Workload:
    """Give the folder of a whole model, as save_pretrained has written it."""
    return replace(wrong, model=sound.model)


def named_folder(wrong: Workload, _: Workload, message: str) -> Workload:
    """Give the folder that the message names."""
    return replace(wrong, model=said(message, r"give '(.*)'"))


def merged(wrong: Workload, sound: Workload, message: str) -> Workload:
    """Merge the adapter that is next to a model, by the calls that the message names."""
    assert "merge it (merge_and_unload, then save_pretrained of model and tokenizer)" in message
    auto: Any = AutoModelForCausalLM
    adapted: Any = PeftModel.from_pretrained(auto.from_pretrained(sound.model), wrong.model)
    folder = f"{wrong.model}-merged"
    adapted.merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(sound.model).save_pretrained(folder)
    return replace(wrong, model=folder)


def tokenizer_set(wrong: Workload, sound: Workload, _: str) -> Workload:
    return replace(wrong, tokenizer=sound.model)


def same_kind(folder: Path) -> None:
    """Put an adapter of the very model next to it."""
    made: Any = apply_variant(GPT2LMHeadModel.from_pretrained(folder), LoRA(r=1, target_modules=["c_attn"]))
    made.save_pretrained(folder)


def adapter_alone(folder: Path) -> None:
    same_kind(folder)
    for path in folder.iterdir():
        if not path.name.startswith("adapter"):
            path.unlink()


def adapter_removed(wrong: Workload, _: Workload, message: str) -> Workload:
    for name in re.findall(r"adapter_\w+\.\w+", message.rpartition("remove ")[2]):
        (Path(wrong.model) / name).unlink()
    return wrong


def fewer_layers(wrong: Workload, _: Workload, message: str) -> Workload:
    return replace(wrong, model_args={said(message, r"say so in model_args \((\w+)="): 1})


def layers_corrected(wrong: Workload, _: Workload, message: str) -> Workload:
    assert "correct the number of layers in its config.json" in message
    configure(Path(wrong.model), n_layer=2)
    return wrong


def lacking(folder: Path) -> None:
    made = GPT2LMHeadModel.from_pretrained(folder)
    state = {name: value for name, value in made.state_dict().items() if "h.1.mlp" not in name}
    made.save_pretrained(folder, state_dict=state)


Change = Callable[[Path], object]
Follow = Callable[[Workload, Workload, str], Workload]
CASES: dict[str, tuple[Change, str, Follow]] = {
    "adapter, base": (adapter_alone, "give its base", sound_model),
    "adapter, merge": (adapter_alone, "or merge it", merged),
    "adapter next to a model": (same_kind, "remove adapter_config.json and adapter_model", adapter_removed),
    "adapter of the model": (same_kind, "if the adapter belongs to the base, merge it", merged),
    "empty": (emptied, "give one that save_pretrained has written", sound_model),
    "notes": (
        only(lambda folder: (folder / "notes.txt").touch()),
        "give a folder that save_pretrained has written",
        sound_model,
    ),
    "maker's own format": (
        only(lambda folder: (folder / "params.json").touch()),
        "convert it to that of transformers, or download that",
        sound_model,
    ),
    "checkpoints": (only_checkpoints, "holds checkpoint-5, checkpoint-20", named_folder),
    "quantized": (
        lambda folder: configure(folder, quantization_config={"quant_method": "bitsandbytes"}),
        "give the model that it was made from",
        sound_model,
    ),
    "unknown": (lambda folder: configure(folder, model_type="future"), "upgrade it, or give a causal", sound_model),
    "encoder": (
        lambda folder: configure(folder, model_type="bert", architectures=["BertForMaskedLM"]),
        "give a causal language model such as GPT-2",
        sound_model,
    ),
    "configuration": (
        lambda folder: (folder / "config.json").write_text("{"),
        "save or download the model again",
        put_back("config.json"),
    ),
    "pointer": (
        lambda folder: (folder / "config.json").write_text(POINTER),
        "run git lfs pull",
        put_back("config.json"),
    ),
    "weights are a pointer": (
        lambda folder: (folder / "model.safetensors").write_text(POINTER),
        "run git lfs pull",
        put_back("model.safetensors"),
    ),
    "a part is missing": (in_parts, "download or copy all files of the model again", put_back("model.safetensors")),
    "damaged": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"12345678"),
        "download or copy it again",
        put_back("model.safetensors"),
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "download or copy all files of the model again",
        put_back("model.safetensors"),
    ),
    "another format": (
        lambda folder: (folder / "model.safetensors").rename(folder / "tf_model.h5"),
        "give the model as safetensors, as save_pretrained writes them",
        put_back("model.safetensors"),
    ),
    "no vocabulary, own": (no_files, "copy them into the model's folder", put_back("tokenizer_config.json")),
    "no vocabulary, other": (no_files, "or set tokenizer to one that has them", tokenizer_set),
    "random weights": (lacking, "give a pretrained causal language model", sound_model),
    "cut off, fewer": (lambda folder: configure(folder, n_layer=1), "if you want fewer", fewer_layers),
    "cut off, all": (lambda folder: configure(folder, n_layer=1), "correct the number", layers_corrected),
    "not there": (shutil.rmtree, "give one that exists", sound_model),
}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("case", CASES)
def test_a_folder_is_made_a_model_s_as_advised(workload: Workload, copy: Workload, case: str) -> None:
    """Each way out that the message names leads to a model and a tokenizer that load."""
    change, advice, follow = CASES[case]
    change(Path(copy.model))
    message = refused(lambda: load(copy))
    assert advice in message
    load(follow(copy, workload, message))


def test_a_folder_takes_the_place_of_a_file_as_advised(copy: Workload) -> None:
    """Of the model, and of its tokenizer."""
    message = refused(lambda: load(replace(copy, model=f"{copy.model}/model.safetensors")))
    load(replace(copy, model=said(message, r"give the folder that it is in \('(.*)'\)")))
    message = refused(lambda: load_tokenizer(replace(copy, tokenizer=f"{copy.model}/config.json")))
    load(replace(copy, tokenizer=said(message, r"give the folder that it is in \('(.*)'\)")))


def test_a_name_that_cannot_be_reached_is_a_folder_as_advised(workload: Workload) -> None:
    """Without the hub."""
    message = refused(lambda: load_base(replace(workload, model="nobody/nothing")))
    assert "or give a folder" in message
    load_base(workload)


OWN = """
from transformers import GPT2Config, GPT2LMHeadModel
class OwnConfig(GPT2Config):
    model_type = "own_of_a_test"
class Own(GPT2LMHeadModel):
    config_class = OwnConfig
"""


def test_code_of_a_model_is_trusted_as_advised(copy: Workload) -> None:
    """By the value that the message shows for model_args."""
    (Path(copy.model) / "own.py").write_text(OWN)
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    configure(Path(copy.model), model_type="own_of_a_test", auto_map=auto)
    message = refused(lambda: load_base(copy))
    trusting = replace(copy, model_args=json.loads(said(message, r"set model_args to (\{.*?\})")))
    assert type(load_base(trusting)).__name__ == "Own"


def test_a_block_fits_the_model_as_advised(workload: Workload) -> None:
    """Also with virtual tokens before it; if they alone fill the model, fewer of them are advised."""
    message = refused(lambda: load_base(replace(workload, block_size=100)))
    load_base(replace(workload, block_size=int(said(message, r"set block_size to (\d+) or less"))))
    model = load_base(workload)
    message = refused(lambda: check_context(model, "m", 64, taken=4))
    check_context(model, "m", int(said(message, r"set block_size to (\d+) or less")), taken=4)
    for size in (8, 64, 100):
        message = refused(partial(check_context, model, "m", size, taken=63))
        block = int(said(message, r"set block_size to (\d+) or less") if size > 32 else size)
        check_context(model, "m", block, taken=int(said(message, r"use at most (\d+) virtual tokens")))


def test_what_a_model_must_do_is_done_by_one_that_is_given_as_advised(workload: Workload) -> None:
    """It has sound weights, sees no later token, and shifts its labels."""
    sound = load_base(workload)
    damaged = load_base(workload)
    with torch.no_grad():
        next(iter(damaged.parameters())).fill_(float("nan"))
    assert "its weights are damaged, copy them again" in refused(lambda: check_causality(damaged))
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = BertLMHeadModel(BertConfig(**sizes, intermediate_size=16))
    advice = "give a model that was pretrained to predict the next token"
    assert advice in refused(lambda: check_causality(encoder))
    unshifted: Any = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=16))
    real = unshifted.forward

    def forward(input_ids: Any, labels: Any = None, **options: Any) -> Any:
        logits = real(input_ids=input_ids, **options).logits
        copied = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(logits=logits, loss=copied)

    unshifted.forward = forward
    assert "Give a model that shifts its labels, as GPT-2 and Llama do" in refused(lambda: check_loss(unshifted))
    message = refused(lambda: check_still_causal(encoder, 64, "mine"))
    assert "choose another method" in message
    for check in (check_causality, check_loss):
        check(sound)
    check_still_causal(apply_variant(sound, LoRA(r=2)), 64, "lora")


def texts(folder: Path, train: str, validation: str, **changes: Any) -> Workload:
    (folder / "train.txt").write_text(train)
    (folder / "validation.txt").write_text(validation)
    places = {"train": str(folder / "train.txt"), "validation": str(folder / "validation.txt")}
    return Workload(**{"model": "m", **places, "block_size": 64, "batch_size": 2, **changes})


def words(count: int, start: int = 0) -> str:
    return "\n".join(f"This is a line of its own about {number**3}." for number in range(start, start + count))


def test_texts_are_made_two_as_advised(tmp_path: Path) -> None:
    """Another file for the validation; and no more in both than the message allows."""
    same = texts(tmp_path, words(200), words(200))
    assert "set validation to a text that is not trained on" in refused(lambda: check_texts(same.train, same.train))
    check_texts(same.train, texts(tmp_path, words(200), words(200, 1000)).validation)
    leaked = texts(tmp_path, words(400), words(200) + words(200, 1000))
    message = refused(lambda: workload_texts(leaked, BYTES))
    assert "remove them from one of the two texts" in message
    assert workload_texts(texts(tmp_path, words(400), words(200, 1000)), BYTES).validation
    assert workload_texts(texts(tmp_path, words(200, 200), words(200)), BYTES).validation


@pytest.mark.parametrize(
    "field",
    [
        {"chat_template": "{{ messages }}"},
        {"completion_only_loss": True},
        {"assistant_only_loss": True},
        {"packing": True},
        {"slices": ("kind",)},
        {"group": "kind"},
    ],
    ids=lambda field: next(iter(field)),
)
def test_a_field_of_another_task_is_removed_as_advised(tmp_path: Path, field: dict[str, Any]) -> None:
    """Or the task that the message names is set, which is one that there is."""
    (name,) = field
    work = texts(tmp_path, words(200), words(200, 1000), **field)
    message = refused(lambda: workload_texts(work, BYTES))
    assert f"or remove {name}" in message
    assert workload_texts(texts(tmp_path, words(200), words(200, 1000)), BYTES).validation
    for task in said(message, r"set the task to (\w+(?: or \w+)?)").split(" or "):
        assert replace(work, task=task).task == task


def test_a_real_text_or_a_tokenizer_that_knows_it_is_given_as_advised() -> None:
    """The other side of each."""
    text = Text("a.txt", "training", ("a" * 1000,), is_stream=True)
    message = refused(lambda: tokenized(text, BYTES))
    assert "give a real text; if the text is fine, " in message
    assert tokenized(replace(text, documents=(words(100),)), BYTES).count > 1000


def test_each_sequence_has_a_document_as_advised() -> None:
    """As many documents as sequences."""
    sequences = [list(range(3, 30 + number)) for number in range(4)]
    message = refused(lambda: evaluation_set_of_ids(sequences, "validation", documents=[0, 1], at_most=9))
    assert "give one for each" in message
    assert evaluation_set_of_ids(sequences, "validation", documents=[0, 0, 1, 1], at_most=9).sequences


def test_rows_are_read_from_a_file_or_a_split_as_advised(tmp_path: Path) -> None:
    """Its name ends as the message says, and it exists; a folder of splits has each in a folder of its own."""
    import datasets

    message = refused(lambda: read_rows(str(tmp_path / "rows.data"), "training"))
    suffix = said(message, r"one of (\.\w+)")
    place = str(tmp_path / f"rows{suffix}")
    assert "give one that exists" in refused(lambda: read_rows(place, "training"))
    Path(place).write_text('{"text": "one"}\n')
    assert len(read_rows(place, "training").rows) == 1
    rows = datasets.Dataset.from_dict({"text": ["one"]})
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    message = refused(lambda: read_rows(str(tmp_path / "saved"), "training"))
    assert len(read_rows(said(message, r"give (\S+)$"), "training").rows) == 1
