"""What one evaluation measured of each example: its loss, its class if there are classes, and the team's own scores."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["ACCURACY", "About", "Answers", "BaseLosses", "Scores", "SequenceLosses", "perplexity_of"]

ACCURACY: Final = "accuracy"
"""The score that every task with classes has."""


@dataclass(frozen=True)
class Answers:
    """The classes that a model gives examples, next to those that they have.

    Attributes:
        labels: The number of each example's class.
        predicted: The number of the class that the model finds most likely.
    """

    labels: tuple[int, ...]
    predicted: tuple[int, ...]

    @property
    def problem(self) -> str | None:
        """Why there can be no such answers, if they were read from a file; None if there can."""
        if len(self.labels) != len(self.predicted):
            return f"{len(self.predicted)} predicted classes of {len(self.labels)} examples"
        return None if self.labels else "answers to no examples"

    @property
    def correct(self) -> tuple[float, ...]:
        """Whether each example is given its class: 1 or 0."""
        return tuple(float(one == other) for one, other in zip(self.labels, self.predicted, strict=True))

    @property
    def accuracy(self) -> float:
        """Share of the examples that are given their class, from 0 to 1."""
        return sum(self.correct) / len(self.labels)

    @property
    def macro_f1(self) -> float:
        """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN), from 0 to 1.

        A class counts if an example has it or is given it.
        """
        right = Counter(one for one, other in zip(self.labels, self.predicted, strict=True) if one == other)
        total = Counter(self.labels) + Counter(self.predicted)
        return statistics.fmean(2 * right[one] / count for one, count in total.items())


@dataclass(frozen=True)
class Scores:
    """What a function of the team's own makes of a model's work on each example.

    Attributes:
        values: A score of each example, by the name of the score. They may be any numbers, also such that are none.
        seconds: How long it took.
        failure: Why there are none, in a few words; "" if there are.
        code: SHA-256 of the module of the function; None if it has no source.
    """

    values: Mapping[str, tuple[float, ...]] = field(hash=False)
    seconds: float
    failure: str = ""
    code: str | None = None


@dataclass(frozen=True)
class About:
    """What is known of each example, without its text.

    Attributes:
        names: Its `id`, or the number of its row, counted from 1.
        slices: Which slice it is in, by the name of the column that makes them.
        group: The column of which equal values make examples one unit, because they depend on one another; None if
            there is none.
    """

    names: tuple[str, ...]
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    group: str | None = None


@dataclass(frozen=True)
class SequenceLosses:
    """Losses of one model on a text, per sequence.

    Attributes:
        nll: Negative log-likelihood of each sequence, in nats, summed over its predicted tokens.
        tokens: Predicted tokens of each sequence.
        documents: Number of the document that each sequence was cut from; None if the text is one document.
        digest: SHA-256 of the sequences' tokens, so that losses on other data are not taken for these.
        repeated: How many sequences of the text were left out, because they repeat earlier ones.
        trained_on: How many of the sequences stand in the training data as well.
        unknown: Share of the text that the tokenizer does not know.
        answers: Which classes the model gives the examples; None if there is nothing to classify.
        scores: What the team's own function makes of them; None if there is no such function.
        about: What else is known of the examples; None if that is nothing.
    """

    nll: tuple[float, ...]
    tokens: tuple[int, ...]
    documents: tuple[int, ...] | None
    digest: str
    repeated: int = 0
    trained_on: int = 0
    unknown: float = 0.0
    answers: Answers | None = None
    scores: Scores | None = None
    about: About | None = None

    @property
    def scored(self) -> Mapping[str, tuple[float, ...]]:
        """Every score of the examples by its name, accuracy (1 for a class that is right) among them."""
        own = {} if self.scores is None else dict(self.scores.values)
        return own if self.answers is None else {ACCURACY: self.answers.correct, **own}

    @property
    def problem(self) -> str | None:
        """Why no model can have such losses, if they were read from a file; None if one can."""
        sizes = {len(self.nll), len(self.tokens), len(self.nll if self.documents is None else self.documents)}
        if len(sizes) != 1:
            return f"losses, token counts and documents of a text differ in number: {sorted(sizes)}"
        if self.answers is not None and len(self.answers.labels) != len(self.nll):
            return f"{len(self.answers.labels)} answers to {len(self.nll)} examples"
        for name, values in {**(self.scores.values if self.scores else {}), **self._described}.items():
            if len(values) != len(self.nll):
                return f"{len(values)} values of {name!r} for {len(self.nll)} examples"
        return "losses of a text are of no tokens" if sum(self.tokens) < 1 else None

    @property
    def _described(self) -> Mapping[str, tuple[str, ...]]:
        return {} if self.about is None else {"names": self.about.names, **self.about.slices}

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return math.fsum(self.nll) / sum(self.tokens)

    @property
    def perplexity(self) -> float:
        """exp(loss); infinity if that is beyond a float."""
        return perplexity_of(self.loss)


@dataclass(frozen=True)
class BaseLosses:
    """Losses of the base model, measured once per workload and handed from trial to trial.

    Attributes:
        validation: On the validation text.
        reference: On the reference text, if there is one.
    """

    validation: SequenceLosses
    reference: SequenceLosses | None


def perplexity_of(loss: float) -> float:
    """Return exp(loss); infinity if that is beyond a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
