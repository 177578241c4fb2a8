"""Text files and JSON lines become token blocks for training and sequences for evaluation."""

from __future__ import annotations

import filecmp
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import evenly_spaced

__all__ = [
    "EvaluationSet",
    "OrderedCollator",
    "TokenBlocks",
    "check_texts",
    "evaluation_set",
    "evaluation_set_of_ids",
    "left_over_set",
    "training_blocks",
]

_JSON_LINES: Final = (".jsonl", ".ndjson")
# Tokenizers slow down on one huge string; pieces of whole lines keep them fast and change no token but at their seams.
_PIECE_CHARACTERS: Final = 100_000
# Below this a search for a learning rate would be decided by a few odd sequences.
_LEAST_LEFT_OVER: Final = 32


class TokenBlocks(Dataset[dict[str, Tensor]]):
    """Training sequences of equal length; every token is predicted from those before it.

    Attributes:
        blocks: Token ids, shape (sequences, block_size).
    """

    def __init__(self, blocks: Tensor) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}


@dataclass(frozen=True)
class EvaluationSet:
    """Sequences whose losses are measured.

    Attributes:
        sequences: Token ids of each sequence, at least two tokens each.
        documents: Number of the document that each sequence was cut from; None where the text is one document.
    """

    sequences: tuple[Tensor, ...]
    documents: tuple[int, ...] | None

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens and of where the sequences end."""
        digest = hashlib.sha256()
        for sequence in self.sequences:
            digest.update(len(sequence).to_bytes(8, "little"))
            digest.update(sequence.numpy().tobytes())
        return digest.hexdigest()


class OrderedCollator:
    """Stack sequences into a batch, and remember in a digest which batches were made in which order.

    Args:
        order: Digest of the batches that an earlier process has trained on; empty where it is the first.
    """

    def __init__(self, order: str = "") -> None:
        self._orders = [order]

    def __call__(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return a batch of shape (sequences, block_size) for each key."""
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        # A chain rather than one digest, so that another process can go on with it.
        chained = bytes.fromhex(self._orders[-1]) + batch["input_ids"].numpy().tobytes()
        self._orders.append(hashlib.sha256(chained).hexdigest())
        return batch

    @property
    def order(self) -> str:
        """Chained SHA-256 of all batches made so far."""
        return self._orders[-1]

    def order_after(self, batches: int) -> str:
        """Return the digest after so many batches of this process: more may have been made ahead of their use."""
        return self._orders[batches]


def check_texts(train: str, validation: str) -> None:
    """Refuse a validation text that was trained on: its loss would say nothing about new text.

    Raises:
        ConfigurationError: Both paths lead to one file, or to files of the same content.
    """
    try:
        same = Path(train).samefile(validation) or filecmp.cmp(train, validation, shallow=False)
    except OSError:
        return  # reading them says what is wrong
    if same:
        message = (
            f"the validation text {validation!r} is the training text {train!r}: a model that learnt it by heart would "
            "pass; set validation to a text that is not trained on"
        )
        raise ConfigurationError(message)


def training_blocks(path: str, tokenizer: Any, *, block_size: int, batch_size: int) -> TokenBlocks:
    """Return the text's tokens, cut into blocks; what is left at the end is dropped.

    Documents of JSON lines are joined, each followed by the tokenizer's end-of-sequence token if it has one.

    Args:
        path: Text file, or JSON lines with a `text` field.
        tokenizer: Tokenizer of transformers.
        block_size: Tokens in a block.
        batch_size: Blocks in a batch, of which there must be at least one.

    Raises:
        ConfigurationError: The file cannot be read, or gives fewer blocks than a batch.
    """
    documents = _read_documents(path, "training")
    end = [tokenizer.eos_token_id] if len(documents) > 1 and tokenizer.eos_token_id is not None else []
    ids = list(chain.from_iterable([*_tokenize(document, tokenizer), *end] for document in documents))
    count = len(ids) // block_size
    if count < batch_size:
        message = (
            f"the training text {path!r} gives {len(ids):,} tokens, {count} blocks of {block_size}, which is fewer "
            f"than a batch of {batch_size}: give a longer text, or a smaller block_size or batch_size"
        )
        raise ConfigurationError(message)
    return TokenBlocks(torch.tensor(ids[: count * block_size], dtype=torch.int64).view(count, block_size))


def evaluation_set(path: str, role: str, tokenizer: Any, *, block_size: int, at_most: int) -> EvaluationSet:
    """Return at most so many sequences, evenly spaced over the text.

    A text file is one stream cut into blocks. A document of JSON lines is cut by itself, its last, shorter
    sequence included, so that no sequence crosses from one document into the next.

    Args:
        path: Text file, or JSON lines with a `text` field.
        role: "validation" or "reference", for messages.
        tokenizer: Tokenizer of transformers.
        block_size: Largest number of tokens in a sequence.
        at_most: Largest number of sequences.

    Raises:
        ConfigurationError: The file cannot be read, or gives no sequence.
    """
    cut = _cut_text(path, role, tokenizer, block_size)
    return _chosen(cut, evenly_spaced(len(cut), at_most), path)


def left_over_set(path: str, role: str, tokenizer: Any, *, block_size: int, at_most: int) -> EvaluationSet:
    """Return at most so many of the sequences that `evaluation_set` leaves over, evenly spaced.

    Args:
        path: Text file, or JSON lines with a `text` field.
        role: "validation" or "reference", for messages.
        tokenizer: Tokenizer of transformers.
        block_size: Largest number of tokens in a sequence.
        at_most: Largest number of sequences, there and here.

    Raises:
        ConfigurationError: The file cannot be read, or hardly any sequence is left over.
    """
    cut = _cut_text(path, role, tokenizer, block_size)
    used = set(evenly_spaced(len(cut), at_most))
    # Sequences of one document are much alike, so whole documents are left over; a text file is one, cut into blocks.
    documents = {cut[index][0] for index in used} if _is_json_lines(path) else set()
    texts = {tuple(cut[index][1]) for index in used}
    rest = [
        index
        for index, (document, sequence) in enumerate(cut)
        if index not in used and document not in documents and tuple(sequence) not in texts
    ]
    if len(rest) < _LEAST_LEFT_OVER:
        others = " of other documents" if documents else ""
        message = (
            f"the {role} text {path!r} has {len(cut)} sequences, of which the gates use {len(used)}: a search for a "
            f"learning rate needs {_LEAST_LEFT_OVER} others{others}, and {len(rest)} are left; give a longer text, or "
            "a smaller validation_sequences"
        )
        raise ConfigurationError(message)
    return _chosen(cut, [rest[index] for index in evenly_spaced(len(rest), at_most)], path)


def _cut_text(path: str, role: str, tokenizer: Any, block_size: int) -> list[tuple[int, list[int]]]:
    """Return the number of its document and the token ids of each sequence."""
    documents = _read_documents(path, role)
    is_stream = not _is_json_lines(path)
    cut = [
        (number, sequence)
        for number, document in enumerate(documents)
        for sequence in _cut(_tokenize(document, tokenizer), block_size, keep_rest=not is_stream)
    ]
    if not cut:
        message = (
            f"the {role} text {path!r} gives no sequence of {block_size} tokens: "
            "give a longer text, or a smaller block_size"
        )
        raise ConfigurationError(message)
    return cut


def _chosen(cut: Sequence[tuple[int, list[int]]], indices: Sequence[int], path: str) -> EvaluationSet:
    chosen = [cut[index] for index in indices]
    return EvaluationSet(
        sequences=tuple(torch.tensor(sequence, dtype=torch.int64) for _, sequence in chosen),
        documents=tuple(number for number, _ in chosen) if _is_json_lines(path) else None,
    )


def evaluation_set_of_ids(
    sequences: Sequence[Sequence[int]], role: str, documents: Sequence[int] | None = None, *, at_most: int
) -> EvaluationSet:
    """Return at most so many of the sequences of token ids, evenly spaced.

    Args:
        sequences: Token ids of each sequence, at least two.
        role: "validation" or "reference", for messages.
        documents: Number of the document that each was cut from; None where all are independent.
        at_most: Largest number of sequences.

    Raises:
        ConfigurationError: There is no sequence, or one that cannot be evaluated, or not one document for each.
    """
    short = [number for number, sequence in enumerate(sequences) if len(sequence) < 2]
    if not len(sequences) or short:
        what = f"sequence {short[0]} has {len(sequences[short[0]])}" if short else "there is none"
        message = f"the {role} sequences must have at least two token ids each, but {what}"
        raise ConfigurationError(message)
    if documents is not None and len(documents) != len(sequences):
        message = f"the {role} sequences are {len(sequences)}, and their documents {len(documents)}: give one for each"
        raise ConfigurationError(message)
    chosen = evenly_spaced(len(sequences), at_most)
    return EvaluationSet(
        tuple(torch.tensor(sequences[index], dtype=torch.int64) for index in chosen),
        documents=None if documents is None else tuple(documents[index] for index in chosen),
    )


def _is_json_lines(path: str) -> bool:
    return Path(path).suffix.lower() in _JSON_LINES


def _read_documents(path: str, role: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        message = f"the {role} text {path!r} cannot be read: {error.strerror or error}; give a file that exists"
        raise ConfigurationError(message) from error
    except UnicodeDecodeError as error:
        message = f"the {role} text {path!r} is not UTF-8: {error.reason} at byte {error.start}; convert it to UTF-8"
        raise ConfigurationError(message) from error
    documents = list(_json_texts(text, path, role)) if _is_json_lines(path) else [text]
    if not any(document.strip() for document in documents):
        message = f"the {role} text {path!r} is empty: give a text with at least one block of tokens"
        raise ConfigurationError(message)
    return documents


def _json_texts(text: str, path: str, role: str) -> Iterator[str]:
    # Not str.splitlines: it also splits at separators that JSON strings may hold unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except json.JSONDecodeError as error:
            message = (
                f"the {role} text {path!r} is not JSON at line {number}: {error.msg}; each line must be one object"
            )
            raise ConfigurationError(message) from error
        if not isinstance(document, dict) or not isinstance(document.get("text"), str):
            message = f"the {role} text {path!r} has no string named 'text' at line {number}: it holds {line[:60]!r}"
            raise ConfigurationError(message)
        yield document["text"]


def _tokenize(text: str, tokenizer: Any) -> list[int]:
    pieces = list(_pieces(text))
    if not pieces:
        return []
    # verbose=False: a text longer than the model's context is expected here, it is cut afterwards.
    encoded = tokenizer(pieces, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return list(chain.from_iterable(encoded["input_ids"]))


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + _PIECE_CHARACTERS
        newline = text.rfind("\n", start, end) if end < len(text) else -1
        end = newline + 1 if newline >= start else end
        yield text[start:end]
        start = end


def _cut(ids: list[int], block_size: int, *, keep_rest: bool) -> Iterator[list[int]]:
    for start in range(0, len(ids), block_size):
        sequence = ids[start : start + block_size]
        if len(sequence) == block_size or (keep_rest and len(sequence) >= 2):
            yield sequence
