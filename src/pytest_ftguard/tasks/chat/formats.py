"""Which of TRL's formats rows have, and what each row says."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.rows import Rows

__all__ = ["ChatRows", "Row", "chat_rows"]

_LONG: Final = 200
_SYSTEM: Final = ("system", "developer")
_IMAGES: Final = ("image", "images")
_COLUMNS: Final = "text, messages, or prompt and completion"


@dataclass(frozen=True)
class Row:
    """What one row says.

    Attributes:
        number: Its place in the data, from 1.
        content: The text or the completion, or messages in place of it.
        prompt: What comes before a completion, and is a text or messages as that is; None if there is none.
        tools: What the chat template is told of tools.
        options: Further values for the chat template.
    """

    number: int
    content: str | Sequence[Mapping[str, Any]]
    prompt: str | Sequence[Mapping[str, Any]] | None = None
    tools: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_chat(self) -> bool:
        """Whether it is made of messages."""
        return not isinstance(self.content, str)

    @property
    def words(self) -> str:
        """Its words without case and space: rows that have the same are copies."""
        return _folded(_texts(self))

    @property
    def beginnings(self) -> Iterator[str]:
        """The words of each conversation that it begins with, and its own: who learns it has learnt these."""
        texts = list(_texts(self))
        if not self.is_chat:
            texts = ["\n".join(texts)]
        return (_folded(texts[:count]) for count in range(1, len(texts) + 1))

    @property
    def without_system(self) -> Row | None:
        """The same conversation without its system messages; None if it has none, or nothing else."""
        if not self.is_chat:
            return None
        parts: list[Any] = [self.prompt or [], self.content]
        said = [[one for one in part if one["role"] not in _SYSTEM] for part in parts]
        if not any(said) or sum(map(len, said)) == sum(map(len, parts)):
            return None
        return replace(self, content=said[1], prompt=None if self.prompt is None else said[0])

    @property
    def text(self) -> str:
        """All that it says, as one text."""
        return "\n".join(_texts(self))


@dataclass(frozen=True)
class ChatRows:
    """Rows of one format.

    Attributes:
        rows: The rows.
        source: The same as they were read, with all their columns.
    """

    rows: tuple[Row, ...]
    source: Rows

    @property
    def name(self) -> str:
        """What messages call them."""
        return self.source.name

    @property
    def role(self) -> str:
        """What they are for: "training", "validation" or "reference"."""
        return self.source.role

    @property
    def is_chat(self) -> bool:
        """Whether they are made of messages."""
        return self.rows[0].is_chat

    @property
    def has_prompts(self) -> bool:
        """Whether they are prompts with completions."""
        return self.rows[0].prompt is not None

    @property
    def kind(self) -> str:
        """What they are, for messages."""
        kind = "prompts and completions" if self.has_prompts else "conversations" if self.is_chat else "plain texts"
        return f"{kind} made of messages" if self.has_prompts and self.is_chat else kind


def chat_rows(rows: Rows) -> ChatRows:
    """Return what rows say, in one of four formats: `text`, `messages`, `prompt` and `completion`, these of messages.

    Raises:
        ConfigurationError: They have none of these, or more than one.
    """
    columns = _columns(rows)
    made = tuple(_row(number, row, columns, rows.name) for number, row in enumerate(rows.rows, start=1))
    first = made[0]
    odd = next((row for row in made if row.is_chat != first.is_chat), None)
    if odd is not None:
        kinds = {True: "messages", False: "a text"}
        message = (
            f"{rows.name} has {kinds[first.is_chat]} in row 1 and {kinds[odd.is_chat]} in row {odd.number}: "
            "give rows of one format"
        )
        raise ConfigurationError(message)
    return ChatRows(made, rows)


def _columns(rows: Rows) -> tuple[str, ...]:
    """Return the columns that hold what is trained."""
    has = set(rows.columns)
    if found := [name for name in _IMAGES if name in has]:
        message = f"{rows.name} has a column {found[0]!r}, but the task chat trains on texts only: remove it"
        raise ConfigurationError(message)
    if {"prompt", "completion"} <= has:
        if "text" in has:
            message = (
                f"{rows.name} has the columns text, prompt and completion, and it is not clear which to train on: "
                "remove text, or prompt and completion"
            )
            raise ConfigurationError(message)
        return ("prompt", "completion")
    for name in ("messages", "conversations", "text"):
        if name in has:
            return (name,)
    lacking = {"prompt": "completion", "completion": "prompt"}
    alone = next((f": {name} needs {other} next to it" for name, other in lacking.items() if name in has), "")
    message = (
        f"{rows.name} has none of the columns that are trained on ({_COLUMNS}){alone}; it has "
        f"{', '.join(map(repr, rows.columns))[:_LONG]}; rename yours to these names"
    )
    raise ConfigurationError(message)


def _row(number: int, row: Mapping[str, Any], columns: tuple[str, ...], name: str) -> Row:
    where = f"row {number} of {name}"
    values = [_value(row.get(column), column, where) for column in columns]
    if len(values) == 2 and isinstance(values[0], str) != isinstance(values[1], str):
        message = f"{where} has a prompt and a completion of two kinds: make both texts, or both lists of messages"
        raise ConfigurationError(message)
    tools, options = row.get("tools"), row.get("chat_template_kwargs")
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
    except ValueError as error:
        message = f"{where} has tools that are no JSON: {error}"
        raise ConfigurationError(message) from error
    prompt = values[0] if len(values) == 2 else None
    return Row(number, values[-1], prompt, tools, dict(options or {}))


def _value(value: Any, column: str, where: str) -> str | list[dict[str, Any]]:
    if isinstance(value, str):
        if column in ("messages", "conversations"):
            message = f"{where} has a text in its column {column}: it must be a list of messages with role and content"
            raise ConfigurationError(message)
        return value
    if value is None or not isinstance(value, Sequence) or column == "text":
        held = "nothing" if value is None else f"{value!r:.60}"
        wanted = {"text": "a text", "messages": "a list of messages"}.get(column, "a text or a list of messages")
        message = f"{where} has {held} in its column {column}: it must be {wanted}"
        raise ConfigurationError(message)
    messages = [_message(message, where, column) for message in value]
    if not messages and column != "completion":
        message = f"{where} has no messages in its column {column}"
        raise ConfigurationError(message)
    return messages


def _message(message: Any, where: str, column: str) -> dict[str, Any]:
    """Return a message with the names that chat templates know."""
    if not isinstance(message, Mapping):
        text = f"{where} has {message!r:.60} in its column {column}: each message needs a role and a content"
        raise ConfigurationError(text)
    named = dict(message)
    for old, new in (("from", "role"), ("value", "content")):
        if old in named and new not in named:
            named[new] = named.pop(old)
    if not isinstance(named.get("role"), str):
        text = f"{where} has a message without a role in its column {column}: each needs a role and a content"
        raise ConfigurationError(text)
    return named


def _folded(texts: Iterable[str]) -> str:
    return " ".join(unicodedata.normalize("NFKC", "\n".join(texts)).casefold().split())


def _texts(row: Row) -> Iterable[str]:
    for part in (row.prompt, row.content):
        if isinstance(part, str):
            yield part
        elif part is not None:
            for message in part:
                content = message.get("content")
                calls = message.get("tool_calls")
                rest = "" if calls is None else json.dumps(calls, sort_keys=True, default=str)
                yield f"{content if isinstance(content, str) else json.dumps(content, default=str)}{rest}"
