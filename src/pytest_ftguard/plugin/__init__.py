"""pytest's edge: here its objects become plain data. The names below are what pytest finds in a plugin.

pytest loads the modules of a plugin with its loader that rewrites asserts. That one takes three times as long as
Python's own, in every run of pytest, and the modules that every run loads have no assert.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

import pytest_ftguard

for _package, _name in (
    (pytest_ftguard, "current"),
    *((sys.modules[__name__], _module) for _module in ("options", "run", "hooks", "fixtures")),
):
    _spec = PathFinder.find_spec(f"{_package.__name__}.{_name}", _package.__path__)
    if _spec is not None and _spec.loader is not None and _spec.name not in sys.modules:
        sys.modules[_spec.name] = module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_spec.name])
        setattr(_package, _name, sys.modules[_spec.name])

from pytest_ftguard.plugin.fixtures import (  # noqa: E402 - they are loaded above
    ftguard,
    ftguard_full,
    ftguard_lora,
    ftguard_workload,
    full_variant,
    lora_variant,
)
from pytest_ftguard.plugin.hooks import (  # noqa: E402
    pytest_addoption,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_configure_node,
    pytest_load_initial_conftests,
    pytest_make_collect_report,
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
    pytest_runtest_setup,
    pytest_runtest_teardown,
    pytest_sessionfinish,
    pytest_sessionstart,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_unconfigure,
)

__all__ = [
    "ftguard",
    "ftguard_full",
    "ftguard_lora",
    "ftguard_workload",
    "full_variant",
    "lora_variant",
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_configure_node",
    "pytest_load_initial_conftests",
    "pytest_make_collect_report",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
    "pytest_sessionfinish",
    "pytest_sessionstart",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_unconfigure",
]
