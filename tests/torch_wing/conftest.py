"""Every test of this folder needs torch and is marked so."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pytest_ftguard.specs import Workload


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("torch")


@pytest.fixture(scope="session", autouse=True)
def ready(torch_imported: None) -> Iterator[None]:
    """Trainings within the test's own process find everything imported, and measure the machine's speed once."""
    from pytest_ftguard.training import machine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "flop_per_second", cache(machine.flop_per_second))
        yield


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
