"""Batches of training examples that are all of one length, as `Task` makes them unless a task says otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["blank", "stacked"]


def stacked(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return a batch of examples of one length, shape (examples, tokens) for each name."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def blank(batch_size: int, block_size: int) -> dict[str, Tensor]:
    """Return a batch of token ids 0 and as many labels."""
    ids = torch.zeros((batch_size, block_size), dtype=torch.int64)
    return {"input_ids": ids, "labels": ids.clone()}  # the collator stacks each by itself
