"""In which order a training saw its batches, and of how many of their tokens the loss was taken."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from pytest_ftguard.errors import ConfigurationError

__all__ = ["Batch", "OrderedCollator"]

Batch = dict[str, Tensor]

_IGNORED: Final = -100


class OrderedCollator:
    """Makes batches, and remembers in a digest which of them were made in which order.

    Args:
        collate: Makes a batch of training examples.
        earlier: What an earlier process has `seen` of this training; None if this is the first.

    Attributes:
        largest: Number of examples in the largest batch.
    """

    def __init__(self, collate: Callable[[Sequence[Batch]], Batch], earlier: Mapping[str, Any] | None = None) -> None:
        self._collate = collate
        self._orders: list[str] = [earlier["order"] if earlier else ""]
        self._supervised: list[int | None] = [earlier["supervised"] if earlier else 0]
        self.largest = 0

    def __call__(self, items: Sequence[Batch]) -> Batch:
        """Return a batch.

        Raises:
            ConfigurationError: No token of it counts: its loss would be 0, or no number.
        """
        batch = self._collate(items)
        self.largest = max(self.largest, len(items))
        # A chain rather than one digest, so that another process can go on with it.
        chained = bytes.fromhex(self._orders[-1]) + batch["input_ids"].numpy().tobytes() + _labels(batch)
        self._orders.append(hashlib.sha256(chained).hexdigest())
        before, count = self._supervised[-1], _supervised(batch)
        if count == 0:
            message = (
                f"no token of training batch {len(self._supervised)} counts: its labels are all {_IGNORED}, so its "
                "loss would be 0, or no number; look at what masks the labels"
            )
            raise ConfigurationError(message)
        self._supervised.append(None if before is None or count is None else before + count)
        return batch

    @property
    def batches(self) -> int:
        """Number of batches made so far in this process."""
        return len(self._orders) - 1

    @property
    def order(self) -> str:
        """Chained SHA-256 of all batches made so far."""
        return self._orders[-1]

    def seen(self, batches: int | None) -> dict[str, Any]:
        """Return what is known after a number of batches of this process: more may have been made ahead of their use.

        Args:
            batches: Number of batches; None is all of them.

        Returns:
            "order", and "supervised": the number of tokens that the loss was taken of, None if the batches have no
            labels for their tokens.
        """
        place = -1 if batches is None else batches
        return {"order": self._orders[place], "supervised": self._supervised[place]}


def _labels(batch: Batch) -> bytes:
    """Return the labels of a batch if they say more than its token ids: which of them the loss is taken of."""
    ids, labels = batch["input_ids"], batch.get("labels")
    return b"" if labels is None or labels.equal(ids) else labels.numpy().tobytes()


def _supervised(batch: Batch) -> int | None:
    """Return how many tokens of a batch are predicted and count, or how many classes; None if labels are of neither."""
    ids, labels = batch["input_ids"], batch.get("labels")
    if labels is None or labels.shape not in (ids.shape, ids.shape[:1]):
        return None
    return int(((labels[..., 1:] if labels.shape == ids.shape else labels) != _IGNORED).sum())
