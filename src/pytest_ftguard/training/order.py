"""In which order a training saw its batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from torch import Tensor

__all__ = ["Batch", "OrderedCollator"]

Batch = dict[str, Tensor]


class OrderedCollator:
    """Makes batches, and remembers in a digest which of them were made in which order.

    Args:
        collate: Makes a batch of training examples.
        order: Digest of the batches that an earlier process has trained on; empty if this is the first.
    """

    def __init__(self, collate: Callable[[Sequence[Batch]], Batch], order: str = "") -> None:
        self._collate = collate
        self._orders = [order]

    def __call__(self, items: Sequence[Batch]) -> Batch:
        """Return a batch."""
        batch = self._collate(items)
        # A chain rather than one digest, so that another process can go on with it.
        chained = bytes.fromhex(self._orders[-1]) + batch["input_ids"].numpy().tobytes() + _labels(batch)
        self._orders.append(hashlib.sha256(chained).hexdigest())
        return batch

    @property
    def order(self) -> str:
        """Chained SHA-256 of all batches made so far."""
        return self._orders[-1]

    def order_after(self, batches: int) -> str:
        """Return the digest after a number of batches of this process: more may have been made ahead of their use."""
        return self._orders[batches]


def _labels(batch: Batch) -> bytes:
    """Return the labels of a batch if they say more than its token ids: which of them the loss is taken of."""
    ids, labels = batch["input_ids"], batch.get("labels")
    return b"" if labels is None or labels.equal(ids) else labels.numpy().tobytes()
