"""Answers of a classifier in results, summary and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_ftguard.reporting.json import json_report, read_report
from pytest_ftguard.results import Answers, Trial

from .builders import FULL, LORA, losses, summary_lines, trial

Pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1)


def classified(seed: int, right: int) -> Trial:
    """A trial that gives so many of 64 examples their class."""
    labels = (0, 1) * 32
    predicted = tuple(label if place < right else 1 - label for place, label in enumerate(labels))
    found = losses([0.5] * 64, tokens=(1,) * 64, answers=Answers(labels, predicted))
    base = losses([0.7] * 64, tokens=(1,) * 64, answers=Answers(labels, (0,) * 64))
    return trial(LORA, [], seed=seed, validation=found, base_validation=base)


def test_accuracy_and_macro_f1_are_those_of_scikit_learn() -> None:
    """The example of its documentation of f1_score, and one with a class that is never predicted."""
    answers = Answers((0, 1, 2, 0, 1, 2), (0, 2, 1, 0, 0, 1))
    assert answers.accuracy == pytest.approx(1 / 3)
    assert answers.macro_f1 == pytest.approx(0.8 / 3)
    assert Answers((0, 0, 1), (0, 0, 0)).macro_f1 == pytest.approx(0.4)


@given(Pairs)
def test_macro_f1_lies_between_0_and_1_and_is_1_if_all_is_right(pairs: list[tuple[int, int]]) -> None:
    """It does not depend on the order of the examples or on which number a class has."""
    labels, predicted = (tuple(side) for side in zip(*pairs, strict=True))
    found = Answers(labels, predicted)
    assert 0 <= found.macro_f1 <= 1
    assert (found.macro_f1 == 1) is (found.accuracy == 1)
    turned = Answers(tuple(3 - one for one in labels[::-1]), tuple(3 - one for one in predicted[::-1]))
    assert turned.macro_f1 == pytest.approx(found.macro_f1)
    assert turned.accuracy == found.accuracy


def test_the_summary_shows_accuracy_in_place_of_the_perplexity() -> None:
    """With the spread over the seeds; without classes the columns are as they were."""
    lines = summary_lines([classified(0, 48), classified(1, 56)])
    start, end = (
        next(at for at, line in enumerate(lines) if line.startswith(one)) for one in ("variant", "base model")
    )
    heading = ["variant", "trainable", "val", "loss", "accuracy", "macro", "F1", "peak", "memory", "s/step"]
    assert sorted(" ".join(lines[start:end]).split()) == sorted(heading)
    assert lines[end].split() == ["base", "model", "0.700", "50.0%", "33.3%"]
    (ours,) = [line for line in lines if line.startswith("lora r=16")]
    assert "81.2% +-8.8  81.2% +-8.8" in ours
    plain = summary_lines([trial(FULL, [20.0] * 64)])
    assert any("ppl" in line and "accuracy" not in line for line in plain)


def test_the_report_has_the_answers_and_they_are_read(tmp_path: Path) -> None:
    """One without them has no such names."""
    (tmp_path / "r.json").write_text(json_report([classified(0, 48)], []))
    (written,) = json.loads((tmp_path / "r.json").read_text())["trials"]
    assert written["validation"]["accuracy"] == 0.75
    assert written["validation"]["answers"]["labels"][:3] == [0, 1, 0]
    (read,) = read_report(tmp_path / "r.json")
    assert read.trials[0].measured == classified(0, 48).measured
    plain = json.loads(json_report([trial(FULL, [20.0] * 64)], []))["trials"][0]["validation"]
    assert not {"accuracy", "macro_f1", "answers"} & plain.keys()


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"labels": [0], "predicted": [0]}, "1 answers to 64 examples"),
        ({"labels": [0] * 64, "predicted": [0] * 63}, "63 predicted classes of 64 examples"),
    ],
)
def test_answers_that_no_model_gave_are_refused(tmp_path: Path, answers: dict[str, list[int]], words: str) -> None:
    """A damaged report is no result."""
    values = json.loads(json_report([classified(0, 48)], []))
    values["trials"][0]["validation"]["answers"] = answers
    (tmp_path / "r.json").write_text(json.dumps(values))
    with pytest.raises(Exception, match=words):
        read_report(tmp_path / "r.json")
