"""Passages of a row of symbols, and their hashes: a passage is found again by its hash."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PART",
    "Flags",
    "Hashes",
    "Integers",
    "Passages",
    "Places",
    "Row",
    "covered",
    "firsts",
    "joined",
    "segments",
    "shared_by",
    "windows",
]

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

# Texts that have nothing else in common share shorter ones. Windows of 48 bytes found 40 % of the 64-byte blocks of
# sentences made by a small grammar in a training text that held none of these sentences; windows of 64 found 0.2 %.
_WINDOW_BYTES: Final = 64
# Half a line of code is often repeated, a whole one seldom.
_SEGMENT_BYTES: Final = 32
_LEAST_TOKENS: Final = 4
# Windows of 7 words found 144 of 188 blocks of a small grammar in a text that held none of its sentences.
_LEAST_WORDS: Final = 12
# Symbols that are sorted or searched at once, so that long texts take time and not memory.
PART: Final = 1 << 22
_BASE: Final = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Row:
    """A text as a row of symbols: its words, or its tokens.

    Attributes:
        symbols: A number for each; those below zero stand between two documents.
        ends: Whether a sentence or line ends with this symbol.
    """

    symbols: Integers
    ends: Flags

    @classmethod
    def of_ids(cls, ids: Integers) -> Row:
        """Return the row of some tokens; nobody knows where sentences end in them."""
        return cls(ids, np.zeros(len(ids), dtype=np.bool_))

    def part(self, start: int, stop: int) -> Row:
        """Return the symbols from start to stop."""
        return Row(self.symbols[start:stop], self.ends[start:stop])


@dataclass(frozen=True)
class Passages:
    """What counts as a passage of a text.

    Attributes:
        window: Symbols of a passage that may begin anywhere.
        segment: Least number of symbols of a sentence or line.
    """

    window: int
    segment: int

    @classmethod
    def of_tokens(cls, tokens: int, size: int) -> Passages:
        """Return what counts in a text with these numbers of tokens and bytes."""
        return cls._of(tokens, size, _LEAST_TOKENS, _LEAST_TOKENS)

    @classmethod
    def of_words(cls, words: int, size: int) -> Passages:
        """Return what counts in a text with these numbers of words and bytes."""
        return cls._of(words, size, _LEAST_WORDS, _LEAST_WORDS // 2)

    @classmethod
    def _of(cls, symbols: int, size: int, window: int, segment: int) -> Passages:
        share = symbols / max(size, 1)
        return cls(max(window, math.ceil(_WINDOW_BYTES * share)), max(segment, math.ceil(_SEGMENT_BYTES * share)))


# Shorter sequences are judged with what stands around them in their document: the end of an answer is often the same.
_LEAST_WINDOWS: Final = 3


@dataclass(frozen=True)
class Places:
    """Where the sequences of a text are in its row; each shape (sequences, 2), of starts and stops.

    Attributes:
        spans: The sequences, in order.
        wider: The same, each with so much of its document around it that it can be judged.
        documents: The document of each.
    """

    spans: Integers
    wider: Integers
    documents: Integers

    @classmethod
    def of(cls, spans: Integers, documents: Integers, passages: Passages) -> Places:
        """Return them with as much around each as `passages` ask for."""
        least = _LEAST_WINDOWS * passages.window
        around = np.maximum(least - (spans[:, 1] - spans[:, 0]) + 1, 0) // 2
        starts = np.minimum(spans[:, 0] - around, documents[:, 1] - least)
        stops = np.maximum(spans[:, 1] + around, documents[:, 0] + least)
        starts, stops = np.minimum(starts, spans[:, 0]), np.maximum(stops, spans[:, 1])
        wider = np.stack([np.maximum(starts, documents[:, 0]), np.minimum(stops, documents[:, 1])], axis=1)
        return cls(spans, wider, documents)

    def some(self, indices: Sequence[int]) -> Places:
        """Return those of some of the sequences."""
        return Places(self.spans[indices], self.wider[indices], self.documents[indices])


def joined(parts: Sequence[Row]) -> Row:
    """Return one row, each part followed by a number of its own, so that no passage crosses two parts."""
    marks = -1 - np.arange(len(parts), dtype=np.int64)
    symbols = [piece for number, part in enumerate(parts) for piece in (part.symbols, marks[number : number + 1])]
    end = np.ones(1, dtype=np.bool_)
    ends = [piece for part in parts for piece in (part.ends, end)]
    row = Row(np.concatenate(symbols), np.concatenate(ends)) if parts else Row.of_ids(np.empty(0, dtype=np.int64))
    row.ends[np.maximum(np.flatnonzero(row.symbols < 0) - 1, 0)] = True
    return row


def windows(symbols: Integers, window: int) -> Hashes:
    """Return a hash of each window, shape (symbols - window + 1,), by joining windows of half the length."""
    single = _mixed(symbols.view(np.uint64))
    hashes, length = single, 1
    for bit in bin(window)[3:]:
        hashes, length = _side_by_side(hashes, hashes, length, length), 2 * length
        if bit == "1":
            hashes, length = _side_by_side(hashes, single, length, 1), length + 1
    return _mixed(hashes)


def _side_by_side(left: Hashes, right: Hashes, length: int, right_length: int) -> Hashes:
    """Return the hashes of windows that begin with those of `left` and end with those of `right`."""
    count = max(0, len(right) - length)
    joint: Hashes = left[:count] * np.uint64(pow(_BASE, right_length, 1 << 64)) + right[length : length + count]
    return joint


def segments(row: Row) -> tuple[Integers, Integers, Hashes]:
    """Return start, length and hash of each sentence or line."""
    if not len(row.symbols):
        return (empty := np.empty(0, dtype=np.int64)), empty, empty.astype(np.uint64)
    starts = np.flatnonzero(np.concatenate([[True], row.ends[:-1]]))
    lengths = np.diff(np.append(starts, len(row.symbols)))
    places = np.arange(len(row.symbols)) - np.repeat(starts, lengths)
    values = _mixed(_mixed(row.symbols.view(np.uint64)) + places.astype(np.uint64))
    return starts, lengths, _mixed(np.add.reduceat(values, starts))


def _mixed(values: Hashes) -> Hashes:
    """Return numbers that have nothing in common even where the values are next to one another (splitmix64)."""
    mixed = values + np.uint64(_BASE)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def firsts(hashes: Hashes) -> Integers:
    """Return for each hash where in the row it stood first."""
    first = np.arange(len(hashes))
    parts = 1 + len(hashes) // PART
    for part in range(parts):
        where = np.flatnonzero(hashes % np.uint64(parts) == part) if parts > 1 else first.copy()
        order = where[np.argsort(hashes[where], kind="stable")]
        is_new = np.concatenate([[True], hashes[order[1:]] != hashes[order[:-1]]])[: len(order)]
        first[order] = order[is_new][np.cumsum(is_new) - 1]
    return first


def shared_by(hashes: Hashes, numbers: Integers, least: float, inside: Flags) -> Flags:
    """Return the hashes that at least so many units have, counting some places only."""
    numbers, within = numbers[inside], hashes[inside]
    order = np.lexsort((numbers, within))
    numbers, within = numbers[order], within[order]
    is_new = np.append(True, (np.diff(numbers) != 0) | (within[1:] != within[:-1]))[: len(within)]
    values, counts = np.unique(within[is_new], return_counts=True)
    shared: Flags = np.isin(hashes, values[counts >= least])
    return shared


def covered(starts: Integers, window: int, size: int) -> Flags:
    """Return which symbols are in one of the windows that begin there."""
    steps = np.zeros(size + 1, dtype=np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, starts + window, -1)
    marked: Flags = np.cumsum(steps[:-1]) > 0
    return marked
