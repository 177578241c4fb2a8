"""The search for a variant's learning rate: short trials at rates around a first guess."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import Variant, Workload
from pytest_ftguard.specs.short import MOST_RATES, search_workloads
from pytest_ftguard.statistics import one_run_interval

__all__ = ["RateSearch", "SearchFailedError", "find_learning_rate"]

# Half a decade.
_FACTOR: Final = 10**0.5
# One-sided. A rate that wins by less than the noise of the sequences takes no guess's place.
_CONFIDENCE: Final = 0.95


def find_learning_rate(
    train: Callable[[Workload, Variant], TrainedVariant], workload: Workload, variant: Variant
) -> float:
    """Return the best of the learning rates that were tried; the variant's own is the first guess.

    The first round tries rates in trials of a tenth of the steps. Short trials favour high rates, so the second one
    compares the best of them after half of the steps with one rival: the first guess if it was not clearly worse, and
    otherwise, or if the guess is the best, the next lower rate. Only if both diverged, it goes on down by one. The
    guess stays if no other rate is better beyond the noise of the sequences. If all rates diverged, the lowest is
    returned, and the gates will say what is wrong.

    Args:
        train: Trains a variant, or returns what was trained before.
        workload: What the variant will be trained on afterwards.
        variant: The variant, with a learning rate.

    Raises:
        SearchFailedError: A trial failed for another reason than its rate.
        ConfigurationError: There are no sequences to judge rates by, or the rate changes nothing.
    """
    short, longer = (_Round(train, work, variant) for work in search_workloads(workload))
    while (notch := short.next_notch()) is not None:
        short.loss(notch)
    short.refuse_equal_losses()
    start = short.best
    if not short.has_finished(start):
        return short.rate(start)
    rival = start - 1 if start == 0 or short.is_better(start, 0) else 0
    for notch in (start, rival):
        longer.loss(notch)
    if not longer.has_finished(longer.best):
        longer.loss(longer.best - 1)
    best = longer.best
    if not longer.has_finished(best):
        return short.rate(min(best, 0))  # a guess below all that diverged may still do
    return short.rate(0 if 0 in longer.losses and not longer.is_better(best, 0) else best)


class SearchFailedError(ConfigurationError):
    """A trial of a search failed for another reason than its rate, so nobody knows which rate is best."""


class RateSearch:
    """Searches learning rates, and trains variants at those that it has found.

    Args:
        train: Trains a variant, or returns what was trained before.
        is_known: Whether a variant was trained before, in this run or in an earlier one.
    """

    def __init__(
        self, train: Callable[[Workload, Variant], TrainedVariant], is_known: Callable[[Workload, Variant], bool]
    ) -> None:
        self._train = train
        self._is_known = is_known

    def find(self, workload: Workload, variant: Variant) -> float:
        """Return the learning rate that a search finds; its trials are trained now if they are not known.

        Args:
            workload: What the variant is trained on.
            variant: The variant, with the first guess.

        Raises:
            ConfigurationError: The rate cannot be searched.
        """
        return find_learning_rate(self._train, workload, variant)

    def known(self, workload: Workload, variant: Variant) -> float | None:
        """Return the learning rate that an earlier search has found; None if one of its trials is not known."""

        def known(work: Workload, one: Variant) -> TrainedVariant:
            if not self._is_known(work, one):
                raise _UnknownError
            return self._train(work, one)

        try:
            return find_learning_rate(known, workload, variant)
        except (_UnknownError, ConfigurationError):  # an error of the search is told when it is made again
            return None

    def settle(self, trained: TrainedVariant, find: Callable[[Workload, Variant], float]) -> TrainedVariant:
        """Return a variant trained at the learning rate that a search finds; if there can be none, say why.

        Args:
            trained: The variant at its first guess.
            find: Searches the rate, as `find` does.

        Raises:
            SearchFailedError: A trial of the search failed for another reason than its rate.
        """
        workload, first = trained.workload, trained.variant.learning_rate
        try:
            rate = find(workload, trained.variant)
        except SearchFailedError:
            raise  # a machine's failure must not leave a verdict as it was
        except ConfigurationError as error:
            return replace(trained, rate=replace(trained.rate, is_open=False, why_not=str(error)))
        source = replace(trained.rate, origin="searched", is_open=False, first=first)
        if rate == first:
            return replace(trained, rate=source)
        variant = replace(trained.variant, learning_rate=rate, search_learning_rate="yes")
        return replace(self._train(workload, variant), rate=source)


class _UnknownError(Exception):
    """A trial of a search was not made yet."""


class _Round:
    """Trials of one length, one for each rate.

    Args:
        train: Trains a variant, or returns what was trained before.
        workload: What each trial trains.
        variant: The variant.

    Attributes:
        losses: Loss at each notch, in nats per token; infinity if the training diverged.
    """

    def __init__(
        self, train: Callable[[Workload, Variant], TrainedVariant], workload: Workload, variant: Variant
    ) -> None:
        self._train = train
        self._workload = workload
        self._variant = variant
        self._trained: dict[int, TrainedVariant] = {}
        self.losses: dict[int, float] = {}

    def rate(self, notch: int) -> float:
        """Return the learning rate of a notch."""
        assert self._variant.learning_rate is not None  # with_learning_rate has filled it in
        rate = self._variant.learning_rate * _FACTOR**notch
        return float(f"{rate:.2g}") if notch else rate

    def loss(self, notch: int) -> float:
        """Return the loss at a notch, which is trained now if it was not before.

        Raises:
            SearchFailedError: The trial failed for another reason than its rate.
        """
        if notch not in self.losses:
            trained = self._train(self._workload, replace(self._variant, learning_rate=self.rate(notch)))
            for trial in trained.trials:
                if trial.measured.outcome not in ("ok", "diverged"):
                    # Taken for a bad rate, a machine's failure would decide which rate looks best.
                    message = (
                        f"the search for {self._variant.label}'s learning rate cannot go on at {self.rate(notch):g}: "
                        f"{trial.failure}"
                    )
                    raise SearchFailedError(message)
            self._trained[notch] = trained
            self.losses[notch] = math.inf if trained.loss is None else trained.loss
        return self.losses[notch]

    @property
    def best(self) -> int:
        """The notch with the lowest loss: of equal ones the highest, but the lowest if all of them diverged."""
        return min(self.losses, key=lambda notch: (self.losses[notch], -notch if self.has_finished(notch) else notch))

    def next_notch(self) -> int | None:
        """Return what to try next in the first round; None if there is no more to try.

        A notch is half a decade, a factor of about three, counted from the first guess. If the rate below the guess is
        clearly better, there is no trial above it: at rates that are far too high, a higher one may look better than a
        lower one. Then it goes on in the direction in which rates are better, up to five.
        """
        for notch in (0, -1):
            if notch not in self.losses:
                return notch
        goes_down = self.is_better(-1, 0) or not self.has_finished(-1)
        if 1 not in self.losses and not goes_down:
            return 1
        if len(self.losses) >= MOST_RATES[0]:
            return None
        if self.best == min(self.losses):  # also if all of them diverged: only a lower rate can help
            return self.best - 1
        return self.best + 1 if self.best == max(self.losses) else None

    def has_finished(self, notch: int) -> bool:
        """Return whether the training at a notch, which was tried, did not diverge."""
        return math.isfinite(self.losses[notch])

    def is_better(self, notch: int, other: int) -> bool:
        """Return whether the loss at a notch is below that at another one, beyond the noise of the sequences."""
        if notch == other:
            return False
        ours, theirs = (self._trained[one].trials[0].measured.validation for one in (notch, other))
        if ours is None or theirs is None:
            return ours is not None
        gap = one_run_interval(ours.nll, theirs.nll, ours.tokens, ours.documents, _CONFIDENCE)
        return gap is not None and gap.upper < 0

    def refuse_equal_losses(self) -> None:
        """Refuse a training that takes no notice of the rate.

        Raises:
            ConfigurationError: All rates gave the same loss.
        """
        if len(set(self.losses.values())) > 1 or math.inf in self.losses.values():
            return
        rates = ", ".join(f"{self.rate(notch):g}" for notch in sorted(self.losses))
        message = (
            f"the search for {self._variant.label}'s learning rate found the same loss, "
            f"{next(iter(self.losses.values())):.4f}, at each of {rates}: the training does not use "
            "spec.variant.learning_rate"
        )
        raise ConfigurationError(message)
