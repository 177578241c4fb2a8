"""Texts become rows of words: a passage stays the same, however it was wrapped, marked, quoted or capitalised."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Final

import numpy as np

from pytest_ftguard.tasks.text.passages import Integers, Row

__all__ = ["folded", "pieces", "spans_of", "words_of"]

# Tokenizers slow down on one huge string; pieces of whole lines keep them fast and change no token but at their seams.
_PIECE_CHARACTERS: Final = 100_000
# Words that are turned into numbers at once.
_PART: Final = 1 << 18
# Scripts that put no spaces between words: South-East Asian ones, Japanese and Chinese. There a letter is a word.
_UNSPACED: Final = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_ENDS: Final = ("\n", ".", "!", "?", ";", "\u3002")
_WORD: Final = re.compile(rf"[^\W_{_UNSPACED}]+|[{_UNSPACED}]|\n|[.!?;\u3002](?!\w)")
# Longer ones are no words: sequences of bases, digests, or a script that is not named above.
_LONGEST: Final = 32
_BETWEEN: Final = "\0"
# A hyphen within a word, also one at the end of a line; what may stand before the next line is that of a quotation.
_HYPHEN: Final = re.compile(r"(?<=\w)[-\u00ad\u2010\u2011](?:[ \t]*\n[ \t>|#*/]*)?(?=\w)")
# The number of an item in a list. Its other marks are no words.
_ITEM: Final = re.compile(r"^[ \t>*#+\u2022-]*[(\[]?(?:\d{1,4}|[a-z])[.)\]][ \t]+", re.MULTILINE)
# The number of a line, as editors and `cat -n` show it, and the time of a line in a transcript.
_LINE_NUMBER: Final = re.compile(r"^[ \t]*(\d{1,7})(?::|[ \t])[ \t]*", re.MULTILINE)
_TIME: Final = re.compile(r"^[ \t]*[\[(]?\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,3})?)?[\])]?[ \t]+", re.MULTILINE)
_LEAST_NUMBERED: Final = 5
# What a list or a quotation puts before each of its items, and a numbered copy at its end. Other numbers say something.
_MARKS: Final = re.compile(r"^(?:(?:[-*>#\u2022]+|[(\[]?#?\d+[.)\]]) )+| (?:#\d+|\(#?\d+\))$")
# A sequence is looked for this many letters before and after its expected place: some tokenizers lose a few.
_SLACK: Final = 64


def folded(document: str) -> str:
    """Return what stays of a document if case, spaces, and the marks and numbers of a list are left out.

    Marks are kept if hardly anything else would stay.
    """
    text = " ".join(unicodedata.normalize("NFKC", document).casefold().split())
    bare = _MARKS.sub("", text)
    return bare if 2 * len(bare) >= len(text) else text


def words_of(documents: Iterable[str]) -> Row:
    """Return the words of some documents in one row, as `joined` makes it."""
    symbols, ends = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.bool_)]
    for items in _parts(documents):
        hashes = np.fromiter(map(hash, items), dtype=np.int64, count=len(items))
        is_between = hashes == hash(_BETWEEN)
        is_end = np.isin(hashes, [hash(end) for end in _ENDS])
        last = np.cumsum(~is_end)[is_end | is_between] - 1 - is_between[is_end | is_between]
        row = Row((hashes & np.iinfo(np.int64).max)[~is_end], is_between[~is_end])
        row.ends[last[last >= 0]] = True
        row.symbols[is_between[~is_end]] = -1
        symbols.append(row.symbols)
        ends.append(row.ends)
    result = Row(np.concatenate(symbols), np.concatenate(ends))
    between = np.flatnonzero(result.symbols < 0)
    result.symbols[between] = -1 - np.arange(len(between))
    return result


def spans_of(document: str, sequences: Sequence[str]) -> Integers:
    """Return start and stop of each sequence among the words of its document, shape (sequences, 2).

    A word that was cut in two belongs to the sequence that it begins in.

    Args:
        document: The text.
        sequences: It, cut, as a tokenizer decodes it.
    """
    words = _words(document)
    letters = "".join(words)
    begins = np.cumsum([0, *map(len, words)])[:-1]
    bounds, place = [], 0
    for sequence in sequences:
        own = "".join(_words(sequence))
        if not letters.startswith(own, place):
            found = letters.find(own, max(place - _SLACK, 0), place + len(own) + _SLACK)
            place = found if found >= 0 else place
        bounds.append((place, place := place + len(own)))
    return np.searchsorted(begins, np.array(bounds, dtype=np.int64).reshape(-1, 2))


def pieces(text: str) -> Iterator[str]:
    """Yield a text in pieces of whole lines."""
    start = 0
    while start < len(text):
        end = start + _PIECE_CHARACTERS
        newline = text.rfind("\n", start, end) if end < len(text) else -1
        end = newline + 1 if newline >= start else end
        yield text[start:end]
        start = end


def _words(text: str) -> list[str]:
    return [item for piece in pieces(text) for item in _items(piece) if item not in _ENDS]


def _parts(documents: Iterable[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for document in documents:
        for piece in pieces(document):
            part += _items(piece)
            if len(part) > _PART:
                yield part
                part = []
        part.append(_BETWEEN)
    yield part


def _items(text: str) -> list[str]:
    """Return the words of a text, and what ends its sentences and lines."""
    text = unicodedata.normalize("NFKC", html.unescape(text)).casefold()
    items = _WORD.findall(_ITEM.sub("", _HYPHEN.sub("", _without_line_marks(text))))
    if max(map(len, items), default=0) > _LONGEST:
        items = list(chain.from_iterable(item if len(item) > _LONGEST else (item,) for item in items))
    return items


def _without_line_marks(text: str) -> str:
    """Return a text without the times of its lines, and without numbers that count lines one after the other."""
    text = _TIME.sub("", text)
    found = list(_LINE_NUMBER.finditer(text))
    numbers = [int(one[1]) for one in found]
    counts = [later - earlier == 1 for earlier, later in pairwise(numbers)]
    ends = [0, *(place + 1 for place, goes_on in enumerate(counts) if not goes_on), len(found)]
    marks = [one for start, stop in pairwise(ends) if stop - start >= _LEAST_NUMBERED for one in found[start:stop]]
    if not marks:
        return text
    bounds = [0, *(bound for mark in marks for bound in mark.span()), len(text)]
    return "".join(text[start:stop] for start, stop in zip(bounds[::2], bounds[1::2], strict=True))
