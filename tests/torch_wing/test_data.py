"""Texts become token blocks and evaluation sequences."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import evenly_spaced
from pytest_ftguard.tasks.causal_lm.data import (
    EvaluationSet,
    check_texts,
    evaluation_set,
    evaluation_set_of_ids,
    left_over_set,
    training_blocks,
)
from pytest_ftguard.tasks.causal_lm.task import CausalLM
from pytest_ftguard.training.order import OrderedCollator

TOKENIZER: Any = ByT5Tokenizer()  # one token per byte, which is its value plus 3


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return str(folder / name)


@pytest.mark.parametrize("name", ["train.txt", "copy.txt", "link.txt", "./train.txt"])
def test_a_validation_text_that_is_trained_on_is_refused(tmp_path: Path, name: str) -> None:
    """The same file, a link to it and a copy of it would all turn the gate into one on the training loss."""
    train = write(tmp_path, "train.txt", "abc")
    write(tmp_path, "copy.txt", "abc")
    (tmp_path / "link.txt").symlink_to(train)
    with pytest.raises(ConfigurationError, match="is the training text"):
        check_texts(train, f"{tmp_path}/{name}")
    check_texts(train, write(tmp_path, "other.txt", "abd"))


def test_blocks_hold_the_text_in_order(tmp_path: Path) -> None:
    """Blocks are consecutive and the incomplete one at the end is dropped."""
    path = write(tmp_path, "t.txt", "abcdefghij")
    blocks = training_blocks(path, TOKENIZER, block_size=4, batch_size=2)
    assert blocks.blocks.tolist() == [[ord(c) + 3 for c in "abcd"], [ord(c) + 3 for c in "efgh"]]


def test_a_long_text_loses_nothing_where_it_is_cut_into_pieces(tmp_path: Path) -> None:
    """A text of several pieces gives every byte exactly once."""
    text = "0123456789\n" * 40_000
    blocks = training_blocks(write(tmp_path, "t.txt", text), TOKENIZER, block_size=100, batch_size=1)
    assert "".join(chr(i - 3) for i in blocks.blocks.flatten().tolist()) == text


def test_documents_of_json_lines_are_joined_by_the_end_token(tmp_path: Path) -> None:
    """Each document is followed by the tokenizer's end-of-sequence token."""
    lines = "\n".join(json.dumps({"text": text}) for text in ("ab", "cd"))
    blocks = training_blocks(write(tmp_path, "t.jsonl", lines), TOKENIZER, block_size=6, batch_size=1)
    assert blocks.blocks.tolist() == [[100, 101, 1, 102, 103, 1]]


def test_a_line_separator_inside_a_json_string_does_not_split_it(tmp_path: Path) -> None:
    """JSON lines end at a newline only: U+2028 may stand in a string."""
    path = write(tmp_path, "t.jsonl", '{"text": "ab\u2028cd"}\n')
    assert evaluation_set(path, "validation", TOKENIZER, block_size=32, at_most=9).documents == (0,)


def test_evaluation_sequences_of_json_lines_know_their_document(tmp_path: Path) -> None:
    """No sequence crosses documents, and the shorter one at a document's end counts if it predicts something."""
    lines = "\n".join(json.dumps({"text": text}) for text in ("abcdefg", "hijkl", "m"))
    found = evaluation_set(write(tmp_path, "v.jsonl", lines), "validation", TOKENIZER, block_size=4, at_most=99)
    assert found.documents == (0, 0, 1)
    assert [len(sequence) for sequence in found.sequences] == [4, 3, 4]


def test_evaluation_sequences_are_spread_over_the_text(tmp_path: Path) -> None:
    """With fewer sequences than the text has, they are evenly spaced, not the first ones."""
    path = write(tmp_path, "v.txt", "aabbccddeeff")
    found = evaluation_set(path, "validation", TOKENIZER, block_size=2, at_most=3)
    assert ["".join(chr(i - 3) for i in s.tolist()) for s in found.sequences] == ["aa", "cc", "ee"]
    assert found.documents is None


@given(count=st.integers(1, 500), at_most=st.integers(1, 500))
def test_evenly_spaced_indices_are_distinct_and_in_range(count: int, at_most: int) -> None:
    """There are as many as asked for, or as there are, all different and in order."""
    found = evenly_spaced(count, at_most)
    assert len(found) == min(count, at_most)
    assert found == sorted(set(found))
    assert 0 <= found[0] <= found[-1] < count


def test_the_digest_tells_other_cuts_of_the_same_text_apart(tmp_path: Path) -> None:
    """The same tokens in sequences of another length have another digest."""
    path = write(tmp_path, "v.txt", "abcdefgh")
    digests = {evaluation_set(path, "v", TOKENIZER, block_size=size, at_most=99).digest for size in (2, 4)}
    assert len(digests) == 2


def test_the_order_of_batches_changes_the_collators_digest() -> None:
    """Two collators agree exactly where they made the same batches in the same order."""

    def order(*batches: int) -> str:
        collator = OrderedCollator(CausalLM().collate)
        for value in batches:
            collator([{"input_ids": torch.tensor([value] * 2), "labels": torch.tensor([value] * 2)}])
        return collator.order

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(2, 1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b" \n", ["validation", "empty.txt", "is empty"]),
        ("short.txt", b"abc", ["no sequence of 8 tokens"]),
        ("latin.txt", b"caf\xe9 au lait", ["not UTF-8", "byte 3"]),
        ("bad.jsonl", b'{"text": "a"}\n{"text"\n', ["not JSON at line 2"]),
        ("other.jsonl", b'{"txt": "a"}\n', ["no string named 'text' at line 1"]),
        ("missing.txt", None, ["cannot be read", "missing.txt", "validation"]),
    ],
)
def test_a_text_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: bytes | None, words: list[str]
) -> None:
    """The message names the file, its role and what is wrong."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        evaluation_set(str(tmp_path / name), "validation", TOKENIZER, block_size=8, at_most=9)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("length", "enough"), [(7, False), (8, True)])
def test_fewer_blocks_than_a_batch_are_refused(tmp_path: Path, length: int, enough: bool) -> None:
    """Two blocks of four tokens make a batch of two; one token less does not."""
    path = write(tmp_path, "t.txt", "abcdefgh"[:length])
    if enough:
        assert len(training_blocks(path, TOKENIZER, block_size=4, batch_size=2)) == 2
    else:
        with pytest.raises(ConfigurationError, match="fewer than a batch of 2"):
            training_blocks(path, TOKENIZER, block_size=4, batch_size=2)


@pytest.mark.parametrize("name", ["v.txt", "v.jsonl"])
def test_a_search_is_evaluated_on_what_the_gates_leave_over(tmp_path: Path, name: str) -> None:
    """No sequence of the one is among those of the other, and both are spread over the whole text."""
    words = [f"{number:04}" for number in range(100)]
    text = "".join(words) if name == "v.txt" else "\n".join(json.dumps({"text": word}) for word in words)
    path = write(tmp_path, name, text)
    sizes: dict[str, Any] = {"block_size": 4, "at_most": 40}
    if name == "v.jsonl":  # two sequences of each document: of what the gates have seen no other half is left over
        path = write(tmp_path, name, "\n".join(json.dumps({"text": f"{word}x{word[1:]}"}) for word in words))
    gates, rest = (cut(path, "validation", TOKENIZER, **sizes) for cut in (evaluation_set, left_over_set))
    ours, theirs = ({bytes((sequence - 3).tolist()).decode() for sequence in one.sequences} for one in (gates, rest))
    assert (len(ours), len(theirs)) == (40, 40)
    assert not ours & theirs
    numbers = [int(text.lstrip("x")) for text in theirs]
    assert min(numbers) < 5
    assert max(numbers) > 94
    if name == "v.jsonl":
        assert not {text.lstrip("x0") for text in ours} & {text.lstrip("x0") for text in theirs}
    assert (rest.documents is None) == (name == "v.txt")


def advised(error: ConfigurationError) -> dict[str, int]:
    """The settings that a message names, with the largest value that does."""
    return {name: int(value) for name, value in re.findall(r"a (\w+) of at most (\d+)", str(error))}


@pytest.mark.parametrize("size", [3, 30, 300])
def test_a_smaller_block_or_batch_that_is_advised_is_enough_for_a_batch(tmp_path: Path, size: int) -> None:
    """Each by itself; a batch cannot be smaller than one block, so it is named only if there is one."""
    path = write(tmp_path, "t.txt", "".join(random.Random(1).choices("abcdefghijkl", k=size)))
    with pytest.raises(ConfigurationError) as caught:
        training_blocks(path, TOKENIZER, block_size=128, batch_size=8)
    found = advised(caught.value)
    assert set(found) == ({"block_size"} if size > 8 else set()) | ({"batch_size"} if size > 128 else set())
    for change in found.items():
        training_blocks(path, TOKENIZER, **{"block_size": 128, "batch_size": 8, **dict([change])})


@pytest.mark.parametrize("size", [60, 1000])
def test_a_smaller_block_that_is_advised_gives_as_many_sequences_as_gates_need(tmp_path: Path, size: int) -> None:
    """If the text is too short for that, no block is named: the gates would refuse it."""
    path = write(tmp_path, "v.txt", "".join(random.Random(1).choices("abcdefghijkl", k=size)))
    with pytest.raises(ConfigurationError) as caught:
        evaluation_set(path, "validation", TOKENIZER, block_size=2000, at_most=256)
    found = advised(caught.value)
    assert bool(found) is (size > 128)
    for block_size in found.values():
        sequences = evaluation_set(path, "validation", TOKENIZER, block_size=block_size, at_most=256).sequences
        assert len(sequences) >= 64


@pytest.mark.parametrize(("name", "text"), [("v.txt", "{:04}"), ("v.jsonl", '{{"text": "{:04}"}}\n')])
def test_as_few_validation_sequences_as_are_advised_leave_enough_for_a_search(
    tmp_path: Path, name: str, text: str
) -> None:
    """If fewer than gates need would be left, only a longer text is advised."""
    path = write(tmp_path, name, "".join(map(text.format, range(100))))
    with pytest.raises(ConfigurationError) as caught:
        left_over_set(path, "validation", TOKENIZER, block_size=4, at_most=99)
    at_most = advised(caught.value)["validation_sequences"]
    assert at_most >= 64
    assert len(left_over_set(path, "validation", TOKENIZER, block_size=4, at_most=at_most).sequences) >= 32
    short = write(tmp_path, f"short.{name}", "".join(map(text.format, range(95))))
    with pytest.raises(ConfigurationError, match=r"give a longer text$"):
        left_over_set(short, "validation", TOKENIZER, block_size=4, at_most=95)


@pytest.mark.parametrize(("at_most", "enough"), [(68, True), (69, False), (100, False)])
def test_a_search_needs_sequences_of_its_own(tmp_path: Path, at_most: int, enough: bool) -> None:
    """32 are the least; with fewer the message says how many are left."""
    path = write(tmp_path, "v.txt", "".join(f"{number:04}" for number in range(100)))
    if enough:
        assert len(left_over_set(path, "validation", TOKENIZER, block_size=4, at_most=at_most).sequences) == 32
        return
    with pytest.raises(ConfigurationError, match=f"needs 32 others, and {100 - at_most} are left"):
        left_over_set(path, "validation", TOKENIZER, block_size=4, at_most=at_most)


def documents(count: int) -> list[str]:
    """Documents that have little in common."""
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def lines(texts: Iterable[str]) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


SIZES: dict[str, Any] = {"block_size": 64, "at_most": 256}


def evaluated(folder: Path, name: str, text: str) -> EvaluationSet:
    return evaluation_set(write(folder, name, text), "validation", TOKENIZER, **SIZES)


@pytest.mark.parametrize(
    "copy",
    [
        lambda text, _: text,
        lambda text, _: text.upper(),
        lambda text, number: f"{text[:30]}  {text[30:]} " if number % 2 else text,
        lambda text, number: text + " " * number,
        lambda text, number: f"{number}. {text}",
        lambda text, number: f"{text} #{number}",
    ],
    ids=["same", "case", "spaces", "spaces behind", "number in front", "number behind"],
)
def test_copies_of_documents_count_once(tmp_path: Path, copy: Callable[[str, int], str]) -> None:
    """Eight documents in 32 forms each are eight documents, in whatever order they come."""
    texts = [f"it was {text[:30]} and then {text[34:50]}" for text in documents(8)]
    copies = [copy(text, 8 * number + place) for number in range(32) for place, text in enumerate(texts)]
    random.Random(0).shuffle(copies)
    found = evaluated(tmp_path, "v.jsonl", lines(copies))
    assert found.documents is not None
    assert len(set(found.documents)) == 8
    assert found.repeated >= 31 * 8


def test_a_long_document_pasted_twice_counts_once(tmp_path: Path) -> None:
    """Each of its sequences is a copy, although it is cut elsewhere the second time."""
    once = " ".join(documents(100))
    whole = evaluated(tmp_path, "v.jsonl", lines([once, "An introduction. " + once]))
    assert whole.documents is not None
    assert whole.repeated >= len(once) // 64 - 1
    assert whole.documents.count(1) <= 2


def test_a_plain_text_after_itself_counts_once(tmp_path: Path) -> None:
    """So does the same text in a smaller part of a larger one, if it would make bounds too narrow."""
    once = "\n".join(documents(100))[:6007]
    found = evaluated(tmp_path, "v.txt", once * 2)
    assert found.repeated == pytest.approx(6007 // 64, abs=2)
    assert len(found.sequences) == pytest.approx(6007 // 64, abs=2)


@pytest.mark.parametrize(("times", "left_out"), [(0, 0), (1, 0), (4, 0), (5, 5)])
def test_few_copies_change_nothing(tmp_path: Path, times: int, left_out: int) -> None:
    """200 documents, one of them four times more, have a design effect of 1.098; beyond 1.1 copies are left out."""
    texts = [*documents(200), *documents(1) * times]
    found = evaluated(tmp_path, "v.jsonl", lines(texts))
    assert (len(found.sequences), found.repeated) == (200 + times - left_out, left_out)


@pytest.mark.parametrize(("distinct", "left_out"), [(64, 0), (63, 1)])
def test_the_least_number_of_sequences_is_of_different_ones(tmp_path: Path, distinct: int, left_out: int) -> None:
    """One copy among 65 changes no bound; among 64 it would make 63 pass for enough."""
    found = evaluated(tmp_path, "v.jsonl", lines([*documents(distinct), documents(1)[0]]))
    assert found.repeated == left_out


@pytest.mark.parametrize("size", [2, 20, 100])
def test_copies_of_token_ids_count_once(size: int) -> None:
    """Sequences that a user cut are compared as a whole, and as passages of what they were cut from."""
    rng = random.Random(1)
    few = [[rng.randrange(9, 900) for _ in range(size)] for _ in range(8)]
    found = evaluation_set_of_ids(few * 32, "validation", at_most=256)
    assert (len(found.sequences), found.repeated) == (8, 248)
    stream = [token for sequence in few * 32 for token in sequence][7:]
    cut = [stream[start : start + size] for start in range(0, len(stream) - size, size)]
    if size == 100:
        assert len(evaluation_set_of_ids(cut, "validation", at_most=256).sequences) <= 9


def test_a_search_gets_no_copies_of_what_the_gates_use(tmp_path: Path) -> None:
    """Neither equal ones nor those with another number."""
    texts = documents(100)
    path = write(tmp_path, "v.jsonl", lines(f"{number}. {text}" for number, text in enumerate(texts * 3)))
    gates, rest = (
        cut(path, "validation", TOKENIZER, block_size=96, at_most=60) for cut in (evaluation_set, left_over_set)
    )
    assert gates.documents is not None
    assert rest.documents is not None
    assert not {number % 100 for number in gates.documents} & {number % 100 for number in rest.documents}
