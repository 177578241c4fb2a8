"""How a model becomes what a variant trains: one adapter per kind of variant, found by the kind."""

from __future__ import annotations

from pytest_ftguard.training.adapters.base import Adapter
from pytest_ftguard.training.adapters.registry import apply_variant, check_variant, find_adapter, prepare_base

__all__ = ["Adapter", "apply_variant", "check_variant", "find_adapter", "prepare_base"]
