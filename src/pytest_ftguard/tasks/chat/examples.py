"""The data of a workload as examples, and all that can be known of them before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import evenly_spaced
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.base import Examples
from pytest_ftguard.tasks.causal_lm.data import check_texts
from pytest_ftguard.tasks.chat.data import Example, PackedExamples, PaddedExamples, packed
from pytest_ftguard.tasks.chat.formats import ChatRows, Row, chat_rows
from pytest_ftguard.tasks.chat.tokens import LossOn, Tokenized, check_template, is_end, tokenized_rows
from pytest_ftguard.tasks.rows import Candidates, Rows, RowSet, choose, described, listed
from pytest_ftguard.tasks.text.files import Text
from pytest_ftguard.tasks.text.tokens import tokenized

__all__ = ["Read", "workload_examples"]

Read = Callable[[str, str], Rows]
"""Reads rows from a place, in a role: "training", "validation" or "reference"."""

# If more are left out, what is trained or judged is no longer what the data are.
_MOST_LEFT_OUT: Final = 0.5
# So many rows show whether the tokenizer knows the text.
_SAMPLE: Final = 256


@dataclass(frozen=True)
class _Cut:
    """Rows as examples of at most so many tokens.

    Attributes:
        rows: The rows that have an example.
        examples: The example of each.
        remarks: What there is to say of them.
    """

    rows: tuple[Row, ...]
    examples: tuple[Example, ...]
    remarks: tuple[str, ...]

    @property
    def keys(self) -> list[tuple[str, bytes]]:
        """What makes each a copy of another: its words, or what the model sees of it."""
        return [
            (row.words, example.ids.numpy().tobytes()) for row, example in zip(self.rows, self.examples, strict=True)
        ]


def workload_examples(workload: Workload, tokenizer: Any, read: Read) -> Examples:
    """Return the data of a workload as examples, checked.

    Args:
        workload: Which data, and how they are cut.
        tokenizer: Tokenizer of transformers.
        read: Reads rows from a place, in a role.

    Raises:
        ConfigurationError: They cannot be read, carry no information, are too few, or were trained on.
    """
    check_texts(workload.train, workload.validation)
    train = chat_rows(read(workload.train, "training"))
    validation = chat_rows(read(workload.validation, "validation"))
    loss = _loss(workload, train)
    _check_same_format(train, validation, loss)
    cut = _cut(train, tokenizer, loss, workload.block_size, ends=True)
    if len(cut.examples) < workload.batch_size:
        message = (
            f"{train.name} gives {len(cut.examples)} examples, fewer than a batch of {workload.batch_size}: give more "
            f"rows, or a batch_size of at most {len(cut.examples)}"
        )
        raise ConfigurationError(message)
    judged = _cut(validation, tokenizer, loss, workload.block_size)
    remarks = [*cut.remarks, *judged.remarks]
    reference: RowSet | None = None
    if workload.reference:
        general = chat_rows(read(workload.reference, "reference"))
        kept = _cut(general, tokenizer, _loss_of_reference(workload, general), workload.block_size)
        reference, known = _chosen(workload, general, kept, cut, tokenizer)
        remarks += (*kept.remarks, *known)
    chosen, known = _chosen(workload, validation, judged, cut, tokenizer, searches=workload.purpose == "search")
    return Examples(_training(workload, cut, tokenizer), chosen, reference, (*remarks, *known))


def _loss(workload: Workload, train: ChatRows) -> LossOn:
    """Return which tokens count: TRL decides by the training rows, also for those that are evaluated.

    Raises:
        ConfigurationError: The rows have no such tokens.
    """
    asked = workload.completion_only_loss
    if asked and not train.has_prompts:
        message = (
            f"completion_only_loss is set, but {train.name} has no columns prompt and completion: it is made of "
            f"{train.kind}"
        )
        raise ConfigurationError(message)
    if workload.assistant_only_loss and not train.is_chat:
        message = f"assistant_only_loss is set, but {train.name} is not made of messages: it is made of {train.kind}"
        raise ConfigurationError(message)
    return LossOn(train.has_prompts if asked is None else asked, workload.assistant_only_loss)


def _loss_of_reference(workload: Workload, general: ChatRows) -> LossOn:
    """Return which tokens of another text count; it need not be of the training's format."""
    return LossOn(general.has_prompts and workload.completion_only_loss is not False, workload.assistant_only_loss)


def _check_same_format(train: ChatRows, validation: ChatRows, loss: LossOn) -> None:
    """Check that what is judged is what was trained: the same template, and the same tokens.

    Raises:
        ConfigurationError: It is not.
    """
    if train.is_chat != validation.is_chat:
        chats, texts = (train, validation) if train.is_chat else (validation, train)
        message = (
            f"{chats.name} is made of messages and {texts.name} of texts, so only one of them goes through the chat "
            "template: give both in one format"
        )
        raise ConfigurationError(message)
    if loss.completions and not validation.has_prompts:
        message = (
            f"{train.name} is made of {train.kind}, so only completions are trained, and {validation.name} is made of "
            f"{validation.kind}, of which every token would be judged: give both in one format, or set "
            "completion_only_loss to false"
        )
        raise ConfigurationError(message)


def _cut(rows: ChatRows, tokenizer: Any, loss: LossOn, size: int, *, ends: bool = False) -> _Cut:
    """Return rows as examples of at most so many tokens, but for those without a token that counts.

    Args:
        rows: The rows.
        tokenizer: Tokenizer of transformers.
        loss: Which tokens count.
        size: The largest number of tokens.
        ends: Whether some must teach the model to stop.

    Raises:
        ConfigurationError: Most have no token that counts, or none of them teaches the model to stop.
    """
    check_template(rows, tokenizer, loss)
    found = tokenized_rows(rows, tokenizer, loss)
    if ends:
        _check_ends(rows, found, tokenizer)
    whole = [_example(one, None) for one in found]
    cut = [_example(one, size) for one in found]
    kept = [number for number, one in enumerate(cut) if one.predicted]
    barren = [number for number, one in enumerate(whole) if not one.predicted]
    lost = [number for number, one in enumerate(cut) if not one.predicted and whole[number].predicted]
    longest = max(len(one.ids) for one in found)
    if len(barren) + len(lost) > _MOST_LEFT_OUT * len(found) or not kept:
        raise ConfigurationError(_nothing_left(rows, barren, lost, size, longest))
    return _Cut(
        tuple(rows.rows[number] for number in kept),
        tuple(cut[number] for number in kept),
        tuple(_remarks(rows, found, barren, lost, size)),
    )


def _example(one: Tokenized, size: int | None) -> Example:
    ids, labels = (torch.tensor(part[:size], dtype=torch.int64) for part in (one.ids, one.labels))
    return Example(ids, labels)


def _nothing_left(rows: ChatRows, barren: Sequence[int], lost: Sequence[int], size: int, longest: int) -> str:
    count = len(rows.rows)
    if len(barren) >= len(lost):
        return (
            f"{len(barren)} of {count} rows of {rows.name} have no token that the loss could be taken of "
            f"({listed(barren)}): a loss of nothing would be 0, or no number; look at the prompts, the completions "
            "and the chat template"
        )
    return (
        f"{len(lost)} of {count} rows of {rows.name} have no token within block_size {size} that the loss could be "
        f"taken of, because the prompt fills it ({listed(lost)}): raise block_size; the longest row has {longest} "
        "tokens"
    )


def _remarks(
    rows: ChatRows, found: Sequence[Tokenized], barren: Sequence[int], lost: Sequence[int], size: int
) -> list[str]:
    """Return what was left out of rows, and what is odd about them."""
    said = []
    total, beyond = sum(len(one.ids) for one in found), sum(max(0, len(one.ids) - size) for one in found)
    count = len(found)
    if beyond:
        longer, longest = sum(len(one.ids) > size for one in found), max(len(one.ids) for one in found)
        said.append(
            f"{100 * beyond / total:.2g} % of the {rows.role} tokens were cut: {longer} of {count} rows are longer "
            f"than block_size {size} (the longest has {longest} tokens)"
        )
    if lost:
        said.append(
            f"{len(lost)} of {count} {rows.role} rows were left out: their prompt fills block_size {size} "
            f"({listed(lost)})"
        )
    if barren:
        said.append(
            f"{len(barren)} of {count} {rows.role} rows were left out: they have no token that the loss could be taken "
            f"of ({listed(barren)})"
        )
    if moved := sum(one.has_moved for one in found):
        said.append(
            f"the prompts of {moved} of {count} {rows.role} rows end in other tokens if the completion is missing: the "
            "model is trained on other prompts than it will get in use"
        )
    return said


def _check_ends(rows: ChatRows, found: Sequence[Tokenized], tokenizer: Any) -> None:
    """Check that some training rows end with a token that ends a turn, and that the loss is taken of it.

    Raises:
        ConfigurationError: None does, so the model would never learn to stop.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ends = frozenset(int(token) for token in special)
    if any(is_end(one, tokenizer, ends) for one in found):
        return
    template = (
        "let the chat template end each turn of the assistant with the tokenizer's EOS token, within "
        "{% generation %} if assistant_only_loss is set"
    )
    message = (
        f"no row of {rows.name} ends with an EOS token that the loss is taken of, so the model would never learn to "
        f"stop: {template if rows.is_chat else 'give the tokenizer an eos_token that it encodes as one token'}"
    )
    raise ConfigurationError(message)


def _training(workload: Workload, cut: _Cut, tokenizer: Any) -> PaddedExamples | PackedExamples:
    if workload.packing:
        packs = packed([len(example.ids) for example in cut.examples], workload.block_size)
        if len(packs) < workload.batch_size:
            message = (
                f"the training examples fill {len(packs)} packed sequences, fewer than a batch of "
                f"{workload.batch_size}: give more rows, a smaller batch_size or block_size, or set packing to false"
            )
            raise ConfigurationError(message)
        return PackedExamples(cut.examples, packs)
    # Attention and loss leave it out; it is the token that TRL takes.
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return PaddedExamples(cut.examples, 0 if pad is None else int(pad))


def _chosen(
    workload: Workload, rows: ChatRows, cut: _Cut, train: _Cut, tokenizer: Any, *, searches: bool = False
) -> tuple[RowSet, tuple[str, ...]]:
    """Return examples to evaluate, and what there is to say of those that are trained on.

    Raises:
        ConfigurationError: Too many are trained on, or a search has too few of its own.
    """
    numbers = [row.number - 1 for row in cut.rows]
    candidates = Candidates(rows.name, rows.role, cut.keys, numbers)
    is_known, known_ids, keys = _known_rows(train.rows), {ids for _, ids in train.keys}, cut.keys

    def is_trained_on(place: int) -> bool:
        return keys[place][1] in known_ids or is_known(cut.rows[place])

    chosen = choose(workload, candidates, is_trained_on, searches=searches)
    examples = tuple(cut.examples[place] for place in chosen.places)
    evaluated = RowSet(
        examples, repeated=chosen.repeated, trained_on=chosen.trained_on, unknown=_unknown(rows, tokenizer)
    )
    return described(workload, rows.source, [numbers[place] for place in chosen.places], evaluated), chosen.remarks


def _known_rows(rows: Sequence[Row]) -> Callable[[Row], bool]:
    """Return what tells whether a row is one of the training's, or the beginning of one.

    It is that too if only one of both has a system message. Two with different ones may be two tasks on one text.
    """
    whole = {words for row in rows for words in row.beginnings}
    bare = {words for row in rows if (one := row.without_system) is not None for words in one.beginnings}

    def is_known(row: Row) -> bool:
        said = row.without_system
        return row.words in whole or (row.words in bare if said is None else said.words in whole)

    return is_known


def _unknown(rows: ChatRows, tokenizer: Any) -> float:
    """Return the share of the text that the tokenizer does not know, as rows from all over it show."""
    texts = [text for place in evenly_spaced(len(rows.rows), _SAMPLE) if (text := rows.rows[place].text).strip()]
    sample = Text(rows.source.place, rows.role, tuple(texts), is_stream=False)
    return tokenized(sample, tokenizer).unknown if texts else 0.0
