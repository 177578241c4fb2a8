"""Every test of this folder needs torch and is marked so."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_ftguard.specs import Workload


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("torch")


@pytest.fixture(scope="session", autouse=True)
def ready(torch_imported: None) -> None:
    """Trainings within the test's own process find everything imported."""


@pytest.fixture(scope="session")
def workload(tiny_model: Path, texts: Path) -> Workload:
    """Twelve steps of the tiny model in fp32."""
    return Workload(
        model=str(tiny_model),
        train=str(texts / "train.txt"),
        validation=str(texts / "validation.txt"),
        block_size=32,
        batch_size=4,
        steps=12,
        seeds=(0,),
        precision="fp32",
        validation_sequences=80,
    )
