"""How a setting of the workload is changed in this very test, as messages say it."""

from __future__ import annotations

import itertools
from typing import Any, Final

from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs.methods.rates import Maker

__all__ = ["MOST_LISTED_SEEDS", "how_to_set", "more_seeds", "seeds_in_all"]

MOST_LISTED_SEEDS: Final = 12
"""A longer list of seeds is no help in a message."""


def how_to_set(maker: Maker, **values: Any) -> str:
    """Return how fields of a workload are given other values: by ini keys only if the settings made it.

    Args:
        maker: What made the workload.
        values: The fields and their values.
    """
    if maker == "code":
        return f"Workload(..., {', '.join(f'{name}={value!r}' for name, value in values.items())})"
    settings = maker == "settings"
    made = " and ".join(f"{'ftguard_' if settings else ''}{name} = {_text(value)}" for name, value in values.items())
    return made if settings else f"{made} in the run that trained it"


def _text(value: Any) -> str:
    """Return a value as an ini file has it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def more_seeds(variant: TrainedVariant, count: int) -> str:
    """Return how a variant's workload gets so many seeds in all, those that it has included; "" if they are many."""
    if count > MOST_LISTED_SEEDS:
        return ""
    return f"set {how_to_set(variant.workload_maker, seeds=seeds_in_all(variant.workload.seeds, count))}"


def seeds_in_all(seeds: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return so many seeds, the present ones first."""
    fresh = (seed for seed in itertools.count() if seed not in seeds)
    return (*seeds, *itertools.islice(fresh, max(0, count - len(seeds))))
