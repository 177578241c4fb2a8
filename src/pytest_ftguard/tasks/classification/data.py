"""Labelled texts as examples for training and evaluation, in batches, and the losses of a model on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

__all__ = ["Example", "LabelledExamples", "batch_of", "blank_batch", "judged"]


@dataclass(frozen=True)
class Example:
    """A row in tokens, cut to the largest length.

    Attributes:
        ids: Token ids, shape (tokens,).
        types: Which of two texts each token is of, shape (tokens,); None if the model is not told.
        label: The number of its class.
    """

    ids: Tensor
    types: Tensor | None
    label: int

    predicted: ClassVar = 1  # one class

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a model is called with, for one example."""
        found = {"input_ids": self.ids, "labels": torch.tensor(self.label)}
        return found if self.types is None else {**found, "token_type_ids": self.types}

    @property
    def content(self) -> tuple[Tensor, ...]:
        """All that the model sees and that is predicted."""
        return tuple(self.inputs.values())


class LabelledExamples(Dataset[dict[str, Tensor]]):
    """Training examples, each a row; a batch is padded on the right.

    Attributes:
        examples: The examples.
        pad: The token id that fills a batch up, which the mask leaves out.
    """

    def __init__(self, examples: Sequence[Example], pad: int) -> None:
        self.examples = tuple(examples)
        self.pad = torch.tensor(pad)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {**self.examples[index].inputs, "pad": self.pad}


def batch_of(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return a batch that is padded on the right, with a mask."""
    ids = [item["input_ids"] for item in items]
    batch = {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=int(items[0]["pad"])),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        "labels": torch.stack([item["labels"] for item in items]),
    }
    if "token_type_ids" in items[0]:
        batch["token_type_ids"] = pad_sequence([item["token_type_ids"] for item in items], batch_first=True)
    return batch


def blank_batch(batch_size: int, block_size: int) -> dict[str, Tensor]:
    """Return the largest batch that there may be, with any content."""
    ids = torch.zeros((batch_size, block_size), dtype=torch.int64)
    labels = torch.zeros(batch_size, dtype=torch.int64)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def judged(
    model: nn.Module, examples: Sequence[Example], pad: int, *, batch_size: int, bf16: bool
) -> tuple[list[float], list[int]]:
    """Return the negative log-likelihood of each example's class, in nats, and the class that the model predicts.

    Losses are summed up in float32. Those that are not finite are returned as they are.

    Args:
        model: The model, which is left in the mode that it was in.
        examples: The examples.
        pad: The token id that fills a batch up.
        batch_size: Examples in a forward pass.
        bf16: Whether to run under bf16 autocast.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nll: list[float] = []
    predicted: list[int] = []
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            for start in range(0, len(examples), batch_size):
                items = [{**one.inputs, "pad": torch.tensor(pad)} for one in examples[start : start + batch_size]]
                batch: dict[str, Any] = {name: part.to(device) for name, part in batch_of(items).items()}
                labels = batch.pop("labels")
                logits = model(**batch).logits.float()
                with torch.autocast(device.type, enabled=False):
                    losses = functional.cross_entropy(logits, labels, reduction="none")
                nll += losses.double().tolist()
                predicted += logits.argmax(-1).tolist()
    finally:
        model.train(was_training)
    return nll, predicted
