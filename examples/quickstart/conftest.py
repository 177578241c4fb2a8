"""The quickstart's workload: a small base model, pretrained on prose, meets a narrow domain."""

from __future__ import annotations

import sys
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
        steps=100,
        seeds=(0, 1, 2),
        precision="fp32",
        final=True,  # production trains no longer, so nothing is concluded about longer trainings
    )


# The learning rates are those that benchmarks/results/rates_grid.txt shows to be about the best. Without them the
# plugin would search them before a verdict, which takes a few minutes here.
@pytest.fixture(scope="session")
def ftguard_full() -> Full:
    """Full fine-tuning."""
    return Full(learning_rate=1.6e-3)


@pytest.fixture(scope="session")
def ftguard_lora() -> LoRA:
    """LoRA on all linear layers, the plugin's default, with as few trained parameters as `attention_only` has."""
    return LoRA(r=2, learning_rate=3e-3)


@pytest.fixture(scope="session")
def attention_only() -> LoRA:
    """What someone chose to save memory: adapters on the attention layers alone, which is peft's default for GPT-2."""
    return LoRA(r=8, target_modules=["c_attn"], learning_rate=5e-3)
