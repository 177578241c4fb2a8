"""The fixtures. Every pytest run loads this module, so what they do is imported when one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_ftguard.plugin.providing import Ftguard
    from pytest_ftguard.results import TrainedVariant
    from pytest_ftguard.specs import Full, Variant, Workload

__all__ = ["ftguard", "ftguard_full", "ftguard_lora", "ftguard_workload", "full_variant", "lora_variant"]


@pytest.fixture(scope="session")
def ftguard_workload(pytestconfig: pytest.Config) -> Workload:
    """What is held fixed while the variants are compared; made from options and ini keys unless overridden."""
    from pytest_ftguard.plugin.providing import workload_of

    return workload_of(pytestconfig)


@pytest.fixture(scope="session")
def ftguard_full(pytestconfig: pytest.Config) -> Full:
    """Full fine-tuning; made from options and ini keys unless overridden."""
    from pytest_ftguard.plugin.providing import full_of

    return full_of(pytestconfig)


@pytest.fixture(scope="session")
def ftguard_lora(pytestconfig: pytest.Config) -> Variant:
    """The candidate, LoRA or what ftguard_adapter_config says; made from options and ini keys unless overridden."""
    from pytest_ftguard.plugin.providing import lora_of

    return lora_of(pytestconfig)


@pytest.fixture(scope="session")
def full_variant(request: pytest.FixtureRequest) -> TrainedVariant:
    """The model after full fine-tuning, one trial per seed; trained on first use, once per pytest run."""
    from pytest_ftguard.plugin.providing import session_variant

    return session_variant(request, "ftguard_full")


@pytest.fixture(scope="session")
def lora_variant(request: pytest.FixtureRequest) -> TrainedVariant:
    """The model after LoRA, one trial per seed; trained on first use, once per pytest run."""
    from pytest_ftguard.plugin.providing import session_variant

    return session_variant(request, "ftguard_lora")


@pytest.fixture
def ftguard(request: pytest.FixtureRequest) -> Ftguard:
    """Train further variants inside a test, and read its limits."""
    from pytest_ftguard.plugin.providing import ftguard_of

    return ftguard_of(request)
