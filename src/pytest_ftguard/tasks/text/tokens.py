"""Documents become tokens, and a tokenizer that does not fit the text is found out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, cast

import numpy as np
from tokenizers.models import Unigram
from torch import nn

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.text.files import Text
from pytest_ftguard.tasks.text.passages import Integers
from pytest_ftguard.tasks.text.words import pieces

__all__ = ["Tokens", "check_ids", "decoded", "tokenized"]

# Beyond this share of unknown tokens the loss is that of another, simpler text.
_MOST_UNKNOWN: Final = 0.1
# Nats per token. The empirical entropy of English is about 3 in bytes and 6 to 7 in the tokens of large vocabularies.
_LEAST_ENTROPY: Final = 0.1
_SAMPLES: Final = 20
_SAMPLE_CHARACTERS: Final = 1000
_REMEDY: Final = "give the tokenizer that the model was pretrained with (Workload.tokenizer, ini key ftguard_tokenizer)"


@dataclass(frozen=True)
class Tokens:
    """A text in tokens.

    Attributes:
        text: The text.
        documents: The tokens of each of its documents.
        unknown: Share of it that the tokenizer does not know.
    """

    text: Text
    documents: tuple[Integers, ...]
    unknown: float

    @property
    def count(self) -> int:
        """Number of all tokens."""
        return sum(map(len, self.documents))


def tokenized(text: Text, tokenizer: Any) -> Tokens:
    """Return a text in tokens.

    Raises:
        ConfigurationError: The tokenizer gives no tokens, does not know the text, or makes one token of nearly all.
    """
    documents = tuple(_ids(document, tokenizer) for document in text.documents)
    ids, counts = np.unique(np.concatenate(documents), return_counts=True)
    if not len(ids):
        message = f"{_name(tokenizer)} gives no tokens for {text.name}, as one without a vocabulary does: {_REMEDY}"
        raise ConfigurationError(message)
    unknown = _unknown(text, tokenizer, dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    shares = counts / counts.sum()
    if -(shares * np.log(shares)).sum() < _LEAST_ENTROPY:
        most = int(ids[counts.argmax()])
        message = (
            f"{100 * shares.max():.4g} % of the tokens of {text.name} are {_token(tokenizer, most)}, so there is "
            f"nothing to learn in it: give a real text; if the text is fine, {_REMEDY}"
        )
        raise ConfigurationError(message)
    return Tokens(text, documents, unknown)


def decoded(sequences: Sequence[Integers], tokenizer: Any, *, mark: bool = False) -> list[str]:
    """Return the text of each sequence of tokens; with `mark` its special tokens too, which may part documents."""
    ids = [sequence.tolist() for sequence in sequences]
    return [str(text) for text in tokenizer.batch_decode(ids, skip_special_tokens=not mark)]


def check_ids(largest: Mapping[str, int], tokenizer: Any, model: nn.Module) -> None:
    """Check that the model has an embedding for every token.

    Args:
        largest: The largest token id of each text, by its role.
        tokenizer: Tokenizer of transformers, or None if there is none.
        model: The model, with or without weights.

    Raises:
        ConfigurationError: A token id lies beyond the embeddings.
    """
    weight = getattr(cast(Any, model).get_input_embeddings(), "weight", None)
    if weight is None:
        return
    rows = len(weight)
    for role, token in largest.items():
        if token >= rows:
            spelt = "" if tokenizer is None else f" ({_token(tokenizer, token)})"
            needed = token + 1 if tokenizer is None else max(token + 1, len(tokenizer))
            message = (
                f"token id {token}{spelt} of the {role} text, but the model has {rows} embeddings (ids 0 to "
                f"{rows - 1}): call model.resize_token_embeddings({needed}) and save the model, or {_REMEDY}"
            )
            raise ConfigurationError(message)


def _unknown(text: Text, tokenizer: Any, counts: Mapping[int, int]) -> float:
    """Return the share of a text that the tokenizer does not know: of its tokens, or of the letters that it drops."""
    unknown = 0.0
    for token, spelt in _unknown_tokens(tokenizer).items():
        # Some texts spell the unknown token out, and in some tokenizers it is that of the end of a text.
        meant = sum(document.count(spelt) for document in text.documents)
        share = max(0, counts.get(token, 0) - meant) / sum(counts.values())
        if share > _MOST_UNKNOWN:
            message = (
                f"{_name(tokenizer)} turns {100 * share:.3g} % of {text.name} into {spelt!r}: its "
                f"vocabulary is missing or does not fit the text; {_REMEDY}"
            )
            raise ConfigurationError(message)
        unknown += share
    sample = "\n".join(_samples(text))
    letters = sum(map(str.isalnum, sample))
    kept = sum(map(str.isalnum, _decoded(tokenizer, _ids(sample, tokenizer).tolist())))
    lost = max(0.0, 1 - kept / letters) if letters else 0.0
    if lost > _MOST_UNKNOWN:
        message = (
            f"{_name(tokenizer)} loses {100 * lost:.3g} % of the letters and digits of {text.name}: its vocabulary is "
            f"missing or does not fit the text; {_REMEDY}"
        )
        raise ConfigurationError(message)
    return max(unknown, lost)


def _unknown_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the tokens that stand for what the vocabulary does not hold, as they are spelt, by their ids.

    The tokenizer may not name the one that its backend (the model in tokenizer.json) puts there.
    """
    found = {} if tokenizer.unk_token_id is None else {int(tokenizer.unk_token_id): str(tokenizer.unk_token)}
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    model: Any = getattr(backend, "model", None)
    if isinstance(model, Unigram):  # its number is nowhere else
        token = json.loads(backend.to_str())["model"].get("unk_id")
    else:
        spelt = getattr(model, "unk_token", None)
        token = None if spelt is None else model.token_to_id(spelt)
    if token is not None:
        found.setdefault(int(token), str(model.id_to_token(token)))
    return found


def _samples(text: Text) -> Iterator[str]:
    """Yield pieces from all over a text."""
    chosen = text.documents[:: max(1, len(text.documents) // _SAMPLES)][:_SAMPLES]
    pieces = max(1, _SAMPLES // len(chosen))
    for document in chosen:
        for piece in range(pieces):
            start = piece * len(document) // pieces
            yield document[start : min(start + _SAMPLE_CHARACTERS, (piece + 1) * len(document) // pieces)]


def _ids(text: str, tokenizer: Any) -> Integers:
    parts = list(pieces(text))
    if not parts:
        return np.empty(0, dtype=np.int64)
    # verbose=False: a text longer than the model's context is expected here, it is cut afterwards.
    encoded = tokenizer(parts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return np.fromiter(chain.from_iterable(encoded["input_ids"]), dtype=np.int64)


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _token(tokenizer: Any, token: int) -> str:
    return repr(tokenizer.convert_ids_to_tokens(token))


def _name(tokenizer: Any) -> str:
    place = getattr(tokenizer, "name_or_path", "")
    return f"the tokenizer {type(tokenizer).__name__}{f' of {place!r}' if place else ''}"
