"""The batches of a training that is not ours are searched for the evaluation texts, outside of its timed steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pytest_ftguard.tasks.causal_lm.data import EvaluationSet
from pytest_ftguard.tasks.text.evidence import Search
from pytest_ftguard.tasks.text.passages import Integers
from pytest_ftguard.tasks.text.tokens import decoded

__all__ = ["BatchSearch"]


class BatchSearch:
    """Counts which sequences were trained on, batch by batch.

    Args:
        texts: The evaluation texts, by their role.
        tokenizer: Tokenizer of transformers; None if all of them are token ids.
    """

    def __init__(self, texts: Mapping[str, EvaluationSet], tokenizer: Any) -> None:
        self._searches = {role: Search(text.excerpts) for role, text in texts.items() if text.excerpts is not None}
        self._tokenizer = tokenizer
        self._rows: list[Integers] = []

    def note(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Keep the rows of a batch, without what fills them up."""
        rows = ids.detach().cpu().long().reshape(-1, ids.shape[-1])
        if mask is None or mask.shape != ids.shape:
            self._rows += list(rows.numpy())
        else:
            kept = mask.detach().cpu().reshape(rows.shape) > 0
            self._rows += [row[real].numpy() for row, real in zip(rows, kept, strict=True)]

    def search(self) -> None:
        """Look for the texts in what was noted since the last search."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        has_words = any(search.has_words for search in self._searches.values())
        texts = decoded(rows, self._tokenizer, mark=True) if has_words else []
        for search in self._searches.values():
            search.see_rows(rows, texts)

    def count(self, role: str) -> int:
        """Return how many sequences of a text were found."""
        self.search()
        return int(self._searches[role].is_found().sum()) if role in self._searches else 0
