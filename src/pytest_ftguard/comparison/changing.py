"""How a setting of the workload is changed in this very test, as messages say it."""

from __future__ import annotations

import itertools
from typing import Any, Final

from pytest_ftguard.results import TrainedVariant

__all__ = ["MOST_LISTED_SEEDS", "how_to_set", "more_seeds", "seeds_in_all", "set_key"]

MOST_LISTED_SEEDS: Final = 12
"""A longer list of seeds is no help in a message."""


def how_to_set(variant: TrainedVariant, **field: Any) -> str:
    """Return how a field of a variant's workload is given another value: by its ini key only if that is what counts.

    Args:
        variant: The variant.
        field: The field and its value.
    """
    ((name, value),) = field.items()
    match variant.workload_maker:
        case "code":
            return f"Workload(..., {name}={value!r})"
        case "settings":
            return set_key(variant, name, _text(value))
    return f"{name} = {_text(value)} in the run that trained it"


def set_key(variant: TrainedVariant, name: str, value: str) -> str:
    """Return how a setting gets a value: in the ini file, or in the place that wins over it."""
    place = variant.overriding.get(name)
    return f"ftguard_{name} = {value}" if place is None else f"{name} = {value} by {place}"


def _text(value: Any) -> str:
    """Return a value as an ini file has it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def more_seeds(variant: TrainedVariant, count: int) -> str:
    """Return how a variant's workload gets so many seeds in all, those that it has included; "" if they are many."""
    if count > MOST_LISTED_SEEDS:
        return ""
    return f"set {how_to_set(variant, seeds=seeds_in_all(variant.workload.seeds, count))}"


def seeds_in_all(seeds: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return so many seeds, the present ones first."""
    fresh = (seed for seed in itertools.count() if seed not in seeds)
    return (*seeds, *itertools.islice(fresh, max(0, count - len(seeds))))
