"""The quickstart's workload: a small base model, pretrained on prose, meets a narrow domain."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_ftguard import Full, LoRA, Workload

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for texts.py, which is next to this file

from texts import write_texts  # noqa: E402 - needs the line above


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.txt and validation.txt: source code of the standard library, from disjoint files."""
    folder = tmp_path_factory.mktemp("stdlib-code")
    write_texts(folder)
    return folder


@pytest.fixture(scope="session")
def ftguard_workload(code: Path) -> Workload:
    """What `full_variant` and `lora_variant` are trained on."""
    return Workload(
        model=str(HERE / "base_model"),
        train=str(code / "train.txt"),
        validation=str(code / "validation.txt"),
        block_size=128,
        batch_size=8,
        steps=400,
        seeds=(0,),  # one seed keeps the quickstart short; three are the default
        precision="fp32",
    )


@pytest.fixture(scope="session")
def short_workload(ftguard_workload: Workload) -> Workload:
    """The same after 30 steps, as in many comparisons."""
    return replace(ftguard_workload, steps=30)


@pytest.fixture(scope="session")
def ftguard_full() -> Full:
    """Full fine-tuning."""
    return Full(learning_rate=5e-4)


@pytest.fixture(scope="session")
def ftguard_lora() -> LoRA:
    """What someone chose to save memory: all linear layers, by default at ten times full fine-tuning's rate."""
    return LoRA(r=8)
