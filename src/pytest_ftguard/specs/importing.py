"""What an import path such as "my_package.rows:Rows" leads to, and the names that installed packages have for some."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["entry_points", "imported"]


def imported(path: str) -> Any:
    """Return what "module:name" leads to; the name may have dots.

    A module of the user's may raise anything while it is imported.

    Raises:
        ImportError: There is no such module.
        AttributeError: The module has no such name.
        ValueError: A part is empty.
    """
    module, _, name = path.partition(":")
    found: Any = import_module(module.strip())
    for part in name.strip().split("."):
        found = getattr(found, part)
    return found


def entry_points(group: str) -> dict[str, str]:
    """Return the import paths that installed packages have given names to, by name.

    Args:
        group: The group of entry points.
    """
    from importlib.metadata import entry_points as installed

    return {point.name: point.value for point in installed(group=group)}
