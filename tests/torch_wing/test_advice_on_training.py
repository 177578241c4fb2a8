"""Whoever follows the advice of an error about rows, adapters, scores or a training sees it go on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from peft import IA3Config
from tests import classified
from tests.chat_models import END_OUTSIDE, NO_END, NO_TURNS, TEMPLATE, rows_of, write_rows
from tests.plain.test_advice_on_settings import keys_in, other, refused, said, setting
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    masking_utils,
)

from pytest_ftguard.errors import DeviceUnavailableError
from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Variant, Workload
from pytest_ftguard.specs.refused import REFUSED_INITIALISATIONS, REFUSED_METHODS
from pytest_ftguard.tasks import find_task
from pytest_ftguard.tasks.chat.task import Chat
from pytest_ftguard.tasks.classification.task import Classification
from pytest_ftguard.training.adapters import apply_variant, check_variant, find_adapter
from pytest_ftguard.training.arguments import training_arguments
from pytest_ftguard.training.callback_spec import check_kind, check_score
from pytest_ftguard.training.callback_texts import evaluation_set, search_for
from pytest_ftguard.training.forecast import plan_trial
from pytest_ftguard.training.forms import _imported
from pytest_ftguard.training.function import load_function
from pytest_ftguard.training.generating import _check_lengths
from pytest_ftguard.training.kept import no_room
from pytest_ftguard.training.machine import resolve_device
from pytest_ftguard.training.own_trainer import load_trainer
from pytest_ftguard.training.scoring import check_asked, load_score
from pytest_ftguard.training.trial import TrialFolder, run_trial

CHAT = Chat()


@pytest.fixture
def work(chat_model: Path, tmp_path: Path) -> Workload:
    """A few conversations."""
    return Workload(
        model=str(chat_model),
        train=write_rows(tmp_path / "train.jsonl", rows_of("messages", 60)),
        validation=write_rows(tmp_path / "validation.jsonl", rows_of("messages", 70, start=1000)),
        task="chat",
        block_size=96,
        batch_size=8,
        precision="fp32",
        validation_sequences=64,
    )


def given(work: Workload, /, **rows: Any) -> Workload:
    folder = Path(work.train).parent
    return other(work, **{role: write_rows(folder / f"{role}-other.jsonl", data) for role, data in rows.items()})


def formats(kind: str) -> dict[str, Any]:
    return {"train": rows_of(kind, 60), "validation": rows_of(kind, 70, start=1000)}


def examples(work: Workload) -> Any:
    return CHAT.load_examples(work, CHAT.load_tokenizer(work))


def test_a_batch_of_conversations_is_filled_as_advised(work: Workload) -> None:
    """By more rows, by the batch that is named, or without packing."""
    few = given(work, train=rows_of("messages", 5))
    message = refused(lambda: examples(few))
    assert "give more rows" in message
    assert examples(replace(few, batch_size=int(said(message, r"a batch_size of at most (\d+)"))))
    assert examples(given(work, train=rows_of("messages", 8)))
    packed = replace(given(work, train=rows_of("messages", 12)), packing=True)
    message = refused(lambda: examples(packed))
    assert "give more rows, a smaller batch_size or block_size, or set packing to false" in message
    for followed in (
        replace(packed, packing=False),
        replace(packed, batch_size=2),
        replace(packed, block_size=48),
        given(packed, train=rows_of("messages", 60)),
    ):
        assert examples(followed)


def test_one_format_is_given_as_advised(work: Workload) -> None:
    """For both, or with a loss on all tokens."""
    for kind, another in (("messages", "text"), ("chat prompt", "messages")):
        mixed = given(work, train=rows_of(kind, 60), validation=rows_of(another, 70, start=1000))
        message = refused(partial(examples, mixed))
        assert "give both in one format" in message
        assert examples(given(work, **formats(kind)))
        assert examples(given(work, **formats(another)))
        if "or set completion_only_loss to false" in message:
            assert examples(replace(mixed, completion_only_loss=False))


def test_a_block_that_a_prompt_fills_is_raised_as_advised(work: Workload) -> None:
    """As far as the longest row has tokens."""
    short = replace(given(work, **formats("chat prompt")), block_size=8)
    message = refused(lambda: examples(short))
    assert "raise block_size" in message
    assert examples(replace(short, block_size=int(said(message, r"the longest row has (\d+) tokens"))))


def test_a_chat_template_is_given_as_advised(work: Workload) -> None:
    """It is there, it marks the assistant's turns, and each ends with an EOS token within the marks."""
    bare = CHAT.load_tokenizer(work)
    bare.chat_template = None
    message = refused(lambda: CHAT.load_examples(work, bare))
    (key,) = keys_in(message)
    assert setting(key, TEMPLATE).value == TEMPLATE
    assert examples(replace(work, chat_template=TEMPLATE))
    for template in (NO_TURNS, NO_END, END_OUTSIDE):
        wrong = replace(work, chat_template=template, assistant_only_loss=True)
        message = refused(partial(examples, wrong))
        assert "{% generation %}" in message
        assert examples(replace(wrong, chat_template=TEMPLATE))
    unmarked = replace(work, chat_template=NO_TURNS, assistant_only_loss=True)
    assert "or remove assistant_only_loss and give prompt and completion" in refused(lambda: examples(unmarked))
    assert examples(given(replace(unmarked, assistant_only_loss=False), **formats("chat prompt")))


def test_an_end_is_given_to_a_tokenizer_as_advised(work: Workload, tmp_path: Path) -> None:
    """Texts need one, in the tokenizer's configuration."""
    texts = given(work, **formats("text"))
    tokenizer = CHAT.load_tokenizer(work)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "no-end")
    without = replace(texts, tokenizer=str(tmp_path / "no-end"))
    key = said(refused(lambda: examples(without)), r"set (\w+) in the tokenizer's configuration")
    path = tmp_path / "no-end" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "<|end|>"}))
    assert examples(without)


def test_a_conversation_without_the_assistant_is_removed_as_advised(work: Workload) -> None:
    """The row that the message names."""
    rows = rows_of("messages", 60)
    rows[6] = {"messages": rows[6]["messages"][:1]}
    wrong = replace(given(work, train=rows), assistant_only_loss=True)
    message = refused(lambda: examples(wrong))
    assert "remove the row" in message
    del rows[int(said(message, r"row (\d+) of")) - 1]
    assert examples(given(wrong, train=rows))


def test_packing_is_switched_off_as_advised(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the model or the variant cannot take packed examples."""
    packed = replace(work, packing=True, block_size=64)
    with monkeypatch.context() as blind:
        blind.setattr(masking_utils, "find_packed_sequence_indices", lambda _: None)
        message = refused(lambda: CHAT.load_model(packed))
        assert "Set packing to false" in message
        CHAT.load_model(replace(packed, packing=False))
    for kernel in said(message, r"attn_implementation in model_args to (\w+ or \w+)").split(" or "):
        CHAT.load_model(replace(packed, model_args={"attn_implementation": kernel}))
    prompt = Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=1e-3)
    spec = TrialSpec(workload=packed, variant=prompt, seed=0, device="cpu")
    assert "set packing to false" in refused(lambda: plan_trial(spec, texts=True))
    plan_trial(replace(spec, workload=replace(packed, packing=False)), texts=True)


@pytest.fixture
def labelled(tmp_path: Path) -> Workload:
    """A few rows with labels."""
    return Workload(
        model=str(classified.save_model(tmp_path / "model", "bert")),
        train=classified.write_rows(tmp_path / "train.jsonl", classified.rows_of(60)),
        validation=classified.write_rows(tmp_path / "validation.jsonl", classified.rows_of(70, seed=1)),
        task="classification",
        block_size=32,
        precision="fp32",
    )


def test_rows_with_labels_are_trained_on_as_advised(labelled: Workload) -> None:
    """By the batch that is named, and without a field of another task."""

    def rows(work: Workload) -> Any:
        task = Classification()
        return task.load_examples(work, task.load_tokenizer(work))

    large = replace(labelled, batch_size=100)
    message = refused(lambda: rows(large))
    assert rows(replace(large, batch_size=int(said(message, r"a batch_size of at most (\d+)"))))
    message = refused(lambda: rows(replace(labelled, packing=True)))
    assert said(message, r"remove (\w+), or") == "packing"
    assert rows(labelled)
    assert replace(labelled, task=said(message, r"set the task to (\w+)")).task == "chat"


def test_a_model_that_can_classify_is_given_as_advised(labelled: Workload, tmp_path: Path) -> None:
    """An encoder such as BERT, in place of what transformers makes no classifier of."""
    sizes: dict[str, Any] = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    task = Classification()
    message = refused(lambda: task.load_model(replace(labelled, model=str(tmp_path / "t5"))))
    assert "give an encoder or a decoder, such as BERT" in message
    assert task.load_model(labelled)


@dataclass
class Foreign:
    """A configuration that peft does not know."""

    peft_type: str = "IA3"


def test_a_configuration_of_peft_s_own_is_given_as_advised() -> None:
    """In place of one that it does not register."""
    assert "give one of peft's own" in refused(lambda: Peft(Foreign()))
    assert Peft(IA3Config(target_modules=["c_attn"])).method == "ia3"


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=16))


def test_a_target_is_named_as_advised() -> None:
    """Each of those that the message names, and all."""
    message = refused(lambda: check_variant(gpt2(), LoRA(target_modules=["q_proj"])))
    names = said(message, r"its linear layers end in (.*) \(or set").split(", ")
    assert names
    for targets in ([names[0]], [names[-1]], said(message, r'or set "(.*)"')):
        check_variant(gpt2(), LoRA(target_modules=targets))


@pytest.mark.parametrize(
    "option",
    [{"init_lora_weights": name} for name in REFUSED_INITIALISATIONS]
    + [{name: {"a": 1}} for name, reason in REFUSED_METHODS.items() if "use " in reason],
    ids=str,
)
def test_an_initialisation_is_chosen_as_advised(option: dict[str, Any]) -> None:
    """Each of those that the message names is one."""
    message = refused(lambda: check_variant(gpt2(), LoRA(target_modules=["c_attn"], options=option)))
    names = re.findall(r'"(\w+)"', message.rpartition("use ")[2])
    assert len(names) == 2
    for name in names:
        apply_variant(gpt2(), LoRA(r=2, target_modules=["c_attn"], options={"init_lora_weights": name}))


def test_another_method_is_chosen_as_advised() -> None:
    """One that needs no call after each step; and targets or an option that fit."""
    assert "choose another method" in refused(lambda: check_variant(gpt2(), Peft("adalora", total_step=9)))
    check_variant(gpt2(), Peft("ia3", target_modules=["c_attn"], feedforward_modules=[]))
    wrong = LoRA(r=3, target_modules=["c_attn"], options={"init_lora_weights": "orthogonal"})
    message = refused(lambda: apply_variant(gpt2(), wrong))
    option = said(message, r"remove the option that does not fit \((\w+)\)")
    apply_variant(gpt2(), replace(wrong, options={name: one for name, one in wrong.options.items() if name != option}))


@dataclass(frozen=True, kw_only=True)
class Adapted(Variant):
    """A variant that names no adapter."""

    kind: ClassVar[str] = "adapted_as_advised"
    learning_rate: float | None = None
    search_learning_rate: bool = False


def test_an_adapter_is_named_as_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """As "module:Class", by the attribute that the message names."""
    name = said(refused(lambda: find_adapter(Adapted())), r'set (\w+) = "module:Class"')
    monkeypatch.setattr(Adapted, name, "pytest_ftguard.training.adapters.full:FullAdapter")
    assert find_adapter(Adapted())


LOADERS: dict[str, tuple[Callable[[str], object], str]] = {
    "score": (load_score, "def mine(model, tokenizer, rows): pass"),
    "function": (load_function, "def mine(model, data, spec): pass"),
    "deploy": (_imported, "def mine(folder): pass"),
    "trainer": (load_trainer, "from transformers import Trainer\nclass mine(Trainer): pass"),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_what_is_imported_is_put_where_it_is_found_as_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """In a folder of the path for modules, spelt as it is there, and of the right kind."""
    load, source = LOADERS[kind]
    module = f"advised_{kind}"
    message = refused(lambda: load(f"{module}:mine"))
    assert "put it next to conftest.py, or add its folder to pytest's pythonpath" in message
    (tmp_path / f"{module}.py").write_text(f"{source}\nnumber = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    advice = r"check the spelling|name a function|name a class that is derived from transformers\.Trainer"
    assert re.search(advice, refused(lambda: load(f"{module}:number")))
    assert load(f"{module}:mine")


def test_examples_are_described_or_not_asked_for_as_advised(workload: Workload) -> None:
    """Slices need an About."""
    asked = replace(workload, task="chat", slices=("kind",))
    message = refused(lambda: check_asked(asked, CHAT, SimpleNamespace(about=None)))
    assert said(message, r"remove (\w+), or give its evaluation examples an About") == "slices"
    check_asked(asked, CHAT, SimpleNamespace(about="an About"))
    check_asked(replace(asked, slices=()), CHAT, SimpleNamespace(about=None))


def test_a_prompt_has_room_for_an_answer_as_advised() -> None:
    """A shorter prompt, or fewer new tokens."""
    message = refused(lambda: _check_lengths(gpt2(), [[1] * 10], 8), ValueError)
    assert "shorten the prompt, or lower max_new_tokens" in message
    positions = int(said(message, r"the model has (\d+) positions"))
    _check_lengths(gpt2(), [[1] * (positions - 8)], 8)
    _check_lengths(gpt2(), [[1] * 10], positions - 10)


def test_weights_are_kept_as_advised(tmp_path: Path) -> None:
    """By the key and by the option that the message names."""
    model: Any = gpt2()
    adapter = find_adapter(Full())
    message = no_room(adapter, model, {}, tmp_path, 10)
    assert message is not None
    (key,) = set(keys_in(message))
    assert f"--ftguard-{key.replace('_', '-')}=yes" in message
    assert setting(key, "yes").value == "yes"
    assert no_room(adapter, model, {}, tmp_path, None) is None


def test_a_device_is_named_as_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that torch knows; the first that is visible, or the next honest answer: that there is none."""
    for name in said(refused(lambda: resolve_device("gpu")), r"set it to (.*) or another").split(", "):
        _resolved(name)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    message = refused(lambda: resolve_device("cuda:1"))
    assert resolve_device(said(message, r"set it to '(\w+)', and choose")) == torch.device("cuda")


def _resolved(name: str) -> None:
    try:
        resolve_device(name)
    except DeviceUnavailableError:
        assert not torch.cuda.is_available()


def test_arguments_are_spelt_as_advised(workload: Workload, tmp_path: Path) -> None:
    """As transformers spells them."""

    def arguments(name: str) -> object:
        spec = TrialSpec(
            workload=replace(workload, training_args={name: 0.1}), variant=Full(learning_rate=1e-3), seed=0
        )
        return training_arguments(spec, tmp_path, torch.device("cpu"), bf16=False)

    message = refused(lambda: arguments("wieght_decay"))
    assert "check the spelling" in message
    assert arguments("weight_decay")


def test_a_lower_rate_is_given_as_advised(workload: Workload, tmp_path: Path) -> None:
    """A training that diverges at the rate that is named ends well at a lower one."""
    spec = TrialSpec(workload=workload, variant=Full(learning_rate=1e30), seed=0, device="cpu")
    diverged = run_trial(spec, TrialFolder(tmp_path, None), lambda *_: None)
    assert diverged.measured.error is not None
    rate = float(said(diverged.measured.error.message, r"try a lower learning rate than (\S+) for"))
    lower = replace(spec, variant=Full(learning_rate=rate * 1e-33))
    assert run_trial(lower, TrialFolder(tmp_path, None), lambda *_: None).measured.outcome == "ok"


IDS = [list(range(3, 30 + number)) for number in range(4)]
ROWS = [{"input_ids": ids, "labels": ids} for ids in IDS]


def evaluated(given: Any, tokenizer: Any = None, role: str = "validation") -> Any:
    return evaluation_set(given, role, tokenizer, documents=None, block_size=16, at_most=9)


def test_the_callback_is_given_what_it_evaluates_as_advised(texts: Path) -> None:
    """A tokenizer for a text, or token ids; rows in tokens, with a label for each; rows for both roles, or texts."""
    text = texts / "validation.txt"
    message = refused(lambda: evaluated(text))
    assert "pass it as processing_class, or give the callback token ids" in message
    for found in (evaluated(text, ByT5Tokenizer()), evaluated(IDS)):
        assert search_for({"validation": found}, None)
    message = refused(lambda: evaluated([{"text": "one"}]))
    names = said(message, r"has no (\w+ and no \w+)").split(" and no ")
    assert evaluated([dict.fromkeys(names, ids) for ids in IDS]).sequences
    rows = [*ROWS, {"input_ids": IDS[0], "labels": [-100] * len(IDS[0])}]
    message = refused(lambda: evaluated(rows))
    assert "leave it out" in message
    del rows[int(said(message, r"row (\d+) of")) - 1]
    assert evaluated(rows).sequences
    mixed = {"validation": evaluated(ROWS), "reference": evaluated(IDS)}
    assert "give rows for both, or texts" in refused(lambda: search_for(mixed, None))
    for given in (ROWS, IDS):
        assert search_for({role: evaluated(given) for role in mixed}, None)


def test_a_score_of_the_callback_has_a_tokenizer_as_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer's processing_class."""
    (tmp_path / "advised_callback_score.py").write_text("def mine(model, tokenizer, rows): pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "advised_callback_score:mine"
    assert "pass it as processing_class" in refused(lambda: check_score(name, None))
    assert check_score(name, ByT5Tokenizer())


def test_a_classifier_is_trained_by_the_task_that_the_callback_names() -> None:
    """There is one, and its key is that of the settings."""
    sizes: dict[str, Any] = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = BertForSequenceClassification(BertConfig(**sizes))
    for message in (refused(lambda: check_kind(model)), refused(lambda: evaluated([{**ROWS[0], "labels": 0}]))):
        task = said(message, r"with ftguard_task = (\w+)")
        assert isinstance(find_task(setting("task", task).value), Classification)
