"""What a model is trained for: a folder for each task, and a registry by name.

Importing it loads no torch; `base` says what a task of one's own must do.
"""

from __future__ import annotations

from pytest_ftguard.tasks.base import Evaluated, Examples, NeedsWeightsError, Task, checked_nll
from pytest_ftguard.tasks.registry import check_name, find_task, path_of_own

__all__ = [
    "Evaluated",
    "Examples",
    "NeedsWeightsError",
    "Task",
    "check_name",
    "checked_nll",
    "find_task",
    "path_of_own",
]
