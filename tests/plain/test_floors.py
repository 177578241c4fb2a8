"""The rooms of the architecture: who may import whom, and what a pytest run that trains nothing may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_ftguard
from pytest_ftguard.gates.catalogue import _ROWS
from pytest_ftguard.store.fingerprint import MEASURING

SOURCE = Path(pytest_ftguard.__file__).parent
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets"}
FLOORS = {
    **dict.fromkeys(("current", "errors", "files", "units"), GROUND := 0),
    "specs": 1,
    **dict.fromkeys(("results", "statistics"), 2),
    "score_statistics": 3,
    **dict.fromkeys(("comparison", "tasks"), 4),
    "training": 5,
    "store": 6,
    "running": 7,
    "gates": 8,
    "accepting": 9,
    **dict.fromkeys(("elsewhere", "reporting"), 10),
    "settings": 11,
    "plugin": 12,
}
TORCH_WING = ("tasks", "training")
# What is plain in tasks: these names at its top, and these of each task.
PLAIN_IN_TASKS = {"__init__", "base", "registry", "task"}
MODULES = sorted(path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py"))


class _Imports(ast.NodeVisitor):
    """Collects what a module imports at run time."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.names += [alias.name for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.module is not None, "relative imports hide the room"
        self.names += [f"{node.module}.{alias.name}" for alias in node.names]


def imports(module: tuple[str, ...]) -> list[str]:
    visitor = _Imports()
    visitor.visit(ast.parse(SOURCE.joinpath(*module).with_suffix(".py").read_text(encoding="utf-8")))
    return visitor.names


def is_torch(module: tuple[str, ...]) -> bool:
    """Return whether a module belongs to the torch wing."""
    return module[0] == "training" or (module[0] == "tasks" and module[-1] not in PLAIN_IN_TASKS)


def home_of(name: str) -> tuple[str, ...]:
    """Return the module that an imported name is in, or is; empty if it is none of ours."""
    package, *parts = name.split(".")
    found = [tuple(parts[:count]) for count in range(len(parts), 0, -1)] if package == "pytest_ftguard" else []
    homes = [home for one in found for home in (one, (*one, "__init__")) if home in MODULES]
    return homes[0] if homes else ()


def rooms(names: list[str]) -> Iterator[str]:
    for name in names:
        package, *rest = name.split(".")
        if package == "pytest_ftguard" and rest and rest[0] in FLOORS:
            yield rest[0]


@pytest.mark.parametrize("module", MODULES, ids="/".join)
def test_a_module_imports_only_from_floors_below(module: tuple[str, ...]) -> None:
    """Imports lead downwards; rooms of one package may know each other, and one door leads into the torch wing."""
    room = module[0]
    if room == "__init__":
        assert not list(rooms(imports(module)))
        return
    for other in rooms(imports(module)):
        allowed = FLOORS[other] < FLOORS[room] or other == room or FLOORS[other] == GROUND
        assert allowed, f"{'/'.join(module)} imports {other}"
    if room not in TORCH_WING and module != ("running", "work"):
        assert not [name for name in imports(module) if (home := home_of(name)) and is_torch(home)]


def test_all_that_trains_is_part_of_a_fingerprint() -> None:
    """Whatever room the torch wing imports, directly or not, its code counts: a stale result would be served else."""
    found, new = set(), {module[0] for module in MODULES if is_torch(module)}
    while new:
        found |= new
        new = {other for module in MODULES if module[0] in new for other in rooms(imports(module))} - found
    assert found <= MEASURING


@pytest.mark.parametrize("module", MODULES, ids="/".join)
def test_only_the_torch_wing_imports_torch(module: tuple[str, ...]) -> None:
    """Not even inside a function does another room import torch, transformers, peft, accelerate or datasets."""
    heavy = {name.split(".")[0] for name in imports(module)} & HEAVY
    assert not heavy or is_torch(module)


def test_the_plugin_loads_no_heavy_package() -> None:
    """Importing the package and the plugin works where torch, numpy and their like raise on import."""
    code = f"""
import sys
class Poison:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY | {"numpy", "scipy"}!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Poison())
import pytest_ftguard, pytest_ftguard.plugin.hooks
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_public_name_can_be_had() -> None:
    """The lazily loaded names are those of __all__, and a wrong one is an AttributeError."""
    plain = [name for name in pytest_ftguard.__all__ if not pytest_ftguard._HOME_OF[name].startswith("training.")]
    # These need torch, and are tested with it.
    assert set(pytest_ftguard.__all__) - set(plain) == {"FtguardCallback", "generate"}
    assert all(getattr(pytest_ftguard, name).__name__ == name for name in plain)
    assert sorted(pytest_ftguard.__all__) == list(pytest_ftguard.__all__)
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = pytest_ftguard.nothing_here


def test_type_checkers_see_every_public_name() -> None:
    """They read the imports that never run: the same names, each from the module that it is loaded from."""
    tree = ast.parse(Path(pytest_ftguard.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: node.module.removeprefix("pytest_ftguard.")
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }
    assert imported == pytest_ftguard._HOME_OF
    assert sorted(imported) == pytest_ftguard.__all__


def test_the_helper_of_each_gate_is_a_public_name() -> None:
    """The catalogue names it, and no other name begins as helpers do."""
    helpers = dict(row.helper for row in _ROWS)
    assert helpers == {name: home for name, home in pytest_ftguard._HOME_OF.items() if name.startswith("assert_")}
