"""Examples for training, padded or packed, and examples for evaluation."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from pytest_ftguard.tasks.chat.tokens import IGNORED

__all__ = ["Example", "PackedExamples", "PaddedExamples", "batch_of", "blank_batch", "packed"]

# The library datasets hands over so many rows at a time, and TRL packs each of these parts by itself.
_PART: Final = 1000


@dataclass(frozen=True)
class Example:
    """A row in tokens, cut to the largest length.

    Attributes:
        ids: Token ids, shape (tokens,).
        labels: The same, with -100 in place of what the loss leaves out, shape (tokens,).
    """

    ids: Tensor
    labels: Tensor

    @property
    def predicted(self) -> int:
        """Number of tokens that are predicted and count: the first is never predicted."""
        return int((self.labels[1:] != IGNORED).sum())

    @property
    def content(self) -> tuple[Tensor, Tensor]:
        """All that the model sees and that is predicted."""
        return self.ids, self.labels


class PaddedExamples(Dataset[dict[str, Tensor]]):
    """Training examples, each a row; a batch is padded on the right.

    Attributes:
        examples: The examples.
        pad: The token id that fills a batch up. The loss and attention leave it out.
    """

    def __init__(self, examples: Sequence[Example], pad: int) -> None:
        self.examples = tuple(examples)
        self.pad = torch.tensor(pad)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        example = self.examples[index]
        return {"input_ids": example.ids, "labels": example.labels, "pad": self.pad}


class PackedExamples(Dataset[dict[str, Tensor]]):
    """Training sequences of several examples each, which do not see one another.

    Attributes:
        examples: The examples.
        packs: Numbers of the examples in each sequence.
    """

    def __init__(self, examples: Sequence[Example], packs: Sequence[Sequence[int]]) -> None:
        self.examples = tuple(examples)
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        inside = [self.examples[number] for number in self.packs[index]]
        positions = torch.cat([torch.arange(len(example.ids)) for example in inside])
        labels = torch.cat([example.labels for example in inside])
        return {
            "input_ids": torch.cat([example.ids for example in inside]),
            # Nothing predicts an example's first token: what stands before it is another example.
            "labels": labels.masked_fill(positions == 0, IGNORED),
            "position_ids": positions,
        }


def packed(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return which examples go into one sequence: the longest first, each where it leaves the least room.

    This is TRL's strategy "bfd" (best fit, decreasing), part by part as TRL does it.

    Args:
        lengths: Tokens of each example, at most `size`.
        size: Tokens in a sequence.
    """
    packs: list[list[int]] = []
    for start in range(0, len(lengths), _PART):
        part = range(start, min(start + _PART, len(lengths)))
        room: dict[int, deque[list[int]]] = defaultdict(deque)
        rooms: list[int] = []
        for number in sorted(part, key=lambda one: -lengths[one]):
            length = lengths[number]
            place = bisect_left(rooms, length)
            if place < len(rooms):
                space = rooms[place]
                pack = room[space].popleft()
                if not room[space]:
                    rooms.pop(place)
            else:
                space, pack = size, []
                packs.append(pack)
            pack.append(number)
            left = space - length
            if left and not room[left]:
                insort(rooms, left)
            room[left].append(pack)
    return packs


def batch_of(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return a batch: padded on the right with a mask, or, if packed, all in one row with their positions."""
    if "position_ids" in items[0]:
        return {name: torch.cat([item[name] for item in items])[None] for name in items[0]}
    ids = [item["input_ids"] for item in items]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=int(items[0]["pad"])),
        "labels": pad_sequence([item["labels"] for item in items], batch_first=True, padding_value=IGNORED),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
    }


def blank_batch(batch_size: int, block_size: int, *, packing: bool) -> dict[str, Tensor]:
    """Return the largest batch that there may be, with any content."""
    shape = (1, batch_size * block_size) if packing else (batch_size, block_size)
    ids = torch.zeros(shape, dtype=torch.int64)
    batch = {"input_ids": ids, "labels": ids.clone()}
    if packing:
        return {**batch, "position_ids": torch.arange(block_size).repeat(batch_size)[None]}
    return {**batch, "attention_mask": torch.ones_like(ids)}
