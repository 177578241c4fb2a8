"""The data of a workload as labelled examples, and all that can be known of them before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import torch

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import evenly_spaced
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.base import Examples
from pytest_ftguard.tasks.causal_lm.data import check_texts
from pytest_ftguard.tasks.classification.data import Example, LabelledExamples
from pytest_ftguard.tasks.classification.model import TrainingRows, padding
from pytest_ftguard.tasks.classification.rows import Classes, LabelledRow, Read, check_labels, labelled_rows
from pytest_ftguard.tasks.rows import Candidates, Rows, RowSet, choose, described
from pytest_ftguard.tasks.text.files import Text
from pytest_ftguard.tasks.text.tokens import tokenized

__all__ = ["workload_examples"]

# So many rows show whether the tokenizer knows the text.
_SAMPLE: Final = 256
_AT_ONCE: Final = 1000


def workload_examples(workload: Workload, tokenizer: Any, read: Read, training: TrainingRows) -> Examples:
    """Return the data of a workload as examples, checked.

    Args:
        workload: Which data, and how they are cut.
        tokenizer: Tokenizer of transformers.
        read: Reads rows from a place, in a role.
        training: The training rows and their classes.

    Raises:
        ConfigurationError: They cannot be read, are too few, have other labels, or were trained on.
    """
    _check_fields(workload)
    check_texts(workload.train, workload.validation)
    rows, name, classes = training
    if len(rows) < workload.batch_size:
        message = (
            f"{name} has {len(rows)} rows, fewer than a batch of {workload.batch_size}: give more rows, or a "
            f"batch_size of at most {len(rows)}"
        )
        raise ConfigurationError(message)
    examples, remarks = _cut(rows, "training", tokenizer, classes, workload.block_size)
    known = {identity for pair in _identities(rows, examples) for identity in pair}
    validation, said = _evaluated(workload, tokenizer, read(workload.validation, "validation"), classes, known)
    remarks += [*said, *_missing(rows, validation, classes)]
    reference: RowSet | None = None
    if workload.reference:
        reference, said = _evaluated(workload, tokenizer, read(workload.reference, "reference"), classes, known)
        remarks += said
    return Examples(LabelledExamples(examples, padding(tokenizer)), validation, reference, tuple(remarks))


def _check_fields(workload: Workload) -> None:
    """Check that no field is set that only another task reads.

    Raises:
        ConfigurationError: One is, and it would change nothing.
    """
    for name in ("chat_template", "completion_only_loss", "assistant_only_loss", "packing"):
        if getattr(workload, name) not in (None, False):
            message = (
                f"{name} is for conversations, and the task {workload.task} reads texts with labels: remove {name}, or "
                "set the task to chat (ini key ftguard_task)"
            )
            raise ConfigurationError(message)


def _evaluated(
    workload: Workload, tokenizer: Any, found: Rows, classes: Classes, known: set[Any]
) -> tuple[RowSet, list[str]]:
    """Return the examples of one role that are evaluated, and what there is to say of them."""
    rows = labelled_rows(found)
    check_labels(rows, found.name, classes)
    examples, remarks = _cut(rows, found.role, tokenizer, classes, workload.block_size)
    identities = _identities(rows, examples)
    candidates = Candidates(found.name, found.role, identities, range(len(rows)))
    searches = found.role == "validation" and workload.purpose == "search"
    chosen = choose(workload, candidates, lambda place: not known.isdisjoint(identities[place]), searches=searches)
    kept = tuple(examples[number] for number in chosen.places)
    unknown = _unknown(found, rows, tokenizer)
    evaluated = RowSet(kept, repeated=chosen.repeated, trained_on=chosen.trained_on, unknown=unknown)
    return described(workload, found, chosen.places, evaluated), [*remarks, *chosen.remarks]


def _cut(
    rows: Sequence[LabelledRow], role: str, tokenizer: Any, classes: Classes, size: int
) -> tuple[list[Example], list[str]]:
    """Return rows as examples of at most so many tokens, and what was lost by that."""
    examples: list[Example] = []
    total = lost = longer = longest = 0
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        texts = [row.text for row in part]
        pairs = [str(row.pair) for row in part] if part[0].pair is not None else None
        whole = [len(ids) for ids in tokenizer(texts, pairs, verbose=False)["input_ids"]]
        cut = tokenizer(texts, pairs, truncation=True, max_length=size)
        types = cut.get("token_type_ids") or [None] * len(part)
        for row, ids, kinds in zip(part, cut["input_ids"], types, strict=True):
            numbers = torch.tensor(ids, dtype=torch.int64)
            examples.append(
                Example(
                    numbers, None if kinds is None else torch.tensor(kinds, dtype=torch.int64), classes.ids[row.label]
                )
            )
        total += sum(whole)
        lost += sum(max(0, length - size) for length in whole)
        longer += sum(length > size for length in whole)
        longest = max(longest, *whole)
    if not lost:
        return examples, []
    return examples, [
        f"{100 * lost / total:.2g} % of the {role} tokens were cut: {longer} of {len(rows)} rows are longer than "
        f"block_size {size} (the longest has {longest} tokens)"
    ]


def _identities(rows: Sequence[LabelledRow], examples: Sequence[Example]) -> list[tuple[str, bytes]]:
    """Return what makes each row a copy of another: its words, or what the model sees of it."""
    return [(row.words, one.ids.numpy().tobytes()) for row, one in zip(rows, examples, strict=True)]


def _missing(rows: Sequence[LabelledRow], validation: RowSet, classes: Classes) -> list[str]:
    """Return what there is to say of classes that are trained and never judged."""
    judged = Counter(example.label for example in validation.sequences)
    absent = [repr(label) for label in {row.label: None for row in rows} if not judged[classes.ids[label]]]
    if not absent:
        return []
    return [f"no validation example has the label {', '.join(sorted(absent))}, so it is trained and never judged"]


def _unknown(found: Rows, rows: Sequence[LabelledRow], tokenizer: Any) -> float:
    """Return the share of the text that the tokenizer does not know, as rows from all over it show."""
    texts = tuple(rows[number].text for number in evenly_spaced(len(rows), _SAMPLE))
    return tokenized(Text(found.place, found.role, texts, is_stream=False), tokenizer).unknown
