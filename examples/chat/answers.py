"""How well a model answers: its own words next to those of the conversation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_ftguard import generate

# Nine of ten answers are shorter.
MOST_TOKENS = 24


def agreement(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return for each conversation whether the answer is the expected one, and the F1 of its words.

    The F1 of words is that of SQuAD (Rajpurkar et al., 2016): the harmonic mean of the share of the model's words that
    are expected, and of the share of the expected words that it gives.
    """
    written = generate(model, tokenizer, [row["prompt"] for row in rows], max_new_tokens=MOST_TOKENS)
    pairs = [(words(text), words(row["completion"][0]["content"])) for text, row in zip(written, rows, strict=True)]
    return {
        "exact_match": [float(ours == expected) for ours, expected in pairs],
        "token_f1": [f1(ours, expected) for ours, expected in pairs],
    }


def words(text: str) -> list[str]:
    """Return the words of a text, in small letters and without signs."""
    return re.findall(r"\w+", text.lower())


def f1(ours: Sequence[str], expected: Sequence[str]) -> float:
    """Return the F1 of two lists of words: 1 if both have the same ones, 0 if they share none."""
    shared = sum((Counter(ours) & Counter(expected)).values())
    return 2 * shared / (len(ours) + len(expected)) if ours or expected else 1.0
