"""Trials put together: those of one workload, and in it those of one variant. Trials are grouped here only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pytest_ftguard.comparison.same_work import same_base, same_sequences
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.specs import RateSource, Workload, key_of

__all__ = ["by_baseline", "by_workload", "trained_variants", "variants_of"]


# Of the variants that were trained, only one at a default that no search has left keeps its "auto".
_ORIGINS: Final[Mapping[str, Literal["given", "searched", "default"]]] = {
    "auto": "default",
    "yes": "searched",
    "no": "given",
}


def variants_of(trials: Iterable[Trial]) -> list[TrainedVariant]:
    """Return the variants of one workload, full fine-tuning first, the others in the order of their first trials.

    Seeds from the store and seeds that were trained now are one variant. Those of a report, which does not say what
    their content was, are another.

    Args:
        trials: Trials of one workload; of two with one variant and seed the first counts.
    """
    groups: dict[tuple[str, bool], dict[int, Trial]] = {}
    for trial in trials:
        groups.setdefault((key_of(trial.spec.variant, "trial"), trial.was_read), {}).setdefault(trial.spec.seed, trial)
    found = []
    for by_seed in groups.values():
        ordered = tuple(by_seed[seed] for seed in sorted(by_seed))
        variant = ordered[0].spec.variant
        found.append(TrainedVariant(_declared(ordered), variant, ordered, rate=RateSource(_ORIGINS[variant.search])))
    return sorted(found, key=lambda one: one.variant.kind != "full")


def _declared(trials: Sequence[Trial]) -> Workload:
    """Return the workload of one variant's trials, with the seeds that it had before a gate in doubt asked for more."""
    work = min((trial.spec.workload for trial in trials), key=lambda workload: len(workload.seeds))
    return work if work.most_seeds else replace(work, seeds=tuple(trial.spec.seed for trial in trials))


def trained_variants(trials: Iterable[Trial]) -> tuple[TrainedVariant, ...]:
    """Return one variant for each workload and way of adapting the weights, in the order of their first trials.

    Those of a search for a learning rate and of a timing are left out: they are not the variant that gates judge.
    """
    groups: dict[str, list[Trial]] = {}
    place: dict[tuple[str, str], int] = {}
    for number, trial in enumerate(trials):
        if trial.spec.workload.purpose == "gates":
            # More seeds of a variant are still that variant on that workload.
            work = key_of(trial.spec.workload, "trial")
            groups.setdefault(work, []).append(trial)
            place.setdefault((work, key_of(trial.spec.variant, "trial")), number)
    found = [
        (place[work, key_of(one.variant, "trial")], one) for work, group in groups.items() for one in variants_of(group)
    ]
    return tuple(one for _, one in sorted(found, key=lambda pair: pair[0]))


def by_baseline(trials: Iterable[Trial]) -> list[tuple[TrainedVariant, list[TrainedVariant]]]:
    """Return for each workload its full variants, each with the variants that are judged against it."""
    trained = trained_variants(trials)
    return [
        (full, [other for other in trained if other.workload == full.workload and other.variant.kind != "full"])
        for full in trained
        if full.variant.kind == "full"
    ]


def by_workload(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Return the trials of each workload on one device, for people to read.

    If only the paths of the texts differ, as on another machine, it is the same workload here.
    """
    groups: list[_Group] = []
    for trial in trials:
        group = next((group for group in groups if group.takes(trial)), None)
        if group is None:
            group = _Group(trial)
            groups.append(group)
        group.add(trial)
    return [group.trials for group in groups]


@dataclass
class _Group:
    """Trials of one workload.

    Attributes:
        first: The trial that it began with.
        trials: All of them.
        of_seed: The first one of each seed.
        device: What they were measured on; None if none of them says so.
    """

    first: Trial
    trials: list[Trial] = field(default_factory=list)
    of_seed: dict[int, Trial] = field(default_factory=dict)
    device: tuple[str, str] | None = None

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.of_seed.setdefault(trial.spec.seed, trial)
        self.device = self.device or _device(trial)

    def takes(self, trial: Trial) -> bool:
        device = _device(trial)
        if device is not None and self.device is not None and device != self.device:
            return False  # one heading names one device
        ours, theirs = trial.spec.workload, self.first.spec.workload
        twin = self.of_seed.get(trial.spec.seed)
        if twin is None or trial.measured.data_order is None or twin.measured.data_order is None:
            return key_of(ours, "trial") == key_of(theirs, "trial")
        return (
            key_of(ours, "trial", places="named") == key_of(theirs, "trial", places="named")
            and trial.measured.data_order == twin.measured.data_order
            and same_sequences(trial.measured.validation, twin.measured.validation)
            and same_base(trial, twin)
        )


def _device(trial: Trial) -> tuple[str, str] | None:
    return (
        (trial.measured.environment.device_name, trial.measured.environment.precision)
        if trial.measured.environment
        else None
    )
