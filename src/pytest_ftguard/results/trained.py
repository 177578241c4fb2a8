"""The results of one variant, over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.results.losses import perplexity_of
from pytest_ftguard.results.parts import Parameters
from pytest_ftguard.results.trial import Trial
from pytest_ftguard.specs import RateSource, Variant, Workload
from pytest_ftguard.specs.methods.rates import Maker

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded = tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]

__all__ = ["Source", "TrainedVariant"]

# Who trains elsewhere sets the rate there.
_OF_ANOTHER_RUN: Final = RateSource()


class Source(Protocol):
    """Who has trained a variant in this run, and can do more with it."""

    def more_seeds(self, trained: TrainedVariant, count: int) -> TrainedVariant:
        """Return a variant trained with so many seeds in all; those that are missing are trained now."""

    def settle(self, trained: TrainedVariant) -> TrainedVariant:
        """Return a variant trained at the learning rate that a search finds."""

    def complete(self, trained: TrainedVariant) -> TrainedVariant:
        """Return a variant with the seeds trained that were not, because another trial had failed."""

    def time_beside(
        self, candidate: TrainedVariant, baseline: TrainedVariant, why: str, look: int
    ) -> tuple[TrainedVariant, TrainedVariant]:
        """Return short trials of two variants, made in turns; see `TrainedVariant.timed_beside`."""

    def with_curves(self, trained: TrainedVariant) -> TrainedVariant:
        """Return a variant with losses along training on the sequences that it is evaluated on."""

    def load(self, trial: Trial) -> tuple[Any, Any]:
        """Return the trained model and the tokenizer of a trial."""

    def forms(self, trial: Trial, shipping: Shipping) -> tuple[FormLosses, ...]:
        """Return what the trained model of a trial comes to in each form in which it is shipped."""


@dataclass(frozen=True, repr=False)
class TrainedVariant:
    """All seeds of one variant on one workload: what the fixtures hand to a test.

    The figures are None unless every trial ended `ok` and measured them: an average over the seeds that
    happened to survive would flatter the variant.

    Attributes:
        workload: What was held fixed.
        variant: The way of adapting the weights, its learning rate filled in.
        trials: One result per seed, in the order of the workload's seeds.
        rate: Where its learning rate comes from.
        source: Who has trained it in this run; None if it comes from elsewhere.
        workload_maker: What made its workload; see `RateSource.maker`.
        overriding: Settings that the command line or the environment makes, each with its place: these win over the
            ini file.
    """

    workload: Workload
    variant: Variant
    trials: tuple[Trial, ...]
    rate: RateSource = field(default=_OF_ANOTHER_RUN, compare=False, kw_only=True)
    source: Source | None = field(default=None, compare=False, kw_only=True)
    workload_maker: Maker = field(default="elsewhere", compare=False, kw_only=True)
    overriding: Mapping[str, str] = field(default_factory=dict, compare=False, kw_only=True)

    def with_seeds(self, count: int) -> TrainedVariant:
        """Return the variant trained with so many seeds in all; those that are missing are trained now.

        Raises:
            FtguardError: It was not trained in this run, so no more of it can be.
        """
        if count == len(self.trials):
            return self
        if self.source is None:
            message = f"{self.label} was not trained in this run, so it cannot be trained with {count} seeds"
            raise FtguardError(message)
        return self._handed_on(replace(self.source.more_seeds(self, count), rate=self.rate))

    def settled(self) -> TrainedVariant:
        """Return the variant trained at the learning rate that a search finds, if its rate is open; itself if not.

        The search may find that the first guess is the best. If it cannot be made, the rate stays, and says why.
        """
        if not self.rate.is_open:
            return self
        if self.source is None:  # it is planned only
            return replace(self, rate=replace(self.rate, is_open=False))
        return self._handed_on(self.source.settle(self))

    def completed(self) -> TrainedVariant:
        """Return the variant with the seeds trained that were not, because another trial had failed; now it is not."""
        spared = any(trial.measured.outcome == "not_trained" for trial in self.trials)
        if not spared or self.source is None:
            return self
        return self._handed_on(replace(self.source.complete(self), rate=self.rate))

    def with_curves(self) -> TrainedVariant:
        """Return the variant with losses along training on the sequences that it is evaluated on.

        Trials that were evaluated again on others than in their training are trained once more. If the variant was not
        trained in this run, it stays as it is.
        """
        return self if self.source is None else replace(self.source.with_curves(self), rate=self.rate)

    def timed_beside(
        self, baseline: TrainedVariant, why: str, *, look: int = 1
    ) -> tuple[TrainedVariant, TrainedVariant]:
        """Return short trials of this variant and of its baseline, made in turns in one run; only time is theirs.

        Args:
            baseline: The variant that it is judged against, with the same seeds.
            why: Why the seconds that both have cannot be compared.
            look: Which timing of the pair, from 1; a further one if those before left a gate in doubt.

        Raises:
            FtguardError: One of the two was not trained in this run, or they cannot be timed here.
        """
        if self.source is None or baseline.source is None:
            absent = self if self.source is None else baseline
            message = f"{absent.label} was not trained in this run, so it cannot be timed in it"
            raise FtguardError(message)
        ours, theirs = self.source.time_beside(self, baseline, why, look)
        return self._handed_on(ours), baseline._handed_on(theirs)

    def _handed_on(self, other: TrainedVariant) -> TrainedVariant:
        """Return another training of the variant, which knows what made the workload."""
        return replace(other, workload_maker=self.workload_maker, overriding=self.overriding)

    def __repr__(self) -> str:
        """Return one short line: pytest shows it with every failing test."""
        loss = "no loss" if self.loss is None else f"loss {self.loss:.4f}"
        return f"<TrainedVariant {self.label}: {len(self.trials)} trials, {loss}>"

    @property
    def label(self) -> str:
        """The variant's name in the summary."""
        return self.variant.label

    @property
    def ok(self) -> bool:
        """Whether there are trials and all of them ended `ok`."""
        return bool(self.trials) and all(trial.measured.outcome == "ok" for trial in self.trials)

    @property
    def losses(self) -> tuple[float, ...] | None:
        """Validation loss of each seed, in nats per token."""
        losses = [trial.measured.validation.loss for trial in self.trials if trial.measured.validation is not None]
        return tuple(losses) if self.ok and len(losses) == len(self.trials) else None

    @property
    def loss(self) -> float | None:
        """Validation loss in nats per token, mean over the seeds."""
        return statistics.fmean(self.losses) if self.losses else None

    @property
    def perplexity(self) -> float | None:
        """exp(loss)."""
        return None if self.loss is None else perplexity_of(self.loss)

    @property
    def peak_memory_bytes(self) -> int | None:
        """Peak memory of training, the largest over the seeds."""
        peaks = [trial.measured.memory.peak_bytes for trial in self.trials if trial.measured.memory is not None]
        measured = [peak for peak in peaks if peak is not None]
        return max(measured) if self.ok and len(measured) == len(self.trials) else None

    @property
    def forecast_memory_bytes(self) -> int | None:
        """Peak memory of training as it was forecast; None if it was not."""
        forecasts = [trial.measured.memory.forecast_bytes for trial in self.trials if trial.measured.memory is not None]
        return next((forecast for forecast in forecasts if forecast is not None), None)

    @property
    def seconds_per_step(self) -> float | None:
        """Time of an optimizer step, median over the seeds."""
        times = [trial.measured.time.seconds_per_step for trial in self.trials if trial.measured.time is not None]
        measured = [seconds for seconds in times if seconds is not None]
        return statistics.median(measured) if self.ok and len(measured) == len(self.trials) else None

    @property
    def trainable_parameters(self) -> int | None:
        """Number of parameters that the optimizer changes."""
        return self._parameters.trainable if self._parameters else None

    @property
    def total_parameters(self) -> int | None:
        """Number of all parameters, the adapters' included."""
        return self._parameters.total if self._parameters else None

    @property
    def _parameters(self) -> Parameters | None:
        return next((trial.measured.parameters for trial in self.trials if trial.measured.parameters is not None), None)

    @property
    def cached(self) -> bool:
        """Whether every trial was reused instead of trained."""
        return bool(self.trials) and all(trial.provenance.cached for trial in self.trials)

    def load(self, seed: int | None = None) -> Loaded:
        """Return the trained model (on the CPU, in evaluation mode) and its tokenizer.

        This imports torch and transformers into the present process. The weights of a cached trial are trained again
        if the store does not have them.

        Args:
            seed: Which trial's model; the first one's by default.

        Raises:
            FtguardError: There is no such trial, it did not end `ok`, or its weights were not kept.
        """
        seeds = [trial.spec.seed for trial in self.trials]
        wanted = seeds[0] if seed is None and seeds else seed
        trial = next((trial for trial in self.trials if trial.spec.seed == wanted), None)
        if trial is None:
            message = f"{self.label} has no trial with seed {seed!r}; its seeds are {seeds}"
            raise FtguardError(message)
        return self._source_of_weights(trial).load(trial)

    def forms(self, shipping: Shipping) -> tuple[tuple[FormLosses, ...], ...]:
        """Return what each seed's trained model comes to in each form in which it is shipped.

        They are measured in a process of their own. Weights that are not at hand are trained again, as for `load`.

        Args:
            shipping: How the model is shipped.

        Raises:
            FtguardError: A trial did not end `ok`, its weights were not kept, or they could not be evaluated.
        """
        return tuple(self._source_of_weights(trial).forms(trial, shipping) for trial in self.trials)

    def _source_of_weights(self, trial: Trial) -> Source:
        """Return who can give the weights of a trial.

        Raises:
            FtguardError: Nobody can.
        """
        which = f"{self.label}, seed {trial.spec.seed},"
        if trial.measured.outcome != "ok":
            message = f"{which} has no trained model: the trial {trial.ending}"
            raise FtguardError(message)
        if self.source is None:
            message = f"the weights of {which} are not at hand: it was not trained in this run"
            raise FtguardError(message)
        if trial.provenance.model_dir is None and not trial.provenance.cached:
            message = f"the weights of {which} were not kept: {trial.provenance.not_kept}"
            raise FtguardError(message)
        return self.source
