"""A task is found by its name, by an entry point or by its import path; what is none is one clear error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.results import SequenceLosses, from_plain, to_plain
from pytest_ftguard.tasks import Task, check_name, find_task, path_of_own
from pytest_ftguard.tasks.causal_lm import CausalLM


class Whole(CausalLM):
    """A task of one's own."""


class Half(Task):
    """A task that lacks what a training needs."""

    def load_tokenizer(self, workload: Any) -> Any:
        """Return no tokenizer."""


class Picky(CausalLM):
    """A task that cannot be made without arguments."""

    def __init__(self, column: str) -> None:
        self.column = column


def test_ours_is_found_by_name_without_torch() -> None:
    """The process that runs pytest asks for it, too; nothing of it is a user's code."""
    assert type(find_task("causal-lm")) is CausalLM
    assert path_of_own("causal-lm") is None


def test_a_task_of_ones_own_is_found_by_its_import_path() -> None:
    """Its path says which source decides."""
    path = f"{__name__}:Whole"
    assert type(find_task(path)) is Whole
    assert path_of_own(path) == path


def test_an_entry_point_names_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package makes its own known by the group pytest_ftguard.tasks."""
    info = tmp_path / "reviews-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reviews\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pytest_ftguard.tasks]\nreviews = {__name__}:Whole\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(find_task("reviews")) is Whole
    assert path_of_own("reviews") == f"{__name__}:Whole"
    with pytest.raises(ConfigurationError, match="one of causal-lm, chat, classification, reviews, or module:Class"):
        find_task("review")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chatt", "which is not a task: use one of causal-lm, chat, classification, or module:Class"),
        ("nowhere.rows:Rows", "which cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        (f"{__name__}:Nothing", "which cannot be imported: AttributeError"),
        ("broken_task:Rows", "which cannot be imported: ZeroDivisionError"),
        (f"{__name__}:pytest", "name a class that is derived from pytest_ftguard.tasks.Task"),
        (f"{__name__}:Path", "name a class that is derived from pytest_ftguard.tasks.Task"),
        (f"{__name__}:Half", "a class without load_examples, load_model, nll: each task needs these"),
        (f"{__name__}:Picky", "which cannot be made without arguments: TypeError"),
    ],
)
def test_what_is_no_task_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    """It begins with the value and where it was set."""
    (tmp_path / "broken_task.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_task", raising=False)
    said = f"ftguard_task is {name!r} (set by the option --ftguard-task)"
    with pytest.raises(ConfigurationError) as caught:
        find_task(name, said)
    assert str(caught.value).startswith(f"{said}, ")
    assert words in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"^Workload\.task is "):
        find_task(name)


def test_a_name_is_checked_without_an_import() -> None:
    """Before anything runs only a misspelt name is an error: a module of the user's may take seconds to import."""
    check_name("causal-lm", "it is")
    check_name("nowhere.rows:Rows", "it is")
    with pytest.raises(ConfigurationError, match="it is, which is not a task"):
        check_name("causal_lm", "it is")


@dataclass(frozen=True)
class Lines:
    """Evaluation examples made by hand."""

    sequences: tuple[str, ...] = ("abc", "de")
    tokens: tuple[int, ...] = (2, 1)
    documents: tuple[int, ...] | None = None
    repeated: int = 0
    trained_on: int = 1
    unknown: float = 0.5
    digest: str = "digest"


class Counting(CausalLM):
    """A task with a loss of one nat for each letter, which may lose an example."""

    most = 9

    def nll(self, model: Any, sequences: Sequence[str], *, batch_size: int, bf16: bool) -> list[float]:
        """Return the number of letters."""
        return [float(len(sequence)) for sequence in sequences[: self.most]]


def test_the_losses_of_a_task_hold_all_that_a_gate_rests_on() -> None:
    """Those of each example with its tokens, and what is known of the text."""
    losses = Counting().losses(cast(Any, None), Lines(documents=(0, 0)), batch_size=2, bf16=False)
    assert losses == SequenceLosses((3.0, 2.0), (2, 1), (0, 0), "digest", 0, 1, 0.5)


@pytest.mark.parametrize(
    ("changes", "most", "words"),
    [
        ({}, 1, "Counting gave 1 losses of 2 examples"),
        ({"tokens": (2,)}, 9, "gave 1 numbers of tokens of 2 examples"),
        ({"tokens": (2, 0)}, 9, "gave an example of 0 tokens"),
        ({"documents": (0,)}, 9, "gave 1 documents of 2 examples"),
        ({"sequences": (), "tokens": ()}, 9, "gave no examples"),
    ],
)
def test_losses_that_do_not_belong_to_the_examples_are_an_error(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], most: int, words: str
) -> None:
    """A gate would pair them with others."""
    monkeypatch.setattr(Counting, "most", most)
    with pytest.raises(ConfigurationError, match=words):
        Counting().losses(cast(Any, None), Lines(**changes), batch_size=2, bf16=False)


def test_numbers_of_numpy_are_taken_as_pythons_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task counts and adds with numpy, and what it gave must reach the store and the report."""
    lines = Lines(
        tokens=cast(Any, np.array([2, 1])), documents=cast(Any, np.array([0, 1])), repeated=cast(int, np.int64(3))
    )
    monkeypatch.setattr(Counting, "nll", lambda *_, **__: np.array([3.0, 2.0], dtype=np.float32))
    losses = Counting().losses(cast(Any, None), lines, batch_size=2, bf16=False)
    assert losses == SequenceLosses((3.0, 2.0), (2, 1), (0, 1), "digest", 3, 1, 0.5)
    assert from_plain(to_plain(losses), SequenceLosses) == losses


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": (2.0, 1.0)}, "gave numbers of tokens that are no whole numbers"),
        ({"documents": ("a", "b")}, "gave documents that are no whole numbers"),
        ({"trained_on": None}, "gave counts of copies that are no whole numbers"),
        ({"unknown": "none"}, "gave shares of unknown text that are no numbers"),
        ({"digest": b"text"}, "gave the digest b'text'"),
    ],
)
def test_what_is_no_number_is_an_error_before_anything_is_trained(changes: dict[str, Any], words: str) -> None:
    """It would be refused when the training is over, and lost with it."""
    with pytest.raises(ConfigurationError, match=words):
        Counting().losses(cast(Any, None), Lines(**changes), batch_size=2, bf16=False)
