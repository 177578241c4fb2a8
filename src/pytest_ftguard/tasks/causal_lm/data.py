"""Token blocks for training and sequences for evaluation, cut from texts."""

from __future__ import annotations

import filecmp
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import MINIMUM_UNITS, evenly_spaced
from pytest_ftguard.tasks.text.evidence import Excerpts, common_symbols, design_effect, origins
from pytest_ftguard.tasks.text.files import Text, read_text
from pytest_ftguard.tasks.text.passages import Flags, Integers, Passages, Places, Row
from pytest_ftguard.tasks.text.tokens import Tokens, decoded, tokenized
from pytest_ftguard.tasks.text.words import folded, spans_of, words_of

__all__ = [
    "EvaluationSet",
    "Read",
    "TokenBlocks",
    "blocks_of",
    "check_texts",
    "evaluation_set",
    "evaluation_set_of_ids",
    "left_over_set",
    "training_blocks",
]

Read = Callable[[str, str], Text]
"""Reads a file, in a role: "training", "validation" or "reference"."""

# Below this a search for a learning rate would be decided by a few odd sequences.
_LEAST_LEFT_OVER: Final = 32
# Copies are left out if they widen the variance by more than this: at a limit it lets 6 % of bad variants pass
# instead of 5 %. Ordinary texts have few copies, of many passages, and reach 1.03.
_MOST_DESIGN_EFFECT: Final = 1.1
# Vocabularies of no more tokens are of bytes or characters.
_CHARACTERS: Final = 512
_BYTES_OF_A_WORD: Final = 3


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
    """Sequences to measure losses of.

    Attributes:
        sequences: Token ids of each sequence, at least two tokens each.
        documents: Number of the document that each sequence was cut from; None if the text is one document.
        excerpts: The same to be looked for in training data; None if nobody looks for them.
        repeated: Sequences of the text that were left out, because they repeat earlier ones.
        trained_on: How many of the sequences stand in the training data as well.
        unknown: Share of the text that the tokenizer does not know.
    """

    sequences: tuple[Tensor, ...]
    documents: tuple[int, ...] | None
    excerpts: Excerpts | None = None
    repeated: int = 0
    trained_on: int = 0
    unknown: float = 0.0

    @property
    def tokens(self) -> tuple[int, ...]:
        """Predicted tokens of each sequence: all but the first."""
        return tuple(len(sequence) - 1 for sequence in self.sequences)

    @property
    def largest_id(self) -> int:
        """The largest of all token ids."""
        return max(int(sequence.max()) for sequence in self.sequences)

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens and of where the sequences end."""
        digest = hashlib.sha256()
        for sequence in self.sequences:
            digest.update(len(sequence).to_bytes(8, "little"))
            digest.update(sequence.numpy().tobytes())
        return digest.hexdigest()


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
            f"the validation text {validation!r} is the training text {train!r}: a model that memorized it would "
            "pass; set validation to a text that is not trained on"
        )
        raise ConfigurationError(message)


def training_blocks(path: str, tokenizer: Any, *, block_size: int, batch_size: int) -> TokenBlocks:
    """Return the text's tokens, cut into blocks; what is left at the end is dropped.

    Documents are joined, each followed by the tokenizer's end-of-sequence token if it has one.

    Args:
        path: A file that `read_text` reads.
        tokenizer: Tokenizer of transformers.
        block_size: Tokens in a block.
        batch_size: Blocks in a batch, of which there must be at least one.

    Raises:
        ConfigurationError: The file cannot be read, or gives fewer blocks than a batch.
    """
    tokens = tokenized(read_text(path, "training"), tokenizer)
    return blocks_of(tokens, tokenizer.eos_token_id, block_size=block_size, batch_size=batch_size)


def blocks_of(tokens: Tokens, end: int | None, *, block_size: int, batch_size: int) -> TokenBlocks:
    """Return a text's tokens as `training_blocks` does.

    Args:
        tokens: The text.
        end: The token that ends a document; None if there is none.
        block_size: Tokens in a block.
        batch_size: Blocks in a batch, of which there must be at least one.

    Raises:
        ConfigurationError: There are fewer blocks than a batch.
    """
    ends = [np.array([end], dtype=np.int64)] if len(tokens.documents) > 1 and end is not None else []
    ids = np.concatenate([piece for document in tokens.documents for piece in (document, *ends)])
    count = len(ids) // block_size
    if count < batch_size:
        message = (
            f"{tokens.text.name} gives {len(ids):,} tokens, {count} blocks of {block_size}, which is fewer than a "
            f"batch of {batch_size}: give a longer text{_or_at_most('block_size', len(ids) // batch_size)}"
            f"{_or_at_most('batch_size', count)}"
        )
        raise ConfigurationError(message)
    return TokenBlocks(torch.from_numpy(ids[: count * block_size]).view(count, block_size))


def evaluation_set(
    path: str, role: str, tokenizer: Any, *, block_size: int, at_most: int, read: Read = read_text
) -> EvaluationSet:
    """Return sequences of a text, evenly spaced, at most `at_most`.

    A plain text is one stream cut into blocks. Any other document is cut by itself, its last, shorter sequence
    included, so that no sequence crosses from one document into the next. Sequences that repeat earlier ones are left
    out if they would make bounds too narrow.

    Args:
        path: A file that `read` reads.
        role: "validation" or "reference", for messages.
        tokenizer: Tokenizer of transformers.
        block_size: Largest number of tokens in a sequence.
        at_most: Largest number of sequences.
        read: Reads a file, in a role.

    Raises:
        ConfigurationError: The file cannot be read, or gives no sequence.
    """
    cut = _cut_text(read(path, role), tokenizer, block_size)
    chosen, repeated = _independent(cut.origins, at_most)
    return cut.chosen(chosen, repeated)


def left_over_set(
    path: str, role: str, tokenizer: Any, *, block_size: int, at_most: int, read: Read = read_text
) -> EvaluationSet:
    """Return sequences that `evaluation_set` leaves over, evenly spaced, at most `at_most`.

    Args:
        path: A file that `read` reads.
        role: "validation" or "reference", for messages.
        tokenizer: Tokenizer of transformers.
        block_size: Largest number of tokens in a sequence.
        at_most: Largest number of sequences, there and here.
        read: Reads a file, in a role.

    Raises:
        ConfigurationError: The file cannot be read, or hardly any sequence is left over.
    """
    cut = _cut_text(read(path, role), tokenizer, block_size)
    used, repeated = _independent(cut.origins, at_most)
    # Sequences of one document are much alike, so whole documents are left over; a plain text is one, cut into blocks.
    documents = set() if cut.tokens.text.is_stream else {int(cut.documents[index]) for index in used}
    known = {int(cut.origins[index]) for index in used} | set(used)
    rest = [
        index
        for index, origin in enumerate(cut.origins.tolist())
        if index not in known
        and origin not in known
        and int(cut.documents[index]) not in documents
        and (origin == index or not repeated)
    ]
    if len(rest) < _LEAST_LEFT_OVER:
        others = " of other documents" if documents else ""
        # So many sequences leave enough, if each document may be used by one of them.
        new = np.flatnonzero(cut.origins == np.arange(len(cut.origins)))
        spare = (len(set(cut.documents[new].tolist())) if documents else len(new)) - _LEAST_LEFT_OVER
        fewer = ""
        if spare >= MINIMUM_UNITS:
            fewer = f", or, if fewer are enough for the gates, a validation_sequences of at most {spare}"
        copies = f", not counting {repeated} that repeat earlier ones" if repeated else ""
        message = (
            f"{cut.tokens.text.name} has {len(cut.sequences) - repeated} sequences{copies}, of which the gates use "
            f"{len(used)}: a search for a learning rate needs {_LEAST_LEFT_OVER} others{others}, and {len(rest)} are "
            f"left; give a longer text{fewer}"
        )
        raise ConfigurationError(message)
    return cut.chosen([rest[index] for index in evenly_spaced(len(rest), at_most)], repeated)


def _or_at_most(name: str, value: int) -> str:
    """Return that a smaller setting would do too; "" if there is none."""
    least = 2 if name == "block_size" else 1
    return f", or a {name} of at most {value}" if value >= least else ""


@dataclass(frozen=True)
class _Cut:
    """A text cut into sequences.

    Attributes:
        tokens: The text.
        sequences: Token ids of each sequence.
        documents: Number of the document of each sequence.
        row: The words of the text.
        places: Where the sequences are among its words.
        passages: What counts as a passage of it.
        origins: Number of the earlier sequence that each repeats; its own number if it is new.
        common: Which words many sequences or documents share.
    """

    tokens: Tokens
    sequences: tuple[Integers, ...]
    documents: Integers
    row: Row
    places: Places
    passages: Passages
    origins: Integers
    common: Flags

    def chosen(self, indices: Sequence[int], repeated: int) -> EvaluationSet:
        """Return some of the sequences."""
        sequences, numbers = [self.sequences[index] for index in indices], self.documents[indices].tolist()
        text = self.tokens.text
        labels = () if text.is_stream else tuple(folded(text.documents[number]) for number in numbers)
        return EvaluationSet(
            sequences=tuple(torch.from_numpy(sequence.copy()) for sequence in sequences),
            documents=None if text.is_stream else tuple(numbers),
            excerpts=Excerpts.of(
                self.row, self.places.some(indices), self.passages, sequences, labels, common=self.common
            ),
            repeated=repeated,
            unknown=self.tokens.unknown,
        )


def _cut_text(text: Text, tokenizer: Any, block_size: int) -> _Cut:
    tokens = tokenized(text, tokenizer)
    least = block_size if text.is_stream else 2
    cut = [
        [document[start : start + block_size] for start in range(0, len(document) - least + 1, block_size)]
        for document in tokens.documents
    ]
    numbers = [number for number, sequences in enumerate(cut) for _ in sequences]
    if not numbers:
        # Gates need that many.
        size = max(map(len, tokens.documents), default=0) // MINIMUM_UNITS if text.is_stream else 0
        message = (
            f"{text.name} gives no sequence of {block_size} tokens: give a longer text{_or_at_most('block_size', size)}"
        )
        raise ConfigurationError(message)
    row = words_of(text.documents)
    passages = Passages.of_words(int((row.symbols >= 0).sum()), text.size)
    places = _places(text.documents, cut, row, passages, tokenizer)
    found = origins(row, places, passages, None if text.is_stream else _labels(text.documents, numbers))
    sequences = tuple(sequence for sequences in cut for sequence in sequences)
    documents = np.array(numbers, dtype=np.int64)
    units = np.arange(len(documents)) if text.is_stream else documents
    common = common_symbols(row, places, passages, units)
    return _Cut(tokens, sequences, documents, row, places, passages, found, common)


def _places(
    texts: Sequence[str], cut: Sequence[Sequence[Integers]], row: Row, passages: Passages, tokenizer: Any
) -> Places:
    """Return where the sequences of each text are among its words."""
    stops = np.flatnonzero(row.symbols < 0)
    starts = np.concatenate([[0], stops[:-1] + 1])
    wholes = np.stack([starts, stops], axis=1)
    spans = [
        whole[None]
        if len(sequences) == 1 and len(texts) > 1
        else whole[0] + spans_of(text, decoded(sequences, tokenizer))
        for text, sequences, whole in zip(texts, cut, wholes, strict=True)
        if sequences
    ]
    documents = np.repeat(wholes, [len(sequences) for sequences in cut], axis=0)
    return Places.of(np.concatenate(spans), documents, passages)


def _labels(texts: Sequence[str], documents: Sequence[int]) -> list[tuple[str, int]]:
    """Return for each sequence what its document says, and which of the document's sequences it is.

    A copy that is longer, by spaces or a number, may have more sequences: these are as its last.
    """
    bare = [folded(text) for text in texts]
    counts = Counter(documents)
    most: dict[str, int] = {}
    for number in counts:
        most.setdefault(bare[number], counts[number])
    place = {number: iter(range(count)) for number, count in counts.items()}
    return [(bare[number], min(next(place[number]), most[bare[number]] - 1)) for number in documents]


def _independent(origins: Integers, at_most: int) -> tuple[list[int], int]:
    """Return which sequences to use, evenly spaced, and how many copies were left out before.

    A few copies of many passages, as every longer text has, change no bound: then none is left out.
    """
    chosen = evenly_spaced(len(origins), at_most)
    new = np.flatnonzero(origins == np.arange(len(origins)))
    distinct = len(set(origins[chosen].tolist()))
    # If the least number of sequences is at stake, every one must be one of its own.
    if distinct == len(chosen) or (distinct >= MINIMUM_UNITS and design_effect(origins[chosen]) <= _MOST_DESIGN_EFFECT):
        return chosen, 0
    return new[evenly_spaced(len(new), at_most)].tolist(), len(origins) - len(new)


def evaluation_set_of_ids(
    sequences: Sequence[Sequence[int]], role: str, documents: Sequence[int] | None = None, *, at_most: int
) -> EvaluationSet:
    """Return sequences of token ids, evenly spaced, at most `at_most`; copies as in `evaluation_set`.

    Args:
        sequences: Token ids of each sequence, at least two.
        role: "validation" or "reference", for messages.
        documents: Number of the document that each was cut from; None if all are independent.
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
    arrays = [np.array(sequence, dtype=np.int64) for sequence in sequences]
    ids, stops = np.concatenate(arrays), np.cumsum([len(array) for array in arrays])
    spans = np.stack([np.concatenate([[0], stops[:-1]]), stops], axis=1)
    each = 1 if len(np.unique(ids)) <= _CHARACTERS else _BYTES_OF_A_WORD
    row, passages, places = Row.of_ids(ids), Passages.of_tokens(len(ids), each * len(ids)), Places(spans, spans, spans)
    found = origins(row, places, passages, [array.tobytes() for array in arrays])
    chosen, repeated = _independent(found, at_most)
    return EvaluationSet(
        tuple(torch.from_numpy(arrays[index]) for index in chosen),
        documents=None if documents is None else tuple(documents[index] for index in chosen),
        excerpts=Excerpts.of(row, places.some(chosen), passages, [arrays[index] for index in chosen], has_words=False),
        repeated=repeated,
    )
