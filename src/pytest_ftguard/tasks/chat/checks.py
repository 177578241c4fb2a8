"""Whether a model and a variant can do what the task asks of them."""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.base import Examples
from pytest_ftguard.tasks.chat.data import PackedExamples, PaddedExamples
from pytest_ftguard.tasks.rows import RowSet
from pytest_ftguard.tasks.text.tokens import check_ids

__all__ = ["check_embeddings", "check_packing", "check_virtual_tokens"]

_TOKENS: Final = 8
# Of the spread of the logits. Attention with a mask takes another path than without one, so rounding differs.
_SAME: Final = 1e-3


def check_embeddings(examples: Examples, tokenizer: Any, model: nn.Module) -> None:
    """Check that the model has an embedding for every token.

    Raises:
        ConfigurationError: A token id lies beyond the embeddings.
    """
    train = cast("PaddedExamples | PackedExamples", examples.train)
    parts = {"training": train.examples}
    parts |= {role: cast(RowSet, text).sequences for role, text in examples.evaluated.items()}
    check_ids({role: max(int(one.ids.max()) for one in part) for role, part in parts.items()}, tokenizer, model)


def check_virtual_tokens(workload: Workload, taken: int) -> None:
    """Check that no variant puts virtual tokens before packed examples: only the first would see them.

    Raises:
        ConfigurationError: It does.
    """
    if workload.packing and taken:
        message = (
            f"the variant puts {taken} virtual tokens before each sequence, so only the first of several packed "
            "examples would see them: set packing to false"
        )
        raise ConfigurationError(message)


def check_packing(model: PreTrainedModel) -> None:
    """Check that a model keeps examples in one sequence apart: it must say of each what it says of it alone.

    Raises:
        ConfigurationError: It does not.
    """
    module = cast(Any, model)
    size = model.config.get_text_config().vocab_size
    ids = (torch.arange(2 * _TOKENS, device=model.device) * 37 + 11)[None] % size
    positions = torch.arange(_TOKENS, device=model.device).repeat(2)[None]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            together = module(input_ids=ids, position_ids=positions, use_cache=False).logits[:, _TOKENS:]
            alone = module(input_ids=ids[:, _TOKENS:], use_cache=False).logits
    except (TypeError, ValueError) as error:
        message = f"{type(model).__name__} takes no packed examples ({error}): set packing to false"
        raise ConfigurationError(message) from error
    finally:
        module.train(was_training)
    if not float((together - alone).abs().max()) <= _SAME * float(alone.std()):
        message = (
            f"{type(model).__name__} does not keep packed examples apart: its output for one depends on those before "
            "it. Set packing to false, or attn_implementation in model_args to sdpa or eager"
        )
        raise ConfigurationError(message)
