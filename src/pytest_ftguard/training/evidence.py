"""What of a text is new: copies of earlier passages are not, nor is what stands in the training text.

A passage is a window of tokens, or a whole sentence or line, which may be shorter. It is found again by its hash.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Excerpts", "Integers", "Passages", "Search", "design_effect", "folded", "joined", "origins"]

Integers = NDArray[np.int64]
_Flags = NDArray[np.bool_]
_Hashes = NDArray[np.uint64]

# Texts that have nothing else in common share shorter ones. Windows of 48 bytes found 40 % of the 64-byte blocks of
# sentences made by a small grammar in a training text that held none of these sentences; windows of 64 found 0.2 %.
_WINDOW_BYTES: Final = 64
# Half a line of code is often repeated, a whole one seldom.
_SEGMENT_BYTES: Final = 32
_LEAST_TOKENS: Final = 4
# Shorter sequences stand in longer rows by chance.
_LEAST_WHOLE: Final = 8
# So many of a sequence's tokens must be known for the sequence to be. A copy that was cut elsewhere loses a few.
# However long it is, no more than half a segment may be new: behind a long prompt, a short message is all that counts.
_KNOWN_SHARE: Final = 0.9
# Windows that follow one another are a passage if they are so many windows long, or nearly the whole sequence. Single
# ones covered 80 % of the blocks of log lines with lines that none of these blocks was made of.
_LEAST_RUN: Final = 2
# Passages that so many of the excerpts have are a form that is filled in: prompts, headers, keys, padding.
_COMMON_SHARE: Final = 0.02
_LEAST_COMMON: Final = 4
# Tokens that are sorted or searched at once, so that long texts take time and not memory.
_PART: Final = 1 << 22
_BASE: Final = 0x9E3779B97F4A7C15
_FILTER_BITS: Final = 20
# What a list or a quotation puts before each of its items, and a numbered copy at its end. Other numbers say something.
_MARKS: Final = re.compile(r"^(?:(?:[-*>#\u2022]+|[(\[]?#?\d+[.)\]]) )+| (?:#\d+|\(#?\d+\))$")


@dataclass(frozen=True)
class Passages:
    """What counts as a passage of a text.

    Attributes:
        window: Tokens of a passage that may begin anywhere.
        segment: Least number of tokens of a sentence or line.
        ends: Tokens that end a sentence or line.
    """

    window: int
    segment: int
    ends: Integers

    @classmethod
    def of_text(cls, tokens: int, size: int, ends: Iterable[int] = ()) -> Passages:
        """Return what counts in a text of so many tokens and bytes."""
        window, segment = (
            max(_LEAST_TOKENS, math.ceil(length * tokens / max(size, 1))) for length in (_WINDOW_BYTES, _SEGMENT_BYTES)
        )
        return cls(window, segment, np.array(sorted(ends), dtype=np.int64))


def folded(document: str) -> str:
    """Return what stays of a document if case, spaces, and the marks and numbers of a list are left out.

    Marks are kept if hardly anything else would stay.
    """
    text = " ".join(unicodedata.normalize("NFKC", document).casefold().split())
    bare = _MARKS.sub("", text)
    return bare if 2 * len(bare) >= len(text) else text


def joined(parts: Sequence[Integers]) -> Integers:
    """Return all tokens in one row, each part followed by a number of its own, so that no passage crosses two parts."""
    ends = -1 - np.arange(len(parts), dtype=np.int64)
    pieces = [piece for number, part in enumerate(parts) for piece in (part, ends[number : number + 1])]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)


def origins(
    tokens: Integers, spans: Integers, passages: Passages, labels: Sequence[Hashable] | None = None
) -> Integers:
    """Return for each sequence the number of the earlier one that it repeats; its own number if it is new.

    Args:
        tokens: A whole text, as `joined` makes it.
        spans: Start and stop of each sequence in it, in order.
        passages: What counts as a passage.
        labels: Of each sequence. Equal ones make the later sequence a copy, whatever its tokens are.
    """
    found = _sources(tokens, passages)
    is_repeated = found != np.arange(len(found))
    known = _known(is_repeated, spans, passages.segment)
    result = np.arange(len(spans))
    for number in np.flatnonzero(known):
        start, stop = spans[number]
        middle = np.median(found[start:stop][is_repeated[start:stop]])
        # A passage that repeats itself within the first sequence has come from nowhere else.
        result[number] = min(int(number), max(0, int(np.searchsorted(spans[:, 0], middle, side="right")) - 1))
    first: dict[Hashable, int] = {}
    for place, label in enumerate(labels or ()):
        result[place] = min(int(result[place]), first.setdefault(label, place))
    return result


def design_effect(origins: Sequence[int] | Integers) -> float:
    """Return how many times larger the variance of a mean is than that of so many sequences that are all new.

    It is Kish's formula for units of unequal weight: sequences of one origin say the same.
    """
    _, counts = np.unique(np.asarray(origins), return_counts=True)
    return float((counts**2).sum() / counts.sum())


def _sources(tokens: Integers, passages: Passages) -> Integers:
    """Return for each token where its passage stood first; its own place if the passage is new."""
    places = np.arange(len(tokens))
    starts, lengths, hashes = _segments(tokens, passages)
    shifts = np.where(lengths >= passages.segment, starts[_first(hashes)] - starts, 0)
    found: Integers = places + np.repeat(shifts, lengths)
    first = _first(_windows(tokens, passages.window))
    if len(first):
        numbers = np.arange(len(first))
        # The last repeated window that begins at or before each token, which may have ended before it.
        latest = np.full(len(tokens), -1)
        latest[: len(first)] = np.where(first != numbers, numbers, -1)
        latest = np.maximum.accumulate(latest)
        inside = (latest >= 0) & (places - latest < passages.window)
        found[inside] = (first[latest[inside]] - latest[inside]) + places[inside]
    return found


def _known(marked: _Flags, spans: Integers, segment: int) -> _Flags:
    """Return for each sequence whether nearly all of its tokens are marked."""
    lengths = spans[:, 1] - spans[:, 0]
    known: _Flags = lengths - _count(marked, spans) <= _most_new(lengths, segment)
    return known


def _most_new(lengths: Integers, segment: int) -> NDArray[np.float64]:
    most: NDArray[np.float64] = np.minimum((1 - _KNOWN_SHARE) * lengths, segment / 2)
    return most


def _count(marked: _Flags, spans: Integers) -> Integers:
    """Return how many tokens of each sequence are marked."""
    sums = np.concatenate([[0], np.cumsum(marked)])
    counts: Integers = sums[spans[:, 1]] - sums[spans[:, 0]]
    return counts


@dataclass(frozen=True)
class Excerpts:
    """Sequences of an evaluation text with what stands around them, to be looked for in training data.

    Attributes:
        tokens: Each sequence with nearly a window before and behind it, joined.
        spans: Start and stop of each sequence.
        passages: What counts as a passage.
        labels: The folded document of each sequence, if the text has documents.
    """

    tokens: Integers
    spans: Integers
    passages: Passages
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokens: Integers, spans: Integers, passages: Passages, labels: tuple[str, ...] = ()) -> Excerpts:
        """Return those of a text that `joined` made."""
        reach = passages.window - 1
        starts = np.maximum(spans[:, 0] - reach, 0)
        parts = [tokens[start : stop + reach] for start, stop in zip(starts, spans[:, 1], strict=True)]
        places = np.cumsum([0, *(len(part) + 1 for part in parts[:-1])])[: len(parts)]
        return cls(joined(parts), spans + (places - starts)[:, None], passages, labels)


class Search:
    """Looks for the passages of some excerpts in training data, piece by piece."""

    def __init__(self, excerpts: Excerpts) -> None:
        self._excerpts = excerpts
        self._windows = _windows(excerpts.tokens, excerpts.passages.window)
        self._segments = _segments(excerpts.tokens, excerpts.passages)
        self._wanted = np.unique(np.concatenate([self._windows, self._segments[2]]))
        self._found = np.zeros(len(self._wanted), dtype=np.bool_)
        self._labels: set[str] = set()
        self._sequences = set(self._bytes_of_sequences())
        self._rows: set[bytes] = set()
        self._inside = np.zeros(len(excerpts.spans), dtype=np.bool_)
        self._short = tuple(_whole(excerpts))
        # By their first bits most passages of the training data are told to be none of these.
        self._may_be = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
        for wanted in (self._wanted, *(hashes for _, _, hashes in self._short)):
            self._may_be[_first_bits(wanted)] = True

    def see(self, tokens: Integers) -> None:
        """Look for them in one piece of the training data."""
        passages = self._excerpts.passages
        for start in range(0, len(tokens), _PART):
            part = tokens[start : start + _PART + passages.window - 1]
            _, lengths, segments = _segments(part, passages)
            for hashes in (_windows(part, passages.window), segments[lengths >= passages.segment]):
                self._found |= np.isin(self._wanted, hashes[self._may_be[_first_bits(hashes)]])

    def see_rows(self, rows: Sequence[Integers]) -> None:
        """Look for them in the rows of a batch, which may be whole sequences with others before and behind them."""
        joint = np.concatenate(rows)
        self.see(joint)
        for length, numbers, wanted in self._short:
            hashes = _windows(joint, length)
            self._inside[numbers] |= np.isin(wanted, hashes[self._may_be[_first_bits(hashes)]])
        for row in rows:
            ways = (row, row[1:], row[:-1], row[1:-1])
            self._rows |= self._sequences.intersection(way.tobytes() for way in ways)

    def see_documents(self, documents: Iterable[str]) -> None:
        """Look for whole documents among those of the training data, and among their lines."""
        wanted = set(self._excerpts.labels)
        for document in documents if wanted else ():
            self._labels |= wanted.intersection(map(folded, (document, *document.split("\n"))))

    def is_found(self) -> _Flags:
        """Return for each sequence whether it was among what was seen."""
        spans, segment = self._excerpts.spans, self._excerpts.passages.segment
        wanted = self._wanted[self._found]
        starts, lengths, segments = self._segments
        windows = np.flatnonzero(np.isin(self._windows, wanted))
        seen = self._covered(*self._runs(windows)) | np.repeat(np.isin(segments, wanted), lengths)
        often = np.flatnonzero(self._is_common(self._windows, np.arange(len(self._windows))))
        common = self._covered(often, often + self._excerpts.passages.window)
        common |= np.repeat(self._is_common(segments, starts) & (lengths >= segment), lengths)
        own = _count(~common, spans)
        new = own - _count(seen & ~common, spans)
        # What stands in many sequences proves nothing, so enough else must have been found.
        known = (new <= _most_new(own, segment)) & (own >= np.minimum(segment, spans[:, 1] - spans[:, 0]))
        is_whole = [sequence in self._rows for sequence in self._bytes_of_sequences()]
        is_document = [label in self._labels for label in self._excerpts.labels] or [False]
        found: _Flags = known | self._inside | np.array(is_whole) | np.array(is_document)
        return found

    def _runs(self, windows: Integers) -> tuple[Integers, Integers]:
        """Return starts and stops of the long passages that some windows make up."""
        window, spans = self._excerpts.passages.window, self._excerpts.spans
        is_first = np.diff(windows, prepend=-2) > 1
        starts = windows[is_first]
        stops = windows[np.append(is_first[1:], True)[: len(windows)]] + window
        own = spans[self._numbers(starts)]
        inside = np.minimum(stops, own[:, 1]) - np.maximum(starts, own[:, 0])
        is_long = (stops - starts >= _LEAST_RUN * window) | (inside >= _KNOWN_SHARE * (own[:, 1] - own[:, 0]))
        return starts[is_long], stops[is_long]

    def _numbers(self, places: Integers) -> Integers:
        """Return in which sequence some passages are: the first that does not end before them."""
        numbers = np.searchsorted(self._excerpts.spans[:, 1], places, side="right")
        return np.minimum(numbers, len(self._excerpts.spans) - 1)

    def _covered(self, starts: Integers, stops: Integers) -> _Flags:
        steps = np.zeros(len(self._excerpts.tokens) + 1, dtype=np.int64)
        np.add.at(steps, starts, 1)
        np.add.at(steps, stops, -1)
        covered: _Flags = np.cumsum(steps[:-1]) > 0
        return covered

    def _is_common(self, hashes: _Hashes, places: Integers) -> _Flags:
        """Return for each passage whether many sequences have it."""
        numbers = self._numbers(places)
        # What stands before a sequence is, in part, the end of the one before.
        inside = places >= self._excerpts.spans[numbers, 0]
        numbers, within = numbers[inside], hashes[inside]
        order = np.lexsort((numbers, within))
        numbers, within = numbers[order], within[order]
        is_new = np.append(True, (np.diff(numbers) != 0) | (within[1:] != within[:-1]))[: len(within)]
        values, counts = np.unique(within[is_new], return_counts=True)
        least = max(_LEAST_COMMON, _COMMON_SHARE * len(self._excerpts.spans))
        common: _Flags = np.isin(hashes, values[counts >= least])
        return common

    def _bytes_of_sequences(self) -> Iterator[bytes]:
        return (self._excerpts.tokens[start:stop].tobytes() for start, stop in self._excerpts.spans.tolist())


def _whole(excerpts: Excerpts) -> Iterator[tuple[int, Integers, _Hashes]]:
    """Yield each length that is shorter than a window, and which sequences have it, with their hashes."""
    lengths = excerpts.spans[:, 1] - excerpts.spans[:, 0]
    for length in np.unique(lengths).tolist():
        if _LEAST_WHOLE <= length < excerpts.passages.window:
            numbers = np.flatnonzero(lengths == length)
            yield length, numbers, _windows(excerpts.tokens, length)[excerpts.spans[numbers, 0]]


def _first_bits(hashes: _Hashes) -> Integers:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)


def _windows(tokens: Integers, window: int) -> _Hashes:
    """Return a hash of each window, shape (tokens - window + 1,), by joining windows of half the length."""
    single = _mixed(tokens.view(np.uint64))
    hashes, length = single, 1
    for bit in bin(window)[3:]:
        hashes, length = _side_by_side(hashes, hashes, length, length), 2 * length
        if bit == "1":
            hashes, length = _side_by_side(hashes, single, length, 1), length + 1
    return _mixed(hashes)


def _side_by_side(left: _Hashes, right: _Hashes, length: int, right_length: int) -> _Hashes:
    """Return the hashes of windows that begin with those of `left` and end with those of `right`."""
    count = max(0, len(right) - length)
    joint: _Hashes = left[:count] * np.uint64(pow(_BASE, right_length, 1 << 64)) + right[length : length + count]
    return joint


def _segments(tokens: Integers, passages: Passages) -> tuple[Integers, Integers, _Hashes]:
    """Return start, length and hash of each sentence or line; what ends it may differ from one copy to another."""
    if not len(tokens):
        return (empty := np.empty(0, dtype=np.int64)), empty, empty.astype(np.uint64)
    is_end = (tokens < 0) | np.isin(tokens, passages.ends)
    starts = np.flatnonzero(np.concatenate([[True], is_end[:-1]]))
    lengths = np.diff(np.append(starts, len(tokens)))
    places = np.arange(len(tokens)) - np.repeat(starts, lengths)
    values = _mixed(_mixed(tokens.view(np.uint64)) + places.astype(np.uint64))
    hashes = np.add.reduceat(np.where(is_end, np.uint64(0), values), starts)
    return starts, lengths, _mixed(hashes)


def _mixed(values: _Hashes) -> _Hashes:
    """Return numbers that have nothing in common even where the values are next to one another (splitmix64)."""
    mixed = values + np.uint64(_BASE)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _first(hashes: _Hashes) -> Integers:
    """Return for each hash where in the row it stood first."""
    first = np.arange(len(hashes))
    parts = 1 + len(hashes) // _PART
    for part in range(parts):
        where = np.flatnonzero(hashes % np.uint64(parts) == part) if parts > 1 else first.copy()
        order = where[np.argsort(hashes[where], kind="stable")]
        is_new = np.concatenate([[True], hashes[order[1:]] != hashes[order[:-1]]])[: len(order)]
        first[order] = order[is_new][np.cumsum(is_new) - 1]
    return first
