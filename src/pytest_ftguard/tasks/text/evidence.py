"""What of a text is new: copies of earlier passages are not, nor is what stands in the training text.

Texts are compared as rows of words, sequences of token ids as rows of tokens. A passage is a window of these, or a
whole sentence or line, which may be shorter.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pytest_ftguard.tasks.text.passages import (
    PART,
    Flags,
    Hashes,
    Integers,
    Passages,
    Places,
    Row,
    covered,
    firsts,
    joined,
    segments,
    shared_by,
    windows,
)
from pytest_ftguard.tasks.text.words import folded, words_of

__all__ = ["Excerpts", "Search", "common_symbols", "design_effect", "origins"]


# Shorter sequences and documents stand in longer ones by chance.
_LEAST_WHOLE: Final = 8


# So much of a sequence may be new: a few words are, if a copy was cut, numbered or named. But no more than half a
# sentence in one stretch: after a long prompt, a short message is all that counts.
_NEW_SHARE: Final = 0.1


# Windows that follow one another are a passage if there are this many, or if they are nearly the whole sequence. Single
# ones covered 80 % of the blocks of log lines with lines that none of these blocks was made of.
_LEAST_RUN: Final = 2


# Passages that this share of the excerpts has are a form that is filled in: prompts, headers, keys, padding.
_COMMON_SHARE: Final = 0.02


_LEAST_COMMON: Final = 4


# Shifts that differ by less are as one.
_SHIFTS: Final = 64


_FILTER_BITS: Final = 20


def origins(row: Row, places: Places, passages: Passages, labels: Sequence[Hashable] | None = None) -> Integers:
    """Return for each sequence the number of the earlier one that it repeats; its own number if it is new.

    Args:
        row: A whole text.
        places: Where its sequences are.
        passages: What counts as a passage.
        labels: Of each sequence. Equal ones make the later sequence a copy, whatever its symbols are.
    """
    found = _sources(row, places, passages)
    is_new = found == np.arange(len(found))
    known = _known(is_new, np.zeros_like(is_new), places, passages)
    result = np.arange(len(places.spans))
    for number in np.flatnonzero(known):
        start, stop = places.wider[number]
        middle = np.median(found[start:stop][~is_new[start:stop]])
        # A passage that repeats itself within the first sequence has come from nowhere else.
        origin = int(np.searchsorted(places.spans[:, 0], middle, side="right")) - 1
        result[number] = min(int(number), max(0, origin))
    first: dict[Hashable, int] = {}
    for place, label in enumerate(labels or ()):
        result[place] = min(int(result[place]), first.setdefault(label, place))
    return result


def common_symbols(row: Row, places: Places, passages: Passages, units: Integers) -> Flags:
    """Return which symbols of a whole text are in passages that many of its sequences or documents share.

    Args:
        row: The text.
        places: Where its sequences are.
        passages: What counts as a passage.
        units: The number of the document of each sequence, if the text has documents; otherwise its own.
    """
    hashes, (starts, lengths, whole) = windows(row.symbols, passages.window), segments(row)
    begins = np.arange(len(hashes))
    least = max(_LEAST_COMMON, _COMMON_SHARE * len(np.unique(units)))
    spans = places.spans

    def shared(values: Hashes, at: Integers) -> Flags:
        numbers = np.minimum(np.searchsorted(spans[:, 1], at, side="right"), len(spans) - 1)
        return shared_by(values, units[numbers], least, np.ones_like(at, dtype=np.bool_))

    common = covered(begins[shared(hashes, begins)], passages.window, len(row.symbols))
    common |= np.repeat(shared(whole, starts) & (lengths >= passages.segment), lengths)
    return common


def design_effect(origins: Sequence[int] | Integers) -> float:
    """Return how many times larger the variance of a mean is than if all of these sequences were new.

    It is Kish's formula for units of unequal weight: sequences of one origin say the same.
    """
    _, counts = np.unique(np.asarray(origins), return_counts=True)
    return float((counts**2).sum() / counts.sum())


def _sources(row: Row, places: Places, passages: Passages) -> Integers:
    """Return for each symbol where its passage stood first; its own place if the passage is new."""
    numbers = np.arange(len(row.symbols))
    starts, lengths, hashes = segments(row)
    shifts = np.where(lengths >= passages.segment, starts[firsts(hashes)] - starts, 0)
    found: Integers = numbers + np.repeat(shifts, lengths)
    first = firsts(windows(row.symbols, passages.window))
    repeated = np.flatnonzero(first != numbers[: len(first)])
    common = np.zeros(len(row.symbols), dtype=np.bool_)
    repeated = _in_runs(repeated, first[repeated] - repeated, row, common=common, spans=places.spans, passages=passages)
    # The last repeated window that begins at or before each symbol, which may have ended before it.
    latest = np.full(len(row.symbols), -1)
    latest[repeated] = repeated
    latest = np.maximum.accumulate(latest)
    inside = (latest >= 0) & (numbers - latest < passages.window)
    found[inside] = (first[latest[inside]] - latest[inside]) + numbers[inside]
    return found


def _in_runs(
    found: Integers, shifts: Integers, row: Row, *, common: Flags, spans: Integers, passages: Passages
) -> Integers:
    """Return those of some windows that follow one another, but for a few symbols, in a long passage.

    Args:
        found: Where the windows begin.
        shifts: How far each is from where it comes from. A passage comes from one place.
        row: The text.
        common: Which symbols prove nothing.
        spans: The sequences in it.
        passages: What counts as a passage.
    """
    if not len(found):
        return found
    # A few symbols more or less, such as a number in front of each paragraph, leave a passage together.
    kept = [
        _of_one_shift(found, (shifts + more) // _SHIFTS, row, common=common, spans=spans, passages=passages)
        for more in (0, _SHIFTS // 2)
    ]
    together: Integers = np.union1d(*kept)
    return together


def _of_one_shift(
    found: Integers, shifts: Integers, row: Row, *, common: Flags, spans: Integers, passages: Passages
) -> Integers:
    """Return those of some windows that follow one another with the same shift in a long passage."""
    order = np.lexsort((found, shifts))
    found, shifts = found[order], shifts[order]
    documents = np.cumsum(row.symbols < 0)[found]
    is_first = np.diff(found, prepend=found[0]) > passages.window + passages.segment // 2
    is_first |= (np.diff(documents, prepend=-1) != 0) | (np.diff(shifts, prepend=shifts[0]) != 0)
    starts, stops = found[is_first], found[np.append(is_first[1:], True)] + passages.window
    own = spans[_numbers(starts, spans)]
    inside = np.stack([np.maximum(starts, own[:, 0]), np.maximum(np.minimum(stops, own[:, 1]), own[:, 0])], axis=1)
    is_long = stops - starts >= _LEAST_RUN * passages.window
    wanted = np.maximum(_count(~common, own), np.minimum(passages.window, own[:, 1] - own[:, 0]))
    is_long |= _count(~common, inside) >= (1 - _NEW_SHARE) * wanted
    long: Integers = found[is_long[np.cumsum(is_first) - 1]]
    return long


def _numbers(places: Integers, spans: Integers) -> Integers:
    """Return in which sequence some places are: the first that does not end before them."""
    return np.minimum(np.searchsorted(spans[:, 1], places, side="right"), len(spans) - 1)


def _known(new: Flags, common: Flags, places: Places, passages: Passages) -> Flags:
    """Return for each sequence whether hardly any of its symbols are new.

    Args:
        new: Which symbols are.
        common: Which ones prove nothing, because many sequences have them.
        places: Where the sequences are.
        passages: What counts as a passage.
    """
    lengths = places.spans[:, 1] - places.spans[:, 0]
    alone = _is_known(new, common, places.spans, passages) & (2 * lengths >= 3 * passages.window)
    known: Flags = alone | _is_known(new, common, places.wider, passages)
    return known


def _is_known(new: Flags, common: Flags, spans: Integers, passages: Passages) -> Flags:
    half = passages.segment // 2
    new = new & ~common
    sums = np.concatenate([[0], np.cumsum(new)])
    stretches = sums[half + 1 :] - sums[: -half - 1] > half
    last = np.maximum(spans[:, 1] - half, spans[:, 0])
    is_broken = _count(stretches, np.stack([spans[:, 0], last], axis=1)) > 0
    own = _count(~common, spans)
    enough = own >= np.minimum(passages.segment, spans[:, 1] - spans[:, 0])
    known: Flags = ~is_broken & (_count(new, spans) <= _NEW_SHARE * own) & enough & (own > 0)
    return known


def _count(marked: Flags, spans: Integers) -> Integers:
    """Return how many symbols of each sequence are marked."""
    sums = np.concatenate([[0], np.cumsum(marked)])
    counts: Integers = sums[np.minimum(spans[:, 1], len(marked))] - sums[np.minimum(spans[:, 0], len(marked))]
    return counts


@dataclass(frozen=True)
class Excerpts:
    """Sequences of an evaluation text with what stands around them, to be looked for in training data.

    Attributes:
        row: Each sequence with what it is judged by and nearly a window before and after it, joined.
        places: Where the sequences are.
        passages: What counts as a passage.
        begins: Where each of them begins in the row.
        units: The number of the document of each, if the text has documents; otherwise its own.
        ids: The token ids of each sequence, as bytes.
        labels: The folded document of each sequence, if the text has documents.
        has_words: Whether the symbols are words.
        common: Which symbols many sequences of the whole text share, those that are not among these included.
    """

    row: Row
    places: Places
    passages: Passages
    begins: Integers
    units: Integers
    ids: tuple[bytes, ...]
    labels: tuple[str, ...] = ()
    has_words: bool = True
    common: Flags = field(default_factory=lambda: np.zeros(1, dtype=np.bool_))

    @classmethod
    def of(
        cls,
        row: Row,
        places: Places,
        passages: Passages,
        ids: Iterable[Integers] = (),
        labels: tuple[str, ...] = (),
        *,
        has_words: bool = True,
        common: Flags | None = None,
    ) -> Excerpts:
        """Return those of a whole text."""
        reach = passages.window - 1
        starts = np.maximum(places.wider[:, 0] - reach, 0)
        parts = [row.part(start, stop + reach) for start, stop in zip(starts, places.wider[:, 1], strict=True)]
        begins = np.cumsum([0, *(len(part.symbols) + 1 for part in parts[:-1])])[: len(parts)]
        shifts = (begins - starts)[:, None]
        shifted = Places(places.spans + shifts, places.wider + shifts, places.documents + shifts)
        rows = tuple(sequence.tobytes() for sequence in ids)
        units = np.unique(places.documents[:, 0], return_inverse=True)[1] if labels else np.arange(len(parts))
        whole = np.zeros(len(row.symbols), dtype=np.bool_) if common is None else common
        pieces = [whole[start : start + len(part.symbols)] for start, part in zip(starts, parts, strict=True)]
        shared = np.concatenate([np.append(piece, False) for piece in pieces]) if pieces else whole
        return cls(joined(parts), shifted, passages, begins, units, rows, labels, has_words, shared)


class Search:
    """Looks for the passages of some excerpts in training data, piece by piece."""

    def __init__(self, excerpts: Excerpts) -> None:
        self._excerpts = excerpts
        self._windows = windows(excerpts.row.symbols, excerpts.passages.window)
        self._segments = segments(excerpts.row)
        self._wanted = np.unique(np.concatenate([self._windows, self._segments[2]]))
        self._found = np.zeros(len(self._wanted), dtype=np.bool_)
        self._labels: set[str] = set()
        self._ids = set(excerpts.ids)
        self._rows: set[bytes] = set()
        # Those that have no window: their content, and how it begins.
        self._short = dict.fromkeys(_short(excerpts), False)
        self._lengths = sorted({len(content) // 8 for content in self._short})
        begins = [
            windows(np.frombuffer(content, dtype=np.int64)[:_LEAST_WHOLE], _LEAST_WHOLE) for content in self._short
        ]
        self._begins = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *begins]))
        # The first bits of most passages of the training data show that they are none of these.
        self._may_be = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
        for hashes in (self._wanted, self._begins):
            self._may_be[_first_bits(hashes)] = True

    @property
    def has_words(self) -> bool:
        """Whether it takes texts."""
        return self._excerpts.has_words

    def see(self, row: Row) -> None:
        """Look for them in one piece of the training data."""
        passages = self._excerpts.passages
        for start in range(0, len(row.symbols), PART):
            part = row.part(start, start + PART + passages.window - 1)
            _, lengths, hashes = segments(part)
            for each in (windows(part.symbols, passages.window), hashes[lengths >= passages.segment]):
                self._found |= np.isin(self._wanted, each[self._may_be[_first_bits(each)]])
            if self._short:
                self._see_short(part.symbols)

    def _see_short(self, symbols: Integers) -> None:
        hashes = windows(symbols, _LEAST_WHOLE)
        for start in np.flatnonzero(self._may_be[_first_bits(hashes)] & np.isin(hashes, self._begins)).tolist():
            for length in self._lengths:
                content = symbols[start : start + length].tobytes()
                if content in self._short:
                    self._short[content] = True

    def see_rows(self, rows: Sequence[Integers], texts: Sequence[str] = ()) -> None:
        """Look for them in the rows of a batch, which may be whole sequences with others before and after them.

        Args:
            rows: Token ids of each row.
            texts: The same, decoded, if the excerpts are of words.
        """
        self.see(words_of(texts) if self._excerpts.has_words else Row.of_ids(np.concatenate(rows)))
        for row in rows:
            ways = (row, row[1:], row[:-1], row[1:-1])
            self._rows |= self._ids.intersection(way.tobytes() for way in ways)

    def see_documents(self, documents: Iterable[str]) -> None:
        """Look for whole documents among those of the training data, and among their lines."""
        wanted = set(self._excerpts.labels)
        for document in documents if wanted else ():
            self._labels |= wanted.intersection(map(folded, (document, *document.split("\n"))))

    def is_found(self) -> Flags:
        """Return for each sequence whether it was among what was seen."""
        row, places, passages = self._excerpts.row, self._excerpts.places, self._excerpts.passages
        wanted = self._wanted[self._found]
        starts, lengths, hashes = self._segments
        common = self._covered(np.flatnonzero(self._is_common(self._windows, np.arange(len(self._windows)))))
        common |= np.repeat(self._is_common(hashes, starts) & (lengths >= passages.segment), lengths)
        common |= self._excerpts.common  # also of sequences that were left out as copies
        # A window of a form that reaches a little beyond it stands in many texts.
        begins = np.arange(len(self._windows))
        own = _count(~common, np.stack([begins, begins + passages.window], axis=1))
        found = np.flatnonzero(np.isin(self._windows, wanted) & (2 * own >= passages.window))
        runs = _in_runs(found, np.zeros_like(found), row, common=common, spans=places.spans, passages=passages)
        seen = self._covered(runs) | np.repeat(np.isin(hashes, wanted), lengths)
        result = _known(~seen, common, places, passages)
        for each, known in ((self._excerpts.ids, self._rows), (self._excerpts.labels, self._labels)):
            result |= np.array([one in known for one in each] or [False])
        short = {content for content, is_seen in self._short.items() if is_seen}
        result |= np.array([content in short for content in _contents(self._excerpts)])
        return result

    def _covered(self, starts: Integers) -> Flags:
        return covered(starts, self._excerpts.passages.window, len(self._excerpts.row.symbols))

    def _is_common(self, hashes: Hashes, starts: Integers) -> Flags:
        """Return for each passage whether many sequences have it."""
        excerpts = self._excerpts
        numbers = np.searchsorted(excerpts.begins, starts, side="right") - 1
        # What stands around a sequence of one long text is, in part, another sequence.
        inside = (starts >= excerpts.places.spans[numbers, 0]) & (starts < excerpts.places.spans[numbers, 1])
        inside |= len(excerpts.labels) > 0
        least = max(_LEAST_COMMON, _COMMON_SHARE * len(np.unique(excerpts.units)))
        return shared_by(hashes, excerpts.units[numbers], least, inside)


def _contents(excerpts: Excerpts) -> list[bytes]:
    """Return the symbols of each sequence, as bytes."""
    return [excerpts.row.symbols[start:stop].tobytes() for start, stop in excerpts.places.spans.tolist()]


def _short(excerpts: Excerpts) -> list[bytes]:
    """Return the whole documents that are shorter than a window, but not too short."""
    spans, documents = excerpts.places.spans, excerpts.places.documents
    lengths = spans[:, 1] - spans[:, 0]
    is_short = (lengths >= _LEAST_WHOLE) & (lengths < excerpts.passages.window) & (spans == documents).all(axis=1)
    return [content for content, wanted in zip(_contents(excerpts), is_short, strict=True) if wanted]


def _first_bits(hashes: Hashes) -> Integers:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)
