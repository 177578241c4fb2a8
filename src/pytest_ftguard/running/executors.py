"""The executors by name: ours, those of installed packages, and any that "module:function" leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.running.executor import Executor, ExecutorOptions
from pytest_ftguard.running.local.executor import LocalExecutor
from pytest_ftguard.specs.importing import entry_points, imported

__all__ = ["DEFAULT_EXECUTOR", "GROUP", "make_executor"]

DEFAULT_EXECUTOR: Final = "local"
GROUP: Final = "pytest_ftguard.executors"
"""The group of entry points under which a package makes executors known."""

_OURS: Final[dict[str, Callable[[ExecutorOptions], Executor]]] = {DEFAULT_EXECUTOR: LocalExecutor}
_METHODS: Final = ("run", "folder", "facts", "disturbance", "close")


def make_executor(name: str, options: ExecutorOptions, origin: str = "default") -> Executor:
    """Return the executor of a name; no other one is imported.

    Args:
        name: "local", the name of an entry point, or "module:function".
        options: What it is made with.
        origin: Where the name was set.

    Raises:
        ConfigurationError: There is no such executor, or what was found is none.
    """
    said = f"ftguard_executor is {name!r} (set by {origin})"
    made = (_OURS.get(name) or _found(name, said))(options)
    missing = [method for method in _METHODS if not callable(getattr(made, method, None))]
    if missing:
        message = (
            f"{said}, which gave {made!r}: it is not an executor, because it has no method "
            f"{', '.join(missing)}; see pytest_ftguard.running.executor.Executor"
        )
        raise ConfigurationError(message)
    return made


def _found(name: str, said: str) -> Callable[[ExecutorOptions], Any]:
    named = entry_points(GROUP)
    if name in named:
        target = named[name]
    elif ":" in name:
        target = name
    else:
        known = ", ".join(sorted({*_OURS, *named}))
        message = f"{said}, which is not an executor: use one of {known}, or module:function"
        raise ConfigurationError(message)
    try:
        found = imported(target)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"{said}, which cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    if not callable(found):
        message = f"{said}, which is {found!r} and cannot be called: name a function or a class"
        raise ConfigurationError(message)
    made: Callable[[ExecutorOptions], Any] = found
    return made
