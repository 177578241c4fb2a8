"""Rows become token ids and labels, in the way that TRL's SFTTrainer makes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.chat.formats import ChatRows, Row

__all__ = ["IGNORED", "LossOn", "Tokenized", "check_template", "is_end", "tokenized_rows"]

IGNORED: Final = -100
"""The label of a token that the loss leaves out."""
_GENERATION: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")
_LONGEST_REASON: Final = 200


@dataclass(frozen=True)
class LossOn:
    """Which tokens the loss is taken of.

    Attributes:
        completions: Only those of completions.
        assistants: Only those of the assistant's turns.
    """

    completions: bool
    assistants: bool


@dataclass(frozen=True)
class Tokenized:
    """A row in tokens.

    Attributes:
        ids: Its token ids.
        labels: The same, with `IGNORED` in place of those that the loss leaves out.
        has_moved: Whether the prompt's last tokens are others than those of the prompt alone.
    """

    ids: list[int]
    labels: list[int]
    has_moved: bool = False


def check_template(rows: ChatRows, tokenizer: Any, loss: LossOn) -> None:
    """Check that there is a chat template if rows need one, and that it marks the assistant's turns if the loss does.

    Raises:
        ConfigurationError: There is none, or it does not.
    """
    template = tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    if rows.is_chat and template is None:
        message = (
            f"{rows.name} is made of messages, but the tokenizer has no chat template: set chat_template "
            "(ini key ftguard_chat_template) to the one that the model is used with"
        )
        raise ConfigurationError(message)
    if loss.assistants and rows.is_chat and _GENERATION.search(str(template)) is None:
        message = (
            "assistant_only_loss needs a chat template that marks the assistant's turns with {% generation %} and "
            "{% endgeneration %}, and this one does not: set chat_template (ini key ftguard_chat_template) to one "
            "that does, or remove assistant_only_loss and give prompt and completion columns"
        )
        raise ConfigurationError(message)
    if not rows.is_chat and tokenizer.eos_token is None:
        message = (
            f"{rows.name} is made of texts, each of which must end with an EOS token, but the tokenizer has none: set "
            "eos_token in the tokenizer's configuration"
        )
        raise ConfigurationError(message)


def tokenized_rows(rows: ChatRows, tokenizer: Any, loss: LossOn) -> list[Tokenized]:
    """Return each row in tokens.

    Raises:
        ConfigurationError: The chat template does not take a row, or a row has nothing that the loss could be taken of.
    """
    found = []
    for row in rows.rows:
        try:
            found.append(_tokenized(row, tokenizer, loss))
        except ConfigurationError as error:
            raise ConfigurationError(f"row {row.number} of {rows.name} {error}") from None
        except Exception as error:  # a template may refuse what it is given, in words of its own
            reason = " ".join(str(error).split())[:_LONGEST_REASON]
            message = f"row {row.number} of {rows.name} cannot be tokenized: {type(error).__name__}: {reason}"
            raise ConfigurationError(message) from error
    return found


def _tokenized(row: Row, tokenizer: Any, loss: LossOn) -> Tokenized:
    content = row.content if row.is_chat else _with_end(str(row.content), tokenizer.eos_token)
    masks: list[Sequence[Any]] = []
    has_moved = False
    if row.prompt is None:
        encoded = _encoded(content, row, tokenizer, loss)
    else:
        prompt = _encoded(row.prompt, row, tokenizer, LossOn(False, False), is_prompt=True)["input_ids"]
        encoded = _encoded(row.prompt + content, row, tokenizer, loss)  # type: ignore[operator]  # of one kind
        start = _common(prompt, encoded["input_ids"])
        has_moved = start < len(prompt)
        if loss.completions:
            masks.append([place >= start for place in range(len(encoded["input_ids"]))])
    ids = list(encoded["input_ids"])
    if loss.assistants and row.is_chat:
        turns = encoded["assistant_masks"]
        if 1 not in turns:
            message = "has no turn of the assistant, which is all that assistant_only_loss trains on: remove the row"
            raise ConfigurationError(message)
        masks.append(turns)
    labels = [token if all(bits) else IGNORED for token, *bits in zip(ids, *masks, strict=True)]
    return Tokenized(ids, labels, has_moved)


def _with_end(text: str, end: str) -> str:
    return text if text.endswith(end) else text + end


def _encoded(
    content: Any, row: Row, tokenizer: Any, loss: LossOn, *, is_prompt: bool = False
) -> Mapping[str, Sequence[int]]:
    if isinstance(content, str):
        encoded: Mapping[str, Sequence[int]] = tokenizer(text=content, verbose=False)
        return encoded
    kind = {"add_generation_prompt": True} if is_prompt else {"return_assistant_tokens_mask": loss.assistants}
    messages = [dict(message) for message in content]
    options = {**kind, "tools": row.tools, **row.options}
    found: Mapping[str, Sequence[int]] = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, **options
    )
    return found


def _common(ids: Sequence[int], others: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    pairs = enumerate(zip(ids, others, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(ids), len(others)))


def is_end(tokenized: Tokenized, tokenizer: Any, ends: frozenset[int]) -> bool:
    """Return whether the last token that the loss is taken of, apart from space, is one that ends a turn."""
    for label in reversed(tokenized.labels):
        if label in ends:
            return True
        if label != IGNORED and str(tokenizer.decode([label])).strip():
            return False
    return False
