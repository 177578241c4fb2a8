"""The team's own score of a model: how its function is found and called, and what is checked of what it returns."""

from __future__ import annotations

import inspect
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from transformers import set_seed

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import ACCURACY, BaseLosses, Scores, SequenceLosses
from pytest_ftguard.specs import Workload
from pytest_ftguard.specs.importing import imported
from pytest_ftguard.tasks import Evaluated, Task
from pytest_ftguard.training.changed import checksums_of
from pytest_ftguard.training.function import source_digest

__all__ = ["Scorer", "check_asked", "load_score"]

Row = Mapping[str, Any]
ScoreFunction = Callable[[Any, Any, list[Row]], Any]

_FIELD: Final = "Workload.score"
_SEED: Final = 0
_LONGEST: Final = 300
# So many rows are scored once more in another order.
_SCORED_AGAIN: Final = 64
# As a share of what chance would change.
_MOST_CHANGED: Final = 0.5
_TOLERANCE: Final = 1e-3


class _ScoreError(Exception):
    """What a function of the user's returned are no scores; the message says why, in a few words."""


class _FunctionError(Exception):
    """A function of the user's raised an error."""


def load_score(name: str) -> ScoreFunction:
    """Return the function that `module:function` names.

    Raises:
        ConfigurationError: It cannot be imported, or takes other arguments.
    """
    try:
        found = imported(name)
    except Exception as error:  # a module of the user's may raise anything
        message = (
            f"{_FIELD} is {name!r}, which cannot be imported ({type(error).__name__}: {error}): it must be "
            "importable in the tests, so install it, put it next to conftest.py, or add its folder to pytest's "
            "pythonpath"
        )
        raise ConfigurationError(message) from error
    if not callable(found):
        message = f"{_FIELD} is {name!r}, which is {found!r:.80}: name a function"
        raise ConfigurationError(message)
    try:
        inspect.signature(found).bind(None, None, None)
    except TypeError as error:
        message = f"{_FIELD} is {name!r}, which must take (model, tokenizer, rows): {error}"
        raise ConfigurationError(message) from error
    except ValueError:
        pass  # a callable without a signature, which calling will test
    return found  # type: ignore[no-any-return]


def check_asked(workload: Workload, task: Task, validation: Evaluated) -> None:
    """Check that a task gives what a workload asks for besides losses.

    Raises:
        ConfigurationError: It does not, or there is no such score.
    """
    if workload.score is not None:
        load_score(workload.score)
    about = getattr(validation, "about", None)
    for name in ("slices", "group"):
        if getattr(workload, name) and about is None:
            message = (
                f"{name} is set, but the task {workload.task} ({type(task).__name__}) says nothing of its examples "
                f"(about): remove {name}, or give its evaluation examples an About"
            )
            raise ConfigurationError(message)


@dataclass(frozen=True)
class Scorer:
    """How models are scored, the same for every model of a comparison.

    Attributes:
        name: What `Workload.score` names; None if there is no score.
        task: Gives the row of each example.
        bf16: Whether to run under bf16 autocast, as in training.
    """

    name: str | None
    task: Task
    bf16: bool

    @classmethod
    def of(cls, workload: Workload, task: Task, *, bf16: bool) -> Scorer:
        """Return what scores the models of a workload."""
        return cls(workload.score, task, bf16)

    def base(self, losses: BaseLosses, model: nn.Module, tokenizer: Any, examples: Evaluated) -> BaseLosses:
        """Return the losses of the base model, with its scores.

        Args:
            losses: The losses.
            model: The base model, on its device.
            tokenizer: Its tokenizer.
            examples: The validation examples.

        Raises:
            ConfigurationError: The function fails. Nothing has been trained yet, so this is the time to hear of it.
        """
        if self.name is None:
            return losses
        before = checksums_of(model)
        found = self._scored(losses.validation, model, tokenizer, examples)
        if found.scores is not None and found.scores.failure:
            message = f"the score {self.name} (ftguard_score) failed on the base model: {found.scores.failure}"
            raise ConfigurationError(message)
        if checksums_of(model) != before:
            message = f"the score {self.name} (ftguard_score) changes the model's weights, and may only look at them"
            raise ConfigurationError(message)
        return replace(losses, validation=found)

    def trained(self, losses: SequenceLosses, model: nn.Module, tokenizer: Any, examples: Evaluated) -> SequenceLosses:
        """Return the losses of a trained model, with its scores.

        If the function fails, that is part of the result: the training that went before is not lost for it.
        """
        return losses if self.name is None else self._scored(losses, model, tokenizer, examples)

    def _scored(self, losses: SequenceLosses, model: nn.Module, tokenizer: Any, examples: Evaluated) -> SequenceLosses:
        function, began = load_score(str(self.name)), time.perf_counter()
        rows = [dict(row) for row in self.task.rows(examples, tokenizer)]

        def ask(chosen: Sequence[Row]) -> dict[str, tuple[float, ...]]:
            return _asked(function, model, tokenizer, chosen, bf16=self.bf16)

        try:
            values, failure = ask(rows), ""
            if losses.answers is not None and ACCURACY in values:
                raise _ScoreError(f"it names a score {ACCURACY!r}, and this task has an accuracy of its own")
            _check_order(ask, rows, values)
        except _FunctionError as error:
            values, failure = {}, _where(ask, rows, _names(losses, examples), error)
        except _ScoreError as error:
            values, failure = {}, str(error)
        return replace(
            losses, scores=Scores(values, time.perf_counter() - began, failure, source_digest(str(self.name)))
        )


_Ask = Callable[[Sequence[Row]], Mapping[str, tuple[float, ...]]]


def _asked(
    function: ScoreFunction, model: nn.Module, tokenizer: Any, rows: Sequence[Row], *, bf16: bool
) -> dict[str, tuple[float, ...]]:
    """Return what a function makes of rows, checked; it is handed copies, and finds the same random numbers each time.

    Raises:
        _FunctionError: It raised an error.
        _ScoreError: What it returned are no scores of these rows.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with _random_numbers(device), torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            found = function(model, tokenizer, deepcopy(list(rows)))
            named = {**found} if isinstance(found, Mapping) else {_name_of(function): found}
            # What is made only when it is asked for is asked for here, with the model as it is.
            named = {name: list(values) if isinstance(values, Iterator) else values for name, values in named.items()}
    except Exception as error:  # code of the user's may raise anything
        raise _FunctionError(f"{type(error).__name__}: {error}") from error
    finally:
        model.train(was_training)
    if not named:
        raise _ScoreError("it returned no score")
    return {_checked_name(name): _numbers(name, values, len(rows)) for name, values in named.items()}


@contextmanager
def _random_numbers(device: torch.device) -> Iterator[None]:
    """Begin with the same random numbers each time; afterwards the training goes on with its own."""
    before = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        set_seed(_SEED)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _name_of(function: ScoreFunction) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _checked_name(name: Any) -> str:
    if not (isinstance(name, str) and name.strip() and name.isprintable()):
        raise _ScoreError(f"it returned a score named {name!r:.80}, and a name must be a line of text")
    return name


def _numbers(name: Any, values: Any, count: int) -> tuple[float, ...]:
    """Return scores as Python's own numbers: a list, an array and a tensor may hold them."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise _ScoreError(f"{name} is {values!r:.80}, and must be one number for each of {count} rows")
    given = list(values)
    if len(given) != count:
        raise _ScoreError(f"{name} has {len(given)} values for {count} rows")
    numbers = []
    for row, value in enumerate(given, start=1):
        try:
            if isinstance(value, str):
                raise TypeError
            numbers.append(float(value))
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise _ScoreError(f"{name} is {value!r:.80} for the evaluated row {row}, which is no number") from None
    return tuple(numbers)


def _where(ask: _Ask, rows: Sequence[Row], names: Sequence[str], error: _FunctionError) -> str:
    """Return what the function raised, and for which row: the half that fails is halved until one row is left."""
    first, last = 0, len(rows)
    while last - first > 1:
        middle = (first + last) // 2
        if _fails(ask, rows[first:middle]):
            last = middle
        else:
            first = middle
    reason = " ".join(str(error).split())[:_LONGEST]
    if not _fails(ask, rows[first:last]):
        return f"{reason} (only with all {len(rows)} rows together)"
    return f"{reason}, at {names[first]}"


def _names(losses: SequenceLosses, examples: Evaluated) -> list[str]:
    """Return what messages call each row: its id or number in the data, if that is known."""
    if losses.about is not None:
        return [f"row {name}" for name in losses.about.names]
    return [f"example {number}" for number in range(1, len(examples.sequences) + 1)]


def _fails(ask: _Ask, rows: Sequence[Row]) -> bool:
    try:
        ask(rows)
    except _FunctionError:
        return True
    except _ScoreError:
        return False
    return False


def _check_order(ask: _Ask, rows: Sequence[Row], values: Mapping[str, Sequence[float]]) -> None:
    """Check that each score is that of its row: some rows in another order must get the same scores.

    Another batch rounds otherwise, so a few may differ. If the scores came in an order of their own, or by chance, as
    many differ as between any two rows.

    Raises:
        _ScoreError: They do not get them.
    """
    count = min(len(rows), _SCORED_AGAIN)
    try:
        found = ask(list(reversed(rows[:count])))
    except _FunctionError as error:
        raise _ScoreError(f"it failed on the same rows in another order: {error}") from error
    if found.keys() != values.keys():
        raise _ScoreError(f"it returned {', '.join(values)} at first, and {', '.join(found)} for fewer rows")
    for name, scores in values.items():
        before, now = scores[:count], found[name][::-1]
        differ = sum(not _same(one, other) for one, other in zip(before, now, strict=True))
        different = sum(not _same(one, other) for one, other in combinations(before, 2))
        by_chance = 2 * different / max(1, count - 1)
        if differ > 1 and differ > _MOST_CHANGED * by_chance:
            raise _ScoreError(
                f"{name} of {differ} of {count} rows is another one if the rows come in another order, so it is not "
                "known which score is that of which row: return the scores in the order of the rows, without chance"
            )


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) or (math.isnan(one) and math.isnan(other))
