"""What is trained if a test asks for a variant: with which seeds, at which rate, and whether at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.files import name_problem
from pytest_ftguard.gates.limits import SHARE, Limit
from pytest_ftguard.gates.memory import forecast_text, foretell_memory
from pytest_ftguard.gates.setting import Setting
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.running.lab import Lab
from pytest_ftguard.settings.reading import Settings
from pytest_ftguard.specs import Full, RateSource, Variant, Workload, rate_source, with_learning_rate
from pytest_ftguard.specs.methods.rates import Maker
from pytest_ftguard.specs.texts import is_place

__all__ = ["Policy", "absolute", "with_absolute_paths"]

# A forecast must miss a budget by this factor before the training is not even tried.
_CLEARLY: Final = 1.1


class Policy:
    """Decides what is trained.

    Args:
        settings: What the user set.
        lab: Trains.
    """

    def __init__(self, settings: Settings, lab: Lab) -> None:
        self._settings = settings
        self._lab = lab

    def train(
        self,
        workload: Workload,
        variant: Variant,
        full: Callable[[], Full],
        budgets: Sequence[Setting | None],
        why_not: str | None,
        *,
        maker: Maker,
    ) -> TrainedVariant:
        """Return the variant trained, or planned under a plan.

        Args:
            workload: What is held fixed.
            variant: What is trained; its learning rate may be open.
            full: How to get full fine-tuning: its learning rate decides LoRA's by default.
            budgets: The memory budget of each test that asks for the variant; None if a test has none.
            why_not: Why it is not worth a training, so that only a result that is there already is returned.
            maker: What made the variant.

        Raises:
            ConfigurationError: A setting is wrong, or the training would break every budget.
            DeviceUnavailableError: The device is not there.
        """
        count = self._settings.value("calibrate", 0)
        if count:
            workload = replace(workload, seeds=tuple(range(count)), most_seeds=0)
        rate = rate_source(variant, maker)
        if self._settings.value("plan", False):
            planned, known = self._planned(workload, variant, full, rate)
            # What an earlier search has found needs no other one.
            shown = planned if known == rate else replace(planned, search_learning_rate="no")
            return replace(self._lab.plan(workload, shown), rate=known)
        first = with_learning_rate(variant, full())
        if why_not is not None:
            return replace(self._lab.spare(workload, first, why_not), rate=rate)
        self._refuse_what_breaks_budgets(workload, first, full, budgets)
        if rate.origin == "searched" or (variant.learning_rate is None and full().search == "yes"):
            return replace(self._lab.train(workload, self._searched(workload, variant, full)), rate=rate)
        # Also if an earlier search has found another rate: whether a gate asks for it must not depend on other tests.
        return replace(self._lab.train(workload, first), rate=rate)

    def _planned(
        self, workload: Workload, variant: Variant, full: Callable[[], Full], rate: RateSource
    ) -> tuple[Variant, RateSource]:
        """Return a variant for a plan: at the rate that an earlier search has found, or else at its first guess."""
        first = with_learning_rate(variant, full())
        # LoRA's first guess follows full's rate, which is not known here if it is to be searched itself.
        follows = variant.learning_rate is None and variant.kind != "full" and full().search == "yes"
        is_searched = (rate.is_open or rate.origin == "searched") and not follows
        known = self._lab.known_rate(workload, first) if is_searched else None
        if known is None:
            return first, rate
        found = (
            replace(first, learning_rate=known, search_learning_rate="yes") if known != first.learning_rate else first
        )
        return found, replace(rate, origin="searched", is_open=False, first=first.learning_rate)

    def _refuse_what_breaks_budgets(
        self, workload: Workload, variant: Variant, full: Callable[[], Full], budgets: Sequence[Setting | None]
    ) -> None:
        """Fail before a training if its forecast clearly breaks the memory budgets of all tests that need it.

        A test without a budget, or with a larger one, has a use for the training. Budgets are for what saves memory, so
        full fine-tuning is not held against them.
        """
        if not budgets or None in budgets or variant.kind == "full" or self._settings.value("forecast", "yes") == "no":
            return
        candidate = self._lab.plan(workload, variant)
        if candidate.cached:
            return
        whole = full()
        broken = []
        for budget in filter(None, budgets):
            allowed = Limit.of(budget)
            limit = replace(allowed, value=_CLEARLY * allowed.value)
            baseline = self._lab.plan(workload, with_learning_rate(whole, whole)) if limit.unit == SHARE else None
            foretold = foretell_memory(candidate, limit, baseline)
            if foretold.status != "FAIL":
                return
            broken.append(f"{allowed} ({allowed.origin.name})")
        message = (
            f"{variant.label} was not trained: its peak memory is forecast at {forecast_text(candidate, baseline)}, "
            f"clearly above the budget of {' and '.join(dict.fromkeys(broken))}. Set ftguard_forecast = no to train it "
            "anyway"
        )
        raise ConfigurationError(message)

    def _searched(self, workload: Workload, variant: Variant, full: Callable[[], Full]) -> Variant:
        """Return the variant with its learning rate, after the searches that were asked for."""
        is_searched = variant.searches_first
        if variant.learning_rate is None:
            # LoRA's rate follows full's: if that is to be searched, it is searched first; what was tried is remembered.
            base = full()
            if base.search == "yes" and variant.kind != "full":
                filled = with_learning_rate(base, base)
                base = replace(base, learning_rate=self._lab.search(workload, filled))
            variant = with_learning_rate(variant, base)
        return replace(variant, learning_rate=self._lab.search(workload, variant)) if is_searched else variant


def absolute(workload: Workload, root: Path) -> Workload:
    """Return the workload with its paths taken from pytest's root folder, as those of the ini file are.

    Raises:
        ConfigurationError: A path is no name that this Python can open.
    """

    def text(path: str) -> str:
        return os.path.normpath(root / path) if is_place(path) or (root / path).exists() else path

    def folder(name: str | None) -> str | None:
        return os.path.normpath(root / name) if name is not None and (root / name).is_dir() else name

    found = replace(
        workload,
        model=folder(workload.model) or workload.model,
        tokenizer=folder(workload.tokenizer),
        train=text(workload.train),
        validation=text(workload.validation),
        reference=None if workload.reference is None else text(workload.reference),
    )
    for name in ("model", "tokenizer", "train", "validation", "reference"):
        path = getattr(found, name)
        if path is not None and (problem := name_problem(path)):
            raise ConfigurationError(f"Workload.{name} is {path!r}: {problem}")
    return found


def with_absolute_paths(trials: Iterable[Trial], root: Path) -> list[Trial]:
    """Return trials with absolute paths; those of a report start at the folder of its project."""
    return [
        trial
        if Path(trial.spec.workload.train).is_absolute()
        else replace(trial, spec=replace(trial.spec, workload=absolute(trial.spec.workload, root)))
        for trial in trials
    ]
