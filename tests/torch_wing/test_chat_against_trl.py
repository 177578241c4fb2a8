"""What is trained on rows, and to which losses, is what trl.SFTTrainer trains on the same file, seed and model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import datasets
import numpy as np
import pytest
from tests.chat_models import rows_of, write_rows

from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.chat.data import packed

pytest.importorskip("trl", reason="it needs a newer accelerate than the lowest that is promised")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "against_trl.py"
FORMATS = ("text", "prompt", "messages", "chat prompt")
# TRL announces what it will change, and uses names that transformers will change.
pytestmark = [
    pytest.mark.filterwarnings("ignore:::trl"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("ftguard_against_trl", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    path = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path


@pytest.fixture
def model(chat_model: Path) -> Workload:
    """A block that cuts some of the conversations."""
    return Workload(
        model=str(chat_model),
        train="-",
        validation="-",
        task="chat",
        block_size=48,
        steps=4,
        seeds=(0,),
        precision="fp32",
        validation_sequences=8,
    )


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *((kind, way) for way in ("padded", "packed") for kind in FORMATS),
        ("messages", "assistant only"),
        ("chat prompt", "assistant only"),
    ],
)
def test_ids_labels_and_losses_are_those_of_trl(
    script: ModuleType, model: Workload, tmp_path: Path, kind: str, way: str
) -> None:
    """Each of the four formats; all training examples, the first batches, and the losses of the first steps."""
    case = script.Case(kind, way == "packed", way == "assistant only")
    ours, trls = script.run(case, model, tmp_path, rows=60)
    same, same_batches, apart = script.compare(ours, trls)
    assert same
    assert same_batches
    assert len(ours.losses) == 4
    assert apart < 1e-5


@pytest.mark.parametrize("completions", [True, False])
def test_completion_only_loss_is_that_of_trl(
    script: ModuleType, model: Workload, tmp_path: Path, completions: bool
) -> None:
    """Set to yes and no."""
    chosen = replace(model, completion_only_loss=completions)
    ours, trls = script.run(script.Case("prompt"), chosen, tmp_path, rows=60)
    assert script.compare(ours, trls)[:2] == (True, True)


def test_a_row_whose_prompt_fills_the_block_is_left_out_as_trl_leaves_it_out(
    script: ModuleType, model: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the order of the others is the same."""

    def longer(kind: str, count: int, start: int = 0) -> list[dict[str, str]]:
        rows = rows_of(kind, count, start)
        return [{**row, "prompt": row["prompt"] * (1 + 20 * (place % 7 == 3))} for place, row in enumerate(rows)]

    monkeypatch.setattr(script, "rows_of", longer)
    ours, trls = script.run(script.Case("prompt"), model, tmp_path, rows=60)
    assert len(ours.examples) < 60
    assert script.compare(ours, trls)[:2] == (True, True)


def test_a_difference_is_found(script: ModuleType, model: Workload, tmp_path: Path) -> None:
    """The comparison would notice another mask, and another loss."""
    train = write_rows(tmp_path / "train.jsonl", rows_of("prompt", 60))
    validation = write_rows(tmp_path / "validation.jsonl", rows_of("prompt", 20, 1000))
    work = replace(model, train=train, validation=validation, steps=2)
    whole = script.ours(replace(work, completion_only_loss=False), tmp_path)
    same, same_batches, apart = script.compare(whole, script.ours(work, tmp_path))
    assert not same
    assert not same_batches
    assert apart > 1e-3


def test_examples_are_packed_as_trl_packs_them() -> None:
    """More than a thousand, which TRL packs part by part, of lengths that are often equal."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 33, size=2500).tolist()
    data = datasets.Dataset.from_dict({"input_ids": [[number] * length for number, length in enumerate(lengths)]})
    from trl.data_utils import pack_dataset

    theirs = [list(dict.fromkeys(row)) for row in pack_dataset(data, 32, "bfd")["input_ids"]]
    assert packed(lengths, 32) == theirs
