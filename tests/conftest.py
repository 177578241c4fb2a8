"""What all tests share: a tiny random model on disk, and texts of the standard library."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pkgutil
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import _pytest.pytester
import pytest
from execnet import gateway_base
from hypothesis import HealthCheck, settings
from xdist import workermanage

from pytest_ftguard.gates import catalogue
from pytest_ftguard.running.local import forker, process
from tests.chat_models import save_chat_model
from tests.warm import started_server, warm_subprocess, without_collections

pytest_plugins = ["pytester"]

TORCH_WING = tuple(
    f"pytest_ftguard.{part}"
    for part in (
        *("training.", "tasks.text", "tasks.causal_lm", "tasks.batches", "tasks.out_of_memory"),
        *("tasks.rows", "tasks.chat", "tasks.classification"),
    )
)
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

# Of the runs within tests: as in a process of its own no warning is an error, and plugins that no test is about cost
# each process a third of a second.
WITHIN = "-W default -p no:hypothesispytest -p no:anyio"

# No test may reach for a hub; children inherit it.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models gain nothing from threads, which on busy cores wait for one another at every operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# In a step of GitHub Actions the runs that tests start would append to its summary.
os.environ.pop("GITHUB_STEP_SUMMARY", None)

# A shared machine is at times slow, which says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture
def gates_restored() -> Iterator[None]:
    """The gates that a test adds in this process are gone after it."""
    registries: tuple[dict[str, Any], ...] = (catalogue._gates, catalogue._limits)
    before = [dict(registry) for registry in registries]
    yield
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let no import of a test module wait for the collector of garbage: of a million new objects nearly all stay."""
    with without_collections():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest and is trained by one worker, so that no worker ends alone with it."""
    items.sort(key=lambda item: "test_mutants.py" not in item.nodeid)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.txt and validation.txt, disjoint parts of a module's source."""
    folder = tmp_path_factory.mktemp("texts")
    source = inspect.getsource(argparse)
    # Each trial reads them in Python, byte by byte: they are as short as their shortest use allows.
    (folder / "train.txt").write_text(source[:12_000], encoding="utf-8")
    (folder / "validation.txt").write_text(source[40_000:49_000], encoding="utf-8")
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


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama, a fast tokenizer and a chat template that marks the assistant's turns."""
    return save_chat_model(tmp_path_factory.mktemp("chat") / "tiny-chat")


@pytest.fixture(scope="session")
def imported() -> None:
    """Our modules without torch, and numpy and scipy with them, for runs of pytest within the test's own process.

    Pytester forgets what such a run has imported, and numpy cannot be imported twice.
    """
    import_ours(with_torch=False)
    # xdist gives its workers the path that Python started with, on which the tests were not yet.
    workermanage._sys_path = list(sys.path)


@pytest.fixture(scope="session")
def torch_imported() -> None:
    """All our modules, and torch, transformers and peft with them, for runs that load a model."""
    import_ours(with_torch=True)


def import_ours(*, with_torch: bool) -> None:
    import pytest_ftguard

    with without_collections():
        for module in pkgutil.walk_packages(pytest_ftguard.__path__, "pytest_ftguard."):
            if with_torch or not module.name.startswith(TORCH_WING):
                importlib.import_module(module.name)


@pytest.fixture(scope="session")
def warm_server() -> Iterator[Mapping[str, str]]:
    """The environment of runs with workers forked from a server; empty if a driver would not outlive a fork."""
    if sys.platform != "linux" or Path("/dev/nvidia0").exists():
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="warm-") as folder, started_server(Path(folder)) as environment:
        root = str(Path(__file__).parents[1])
        options = f"{WITHIN} -p tests.warm -W 'ignore:Module already imported'"
        yield {**environment, "PYTEST_ADDOPTS": options, "PYTHONPATH": root}


@pytest.fixture(scope="module")
def warm_workers(warm_server: Mapping[str, str]) -> Iterator[None]:
    """Workers that the tests of a module start themselves are forked from a server."""
    with pytest.MonkeyPatch.context() as patch:
        if warm_server:
            patch.setattr(process, "subprocess", warm_subprocess())
            patch.setattr(forker, "subprocess", warm_subprocess())
        for name, value in warm_server.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def cold() -> None:
    """For tests of how processes start, are limited and die: every worker is started as a user's is."""


@pytest.fixture
def warm_runs(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, warm_server: Mapping[str, str]) -> None:
    """Runs of pytest within the test are quick to start, and so are their workers, unless the test takes `cold`."""
    monkeypatch.setenv("PYTEST_ADDOPTS", WITHIN)
    if "cold" not in request.fixturenames and warm_server:
        monkeypatch.setattr(_pytest.pytester, "subprocess", warm_subprocess())
        monkeypatch.setattr(gateway_base.ThreadExecModel, "subprocess", warm_subprocess())
        for name, value in warm_server.items():
            monkeypatch.setenv(name, value)


@pytest.fixture
def within(warm_runs: None, torch_imported: None) -> None:
    """Runs of pytest in the test's own process may load a model."""


@pytest.fixture
def project(
    pytester: pytest.Pytester, tiny_model: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, within: None
) -> pytest.Pytester:
    """A project with an ini file that says what is trained, on a machine that seems to have no other pytest run."""
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("tmp")))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is looked up once, and runs in this process share that
    for name in ("train.txt", "validation.txt"):
        (pytester.path / name).write_bytes((texts / name).read_bytes())
    pytester.makeini(INI.format(model=tiny_model))
    return pytester
