"""Summed negative log-likelihood per sequence.

The Trainer's own evaluation averages the means of batches and drops losses that are not finite, so a gate
cannot rest on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["logits_of", "sequence_nll"]

_IGNORED: Final = -100


def sequence_nll(
    model: nn.Module,
    sequences: Sequence[Tensor],
    labels: Sequence[Tensor] | None = None,
    *,
    batch_size: int,
    bf16: bool,
) -> list[float]:
    """Return the summed negative log-likelihood of each sequence, in nats.

    The first token of a sequence is given, the others are predicted, in float32. Losses that are not finite
    are returned as they are.

    Args:
        model: The model.
        sequences: Token ids of each sequence.
        labels: The same, with -100 in place of tokens that do not count; None if all do.
        batch_size: Sequences in a forward pass.
        bf16: Whether to run under bf16 autocast.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nll: list[float] = []
    try:
        # One autocast region for all batches: its cache then casts trainable weights once, not once a batch.
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            for start in range(0, len(sequences), batch_size):
                part = slice(start, start + batch_size)
                nll += _batch_nll(model, sequences[part], sequences[part] if labels is None else labels[part], device)
    finally:
        model.train(was_training)
    return nll


def logits_of(model: nn.Module, ids: Tensor, **options: Any) -> Tensor:
    """Return what a model predicts after each token, shape (batch, tokens, vocabulary).

    What it predicts after virtual tokens, which stand before those of the text, is left out: every variant is judged
    on the same tokens.

    Raises:
        ValueError: It predicts after fewer tokens than there are.
    """
    logits: Tensor = model(input_ids=ids, use_cache=False, **options).logits
    virtual = logits.shape[1] - ids.shape[1]
    if virtual < 0:
        message = f"{type(model).__name__} predicts after {logits.shape[1]} of {ids.shape[1]} tokens"
        raise ValueError(message)
    return logits[:, virtual:]


def _batch_nll(
    model: nn.Module, sequences: Sequence[Tensor], labels: Sequence[Tensor], device: torch.device
) -> list[float]:
    # Padding stands on the right, where no predicted token can see it; its id does not matter.
    ids = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True).to(device)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    wanted = nn.utils.rnn.pad_sequence(list(labels), batch_first=True, padding_value=_IGNORED).to(device)
    # Without padding no mask is passed, which leaves attention its fast causal path, the one that training takes.
    padded = {} if bool(mask.all()) else {"attention_mask": mask.long()}
    logits = logits_of(model, ids, **padded)
    with torch.autocast(device.type, enabled=False):
        # One sequence at a time: the float32 logits of a whole batch can exceed the memory that training needs.
        losses = [
            functional.cross_entropy(row[:-1].float(), label[1:], ignore_index=_IGNORED, reduction="sum")
            for row, label in zip(logits, wanted, strict=True)
        ]
    return [float(loss) for loss in torch.stack(losses).double().cpu()]
