"""The quickstart's model and texts, for methods of peft other than LoRA."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_ftguard import Full, Workload

QUICKSTART = Path(__file__).parents[1] / "quickstart"
sys.path.insert(0, str(QUICKSTART))  # for texts.py

from texts import write_texts  # noqa: E402 - needs the line above


@pytest.fixture(scope="session")
def ftguard_workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """Source code of the standard library, validated on other files than those trained on."""
    folder = tmp_path_factory.mktemp("stdlib-code")
    write_texts(folder)
    return Workload(
        model=str(QUICKSTART / "base_model"),
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        block_size=128,
        batch_size=8,
        steps=60,
        seeds=(0,),  # one seed keeps the example short; three are the default
        precision="fp32",
        final=True,  # 60 steps are all that this model gets, so the trend beyond them does not decide
    )


@pytest.fixture(scope="session")
def ftguard_full() -> Full:
    """Full fine-tuning."""
    return Full(learning_rate=5e-4)
