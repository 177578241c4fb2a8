"""The audit of gates on scores: whatever is wrong with what was measured, none is ever green."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.accepting.asked import Asked
from pytest_ftguard.accepting.gate import accept, assess_regression
from pytest_ftguard.accepting.history import AcceptedFile, History
from pytest_ftguard.accepting.record import record_one, record_pair
from pytest_ftguard.comparison.scores import Slice
from pytest_ftguard.gates.limits import POINTS, SCORE, Limit
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.score_rules import Judged, assess_score, assess_score_gap
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import About, Answers, Scores, SequenceLosses, TrainedVariant, Trial
from tests.plain.builders import FULL, LORA, WORKLOAD, changed, losses, trained, trial

N = 300
WORK = replace(WORKLOAD, task="classification", seeds=(0, 1), score="mine:own", slices=("language",), final=True)
ABOUT = About(tuple(map(str, range(N))), {"language": tuple("de" if place % 2 else "en" for place in range(N))})
LABELS = tuple(place % 3 for place in range(N))
Sides = tuple[TrainedVariant, TrainedVariant]


def measured(right: int, nll: float, **parts: Any) -> SequenceLosses:
    """Losses, answers and scores, of which so many in ten are right."""
    good = tuple(place % 10 < right for place in range(N))
    predicted = tuple(label if one else (label + 1) % 3 for label, one in zip(LABELS, good, strict=True))
    given = {
        "tokens": (1,) * N,
        "answers": Answers(LABELS, predicted),
        "scores": Scores({"own": tuple(map(float, good))}, 1.0, code="source"),
        "about": ABOUT,
    }
    return losses([nll] * N, **{**given, **parts})


GOOD, BASE = measured(9, 0.3), measured(2, 1.1)


def one(variant: Any, seed: int, **changes: Any) -> Trial:
    return trial(variant, [], seed=seed, workload=WORK, **{"validation": GOOD, "base_validation": BASE, **changes})


def sound() -> Sides:
    """Two seeds of each, everything measured: every gate passes."""
    return trained(LORA, one(LORA, 0), one(LORA, 1)), trained(FULL, one(FULL, 0), one(FULL, 1))


def generous(value: float, unit: str) -> Limit:
    return Limit(value, unit, Origin("ini", "a limit that anything measured would meet"))


GREEN = ("PASS", "PENDING", "ACCEPTED")


def regression(candidate: TrainedVariant, baseline: TrainedVariant | None, score: str) -> Verdict:
    """Against what the sound pair would have been accepted with; what is unsound is not accepted either."""
    ours, theirs = sound()
    then = record_one(ours) if baseline is None else record_pair(ours, theirs)
    file = AcceptedFile(Path("accepted.json"), "t.py::test", History("t.py::test", then, then))
    asked = Asked(
        candidate=candidate,
        baseline=baseline,
        limit=generous(12, POINTS),
        rule=Rule(),
        metric="loss" if baseline is None else "loss_gap",
        file=file,
        score=score,
    )
    verdict = assess_regression(asked)
    accepted, updated = accept(asked, refusals=[])
    assert accepted.status not in GREEN or verdict.status in GREEN
    assert updated is None or verdict.status in GREEN
    return verdict


Gate = Callable[[TrainedVariant, TrainedVariant], Verdict]


def gap(gate: str, score: str, unit: str, chosen: str | None = None) -> Gate:
    limit = generous(-12 if unit == POINTS else -0.12, unit)
    judged = Judged(gate, score, Slice.of(chosen))
    return lambda c, b: assess_score_gap(c, b, limit, Rule(), judged=judged)


def alone(score: str, chosen: str | None = None) -> Gate:
    judged = Judged("score", score, Slice.of(chosen))
    return lambda c, _: assess_score(c, generous(0.001, SCORE), Rule(), judged=judged)


OF_ACCURACY: Mapping[str, Gate] = {
    "accuracy gap": gap("accuracy_gap", "accuracy", POINTS),
    "accuracy gap of a slice": gap("accuracy_gap", "accuracy", POINTS, "language=de"),
    "accuracy": alone("accuracy"),
    "regression of accuracy": lambda c, b: regression(c, b, "accuracy"),
    "regression of one accuracy": lambda c, _: regression(c, None, "accuracy"),
}
OF_OWN: Mapping[str, Gate] = {
    "score gap": gap("score_gap", "own", SCORE),
    "score gap in points": gap("score_gap", "own", POINTS),
    "score gap of a slice": gap("score_gap", "own", SCORE, "language=de"),
    "score": alone("own"),
    "score of a slice": alone("own", "language=de"),
    "regression of a score": lambda c, b: regression(c, b, "own"),
    "regression of one score": lambda c, _: regression(c, None, "own"),
}
GATES = {**OF_ACCURACY, **OF_OWN}
# These see the candidate only.
ALONE = {"accuracy", "regression of one accuracy", "score", "score of a slice", "regression of one score"}
SINCE = {name for name in GATES if "regression" in name}
OF_SLICES = {name for name in GATES if "slice" in name}


def own(*values: float, name: str = "own") -> SequenceLosses:
    """The good losses with other scores of the team's own."""
    return replace(GOOD, scores=Scores({name: values}, 1.0, code="source"))


def odd(value: float, base: bool = False) -> SequenceLosses:
    good = (BASE if base else GOOD).scored["own"]
    return replace(BASE if base else GOOD, scores=Scores({"own": (*good[:-1], value)}, 1.0, code="source"))


def answered(labels: tuple[int, ...], predicted: tuple[int, ...] | None = None) -> SequenceLosses:
    return replace(GOOD, answers=Answers(labels, labels if predicted is None else predicted))


FAILED = replace(GOOD, scores=Scores({}, 1.0, "KeyError: 'x'", "source"))
OTHER_GROUPS = tuple(place // 2 for place in range(N))
OTHER_ABOUT = About(ABOUT.names, {"language": ("fr",) * N})

# What is broken, as a function of nothing, and the gates that look at it.
VALIDATIONS: dict[str, tuple[SequenceLosses | None, set[str]]] = {
    "unmeasured": (None, set(GATES)),
    "NaN loss": (replace(GOOD, nll=(math.nan, *GOOD.nll[1:])), set(GATES)),
    "no answers": (replace(GOOD, answers=None), set(OF_ACCURACY)),
    "no answers to any example": (answered(()), set(OF_ACCURACY)),
    "too few answers": (answered(LABELS[:-1]), set(OF_ACCURACY)),
    "too many answers": (answered((*LABELS, 0)), set(OF_ACCURACY)),
    "one class": (answered((1,) * N), set(OF_ACCURACY)),
    "NaN": (odd(math.nan), set(OF_OWN)),
    "infinity": (odd(math.inf), set(OF_OWN)),
    "minus infinity": (odd(-math.inf), set(OF_OWN)),
    "no scores": (replace(GOOD, scores=None), set(OF_OWN)),
    "another name": (own(*GOOD.scored["own"], name="other"), set(OF_OWN)),
    "no score of any example": (own(), set(OF_OWN)),
    "too few scores": (own(*GOOD.scored["own"][:-1]), set(OF_OWN)),
    "too many scores": (own(*GOOD.scored["own"], 1.0), set(OF_OWN)),
    "a score that failed": (FAILED, set(OF_OWN)),
    "another source": (replace(GOOD, scores=Scores(dict(GOOD.scored), 1.0, code="other")), set(OF_OWN)),
    "other examples": (replace(GOOD, digest="other"), set(GATES)),
    "other groups": (replace(GOOD, documents=OTHER_GROUPS), set(GATES)),
    "other slices": (replace(GOOD, about=OTHER_ABOUT), OF_SLICES),
    "no slices": (replace(GOOD, about=None), OF_SLICES),
    "examples that were trained on": (
        replace(GOOD, trained_on=N),
        set(GATES) - {"accuracy", "score", "score of a slice"},
    ),
}
BASES: dict[str, tuple[SequenceLosses | None, set[str]]] = {
    "unmeasured base": (None, set(GATES)),
    "no answers of the base": (replace(BASE, answers=None), set(OF_ACCURACY)),
    "NaN of the base": (odd(math.nan, base=True), set(OF_OWN)),
    "infinity of the base": (odd(math.inf, base=True), set(OF_OWN)),
    "no scores of the base": (replace(BASE, scores=None), set(OF_OWN)),
    "a score that failed on the base": (replace(FAILED, nll=BASE.nll), set(OF_OWN)),
    "too few scores of the base": (replace(BASE, scores=Scores({"own": (1.0,)}, 1.0, code="source")), set(OF_OWN)),
    "other examples of the base": (replace(BASE, digest="other"), set(GATES)),
    "other groups of the base": (replace(BASE, documents=OTHER_GROUPS), set(GATES)),
}
# What is another one, of the base model too.
TWO: dict[str, dict[str, Any]] = {
    "other examples for one seed": {"digest": "other"},
    "other groups for one seed": {"documents": OTHER_GROUPS},
}
OUTCOMES = ("out_of_memory", "diverged", "crashed", "timed_out", "not_trained", "planned")


def broken(side: str, **changes: Any) -> Sides:
    """The second seed of one side is broken."""
    candidate, baseline = sound()
    if side == "candidate":
        return trained(LORA, one(LORA, 0), changed(one(LORA, 1), **changes)), baseline
    return candidate, trained(FULL, one(FULL, 0), changed(one(FULL, 1), **changes))


def of_side(side: str, gates: set[str]) -> list[str]:
    return sorted(gates if side == "candidate" else gates - ALONE)


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_passes_what_is_sound(gate: str) -> None:
    """Without this the audit would prove nothing."""
    verdict = GATES[gate](*sound())
    assert verdict.status == "PASS", verdict.message


@pytest.mark.parametrize("side", ["candidate", "baseline"])
@pytest.mark.parametrize("name", VALIDATIONS)
def test_nothing_broken_is_green(name: str, side: str) -> None:
    """Each gate that looks at the broken part is INVALID, however generous its limit."""
    validation, gates = VALIDATIONS[name]
    for gate in of_side(side, gates):
        verdict = GATES[gate](*broken(side, validation=validation))
        assert verdict.status == "INVALID", (gate, verdict.message)
        assert verdict.value is None


@pytest.mark.parametrize("side", ["candidate", "baseline"])
@pytest.mark.parametrize("name", BASES)
def test_no_broken_base_is_green(name: str, side: str) -> None:
    """Without the base model's score nothing shows that a variant has learned something."""
    base, gates = BASES[name]
    for gate in of_side(side, gates):
        verdict = GATES[gate](*broken(side, base_validation=base))
        assert verdict.status == "INVALID", (gate, verdict.message)


@pytest.mark.parametrize("side", ["candidate", "baseline"])
@pytest.mark.parametrize("name", TWO)
def test_no_seed_on_examples_of_its_own_is_green(name: str, side: str) -> None:
    """Although its base model was scored on these too."""
    parts = {"validation": replace(GOOD, **TWO[name]), "base_validation": replace(BASE, **TWO[name])}
    for gate in of_side(side, set(GATES)):
        verdict = GATES[gate](*broken(side, **parts))
        assert verdict.status == "INVALID", (gate, verdict.message)


@pytest.mark.parametrize("side", ["candidate", "baseline"])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_no_training_that_failed_is_green(outcome: str, side: str) -> None:
    """Nor one that was only planned."""
    for gate in of_side(side, set(GATES)):
        verdict = GATES[gate](*broken(side, outcome=outcome))
        assert verdict.status == "INVALID", (gate, verdict.message)


@pytest.mark.parametrize("gate", GATES)
def test_no_missing_side_is_green(gate: str) -> None:
    """A variant without a trial, seeds that are not paired, and one seed twice."""
    candidate, baseline = sound()
    cases = [(trained(LORA), baseline)]
    if gate not in ALONE:
        cases += [
            (candidate, trained(FULL)),
            (trained(LORA, one(LORA, 0), one(LORA, 2)), baseline),
            (trained(LORA, one(LORA, 0)), baseline),
            (trained(LORA, *[one(LORA, 0)] * 2), trained(FULL, *[one(FULL, 0)] * 2)),
        ]
    for sides in cases:
        assert GATES[gate](*sides).status == "INVALID"


def constant(value: float) -> Sides:
    """Every score is the same, of the base model too."""
    same = Scores({"own": (value,) * N}, 1.0, code="source")
    parts = {"validation": replace(GOOD, scores=same), "base_validation": replace(BASE, scores=same)}
    return (
        trained(LORA, *(one(LORA, seed, **parts) for seed in (0, 1))),
        trained(FULL, *(one(FULL, seed, **parts) for seed in (0, 1))),
    )


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 7.0, -3.0])
@pytest.mark.parametrize("gate", OF_OWN)
def test_no_constant_score_is_green(gate: str, value: float) -> None:
    """A function that looks at nothing tells nothing; below a limit it may also be a FAIL."""
    verdict = GATES[gate](*constant(value))
    assert verdict.status in ("INVALID", "FAIL"), verdict.message
    assert verdict.status == "INVALID" or value < 0.001


def test_a_classifier_that_answers_one_class_is_judged_by_its_accuracy() -> None:
    """It is no fault of measuring: a third of the answers are right, and that is a FAIL."""
    lazy = answered(LABELS, (0,) * N)
    candidate = trained(LORA, *(one(LORA, seed, validation=lazy) for seed in (0, 1)))
    for gate in ("accuracy gap", "regression of accuracy"):
        assert GATES[gate](candidate, sound()[1]).status == "FAIL"
    found = GATES["regression of one accuracy"](candidate, sound()[1])
    assert "this test has no power: lora r=16 gained only +13.3 pp" in found.message


@pytest.mark.parametrize("count", [63, 64])
def test_63_examples_are_too_few(count: int) -> None:
    """64 are enough for an answer, as for all gates; what accepts is asked too."""

    def cut(found: SequenceLosses) -> SequenceLosses:
        assert found.answers is not None
        assert found.scores is not None
        return replace(
            found,
            nll=found.nll[:count],
            tokens=found.tokens[:count],
            answers=Answers(LABELS[:count], found.answers.predicted[:count]),
            scores=replace(found.scores, values={"own": found.scored["own"][:count]}),
            about=None,
        )

    parts = {"validation": cut(GOOD), "base_validation": cut(BASE)}
    sides = (
        trained(LORA, *(one(LORA, seed, **parts) for seed in (0, 1))),
        trained(FULL, *(one(FULL, seed, **parts) for seed in (0, 1))),
    )
    for name in ("accuracy gap", "accuracy", "score gap", "score"):
        assert (GATES[name](*sides).status == "INVALID") is (count == 63), name


def test_a_gap_without_any_variance_beyond_the_limit_fails() -> None:
    """Every example and seed of the candidate is worse by the same."""

    def worse(found: SequenceLosses) -> SequenceLosses:
        lower = tuple(value - 0.4 for value in found.scored["own"])
        return replace(found, scores=Scores({"own": lower}, 1.0, code="source"))

    candidate = trained(LORA, *(one(LORA, seed, validation=worse(GOOD)) for seed in (0, 1)))
    assert GATES["score gap"](candidate, sound()[1]).status == "FAIL"
    assert GATES["regression of a score"](candidate, sound()[1]).status in ("FAIL", "INVALID")
