"""Results made by hand, complete and comparable unless a test changes them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import pytest

from pytest_ftguard.gates.verdict import RecordedVerdict
from pytest_ftguard.reporting.assembly import Remarks, plan_summary, remark_lines, run_summary
from pytest_ftguard.reporting.summary import Summary
from pytest_ftguard.reporting.terminal import terminal_lines
from pytest_ftguard.results import (
    CurvePoint,
    Environment,
    Measured,
    Memory,
    Parameters,
    Provenance,
    SequenceLosses,
    Timing,
    TrainedVariant,
    Trial,
)
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload

WORKLOAD = Workload(model="model", train="train.txt", validation="validation.txt", steps=100, seeds=(0,))
FULL = Full(learning_rate=1e-4)
LORA = LoRA(learning_rate=1e-3)
ENVIRONMENT = Environment("cpu", "a processor", "fp32", 2, "Linux", {"python": platform.python_version()})


def losses(nll: Sequence[float], **changes: Any) -> SequenceLosses:
    """Losses of sequences of ten predicted tokens each."""
    values = {"nll": tuple(nll), "tokens": (10,) * len(nll), "documents": None, "digest": "text"}
    return SequenceLosses(**{**values, **changes})


def trial(
    variant: Variant, nll: Sequence[float], *, seed: int = 0, workload: Workload = WORKLOAD, **changes: Any
) -> Trial:
    """A trial that ended ok."""
    values: dict[str, Any] = {
        "outcome": "ok",
        "parameters": Parameters(1000, 1000 if variant.kind == "full" else 100),
        "validation": losses(nll),
        "base_validation": losses([30.0] * len(nll)),
        "curve": (CurvePoint(0, 3.0, (30.0, 30.0)), *(CurvePoint(step, 2.0, (20.0, 20.0)) for step in (25, 50, 100))),
        "data_order": f"order {seed}",
        "memory": Memory(1000 if variant.kind == "full" else 600, "live tensors"),
        "time": Timing(0.5, 97, 50.0),
        "environment": ENVIRONMENT,
    }
    spec = TrialSpec(workload=workload, variant=variant, seed=seed)
    return changed(Trial(spec, Measured(outcome="ok")), **{**values, **changes})


def changed(trial: Trial, **changes: Any) -> Trial:
    """A trial with other values in what it measured, or in how it was come by."""
    come_by = {item.name for item in fields(Provenance)}
    measured = {name: value for name, value in changes.items() if name not in come_by}
    return trial.remeasured(**measured).come_by(**{name: changes[name] for name in come_by & set(changes)})


class GivenSource:
    """Does with a variant what a test says."""

    def __init__(
        self,
        *,
        more_seeds: Callable[[int], TrainedVariant] | None = None,
        time_beside: Callable[..., tuple[TrainedVariant, TrainedVariant]] | None = None,
        load: Callable[[Trial], tuple[Any, Any]] | None = None,
        with_curves: Callable[[TrainedVariant], TrainedVariant] | None = None,
        forms: Callable[[Trial, Shipping], tuple[FormLosses, ...]] | None = None,
    ) -> None:
        self._more_seeds, self._time_beside, self._load = more_seeds, time_beside, load
        self._with_curves, self._forms = with_curves, forms

    def more_seeds(self, trained: TrainedVariant, count: int) -> TrainedVariant:
        assert self._more_seeds is not None
        return self._more_seeds(count)

    def settle(self, trained: TrainedVariant) -> TrainedVariant:
        raise NotImplementedError

    def complete(self, trained: TrainedVariant) -> TrainedVariant:
        raise NotImplementedError

    def time_beside(
        self, candidate: TrainedVariant, baseline: TrainedVariant, why: str, look: int
    ) -> tuple[TrainedVariant, TrainedVariant]:
        assert self._time_beside is not None
        return self._time_beside(candidate, baseline, why, look)

    def with_curves(self, trained: TrainedVariant) -> TrainedVariant:
        assert self._with_curves is not None
        return self._with_curves(trained)

    def load(self, trial: Trial) -> tuple[Any, Any]:
        assert self._load is not None
        return self._load(trial)

    def forms(self, trial: Trial, shipping: Shipping) -> tuple[FormLosses, ...]:
        assert self._forms is not None
        return self._forms(trial, shipping)


def trained(variant: Variant, *trials: Trial) -> TrainedVariant:
    """The trials as a trained variant, on their own workload, which the settings made."""
    return TrainedVariant(trials[0].spec.workload if trials else WORKLOAD, variant, trials, workload_maker="settings")


def unwrapped(result: pytest.RunResult) -> pytest.LineMatcher:
    """The output of a run, with each note of its summary in one line."""
    return pytest.LineMatcher(result.stdout.str().replace("\n      ", " ").splitlines())


def summary_lines(
    trials: Sequence[Trial], verdicts: Sequence[RecordedVerdict] = (), not_run: Sequence[str] = ()
) -> list[str]:
    """What a terminal shows of a run."""
    return [line.text for line in terminal_lines(run_summary(trials, verdicts, not_run))]


def plan_lines(trials: Sequence[Trial], budgets: Sequence[RecordedVerdict] = ()) -> list[str]:
    """What a terminal shows of a plan."""
    return [line.text for line in terminal_lines(plan_summary(trials, budgets))]


def remarks(**values: Any) -> list[str]:
    """What a terminal shows of remarks."""
    return [line.text for line in terminal_lines(Summary(notes=tuple(remark_lines(Remarks(**values)))))]
