"""What a workload's texts hold is looked at before anything is trained."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers import models as kinds
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import (
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MptConfig,
    MptForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForCausalLM,
)

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Full, TrialSpec, Workload
from pytest_ftguard.tasks.causal_lm.texts import check_context, workload_texts
from pytest_ftguard.tasks.text.files import Text
from pytest_ftguard.tasks.text.tokens import check_ids, tokenized
from pytest_ftguard.training.forecast import plan_trial

BYTES: Any = ByT5Tokenizer()
make: Any = PreTrainedTokenizerFast


def words_tokenizer(known: Sequence[str], **special: str) -> Any:
    """One token for each known word."""
    vocabulary = {word: number for number, word in enumerate([*dict.fromkeys([*special.values(), *known])])}
    inner = Tokenizer(kinds.WordLevel(vocab=vocabulary, unk_token=special.get("unk_token", "<missing>")))
    inner.pre_tokenizer = WhitespaceSplit()
    return make(tokenizer_object=inner, **special)


def text(*documents: str) -> Text:
    return Text("t.txt", "training", documents, is_stream=len(documents) == 1)


def sentences(count: int, start: int = 0) -> list[str]:
    """Documents of 64 bytes that have nothing in common."""
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(start, start + count)]


WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.mark.parametrize(("unknown", "refused"), [(0, False), (1, False), (2, True), (10, True)])
def test_more_than_a_tenth_of_unknown_tokens_is_refused(unknown: int, refused: bool) -> None:
    """A tenth is a share that is told of; beyond it the message names the tokenizer, the share and what to give."""
    tokenizer = words_tokenizer(WORDS[unknown:], unk_token="<unk>")
    if not refused:
        assert tokenized(text(" ".join(WORDS)), tokenizer).unknown == pytest.approx(unknown / 10)
        return
    with pytest.raises(ConfigurationError, match=rf"turns {10 * unknown} % of the training text 't.txt' into '<unk>'"):
        tokenized(text(" ".join(WORDS)), tokenizer)


def models_of_a_backend(known: Sequence[str]) -> list[Any]:
    """Each kind that replaces what it does not know, with an unknown token that it alone names."""
    numbers = {word: number for number, word in enumerate(["<?>", *known])}
    pieces = [(word, 0.0) for word in numbers]
    return [
        kinds.WordLevel(vocab=numbers, unk_token="<?>"),
        kinds.WordPiece(vocab=numbers, unk_token="<?>"),
        kinds.BPE(vocab=numbers, merges=[], unk_token="<?>"),
        kinds.Unigram(pieces, unk_id=0),
    ]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize(("letters", "refused"), [(10, False), (9, False), (8, True)])
@pytest.mark.parametrize("special", [{}, {"unk_token": "<other>"}])
def test_an_unknown_token_that_only_the_backend_names_counts(
    kind: int, letters: int, refused: bool, special: dict[str, str]
) -> None:
    """The tokenizer has none, or another one: what stands for unknown words in the tokens is what decides."""
    alphabet = list("abcdefghij")
    inner = Tokenizer(models_of_a_backend(alphabet[:letters])[kind])
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = make(tokenizer_object=inner, **special)
    if not refused:
        assert tokenized(text(" ".join(alphabet)), tokenizer).unknown == pytest.approx(1 - letters / 10)
        return
    with pytest.raises(ConfigurationError, match=r"turns 20 % of the training text 't.txt' into '<\?>'"):
        tokenized(text(" ".join(alphabet)), tokenizer)


@pytest.mark.parametrize("special", [{"unk_token": "<unk>"}, {"unk_token": "<end>", "eos_token": "<end>"}])
def test_an_unknown_token_that_the_text_spells_out_is_known(special: dict[str, str]) -> None:
    """Some corpora hold it, and in GPT-2's vocabulary it is the end of a text."""
    tokenizer = words_tokenizer(WORDS, **special)
    content = f" {special['unk_token']} ".join(WORDS)
    assert tokenized(text(content), tokenizer).unknown == 0


def test_letters_that_are_dropped_are_unknown() -> None:
    """A vocabulary without an unknown token drops what it does not hold."""
    inner = Tokenizer(kinds.BPE(vocab={"a": 0, "b": 1, " ": 2}, merges=[]))
    tokenizer = make(tokenizer_object=inner)
    assert tokenized(text("ab ba " * 9), tokenizer).unknown == 0
    with pytest.raises(ConfigurationError, match="loses 50 % of the letters and digits of the training text"):
        tokenized(text("abcd " * 9), tokenizer)
    with pytest.raises(ConfigurationError, match="gives no tokens for the training text"):
        tokenized(text("cd" * 9), tokenizer)


@pytest.mark.parametrize(("others", "refused"), [(10, True), (40, False)])
def test_a_text_of_nearly_one_token_is_refused(others: int, refused: bool) -> None:
    """The empirical entropy of 1 % of another byte is 0.06 nats per token, that of 4 % is 0.17."""
    content = "a" * (1000 - others) + "b" * others
    if not refused:
        assert tokenized(text(content), BYTES).count == 1000
        return
    with pytest.raises(ConfigurationError, match=r"99 % of the tokens .* are 'a', so there is nothing to learn"):
        tokenized(text(content), BYTES)


@pytest.mark.parametrize(("rows", "refused"), [(125, True), (126, False)])
def test_a_token_beyond_the_embeddings_is_named(rows: int, refused: bool) -> None:
    """The byte z has the id 125, for which 126 embeddings are needed."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=rows, n_embd=8, n_layer=1, n_head=1))
    if not refused:
        check_ids({"training": 125}, BYTES, model)
        return
    with pytest.raises(ConfigurationError, match=r"id 125 \('z'\) of the training text, .* 125 embeddings") as caught:
        check_ids({"training": 125}, BYTES, model)
    advice = str(caught.value).partition("call model.")[2].partition(" and save")[0]
    eval(f"model.{advice}", {"model": model})
    check_ids({"training": 125}, BYTES, model)


@pytest.mark.parametrize(
    ("kind", "config", "positions"),
    [
        (MptForCausalLM, MptConfig(d_model=8, n_heads=1, n_layers=1, max_seq_len=32, vocab_size=9), 32),
        (
            RobertaForCausalLM,
            RobertaConfig(
                vocab_size=9,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                intermediate_size=8,
                max_position_embeddings=34,
                is_decoder=True,
            ),
            32,
        ),
    ],
    ids=["a name of its own", "positions that begin behind the padding"],
)
def test_a_block_longer_than_the_positions_is_refused(kind: Any, config: Any, positions: int) -> None:
    """The table of positions decides, and the names that some configurations have for its length."""
    with torch.device("meta"):
        model: nn.Module = kind(config)
    check_context(model, "m", positions)
    with pytest.raises(ConfigurationError, match=f"has {positions} positions .*: set block_size to {positions} or"):
        check_context(model, "m", positions + 1)


def work_on(folder: Path, train: Sequence[str], validation: Sequence[str], **changes: Any) -> Workload:
    """Training documents as plain text, validation documents as JSON lines."""
    (folder / "train.txt").write_text("\n".join(train))
    (folder / "validation.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in validation))
    places = {"train": str(folder / "train.txt"), "validation": str(folder / "validation.jsonl")}
    return Workload(**{"model": "m", **places, "block_size": 64, **changes})


@pytest.mark.parametrize(("both", "refused"), [(0, False), (10, False), (11, True), (100, True)])
def test_more_than_a_tenth_of_trained_sequences_is_refused(tmp_path: Path, both: int, refused: bool) -> None:
    """They are found in a training text of another form, in another order; fewer are counted."""
    work = work_on(tmp_path, [*sentences(200, 1000), *sentences(both)[::-1]], sentences(100))
    if not refused:
        assert workload_texts(work, BYTES).validation.trained_on == both
        return
    with pytest.raises(ConfigurationError, match=rf"{both} of 100 sequences of .* are also in the training text"):
        workload_texts(work, BYTES)


def test_lines_are_found_among_training_documents(tmp_path: Path) -> None:
    """Each line of a plain text is a document there, in another order; blocks that two lines share are found too."""
    lines = [one[:40] for one in sentences(100)]
    work = work_on(tmp_path, lines, lines[::-1])
    swapped = replace(work, train=work.validation, validation=work.train)
    with pytest.raises(ConfigurationError, match="64 of 64 sequences"):
        workload_texts(swapped, BYTES)


def test_short_documents_and_the_reference_are_looked_for_too(tmp_path: Path) -> None:
    """A document that is shorter than a passage is found among the lines, whatever its case."""
    short = [one[:20] for one in sentences(100)]
    work = work_on(tmp_path, [*sentences(200, 1000), *short], [one.upper() for one in short])
    with pytest.raises(ConfigurationError, match="100 of 100 sequences"):
        workload_texts(work, BYTES)
    fine = work_on(tmp_path, sentences(200, 1000), sentences(100))
    with pytest.raises(ConfigurationError, match=r"of 203 sequences of '.*train.txt' are also in the training text"):
        workload_texts(replace(fine, reference=fine.train), BYTES)


@pytest.mark.parametrize(("count", "doubted"), [(63, True), (64, False)])
def test_a_plan_says_that_gates_would_be_invalid(tmp_path: Path, tiny_model: Path, count: int, doubted: bool) -> None:
    """With 63 documents it does, with 64 it does not; the memory is foretold in both cases."""
    work = work_on(tmp_path, sentences(100, 1000), sentences(count), model=str(tiny_model), precision="fp32")
    planned = plan_trial(TrialSpec(workload=work, variant=Full(learning_rate=5e-5), seed=0, device="cpu"), texts=True)
    assert planned.measured.memory is not None
    message = planned.measured.error.message if planned.measured.error else ""
    assert ("they need 64 validation documents, and there are 63" in message) is doubted


def test_a_plan_refuses_what_a_training_would(tmp_path: Path, tiny_model: Path) -> None:
    """So does the training itself; neither gets as far as the weights."""
    work = work_on(tmp_path, sentences(100), sentences(100), model=str(tiny_model), precision="fp32")
    with pytest.raises(ConfigurationError, match="are also in the training text"):
        plan_trial(TrialSpec(workload=work, variant=Full(learning_rate=5e-5), seed=0, device="cpu"), texts=True)


def sayings(count: int, seed: int, length: int = 12) -> list[str]:
    """Lines of words that are drawn at random."""
    draw = random.Random(seed)
    stock = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrt"]
    return [" ".join(draw.choices(stock, k=length)) for _ in range(count)]


def cut(folder: Path, train: str, validation: str, suffix: str = ".txt", block_size: int = 64) -> Any:
    """The texts of a workload, written to a folder."""
    for role, content in (("train", train), ("validation", validation)):
        (folder / f"{role}{suffix}").write_text(content)
    paths = [str(folder / f"{role}{suffix}") for role in ("train", "validation")]
    work = Workload(model="m", train=paths[0], validation=paths[1], block_size=block_size, batch_size=1, steps=1)
    return workload_texts(work, BYTES)


MARKS: Mapping[str, Callable[[int, str], str]] = {
    "editor": lambda number, line: f"{number}: {line}",
    "cat -n": lambda number, line: f"{number:6}\t{line}",
    "transcript": lambda number, line: f"[00:{number // 60:02}:{number % 60:02}] {line}",
}


@pytest.mark.parametrize("name", MARKS)
def test_text_is_found_under_the_numbers_and_times_of_its_lines(tmp_path: Path, name: str) -> None:
    """A validation text whose lines the training text counts, or gives a time, was trained on."""
    lines = sayings(200, 1)
    marked = "\n".join(MARKS[name](number, line) for number, line in enumerate(lines, 1))
    with pytest.raises(ConfigurationError, match="are also in"):
        cut(tmp_path, "\n".join(sayings(200, 2)) + "\n" + "\n".join(sayings(20, 3)) + "\n" + marked, "\n".join(lines))


def test_numbers_that_count_no_lines_still_tell_texts_apart(tmp_path: Path) -> None:
    """A column of figures in front of few words is what a table says, and no mark of its lines."""
    draw = random.Random(4)
    rows = [f"{draw.randrange(1000)} {draw.randrange(1000)} {draw.randrange(1000)} kg" for _ in range(1000)]
    texts = cut(tmp_path, "\n".join(rows[:500]), "\n".join(rows[500:]))
    assert texts.validation.trained_on == 0
    assert texts.validation.repeated == 0


@pytest.mark.parametrize("block_size", [64, 256])
def test_a_long_prompt_that_all_documents_share_is_no_leak(tmp_path: Path, block_size: int) -> None:
    """Its blocks in all documents but one are copies, and the one that stays says nothing of the training text."""
    prompt, answers = ". ".join(sayings(60, 5)), sayings(470, 6, length=15)
    train, validation = (
        "\n".join(json.dumps({"text": f"{prompt}\n{answer}"}) for answer in part)
        for part in (answers[70:], answers[:70])
    )
    texts = cut(tmp_path, train, validation, ".jsonl", block_size)
    assert texts.validation.trained_on <= 0.02 * len(texts.validation.sequences)
    assert len(set(texts.validation.documents or ())) == 70
