"""Whether a model predicts each token from those before it, and whether its own loss trains it to.

Both are found out by asking the model: neither its class nor its configuration tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.causal_lm.evaluation import logits_of
from pytest_ftguard.tasks.out_of_memory import is_out_of_memory

__all__ = ["check_causality", "check_loss", "check_still_causal"]

_TOKENS: Final = 8
_IGNORED: Final = -100
# Of the spread of the logits: the same arithmetic in the same shapes gives the same numbers.
_SAME: Final = 1e-5
# Auxiliary losses that depend on the labels, as that of a second next token, turn the answer a little.
_SAME_DIRECTION: Final = 0.9


def check_causality(model: PreTrainedModel) -> None:
    """Check that a model predicts each token from those before it.

    BERT and its like load as causal language models too, but see the token that they should predict, so both variants
    would reach a loss near 0.

    Raises:
        ConfigurationError: Another last token changes what the model says before it.
    """
    ids = torch.arange(_TOKENS, device=model.device).repeat(2, 1) % model.config.get_text_config().vocab_size
    ids[1, -1] = 0
    with _asked(model, "input_ids and attention_mask"):
        # With a mask: some of these tokens may be padding, of which transformers would warn.
        answer = cast(Any, model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        one, other = answer.logits[:, :-1]
    # A causal model says the same, up to rounding. What is larger, against the logits' spread, is sight.
    if not torch.isfinite(answer.logits).all():
        message = (
            f"{type(model).__name__} predicts numbers that are not finite: its weights are damaged, copy them again"
        )
        raise ConfigurationError(message)
    if not (one - other).abs().max() <= 1e-4 * one.std():
        message = (
            f"{type(model).__name__} is not causal: what it predicts depends on the tokens that come after; give a "
            "model that was pretrained to predict the next token"
        )
        raise ConfigurationError(message)


def check_still_causal(model: nn.Module, vocabulary: int, label: str) -> None:
    """Check that a trained model still predicts each token from those before it, whatever the method has added.

    It is asked twice about a pair of sequences. In between, the second half of the second one is changed: neither its
    first half nor the other sequence may change by that. The shapes are the same, so what is left is not rounding.

    Args:
        model: The trained model, as it is evaluated.
        vocabulary: Number of the base model's tokens.
        label: What messages call the variant.

    Raises:
        ConfigurationError: They do.
    """
    half = _TOKENS
    ids = (torch.arange(2 * half, device=next(model.parameters()).device) * 37 + 11).repeat(2, 1) % vocabulary
    changed = ids.clone()
    changed[1, half:] = (ids[1, half:] + 5) % vocabulary
    was_training = model.training
    model.eval()
    with torch.no_grad():
        before, after = (logits_of(model, one, attention_mask=torch.ones_like(one)) for one in (ids, changed))
    model.train(was_training)
    spread, differences = float(before.std()), (before - after).abs()
    wrong = [(0, slice(None), "the other sequences of its batch"), (1, slice(half), "the tokens that come after")]
    for row, part, what in wrong:
        if not float(differences[row, part].max()) <= _SAME * spread:
            message = (
                f"{label} cannot be judged: what the trained model predicts depends on {what}, so its loss is no "
                "prediction of the next token; choose another method"
            )
            raise ConfigurationError(message)


def check_loss(model: PreTrainedModel) -> None:
    """Check that the loss that a model trains on is that of the next token.

    BART's decoder and some others compare what they predict after a token with that same token, unless the caller has
    shifted the labels, so training would teach them to copy. Here each label is changed by itself: the loss must change
    as the prediction before that label says, up to a factor, and must not read the first label at all.

    Raises:
        ConfigurationError: The loss is another one, or there is none.
    """
    size = model.config.get_text_config().vocab_size
    ids = (torch.arange(_TOKENS, device=model.device) * 37 + 11)[None] % size
    with _asked(model, "input_ids and labels"):
        logits = cast(Any, model)(input_ids=ids, use_cache=False).logits[0, :, :size].double()
        ends = _farthest(logits, ids[0])
        before = _loss(model, ids, ids)
        changes = torch.stack(
            [_loss(model, ids, _changed(ids, place, ends[place])) - before for place in range(_TOKENS)]
        )
        masked = _loss(model, ids, _changed(ids, slice(_TOKENS // 2, None), _IGNORED))
    log_chances = logits.log_softmax(-1).cpu()
    same = _differences(log_chances, ids[0].cpu(), ends.cpu())
    following = torch.cat([same.new_zeros(1), _differences(log_chances[:-1], ids[0, 1:].cpu(), ends[1:].cpu())])
    if not (torch.isfinite(logits).all() and following.norm() > 1e-6):
        return  # a model that says the same of all tokens, or nothing, cannot be asked
    fault = _fault(changes, following, same) or _fault_of_mask(masked - before, changes, following, log_chances, ids)
    if fault is not None:
        message = (
            f"the loss that {type(model).__name__} trains on is not that of the next token: {fault}. Training would "
            "not lower the loss that the gates judge. Give a model that shifts its labels, as GPT-2 and Llama do"
        )
        raise ConfigurationError(message)


@contextmanager
def _asked(model: PreTrainedModel, what: str) -> Iterator[None]:
    """Put a model into evaluation mode, and name what it cannot be called with."""
    module = cast(nn.Module, model)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    except ConfigurationError:
        raise
    except Exception as error:  # any code may be in a model
        if is_out_of_memory(error):
            raise
        message = (
            f"{type(model).__name__} cannot be called as a causal language model is, with {what}: "
            f"{type(error).__name__}: {error}"
        )
        raise ConfigurationError(message) from error
    finally:
        module.train(was_training)


def _loss(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> Tensor:
    answer = cast(Any, model)(input_ids=ids, labels=labels, use_cache=False)
    loss: Tensor | None = getattr(answer, "loss", None)
    if loss is None:
        message = f"{type(model).__name__} gives no loss if it is called with labels, so it cannot be trained here"
        raise ConfigurationError(message)
    return loss.double().mean().cpu()


def _changed(ids: Tensor, place: int | slice, value: Any) -> Tensor:
    labels = ids.clone()
    labels[0, place] = value
    return labels


def _farthest(logits: Tensor, ids: Tensor) -> Tensor:
    """Return for each label the token that changes the loss most: by what was predicted before it."""
    before = logits.roll(1, dims=0)
    return (before - before.gather(1, ids[:, None])).abs().argmax(-1)


def _differences(log_chances: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    rows = torch.arange(len(labels))
    return log_chances[rows, labels] - log_chances[rows, others]


def _fault(changes: Tensor, following: Tensor, same: Tensor) -> str | None:
    if not torch.isfinite(changes).all() or changes.norm() == 0:
        return "it does not depend on the labels"
    alike = torch.nn.functional.cosine_similarity
    next_token, own_token = alike(changes, following, dim=0), alike(changes, same, dim=0)
    # Of predictions that hardly differ from token to token both are near 1, and the larger one tells.
    if own_token > _SAME_DIRECTION and own_token > next_token:
        return "it compares each prediction with the token that was just read (its labels are not shifted)"
    if changes[0].abs() > 1e-3 * changes.abs().max():
        return "it reads the first label, which nothing predicts"
    return None if next_token >= _SAME_DIRECTION else "it does not compare each prediction with the token after it"


def _fault_of_mask(change: Tensor, changes: Tensor, following: Tensor, log_chances: Tensor, ids: Tensor) -> str | None:
    """Compare the loss of the first half of the labels with that of all: what is masked must not count.

    This is known of a mean over the labels alone; a sum has another scale, and an auxiliary loss another direction.
    """
    nll = -log_chances[:-1].gather(1, ids[0, 1:, None].cpu())[:, 0]
    scale = float(changes @ following / (following @ following)) * len(nll)
    if not torch.isfinite(change):
        return f"it is not finite if half of the labels are {_IGNORED}"
    is_mean = abs(scale - 1) < 0.01 and torch.allclose(
        changes * len(nll), following, atol=0.01 * float(following.abs().max())
    )
    expected = float(nll[: _TOKENS // 2 - 1].mean() - nll.mean())
    if is_mean and abs(float(change) - expected) > 0.05 * max(abs(expected), float(changes.abs().max())):
        return f"it counts labels of {_IGNORED}, which stand for no token"
    return None
