"""What a user's Trainer is evaluated on: texts, token ids, or rows in tokens; and whether it was trained on them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import evenly_spaced
from pytest_ftguard.tasks.causal_lm import data
from pytest_ftguard.tasks.causal_lm.data import EvaluationSet
from pytest_ftguard.tasks.chat.data import Example
from pytest_ftguard.tasks.rows import RowSet
from pytest_ftguard.tasks.text.passages import Integers
from pytest_ftguard.training.batches import BatchSearch

__all__ = ["RowSearch", "evaluation_set", "ids_of", "search_for"]

# Bytes of a token id in a key.
_WIDTH: Final = 8


def evaluation_set(
    given: Any, role: str, tokenizer: Any, *, documents: Sequence[int] | None, block_size: int, at_most: int
) -> EvaluationSet | RowSet:
    """Return what losses are measured on.

    Args:
        given: A text's path, token ids of each sequence, or rows with `input_ids` and `labels`.
        role: "validation" or "reference", for messages.
        tokenizer: The Trainer's; None if it has none.
        documents: Number of the document of each sequence of token ids.
        block_size: Largest number of tokens in a sequence of a text.
        at_most: Largest number of examples.

    Raises:
        ConfigurationError: They cannot be evaluated on.
    """
    if isinstance(given, str | os.PathLike):
        if tokenizer is None:
            message = (
                f"FtguardCallback was given the {role} text {os.fspath(given)!r}, but the Trainer has no tokenizer: "
                "pass it as processing_class, or give the callback token ids"
            )
            raise ConfigurationError(message)
        return data.evaluation_set(os.fspath(given), role, tokenizer, block_size=block_size, at_most=at_most)
    if len(given) and isinstance(given[0], Mapping):
        return _rows_in_tokens(given, role, at_most)
    return data.evaluation_set_of_ids(given, role, documents, at_most=at_most)


def ids_of(evaluated: EvaluationSet | RowSet) -> list[torch.Tensor]:
    """Return the token ids of each example."""
    if isinstance(evaluated, RowSet):
        return [example.ids for example in evaluated.sequences]
    return list(evaluated.sequences)


def search_for(texts: Mapping[str, EvaluationSet | RowSet], tokenizer: Any) -> BatchSearch | RowSearch:
    """Return what looks for the examples in the batches of the training.

    Args:
        texts: What is evaluated on, by its role.
        tokenizer: The Trainer's; None if it has none.

    Raises:
        ConfigurationError: Some are rows, and others are not.
    """
    rows = {role: text for role, text in texts.items() if isinstance(text, RowSet)}
    blocks = {role: text for role, text in texts.items() if isinstance(text, EvaluationSet)}
    if rows and blocks:
        message = "FtguardCallback was given rows for one of validation and reference: give rows for both, or texts"
        raise ConfigurationError(message)
    return RowSearch(rows) if rows else BatchSearch(blocks, tokenizer)


def _rows_in_tokens(rows: Sequence[Mapping[str, Any]], role: str, at_most: int) -> RowSet:
    """Return rows to evaluate, evenly spaced and without copies.

    Args:
        rows: Each with `input_ids` and `labels`, in which -100 stands for what the loss leaves out; and with
            `seq_lengths` if it holds several, which TRL packs together.
        role: "validation" or "reference", for messages.
        at_most: Largest number of rows.

    Raises:
        ConfigurationError: A row lacks one of the two, or the loss is taken of none of its tokens.
    """
    found: dict[bytes, tuple[Example, Mapping[str, Any]]] = {}
    count = 0
    for number, row in enumerate(rows, start=1):
        missing = [name for name in ("input_ids", "labels") if row.get(name) is None]
        if missing:
            message = (
                f"row {number} of the {role} data has no {' and no '.join(missing)} (it has {', '.join(sorted(row))}): "
                "give rows in tokens, such as the trainer.eval_dataset of an SFTTrainer that was made"
            )
            raise ConfigurationError(message)
        if not isinstance(row["labels"], Sequence | np.ndarray | torch.Tensor):
            message = (
                f"row {number} of the {role} data has the label {row['labels']!r:.80}, as the rows of a classifier "
                "have: FtguardCallback measures causal language models, with a label for each token; train a "
                "classifier as variants of pytest-ftguard, with ftguard_task = classification"
            )
            raise ConfigurationError(message)
        example = Example(*(torch.as_tensor(row[name], dtype=torch.int64) for name in ("input_ids", "labels")))
        if example.ids.shape != example.labels.shape or example.ids.ndim != 1:
            message = (
                f"row {number} of the {role} data has {len(row['input_ids'])} token ids and {len(row['labels'])} "
                "labels: each token needs a label"
            )
            raise ConfigurationError(message)
        if not example.predicted:
            message = (
                f"the loss is taken of no token of row {number} of the {role} data: all of its labels are -100, or it "
                "has fewer than two tokens; leave it out, or look at completion_only_loss, assistant_only_loss and "
                "max_length"
            )
            raise ConfigurationError(message)
        parts = _unpacked(example, row.get("seq_lengths"))
        count += len(parts)
        for part in parts:
            # What else stands in a packed row belongs to none of its parts.
            whole = row if row.get("seq_lengths") is None else _row_of(part)
            found.setdefault(_key(part.ids), (part, whole))
    pairs = list(found.values())
    chosen = [pairs[place] for place in evenly_spaced(len(pairs), at_most)]
    examples, given = (tuple(one) for one in zip(*chosen, strict=True)) if chosen else ((), ())
    return RowSet(examples, rows=given, repeated=count - len(pairs))


def _row_of(example: Example) -> Mapping[str, Any]:
    return {"input_ids": example.ids.tolist(), "labels": example.labels.tolist()}


def _unpacked(example: Example, lengths: Sequence[int] | None) -> list[Example]:
    """Return the rows that TRL has packed into one, without those of which no token counts."""
    if lengths is None:
        return [example]
    pairs = zip(*(torch.split(one, list(lengths)) for one in (example.ids, example.labels)), strict=True)
    return [part for part in (Example(*pair) for pair in pairs) if part.predicted]


class RowSearch:
    """Counts which rows were trained on, batch by batch.

    Rows that are packed without their positions, as TRL's packing_strategy "wrapped" does, stand anywhere in a block,
    and at its end a row may be cut in two.

    Args:
        rows: The rows that are evaluated, by their role.
    """

    def __init__(self, rows: Mapping[str, RowSet]) -> None:
        self._wanted = {role: {_key(example.ids) for example in part.sequences} for role, part in rows.items()}
        self._keys = frozenset(key for keys in self._wanted.values() for key in keys)
        self._lengths = sorted({len(key) // _WIDTH for key in self._keys})
        self._firsts, self._lasts = (
            np.unique([np.frombuffer(key, dtype=np.int64)[place] for key in self._keys]) for place in (0, -1)
        )
        self._seen: set[bytes] = set()
        self._blocks: list[Integers] = []
        # Where a row was cut: what a block ended with, and what a block began with.
        self._heads: set[tuple[bytes, int]] = set()
        self._tails: set[tuple[bytes, int]] = set()

    def note(self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor | None = None) -> None:
        """Keep the rows of a batch, without what fills them up; those that are packed are taken apart."""
        rows = ids.detach().cpu().reshape(-1, ids.shape[-1])
        for number, row in enumerate(rows):
            if positions is not None and positions.shape == ids.shape:
                starts = torch.nonzero(positions.detach().cpu().reshape(rows.shape)[number] == 0).flatten().tolist()
                parts = [row[start:stop] for start, stop in zip(starts, [*starts[1:], len(row)], strict=True)]
                self._seen |= {_key(part) for part in parts}
            else:
                real = None if mask is None or mask.shape != ids.shape else mask.detach().cpu().reshape(rows.shape)
                part = row if real is None else row[real[number] > 0]
                self._blocks.append(part.to(torch.int64).numpy())

    def search(self) -> None:
        """Look for the rows in what was noted since the last search."""
        blocks, self._blocks = self._blocks, []
        for block in blocks:
            self._search(block)
        self._seen |= {key for key, _ in self._heads & self._tails}

    def _search(self, block: Integers) -> None:
        ends = np.flatnonzero(np.isin(block, self._lasts)) + 1
        starts = np.union1d([0], ends[ends < len(block)])
        for start in starts[np.isin(block[starts], self._firsts)]:
            self._seen |= {block[start : start + length].tobytes() for length in self._lengths} & self._keys
            head = block[start:].tobytes()
            self._heads |= {(key, len(head)) for key in self._keys if len(key) > len(head) and key.startswith(head)}
        for end in ends[ends < self._lengths[-1]]:
            tail = block[:end].tobytes()
            whole = ((key, len(key) - len(tail)) for key in self._keys if key.endswith(tail))
            self._tails |= {(key, cut) for key, cut in whole if cut}

    def count(self, role: str) -> int:
        """Return how many rows were found."""
        self.search()
        return len(self._wanted.get(role, set()) & self._seen)


def _key(ids: torch.Tensor) -> bytes:
    return ids.to(torch.int64).contiguous().numpy().tobytes()
