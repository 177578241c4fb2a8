"""The texts of a workload, and all that can be known of them before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from torch import nn

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import MINIMUM_UNITS, MOST_TRAINED_ON
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.causal_lm.data import (
    EvaluationSet,
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

__all__ = ["Texts", "check_context", "workload_texts"]

_POSITIONS: Final = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "positions_embed")
# Of configurations that call it otherwise than the rest; those that transformers maps to one name are checked by it.
_CONTEXT: Final = ("n_positions", "n_ctx", "max_seq_len", "max_sequence_length")


@dataclass(frozen=True)
class Texts:
    """What a trial is trained and evaluated on.

    Attributes:
        train: Training sequences.
        validation: Validation sequences.
        reference: Sequences of the general text, where there is one.
    """

    train: TokenBlocks
    validation: EvaluationSet
    reference: EvaluationSet | None

    @property
    def evaluated(self) -> Mapping[str, EvaluationSet]:
        """The evaluation texts by their role."""
        named = {"validation": self.validation, "reference": self.reference}
        return {role: text for role, text in named.items() if text is not None}

    def check_ids(self, tokenizer: Any, model: nn.Module) -> None:
        """Check that the model has an embedding for every token.

        Raises:
            ConfigurationError: A token id lies beyond the embeddings.
        """
        largest = {role: text.largest_id for role, text in self.evaluated.items()}
        check_ids({"training": int(self.train.blocks.max()), **largest}, tokenizer, model)

    def doubts(self) -> Iterator[str]:
        """Yield why gates on losses would be INVALID, although the texts can be trained and evaluated on."""
        for role, text in self.evaluated.items():
            documents = None if text.documents is None else len(set(text.documents))
            units, name = (len(text.sequences), "sequences") if documents is None else (documents, "documents")
            if units < MINIMUM_UNITS:
                copies = f" ({text.repeated} sequences repeat earlier ones and do not count)" if text.repeated else ""
                yield (
                    f"gates on losses will be INVALID: they need {MINIMUM_UNITS} {role} {name}, and there are {units}"
                    f"{copies}"
                )


def workload_texts(workload: Workload, tokenizer: Any) -> Texts:
    """Return the texts of a workload, checked.

    Raises:
        ConfigurationError: A text cannot be read, carries no information, is too short, or was trained on.
    """
    check_texts(workload.train, workload.validation)
    size = {"block_size": workload.block_size}
    text = read_text(workload.train, "training")
    tokens = tokenized(text, tokenizer)
    train = blocks_of(tokens, tokenizer.eos_token_id, batch_size=workload.batch_size, **size)
    limit = {"at_most": workload.validation_sequences, **size}
    cut = left_over_set if workload.purpose == "search" else evaluation_set
    validation = _beside(train, text, cut(workload.validation, "validation", tokenizer, **limit), workload.validation)
    reference = None
    if workload.reference:
        reference = evaluation_set(workload.reference, "reference", tokenizer, **limit)
        reference = _beside(train, text, reference, workload.reference)
    return Texts(train, validation, reference)


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
            message = (
                f"block_size is {block_size}{also}, but {name!r} has {positions} positions ({place}): set block_size "
                f"to {positions - taken} or less"
            )
            raise ConfigurationError(message)
