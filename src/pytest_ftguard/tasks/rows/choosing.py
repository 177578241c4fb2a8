"""Which rows are evaluated: evenly spaced, none twice, hardly any that was trained on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import MINIMUM_UNITS, MOST_TRAINED_ON, evenly_spaced
from pytest_ftguard.specs import Workload

__all__ = ["Candidates", "Chosen", "choose", "listed"]

# Below this a search for a learning rate would be decided by a few odd examples.
_LEAST_LEFT_OVER: Final = 32
_NAMED_ROWS: Final = 5


@dataclass(frozen=True)
class Candidates:
    """Examples that may be evaluated.

    Attributes:
        name: What messages call the rows that they are made of.
        role: "validation" or "reference".
        identities: What tells each from the others, in one or more ways; two with one of them in common are copies.
        numbers: The number of each one's row, counted from 0.
    """

    name: str
    role: str
    identities: Sequence[Collection[Hashable]]
    numbers: Sequence[int]


@dataclass(frozen=True)
class Chosen:
    """The examples that are evaluated.

    Attributes:
        places: Their places among the candidates.
        repeated: How many candidates repeat earlier ones, and are left out.
        trained_on: How many of those that are evaluated stand in the training data as well.
        remarks: What there is to say of that.
    """

    places: tuple[int, ...]
    repeated: int
    trained_on: int
    remarks: tuple[str, ...]


def choose(
    workload: Workload, found: Candidates, is_trained_on: Callable[[int], bool], *, searches: bool = False
) -> Chosen:
    """Return which examples are evaluated, at most as many as the workload says.

    Args:
        workload: How many.
        found: What there is to choose from.
        is_trained_on: Tells by a candidate's place whether it is in the training data as well.
        searches: Whether to take others than those that gates use.

    Raises:
        ConfigurationError: Too many are trained on, or a search has too few of its own.
    """
    seen: set[Hashable] = set()
    new = []
    for place, identities in enumerate(found.identities):
        if seen.isdisjoint(identities):
            new.append(place)
        seen.update(identities)
    used = [new[place] for place in evenly_spaced(len(new), workload.validation_sequences)]
    if searches:
        used = _left_over(workload, found.name, new, used)
    both = [place for place in used if is_trained_on(place)]
    rows = listed([found.numbers[place] for place in both])
    # Of fewer examples than a gate takes, one or two are a large share and no sign of a leak.
    if len(both) > MOST_TRAINED_ON * max(len(used), MINIMUM_UNITS):
        message = (
            f"{len(both)} of {len(used)} rows of {found.name} are also in the training data ({rows}), so a model "
            f"that memorized them would look good: remove them from one of the two (at most {100 * MOST_TRAINED_ON:g} "
            "% may be in both)"
        )
        raise ConfigurationError(message)
    also = f"{len(both)} of {len(used)} {found.role} rows are also in the training data ({rows}; more than a tenth "
    remarks = (f"{also}is an error)",) if both else ()
    return Chosen(tuple(used), len(found.identities) - len(new), len(both), remarks)


def listed(numbers: Sequence[int]) -> str:
    """Return rows, by their numbers counted from 0, as a reader counts them, the first few of them."""
    shown = ", ".join(str(number + 1) for number in numbers[:_NAMED_ROWS])
    word = "rows" if len(numbers) > 1 else "row"
    return f"{word} {shown}{', ...' if len(numbers) > _NAMED_ROWS else ''}"


def _left_over(workload: Workload, name: str, new: Sequence[int], used: Sequence[int]) -> list[int]:
    """Return other rows than the gates use, evenly spaced.

    Raises:
        ConfigurationError: Hardly any is left over.
    """
    rest = sorted(set(new) - set(used))
    if len(rest) < _LEAST_LEFT_OVER:
        message = (
            f"{name} has {len(new)} different rows, of which the gates use {len(used)}: a search for a learning "
            f"rate needs {_LEAST_LEFT_OVER} others, and {len(rest)} are left; give more rows, or lower "
            "validation_sequences"
        )
        raise ConfigurationError(message)
    return [rest[place] for place in evenly_spaced(len(rest), workload.validation_sequences)]
