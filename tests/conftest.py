"""What all tests share: a tiny random model on disk, and texts of the standard library."""

from __future__ import annotations

import argparse
import inspect
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester"]

# A small project that uses the plugin, run by pytester in processes of its own.
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

# No test may reach for a hub; children inherit it.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models gain nothing from threads, which on busy cores wait for one another at every operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# In a step of GitHub Actions the runs that tests start would append to its summary.
os.environ.pop("GITHUB_STEP_SUMMARY", None)

# A shared machine is at times slow, which says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.txt and validation.txt, disjoint parts of a module's source."""
    folder = tmp_path_factory.mktemp("texts")
    source = inspect.getsource(argparse)
    (folder / "train.txt").write_text(source[:40_000], encoding="utf-8")
    (folder / "validation.txt").write_text(source[40_000:60_000], encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random byte-level GPT-2 of 44,000 parameters: fit for the mechanics, not for a gate."""
    import torch
    from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("tiny") / "tiny-gpt2"
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=384, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def project(
    pytester: pytest.Pytester, tiny_model: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A project whose ini file says what is trained, on a machine that seems to have no other pytest run."""
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
    for name in ("train.txt", "validation.txt"):
        (pytester.path / name).write_bytes((texts / name).read_bytes())
    pytester.makeini(INI.format(model=tiny_model))
    return pytester
