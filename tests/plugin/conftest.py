"""A small project that uses the plugin, run by pytester in processes of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

INI = """
[pytest]
ftguard_model = {model}
ftguard_train = train.txt
ftguard_validation = validation.txt
ftguard_block_size = 32
ftguard_steps = 12
ftguard_seeds = 0
ftguard_precision = fp32
ftguard_validation_sequences = 80
ftguard_full_learning_rate = 1e-3
ftguard_lora_r = 4
ftguard_final = true
ftguard_gain_factor = 0
"""


@pytest.fixture
def project(pytester: pytest.Pytester, tiny_model: Path, texts: Path) -> pytest.Pytester:
    """A project whose ini file says what is trained."""
    for name in ("train.txt", "validation.txt"):
        (pytester.path / name).write_bytes((texts / name).read_bytes())
    pytester.makeini(INI.format(model=tiny_model))
    return pytester
