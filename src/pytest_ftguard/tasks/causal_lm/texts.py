"""The texts of a workload, and all that can be known of them before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, cast

from torch import nn

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import MINIMUM_UNITS, MOST_TRAINED_ON
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.base import Examples
from pytest_ftguard.tasks.causal_lm.data import (
    EvaluationSet,
    Read,
    TokenBlocks,
    blocks_of,
    check_texts,
    evaluation_set,
    left_over_set,
)
from pytest_ftguard.tasks.text.evidence import Search
from pytest_ftguard.tasks.text.files import Text, read_text
from pytest_ftguard.tasks.text.tokens import check_ids, tokenized
from pytest_ftguard.tasks.text.words import words_of

__all__ = ["check_context", "check_embeddings", "workload_texts"]

_POSITIONS: Final = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "positions_embed")
# Shorter ones predict nothing.
_SHORTEST_BLOCK: Final = 2
# Names that some configurations have for it. Those that transformers maps to its usual name are checked with the model.
_CONTEXT: Final = ("n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


def workload_texts(workload: Workload, tokenizer: Any, read: Read = read_text) -> Examples:
    """Return the texts of a workload, checked.

    Args:
        workload: Which texts, and how they are cut.
        tokenizer: Tokenizer of transformers.
        read: Reads a file, in a role.

    Raises:
        ConfigurationError: A text cannot be read, carries no information, is too short, or was trained on.
    """
    _check_fields(workload)
    check_texts(workload.train, workload.validation)
    size = {"block_size": workload.block_size}
    text = read(workload.train, "training")
    tokens = tokenized(text, tokenizer)
    train = blocks_of(tokens, tokenizer.eos_token_id, batch_size=workload.batch_size, **size)
    limit: dict[str, Any] = {"at_most": workload.validation_sequences, "read": read, **size}
    cut = left_over_set if workload.purpose == "search" else evaluation_set
    validation = _beside(train, text, cut(workload.validation, "validation", tokenizer, **limit), workload.validation)
    reference = None
    if workload.reference:
        reference = evaluation_set(workload.reference, "reference", tokenizer, **limit)
        reference = _beside(train, text, reference, workload.reference)
    return Examples(train, validation, reference)


def _check_fields(workload: Workload) -> None:
    """Check that no field is set that only another task reads.

    Raises:
        ConfigurationError: One is, and it would change nothing.
    """
    for name in ("chat_template", "completion_only_loss", "assistant_only_loss", "packing"):
        if getattr(workload, name) not in (None, False):
            message = (
                f"{name} is for conversations, and the task {workload.task} reads plain texts: set the task to chat "
                f"(ini key ftguard_task), or remove {name}"
            )
            raise ConfigurationError(message)
    for name in ("slices", "group"):
        if getattr(workload, name):
            message = (
                f"{name} names columns of rows, and the task {workload.task} reads plain texts: set the task to chat "
                f"or classification (ini key ftguard_task), or remove {name}"
            )
            raise ConfigurationError(message)


def _beside(train: TokenBlocks, text: Text, evaluated: EvaluationSet, path: str) -> EvaluationSet:
    """Return an evaluation set with how much of it stands in the training text.

    Raises:
        ConfigurationError: It is too much.
    """
    assert evaluated.excerpts is not None  # every text has them
    search = Search(evaluated.excerpts)
    search.see(words_of(text.documents))
    search.see_documents(text.documents)
    count, of = int(search.is_found().sum()), len(evaluated.sequences)
    # Of fewer sequences than a gate takes, one or two are a large share and no sign of a leak.
    if count > MOST_TRAINED_ON * max(of, MINIMUM_UNITS):
        message = (
            f"{count} of {of} sequences of {path!r} are also in {text.name}, so a model that memorized them "
            f"would look good: remove them from one of the two texts (at most {100 * MOST_TRAINED_ON:g} % may be in "
            "both)"
        )
        raise ConfigurationError(message)
    return replace(evaluated, trained_on=count)


def check_embeddings(examples: Examples, tokenizer: Any, model: nn.Module) -> None:
    """Check that the model has an embedding for every token.

    Raises:
        ConfigurationError: A token id lies beyond the embeddings.
    """
    blocks = cast(TokenBlocks, examples.train).blocks
    largest = {role: cast(EvaluationSet, text).largest_id for role, text in examples.evaluated.items()}
    check_ids({"training": int(blocks.max()), **largest}, tokenizer, model)


def check_context(model: nn.Module, name: str, block_size: int, *, taken: int = 0) -> None:
    """Check that a model has a position for each token of a block.

    Args:
        model: The model, with or without weights.
        name: What messages call it.
        block_size: Tokens in a block.
        taken: Positions that the variant takes for itself, such as virtual tokens.

    Raises:
        ConfigurationError: It has not.
    """
    config = cast(Any, model).config.get_text_config()
    named = [(f"{field} of its configuration", getattr(config, field, None)) for field in _CONTEXT]
    tables = [
        (place, module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
        for place, module in model.named_modules()
        if isinstance(module, nn.Embedding) and place.rpartition(".")[2] in _POSITIONS
    ]
    for place, positions in (*named, *tables):
        if isinstance(positions, int) and 0 < positions < block_size + taken:
            also = f" and the variant takes {taken} more for its virtual tokens" if taken else ""
            message = f"block_size is {block_size}{also}, but {name!r} has {positions} positions ({place}): "
            if positions - taken >= _SHORTEST_BLOCK:
                message += f"set block_size to {positions - taken} or less"
            else:  # the virtual tokens alone fill the model
                block = min(block_size, positions // 2)
                shorter = f"set block_size to {block} or less, and " if block < block_size else ""
                message += f"{shorter}use at most {positions - block} virtual tokens"
            raise ConfigurationError(message)
