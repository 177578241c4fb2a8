"""The tasks by name: ours, those of installed packages, and any class that "module:Class" leads to."""

from __future__ import annotations

from inspect import isclass
from typing import Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.importing import entry_points, imported
from pytest_ftguard.tasks.base import Task

__all__ = ["GROUP", "check_name", "find_task", "path_of_own"]

GROUP: Final = "pytest_ftguard.tasks"
"""The group of entry points under which a package makes tasks known."""

_OURS: Final = {
    "causal-lm": "pytest_ftguard.tasks.causal_lm.task:CausalLM",
    "chat": "pytest_ftguard.tasks.chat.task:Chat",
    "classification": "pytest_ftguard.tasks.classification.task:Classification",
}


def find_task(name: str, said: str | None = None) -> Task:
    """Return the task of a name. A name may come from code and settings, never from data: it is imported.

    Args:
        name: One of ours, the name of an entry point, or "module:Class".
        said: Beginning of a message: which setting has the name, and where it was set.

    Raises:
        ConfigurationError: There is no such task, or what was found is none.
    """
    said = said or f"Workload.task is {name!r}"
    try:
        found = imported(_path(name, said))
    except ConfigurationError:
        raise
    except Exception as error:  # a user's module may raise anything while it is imported
        message = f"{said}, which cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    if not (isclass(found) and issubclass(found, Task)):
        message = f"{said}, which is {found!r}: name a class that is derived from pytest_ftguard.tasks.Task"
        raise ConfigurationError(message)
    missing = sorted(found.__abstractmethods__)
    if missing:
        message = f"{said}, a class without {', '.join(missing)}: each task needs these; see pytest_ftguard.tasks.Task"
        raise ConfigurationError(message)
    try:
        made: Task = found()
    except Exception as error:
        message = f"{said}, which cannot be made without arguments: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    return made


def check_name(name: str, said: str) -> None:
    """Check that there is a task of a name, as far as can be told without an import.

    Raises:
        ConfigurationError: There is none.
    """
    _path(name, said)


def path_of_own(name: str) -> str | None:
    """Return where the class of a user's or a package's task is imported from; None for one of ours.

    Raises:
        ConfigurationError: There is no such task.
    """
    return None if name in _OURS else _path(name, f"Workload.task is {name!r}")


def _path(name: str, said: str) -> str:
    if name in _OURS:
        return _OURS[name]
    if ":" in name:
        return name
    installed = entry_points(GROUP)
    if name not in installed:
        known = ", ".join(sorted({*_OURS, *installed}))
        message = f"{said}, which is not a task: use one of {known}, or module:Class"
        raise ConfigurationError(message)
    return installed[name]
