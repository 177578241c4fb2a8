"""How models are scored: what a function of the user's is handed, and what is checked of what it returns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.plain.builders import losses
from torch import nn

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import About, Answers, BaseLosses, Scores, SequenceLosses
from pytest_ftguard.training.function import source_digest
from pytest_ftguard.training.scoring import Scorer, load_score

COUNT = 100
HEAD = """
import random
import numpy as np
import torch

CALLS = []
"""
Write = Callable[..., "Bench"]


class Bench:
    """A score on made-up rows, and a model of one layer."""

    def __init__(self, score: str, rows: Sequence[dict[str, Any]], bf16: bool = False) -> None:
        self.rows = rows
        self.model = nn.Linear(2, 1)
        self.examples: Any = SimpleNamespace(sequences=list(rows))
        task: Any = SimpleNamespace(rows=lambda *_: rows)
        self.scorer = Scorer(score, task, bf16)

    def trained(self, **parts: Any) -> Scores:
        """What is measured of a trained model."""
        measured = losses([1.0] * len(self.rows), **parts)
        return self.of(self.scorer.trained(measured, self.model, "the tokenizer", self.examples))

    def base(self) -> Scores:
        """What is measured of the base model."""
        base = BaseLosses(losses([1.0] * len(self.rows)), None)
        return self.of(self.scorer.base(base, self.model, "the tokenizer", self.examples).validation)

    @staticmethod
    def of(measured: SequenceLosses) -> Scores:
        assert measured.scores is not None
        return measured.scores


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the body of a function of its own module, and returns a bench that scores with it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(body: str, count: int = COUNT, *, bf16: bool = False) -> Bench:
        name = f"scores_{random.randrange(10**12)}"
        (tmp_path / f"{name}.py").write_text(f"{HEAD}\ndef mine(model, tokenizer, rows):\n    {body}\n")
        rows = [{"id": f"q{place}", "value": place % 7, "inner": [1]} for place in range(count)]
        return Bench(f"{name}:mine", rows, bf16)

    return make


@pytest.mark.parametrize(
    "values",
    [
        "[row['value'] for row in rows]",
        "(row['value'] for row in rows)",
        "np.array([row['value'] for row in rows])",
        "torch.tensor([row['value'] for row in rows])",
        "{'mine': [torch.tensor(row['value']) for row in rows]}",
        "{'mine': [np.float32(row['value']) for row in rows]}",
    ],
)
def test_numbers_come_in_any_form(write: Write, values: str) -> None:
    """They are stored as Python's own."""
    bench = write(f"return {values}")
    found = bench.trained()
    assert found.failure == ""
    assert found.values == {"mine": tuple(float(place % 7) for place in range(COUNT))}
    assert {type(value) for value in found.values["mine"]} == {float}
    assert found.seconds > 0
    assert found.code == source_digest(str(bench.scorer.name))


def test_a_function_may_give_several_scores(write: Write) -> None:
    """Each by its name; what is no number of mathematics is left to the gates."""
    found = write(
        "return {'one': [1.0] * len(rows), 'other': [float('nan') if row['value'] == 3 else True for row in rows]}"
    ).trained()
    assert list(found.values) == ["one", "other"]
    assert sum(value == value for value in found.values["other"]) < COUNT  # noqa: PLR0124
    assert found.failure == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return [1.0] * (len(rows) - 1)", "mine has 99 values for 100 rows"),
        ("return [1.0] * (len(rows) + 1)", "mine has 101 values for 100 rows"),
        ("return []", "mine has 0 values for 100 rows"),
        ("return None", "mine is None, and must be one number for each of 100 rows"),
        ("return 'many'", "mine is 'many', and must be one number"),
        ("return 0.5", "mine is 0.5, and must be one number"),
        ("return torch.tensor(0.5)", "mine is 0.5, and must be one number"),
        ("return [None] * len(rows)", "mine is None for the evaluated row 1, which is no number"),
        ("return ['1'] * len(rows)", "mine is '1' for the evaluated row 1, which is no number"),
        ("return [[1.0, 2.0]] * len(rows)", "for the evaluated row 1, which is no number"),
        ("return {}", "it returned no score"),
        ("return {3: [1.0] * len(rows)}", "it returned a score named 3, and a name must be a line of text"),
        ("return {'a\\nb': [1.0] * len(rows)}", "and a name must be a line of text"),
        ("return {'one': {'two': 1}}", "one is {'two': 1}, and must be one number"),
        ("return {'a': [1.0] * len(rows)} if len(rows) == 100 else {'b': [1.0] * len(rows)}", "it returned a at first"),
        ("raise KeyError('x')", "KeyError: 'x', at example 1"),
    ],
)
def test_what_are_no_scores_is_said(write: Write, body: str, words: str) -> None:
    """Of a trained model it is a part of the result, of the base model an error that names the function."""
    bench = write(body)
    found = bench.trained()
    assert words in found.failure
    assert found.values == {}
    with pytest.raises(ConfigurationError, match="failed on the base model") as caught:
        bench.base()
    assert words in str(caught.value)
    assert str(bench.scorer.name) in str(caught.value)


def test_accuracy_is_the_name_of_what_classes_have(write: Write) -> None:
    """Without classes it may be a name like any other."""
    bench = write("return {'accuracy': [1.0] * len(rows)}")
    assert bench.trained().values == {"accuracy": (1.0,) * COUNT}
    failure = bench.trained(answers=Answers((0,) * COUNT, (0,) * COUNT)).failure
    assert failure == "it names a score 'accuracy', and this task has an accuracy of its own"


@pytest.mark.parametrize(
    "order",
    [
        "sorted(rows, key=lambda row: row['value'])",
        "sorted(rows, key=lambda row: row['id'])",
        "random.sample(rows, len(rows))",
        "[*rows[1:], rows[0]]",
    ],
)
def test_scores_in_another_order_than_the_rows_are_refused(write: Write, order: str) -> None:
    """Nobody could pair them by example; those of the same function in the order of the rows are fine."""
    bench = write(f"return [row['value'] for row in {order}]")
    assert "return the scores in the order of the rows, without chance" in bench.trained().failure
    with pytest.raises(ConfigurationError, match="return the scores in the order of the rows, without chance"):
        bench.base()
    assert write("return [row['value'] for row in rows]").trained().failure == ""


def test_scores_by_chance_are_refused(write: Write) -> None:
    """They belong to no row."""
    failure = write("return [random.random() for _ in rows]").trained().failure
    assert "mine of 64 of 64 rows is another one if the rows come in another order" in failure


def test_few_scores_may_change_with_the_batch(write: Write) -> None:
    """Another batch rounds otherwise: here one in ten answers flips."""
    body = "return [(row['value'] % 2) ^ (place % 10 == 3) for place, row in enumerate(rows)]"
    assert write(body).trained().failure == ""
    assert write("return [1e-5 * place + row['value'] for place, row in enumerate(rows)]").trained().failure == ""


@pytest.mark.parametrize("bad", [0, 1, 41, 98, 99])
def test_the_row_that_fails_is_found(write: Write, bad: int) -> None:
    """By halves, so that a costly function is called a few times only; its id in the data is named if it has one."""
    bench = write(f"CALLS.append(len(rows)); return [1 / (row['id'] != 'q{bad}') for row in rows]")
    about = About(tuple(row["id"] for row in bench.rows))
    assert bench.trained(about=about).failure == f"ZeroDivisionError: division by zero, at row q{bad}"
    assert bench.trained().failure == f"ZeroDivisionError: division by zero, at example {bad + 1}"
    calls = load_score(str(bench.scorer.name)).__globals__["CALLS"]
    # All rows, for each of two trainings, then a half, a quarter, an eighth, and so on.
    assert sum(calls) < 2 * 3.1 * COUNT


def test_a_function_that_fails_with_all_rows_only_says_so(write: Write) -> None:
    """For example without enough memory: no row is to blame."""
    failure = write("return [1.0 / (len(rows) < 100)] * len(rows)").trained().failure
    assert failure.startswith("ZeroDivisionError: ")
    assert failure.endswith("division by zero (only with all 100 rows together)")
    long = write("raise ValueError('word\\n' * 1000)").trained().failure
    assert len(long) < 400
    assert "\n" not in long


def test_a_score_may_not_change_the_weights(write: Write) -> None:
    """Every variant would be trained from another model than the one that was measured."""
    bench = write("model.weight.data.add_(1.0); return [1.0] * len(rows)")
    with pytest.raises(ConfigurationError, match="changes the model's weights, and may only look at them"):
        bench.base()
    before = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    looking = write("return [float(model.weight.sum())] * len(rows)")
    looking.model = bench.model
    looking.base(), looking.trained()
    assert all(torch.equal(before[name], tensor) for name, tensor in bench.model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("body", ["return [1.0] * len(rows)", "model.train(); raise KeyError('x')"])
def test_a_model_is_scored_in_its_evaluation_mode_and_left_in_its_own(write: Write, body: str, training: bool) -> None:
    """Without gradients, too, and after an error."""
    bench = write(f"assert not (model.training or torch.is_grad_enabled()), 'training'; {body}")
    bench.model.train(training)
    assert "training" not in bench.trained().failure
    assert bench.model.training is training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("bf16", [True, False])
def test_it_is_scored_in_the_arithmetic_of_the_training(write: Write, bf16: bool) -> None:
    """Under bf16 autocast if the training was."""
    body = "return [float(model(torch.zeros(1, 2)).dtype == torch.bfloat16)] * len(rows)"
    assert set(write(body, bf16=bf16).trained().values["mine"]) == {float(bf16)}


def test_each_model_finds_the_same_random_numbers_and_the_training_its_own(write: Write) -> None:
    """So chance is no difference between variants, and a score changes nothing of what comes after it."""
    bench = write("CALLS.append((random.random(), np.random.random(), torch.rand(1).item())); return [1.0] * len(rows)")

    def seed() -> None:
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)

    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.random(), torch.rand(1).item()

    seed()
    untouched = draw()
    seed()
    bench.base()
    assert draw() == untouched
    torch.manual_seed(6)
    bench.trained()
    calls = load_score(str(bench.scorer.name)).__globals__["CALLS"]
    assert len(set(calls)) == 1


def test_rows_are_copies(write: Write) -> None:
    """What a function writes into one is not seen by the next call, nor in the data."""
    bench = write("found = [row.pop('value') for row in rows]; rows.clear(); return found")
    assert bench.base().values["mine"] == bench.trained().values["mine"]
    assert all(row["value"] == place % 7 for place, row in enumerate(bench.rows))


def test_scores_that_are_made_one_by_one_are_made_with_the_model_as_it_is(write: Write) -> None:
    """A generator runs without gradients too, and what it raises is a failure of the score, not of the trial."""
    bench = write("return (float(not torch.is_grad_enabled() and not model.training) for _ in rows)")
    assert set(bench.trained().values["mine"]) == {1.0}
    broken = write("return {'mine': (1 / (row['value'] - 3) for row in rows)}")
    assert "ZeroDivisionError: division by zero, at " in broken.trained().failure


def test_what_rows_hold_is_copied_too(write: Write) -> None:
    """A function that takes the answer out of each conversation finds it there again in the next call."""
    bench = write("return [float(row['messages'].pop() == 'answer') for row in rows]")
    for row in bench.rows:
        row["messages"] = ["question", "answer"]
    assert set(bench.base().values["mine"]) == set(bench.trained().values["mine"]) == {1.0}
    assert all(row["messages"] == ["question", "answer"] for row in bench.rows)


def test_a_function_is_handed_model_tokenizer_and_rows(write: Write) -> None:
    """With all columns, in the order of the examples; without a name nothing is measured."""
    bench = write(
        "CALLS.append((model, tokenizer, [row['id'] for row in rows])); return [float(row['value']) for row in rows]"
    )
    bench.base()
    call, _ = load_score(str(bench.scorer.name)).__globals__["CALLS"]
    assert call == (bench.model, "the tokenizer", [f"q{place}" for place in range(COUNT)])
    measured = losses([1.0] * COUNT)
    nothing = Scorer(None, bench.scorer.task, False)
    assert nothing.trained(measured, bench.model, None, bench.examples) is measured
