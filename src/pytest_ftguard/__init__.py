"""Model-quality regression tests in pytest: full fine-tuning against LoRA.

The names below are loaded when they are first used: every pytest run imports this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_ftguard.accepting.helper import assert_no_regression
    from pytest_ftguard.elsewhere.trainer_runs import read_trainer_runs
    from pytest_ftguard.errors import (
        ConfigurationError,
        DeviceUnavailableError,
        FtguardError,
        FtguardWarning,
        GateFailure,
        LimitExceeded,
    )
    from pytest_ftguard.gates.convergence import assert_converged
    from pytest_ftguard.gates.forgetting import assert_forgetting
    from pytest_ftguard.gates.memory import assert_memory_budget
    from pytest_ftguard.gates.merge_drift import assert_merge_drift
    from pytest_ftguard.gates.quality import assert_loss_gap, assert_perplexity_gap, assert_retention
    from pytest_ftguard.gates.scores import assert_accuracy_gap, assert_score, assert_score_gap
    from pytest_ftguard.gates.timed_pair import assert_time_budget
    from pytest_ftguard.gates.verdict import Verdict
    from pytest_ftguard.plugin.providing import Ftguard
    from pytest_ftguard.reporting.json import read_report
    from pytest_ftguard.reporting.summary import Summary
    from pytest_ftguard.results import TrainedVariant, Trial
    from pytest_ftguard.specs import Full, LoRA, Peft, TrialSpec, Workload
    from pytest_ftguard.training.callback import FtguardCallback
    from pytest_ftguard.training.generating import generate

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "DeviceUnavailableError",
    "Ftguard",
    "FtguardCallback",
    "FtguardError",
    "FtguardWarning",
    "Full",
    "GateFailure",
    "LimitExceeded",
    "LoRA",
    "Peft",
    "Summary",
    "TrainedVariant",
    "Trial",
    "TrialSpec",
    "Verdict",
    "Workload",
    "assert_accuracy_gap",
    "assert_converged",
    "assert_forgetting",
    "assert_loss_gap",
    "assert_memory_budget",
    "assert_merge_drift",
    "assert_no_regression",
    "assert_perplexity_gap",
    "assert_retention",
    "assert_score",
    "assert_score_gap",
    "assert_time_budget",
    "generate",
    "read_report",
    "read_trainer_runs",
]

_HOMES = {
    "accepting.helper": ("assert_no_regression",),
    "elsewhere.trainer_runs": ("read_trainer_runs",),
    "errors": (
        "ConfigurationError",
        "DeviceUnavailableError",
        "FtguardError",
        "FtguardWarning",
        "GateFailure",
        "LimitExceeded",
    ),
    "gates.convergence": ("assert_converged",),
    "gates.forgetting": ("assert_forgetting",),
    "gates.memory": ("assert_memory_budget",),
    "gates.merge_drift": ("assert_merge_drift",),
    "gates.scores": ("assert_accuracy_gap", "assert_score", "assert_score_gap"),
    "gates.quality": ("assert_loss_gap", "assert_perplexity_gap", "assert_retention"),
    "gates.timed_pair": ("assert_time_budget",),
    "gates.verdict": ("Verdict",),
    "plugin.providing": ("Ftguard",),
    "reporting.json": ("read_report",),
    "reporting.summary": ("Summary",),
    "results": ("TrainedVariant", "Trial"),
    "specs": ("Full", "LoRA", "Peft", "TrialSpec", "Workload"),
    "training.callback": ("FtguardCallback",),
    "training.generating": ("generate",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
