"""One table: what each field of a spec decides. Every key by which anything is found again is made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, Literal

from pytest_ftguard.specs.rows import PlaceKind, Purpose, Row
from pytest_ftguard.specs.values import Spec, canonical_json, plain

__all__ = [
    "EVALUATION_ARGUMENTS",
    "FULL",
    "LORA",
    "PEFT",
    "TRIAL",
    "UNDECIDING_ARGUMENTS",
    "WORKLOAD",
    "PlaceKind",
    "Places",
    "Purpose",
    "Row",
    "content_of",
    "fields_of",
    "key_of",
    "places_of",
    "rows_of",
]

Places = Literal["kept", "named", "left out"]
"""What becomes of the paths: kept, known by the names of the files alone, or left out if contents take over."""


_EVERYTHING: Final = Row(training=True, evaluation=True, base=True, memory=True)
# How the weights are adapted: whoever measures given weights is given that with them.
_WEIGHTS: Final = Row(training=True, memory=True)
_LATER: Final = Row(training=True, evaluation=True, base=True, memory=True, is_later=True)
_JUDGED: Final = Row(evaluation=True, base=True, memory=True, is_later=True)
# Which other seeds there are changes nothing of a trial.
_NOTHING: Final = Row()

WORKLOAD: Final[Mapping[str, Row]] = {
    "model": Row(training=True, evaluation=True, base=True, memory=True, place="model"),
    # An evaluation counts the sequences that stand in the training text as well.
    "train": Row(training=True, evaluation=True, memory=True, place="text"),
    "validation": Row(evaluation=True, base=True, memory=True, place="text"),
    "revision": Row(training=True, evaluation=True, base=True, memory=True, place="revision"),
    "tokenizer": Row(training=True, evaluation=True, base=True, memory=True, place="model"),
    "reference": Row(evaluation=True, base=True, memory=True, place="text"),
    "task": _EVERYTHING,
    "block_size": _EVERYTHING,
    "batch_size": _EVERYTHING,
    "steps": Row(training=True),
    "seeds": _NOTHING,
    "precision": Row(training=True, evaluation=True, base=True, memory=True, resolved=True),
    "final": Row(label=True),
    "validation_sequences": Row(evaluation=True, base=True, memory=True),
    "model_args": _EVERYTHING,
    # Some of the arguments, such as tf32, change the arithmetic of the whole process.
    "training_args": Row(training=True, evaluation=True, memory=True),
    "training_function": Row(training=True, evaluation=True, memory=True),
    "trainer": Row(training=True, evaluation=True, memory=True, is_later=True),
    "most_seeds": _NOTHING,
    # A search is evaluated on other sequences, and a timing on few.
    "purpose": Row(evaluation=True, base=True, memory=True),
    # The task may read them for every example.
    "chat_template": _LATER,
    "completion_only_loss": _LATER,
    "assistant_only_loss": _LATER,
    "packing": Row(training=True, memory=True, is_later=True),
    # Measured of the base model too; a plan checks that they are there.
    "score": _JUDGED,
    "slices": _JUDGED,
    "group": _JUDGED,
}
# Whether a rate was given or found changes no training; a plan checks the texts of a search too.
_SEARCH: Final = Row(memory=True)
FULL: Final[Mapping[str, Row]] = {"learning_rate": Row(training=True), "search_learning_rate": _SEARCH}
LORA: Final[Mapping[str, Row]] = {
    "r": _WEIGHTS,
    "alpha": Row(training=True),
    "target_modules": _WEIGHTS,
    "dropout": _WEIGHTS,
    "bias": _WEIGHTS,
    "quantization": Row(training=True, memory=True, is_later=True),
    "learning_rate": Row(training=True),
    "search_learning_rate": _SEARCH,
    "options": _WEIGHTS,
}
PEFT: Final[Mapping[str, Row]] = {
    "method": _WEIGHTS,
    "options": Row(training=True, memory=True, names_files=True),
    "quantization": Row(training=True, memory=True, is_later=True),
    "label": Row(label=True),
    "learning_rate": Row(training=True),
    "search_learning_rate": _SEARCH,
}
TRIAL: Final[Mapping[str, Row]] = {
    "workload": _EVERYTHING,  # as far as its own rows say so, as for the variant
    "variant": _EVERYTHING,
    "seed": Row(training=True),
    "device": Row(training=True, evaluation=True, base=True, memory=True, resolved=True),
}

UNDECIDING_ARGUMENTS: Final = frozenset(
    {
        "disable_tqdm",
        "include_num_input_tokens_seen",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_dir",
        "logging_first_step",
        "project",
        "report_to",
        "run_name",
        "save_total_limit",
        "trackio_space_id",
    }
)
"""The `training_args` that change nothing of what is trained or measured."""


EVALUATION_ARGUMENTS: Final = frozenset(
    {"liger_kernel_config", "torch_compile", "torch_compile_backend", "torch_compile_mode", "use_liger_kernel"}
)
"""The `training_args` by which the Trainer changes how the model, or the process, computes from then on."""


def rows_of(kind: type[Spec]) -> dict[str, Row]:
    """Return the row of each field of a kind of spec; a field without one decides everything."""
    return {item.name: kind.rows.get(item.name, _EVERYTHING) for item in fields(kind)}  # type: ignore[arg-type]


def fields_of(kind: type[Spec], purpose: Purpose, *, places: bool = True, resolved: bool = True) -> tuple[str, ...]:
    """Return the names of the fields that something is found by, in their order.

    Args:
        kind: The kind of spec.
        purpose: What is found.
        places: Whether fields that name a place are among them.
        resolved: Whether fields that may be "auto" are among them.
    """
    return tuple(
        name
        for name, row in rows_of(kind).items()
        if row.decides(purpose) and (places or row.place is None) and (resolved or not row.resolved)
    )


def places_of(kind: type[Spec], *places: PlaceKind) -> tuple[str, ...]:
    """Return the names of the fields that name a place, those of the first kind of place first."""
    return tuple(name for place in places for name, row in rows_of(kind).items() if row.place == place)


def content_of(spec: Spec, purpose: Purpose, *, places: Places = "kept") -> dict[str, Any]:
    """Return the fields by which something is found, as values that JSON can hold.

    A spec inside of it, such as the workload of a trial, is there as far as it decides, and a variant with its kind.

    Args:
        spec: The spec.
        purpose: What is found.
        places: What becomes of the paths. Of those that are "named", only the ones that every workload has remain:
            what the others lead to shows in what was measured.
    """
    rows = rows_of(type(spec))
    defaults = {item.name: item.default for item in fields(spec) if item.default is not MISSING}  # type: ignore[arg-type]
    content: dict[str, Any] = {}
    for name in fields_of(type(spec), purpose, places=places != "left out"):
        value = getattr(spec, name)
        if rows[name].is_later and value == defaults[name]:
            continue
        if isinstance(value, Spec):
            if inner := content_of(value, purpose, places=places):
                content[name] = inner
        elif places == "named" and rows[name].place in ("model", "text"):
            if name not in defaults:
                content[name] = Path(value).name or "-"
        else:
            content[name] = plain(value)
    kind = getattr(spec, "kind", None)
    return {"kind": kind, **content} if kind and content else content


def key_of(spec: Spec, purpose: Purpose, *, places: Places = "kept") -> str:
    """Return the key by which something is found: equal for two specs if, and only if, all that decides it is equal.

    Args:
        spec: The spec.
        purpose: What is found.
        places: What becomes of the paths, see `content_of`.
    """
    return canonical_json(content_of(spec, purpose, places=places))
