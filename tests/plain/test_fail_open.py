"""The audit: whatever is wrong with what was measured, no gate is ever green."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pytest_ftguard
from pytest_ftguard import current
from pytest_ftguard.accepting.asked import Asked, Metric
from pytest_ftguard.accepting.gate import accept, assess_regression
from pytest_ftguard.accepting.history import AcceptedFile, History
from pytest_ftguard.accepting.record import record_pair
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.convergence import assess_convergence
from pytest_ftguard.gates.forgetting import assess_forgetting
from pytest_ftguard.gates.limits import BYTES, GROWTH, NATS_PER_TOKEN, OF_GAIN, PERPLEXITY, SHARE, Limit
from pytest_ftguard.gates.memory import assess_memory
from pytest_ftguard.gates.merge_drift import assess_merge_drift
from pytest_ftguard.gates.quality import assess_loss_gap, assess_perplexity_gap, assess_retention
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.step_time import assess_time
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import CurvePoint, Memory, Timing, TrainedVariant, Trial
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.specs import LoRA
from tests.plain.builders import FULL, LORA, WORKLOAD, GivenSource, changed, losses, trained, trial

N = 64
NLL = tuple(20.0 + 0.01 * i for i in range(N))
WORSE = tuple(value + 1 for value in NLL)  # a gap of 0.1 nats per token
BASE = losses([30.0] * N)
SEEDS = replace(WORKLOAD, seeds=(0, 1))
Sides = tuple[TrainedVariant, TrainedVariant]


def generous(value: float, unit: str) -> Limit:
    return Limit(value, unit, Origin("ini", "a limit that anything measured would meet"))


def regression(candidate: TrainedVariant, baseline: TrainedVariant, metric: Metric, unit: str) -> Verdict:
    """Against what the sound pair would have been accepted with; or the accepting of a pair, which must be as sound."""
    then = record_pair(*sound())
    file = AcceptedFile(Path("accepted.json"), "t.py::test", History("t.py::test", then, then))
    limit = generous(0.2 if unit == NATS_PER_TOKEN else 99, unit)
    asked = Asked(candidate=candidate, baseline=baseline, limit=limit, rule=Rule(), metric=metric, file=file)
    verdict = assess_regression(asked)
    accepted, updated = accept(asked, refusals=[])
    assert updated is None or not set(REFUSED) & {accepted.status, verdict.status}
    return verdict


def shipped(variant: TrainedVariant) -> TrainedVariant:
    """The variant in a run in which it ships without any loss."""

    def forms(trial: Trial, _: Shipping) -> tuple[FormLosses, ...]:
        assert trial.measured.validation is not None
        same = {"nll": trial.measured.validation.nll, "digest": trial.measured.validation.digest}
        return (FormLosses(form="saved and reloaded", **same),)  # type: ignore[arg-type]

    trials = tuple(one.come_by(model_dir="kept") for one in variant.trials)
    return replace(variant, trials=trials, source=GivenSource(forms=forms))


REFUSED = ("INVALID", "INCONCLUSIVE", "FAIL")
GATES: Mapping[str, Callable[[TrainedVariant, TrainedVariant], Verdict]] = {
    "loss gap": lambda c, b: assess_loss_gap(c, b, generous(0.2, NATS_PER_TOKEN), Rule()),
    "perplexity gap": lambda c, b: assess_perplexity_gap(c, b, generous(2, PERPLEXITY), Rule()),
    "retention": lambda c, b: assess_retention(c, b, generous(0.01, OF_GAIN), Rule()),
    "forgetting": lambda c, _: assess_forgetting(c, generous(99, NATS_PER_TOKEN), Rule(), None),
    "forgetting against full": lambda c, b: assess_forgetting(c, generous(99, NATS_PER_TOKEN), Rule(), b),
    "merge drift": lambda c, _: assess_merge_drift(shipped(c), generous(0.2, NATS_PER_TOKEN), Rule(), Shipping()),
    "convergence": lambda c, _: assess_convergence(c, generous(99, NATS_PER_TOKEN), Rule()),
    "memory": lambda c, _: assess_memory(c, generous(1e15, BYTES)),
    "memory of full": lambda c, b: assess_memory(c, generous(99, SHARE), b),
    "time": lambda c, b: assess_time(c, generous(99, SHARE), b, 0.95),
    "regression": lambda c, b: regression(c, b, "loss_gap", NATS_PER_TOKEN),
    "regression of memory": lambda c, b: regression(c, b, "memory", GROWTH),
    "regression of time": lambda c, b: regression(c, b, "time", GROWTH),
}


def curve(nll: tuple[float, ...]) -> tuple[CurvePoint, ...]:
    """A curve that has come to rest."""
    return tuple(CurvePoint(step, 3.0, nll if step else BASE.nll) for step in (0, 25, 50, 100))


def one(variant: Any, seed: int, nll: tuple[float, ...] = NLL, **changes: Any) -> Trial:
    texts = {"reference": losses(nll), "base_reference": losses(NLL), "base_validation": BASE, "curve": curve(nll)}
    return trial(variant, nll, seed=seed, workload=SEEDS, **{**texts, **changes})


def sound() -> Sides:
    """Two seeds of each, everything measured: every gate passes."""
    return trained(LORA, one(LORA, 0), one(LORA, 1)), trained(FULL, one(FULL, 0), one(FULL, 1))


def lora(**changes: Any) -> Callable[[], Sides]:
    """The candidate's second seed is broken."""
    return lambda: (trained(LORA, one(LORA, 0), changed(one(LORA, 1), **changes)), sound()[1])


def full(**changes: Any) -> Callable[[], Sides]:
    """The baseline's second seed is broken."""
    return lambda: (sound()[0], trained(FULL, one(FULL, 0), changed(one(FULL, 1), **changes)))


def bad_losses(value: float, **also: Any) -> dict[str, Any]:
    broken = losses((value, *NLL[1:]))
    return {"validation": broken, "reference": broken, "curve": curve(broken.nll), **also}


NO_TIME, NAN_TIME, NO_MEMORY = Timing(None, 0, 1.0), Timing(math.nan, 9, 1.0), Memory(0, "live tensors")
UNMEASURED: dict[str, Any] = {"validation": None, "reference": None, "curve": (), "memory": None, "time": None}
EMPTY: dict[str, Any] = {**UNMEASURED, "validation": losses(()), "reference": losses(())}
QUALITY = set(GATES) - {"memory", "memory of full", "time"}
SINCE = {name for name in GATES if "regression" in name}
OF_LOSSES = {"loss gap", "perplexity gap", "retention", *SINCE}
OF_RATES = {"loss gap", "perplexity gap", "retention", "regression"}
OF_LEARNING = {*OF_RATES, "forgetting", "forgetting against full", "merge drift", "convergence"}
OF_BOTH = set(GATES) - {"forgetting", "merge drift", "convergence", "memory"}


def named_otherwise() -> Sides:
    """Full fine-tuning under the name of an adapter: its learning rate gives it away."""
    fake = LoRA(learning_rate=FULL.learning_rate)
    return trained(fake, one(fake, 0), one(fake, 1)), sound()[1]


def with_seeds(*seeds: int) -> Callable[[], Sides]:
    return lambda: (trained(LORA, *(one(LORA, seed) for seed in seeds)), sound()[1])


def repeated() -> Sides:
    return trained(LORA, one(LORA, 0), one(LORA, 0)), trained(FULL, one(FULL, 0), one(FULL, 0))


def short(count: int, repeated: int = 0) -> Sides:
    def cut(variant: Any, seed: int) -> Trial:
        nll = NLL[:count]
        texts = {"base_validation": losses(BASE.nll[:count]), "base_reference": losses(nll)}
        texts |= {name: losses(nll, repeated=repeated) for name in ("validation", "reference")}
        points = tuple(CurvePoint(step, 3.0, nll) for step in (0, 25, 50, 100))
        return one(variant, seed, nll, curve=points, **texts)

    return tuple(trained(v, cut(v, 0), cut(v, 1)) for v in (LORA, FULL))  # type: ignore[return-value]


def without_variance() -> Sides:
    """Every sequence and every seed has exactly the same gap, beyond the margin of 0.05."""
    return trained(LORA, one(LORA, 0, WORSE), one(LORA, 1, WORSE)), sound()[1]


CASES: dict[str, tuple[Callable[[], Sides], set[str]]] = {
    "NaN loss": (lora(**bad_losses(math.nan)), QUALITY),
    "infinite loss": (lora(**bad_losses(math.inf)), QUALITY),
    "minus infinite loss": (lora(**bad_losses(-math.inf)), QUALITY),
    "NaN loss of full": (full(**bad_losses(math.nan)), QUALITY & OF_BOTH),
    "NaN loss of the base model": (
        full(base_validation=losses((math.nan, *BASE.nll[1:]))),
        OF_LOSSES,
    ),
    "missing candidate": (lambda: (trained(LORA), sound()[1]), set(GATES)),
    "missing baseline": (lambda: (sound()[0], trained(FULL)), OF_BOTH),
    "unmeasured": (lora(**UNMEASURED), set(GATES)),
    "unmeasured full": (full(**UNMEASURED), OF_BOTH),
    "empty slice": (lora(**EMPTY), set(GATES)),
    **{
        outcome: (lora(outcome=outcome), set(GATES))
        for outcome in ("out_of_memory", "diverged", "crashed", "timed_out", "not_trained")
    },
    "full out of memory": (full(outcome="out_of_memory"), OF_BOTH),
    "NaN time": (lora(time=NAN_TIME), {"time", "regression of time"}),
    "no time": (full(time=NO_TIME), {"time", "regression of time"}),
    "no memory": (lora(memory=NO_MEMORY), {"memory", "memory of full", "regression of memory"}),
    "a trial compared with itself under another name": (named_otherwise, OF_RATES),
    "unpaired seeds": (with_seeds(0, 2), OF_BOTH - {"memory of full"}),
    "a seed too few": (with_seeds(0), OF_BOTH - {"memory of full"}),
    "duplicate seeds": (repeated, OF_BOTH - {"memory of full"}),
    "one sequence": (lambda: short(1), QUALITY),
    "a run that learned nothing": (lora(validation=BASE), OF_LEARNING),
    "a run that is worse than the base model": (lora(validation=losses([31.0] * N)), OF_LEARNING),
    "63 sequences": (lambda: short(63), QUALITY),
    "other validation text": (
        lora(validation=losses(NLL, digest="other")),
        OF_LOSSES,
    ),
    "other training text": (lora(data_order="other"), OF_LOSSES),
    "validation text that was trained on": (
        lora(validation=losses(NLL, trained_on=N)),
        QUALITY - {"forgetting against full", "forgetting"},
    ),
    "a tenth of it that full was trained on": (full(validation=losses(NLL, trained_on=7)), OF_LOSSES),
    "reference text that was trained on": (
        lora(reference=losses(NLL, trained_on=7)),
        {"forgetting", "forgetting against full"},
    ),
    "63 sequences, all others being copies": (lambda: short(63, repeated=193), QUALITY),
}


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_passes_what_is_sound(gate: str) -> None:
    """Without this the audit would prove nothing."""
    assert GATES[gate](*sound()).status == "PASS", GATES[gate](*sound()).message


@pytest.mark.parametrize(
    ("name", "gate"), [(name, gate) for name, (_, gates) in CASES.items() for gate in sorted(gates)]
)
def test_nothing_broken_is_green(name: str, gate: str) -> None:
    """Each gate that looks at the broken part is INVALID, however generous its limit."""
    make, _ = CASES[name]
    verdict = GATES[gate](*make())
    assert verdict.status == "INVALID", verdict.message
    assert verdict.value is None


@pytest.mark.parametrize("at_most", [0.05, 0.0999])
def test_no_variance_and_a_gap_beyond_the_margin_fails(at_most: float) -> None:
    """An interval of no width is still held against the limit."""
    verdict = assess_loss_gap(*without_variance(), generous(at_most, NATS_PER_TOKEN), Rule())
    assert verdict.status == "FAIL"
    assert verdict.interval == pytest.approx((0.1, 0.1))


HELPERS: dict[str, Callable[[TrainedVariant, TrainedVariant], Verdict]] = {
    "assert_loss_gap": pytest_ftguard.assert_loss_gap,
    "assert_perplexity_gap": pytest_ftguard.assert_perplexity_gap,
    "assert_retention": pytest_ftguard.assert_retention,
    "assert_accuracy_gap": pytest_ftguard.assert_accuracy_gap,
    "assert_score_gap": pytest_ftguard.assert_score_gap,
    "assert_score": lambda candidate, _: pytest_ftguard.assert_score(candidate),
    "assert_forgetting": pytest_ftguard.assert_forgetting,
    "assert_converged": lambda candidate, _: pytest_ftguard.assert_converged(candidate),
    "assert_merge_drift": lambda candidate, _: pytest_ftguard.assert_merge_drift(candidate),
    "assert_memory_budget": lambda candidate, baseline: pytest_ftguard.assert_memory_budget(candidate, of=baseline),
    "assert_time_budget": lambda candidate, baseline: pytest_ftguard.assert_time_budget(candidate, of=baseline),
    "assert_no_regression": pytest_ftguard.assert_no_regression,
}


@pytest.mark.parametrize("helper", HELPERS)
def test_no_limit_is_an_error(helper: str) -> None:
    """A helper that finds no limit anywhere says where to set one."""
    with pytest.raises(ConfigurationError, match=rf"{helper} has no limit.*ftguard_m"):
        HELPERS[helper](*sound())


@pytest.mark.parametrize("helper", HELPERS)
def test_what_is_no_trained_variant_is_an_error(helper: str) -> None:
    """None, as a fixture that was forgotten gives it, is named."""
    with pytest.raises(ConfigurationError, match=r"takes trained variants.*None"):
        HELPERS[helper](None, sound()[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("helper", HELPERS)
def test_a_helper_that_no_running_test_calls_is_an_error(helper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the run would be passed over, and its verdict shown nowhere."""
    elsewhere = current.RunningTests()
    elsewhere.open_session(print)
    monkeypatch.setattr(current, "running", elsewhere)
    with pytest.raises(ConfigurationError, match="called while no test was running"):
        Context().run(HELPERS[helper], *sound())
