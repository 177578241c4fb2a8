"""The JSON report, written and read: strict JSON, in which what was not measured, or is not finite, is null."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pytest_ftguard import __version__
from pytest_ftguard.comparison.grouping import trained_variants
from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.gates.verdict import RecordedVerdict, Verdict
from pytest_ftguard.reporting.summary import Summary
from pytest_ftguard.results import SCHEMA, SequenceLosses, TrainedVariant, TrialResult
from pytest_ftguard.specs import readable_json, variant_to_dict

__all__ = ["json_report", "read_report", "render"]


def render(summary: Summary) -> str:
    """Return the text of the report on a run."""
    return json_report(summary.trials, summary.verdicts, summary.root)


def json_report(trials: Sequence[TrialResult], verdicts: Sequence[RecordedVerdict], root: Path | None = None) -> str:
    """Return the text of the report.

    Args:
        trials: All trials.
        verdicts: All verdicts.
        root: The folder from which paths are written if they lie in it; the others, and all if it is None, stay whole.
    """
    environment = next((trial.environment for trial in trials if trial.environment), None)
    report = {
        "schema": SCHEMA,
        "ftguard_version": __version__,
        "environment": asdict(environment) if environment else None,
        "trials": [_trial(trial) for trial in trials],
        "verdicts": [{"nodeid": recorded.nodeid, **_verdict(recorded.verdict)} for recorded in verdicts],
    }
    # Not in the middle of another path; and a root folder that is that of the machine is no place of the project's own.
    inside = (
        None if root is None or root == root.parent else re.compile(rf"(?<![^\s'\"=:,;([{{]){re.escape(f'{root}/')}")
    )
    return readable_json(_strict(report, inside))


def read_report(path: str | os.PathLike[str]) -> tuple[TrainedVariant, ...]:
    """Return the variants that another run trained, from the file that `--ftguard-json` named.

    They go through the same assertion helpers as those of this run, for example LoRA trained now beside full
    fine-tuning trained last night: what was measured decides whether the two did the same work, wherever the files
    lay. Memory and time are judged only within one environment. The weights are not in the report, so `load` is an
    error.

    Args:
        path: The report; a relative path starts at the working folder, as for `open`.

    Returns:
        One variant for each workload and way of adapting the weights: full fine-tuning first, the others in the order
        of the report.

    Raises:
        ConfigurationError: The file cannot be read, or is not a report that this version reads.
    """
    place = str(Path(path).absolute())
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        if report["schema"] != SCHEMA:
            message = f"the report {place!r} has schema {report['schema']!r}, and this version reads {SCHEMA}"
            raise ConfigurationError(message)
        if any(values["outcome"] == "planned" for values in report["trials"]):
            message = (
                f"the report {place!r} is that of a plan, in which nothing was trained: run without --ftguard-plan"
            )
            raise ConfigurationError(message)
        trials = [_read_trial(values) for values in report["trials"]]
    except OSError as error:
        message = f"the report {place!r} cannot be read: {error.strerror or error}; give what --ftguard-json wrote"
        raise ConfigurationError(message) from None
    except ConfigurationError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FtguardError) as error:
        message = (
            f"the report {place!r} is not one that --ftguard-json of this version wrote "
            f"({type(error).__name__}: {error}): make it again"
        )
        raise ConfigurationError(message) from None
    # Which of them was trained first depends on the tests, and must not decide which is taken for which.
    return tuple(sorted(trained_variants(trials), key=lambda variant: variant.variant.kind != "full"))


def _verdict(verdict: Verdict) -> dict[str, Any]:
    values = verdict.shown()
    del values["set_by"]  # the message says it
    return values


def _trial(trial: TrialResult) -> dict[str, Any]:
    return {
        "fingerprint": trial.fingerprint,
        "variant": trial.spec.variant.kind,
        "label": trial.spec.variant.label,
        "settings": variant_to_dict(trial.spec.variant),
        "workload": trial.spec.workload.to_dict(),
        "device": trial.spec.device,
        "seed": trial.spec.seed,
        "purpose": trial.spec.workload.purpose,
        "outcome": trial.outcome,
        "cached": trial.cached,
        "parameters": asdict(trial.parameters) if trial.parameters else None,
        "validation": _losses(trial.validation),
        "base_validation": _losses(trial.base_validation),
        "reference": _losses(trial.reference),
        "base_reference": _losses(trial.base_reference),
        "start": asdict(trial.start) if trial.start else None,
        "curve": [asdict(point) for point in trial.curve],
        "data_order": trial.data_order,
        "code": trial.code,
        "memory": asdict(trial.memory) if trial.memory else None,
        "time": asdict(trial.time) if trial.time else None,
        "environment": asdict(trial.environment) if trial.environment else None,
        "error": asdict(trial.error) if trial.error else None,
        "notes": trial.notes,
    }


def _losses(losses: SequenceLosses | None) -> dict[str, Any] | None:
    if losses is None:
        return None
    return {
        "loss": losses.loss,
        "perplexity": losses.perplexity,
        "sequences": len(losses.nll),
        "tokens": sum(losses.tokens),
        "sequence_nll": losses.nll,
        "sequence_tokens": losses.tokens,
        "documents": losses.documents,
        "digest": losses.digest,
        **{name: getattr(losses, name) for name in _OF_THE_TEXT},
    }


def _read_trial(values: Mapping[str, Any]) -> TrialResult:
    return TrialResult.from_dict(
        {
            "schema": SCHEMA,
            "spec": {
                "workload": values["workload"],
                "variant": values["settings"],
                "seed": values["seed"],
                "device": values["device"],
            },
            **{name: values[name] for name in _AS_THEY_ARE},
            **{name: _read_losses(values[name]) for name in _LOSSES},
            "curve": [
                {**point, "loss": _number(point["loss"]), "nll": _numbers(point["nll"])} for point in values["curve"]
            ],
            "start": values.get("start"),
            "cached": True,
            "notes": values.get("notes", ()),
        }
    )


_AS_THEY_ARE: Final = ("outcome", "parameters", "data_order", "code", "memory", "time", "environment", "error")
# What an earlier version did not write.
_OF_THE_TEXT: Final = ("repeated", "trained_on", "unknown")
_LOSSES: Final = ("validation", "base_validation", "reference", "base_reference")


def _read_losses(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    return {
        "nll": _numbers(values["sequence_nll"]),
        "tokens": values["sequence_tokens"],
        "documents": values["documents"],
        "digest": values["digest"],
        **{name: values[name] for name in _OF_THE_TEXT if name in values},
    }


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [_number(value) for value in values]


def _number(value: float | None) -> float:
    """Return a number of the report, in which one that is not finite is null."""
    return math.nan if value is None else value


def _strict(value: Any, root: re.Pattern[str] | None) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return root.sub("", value) if root else value
    if isinstance(value, Mapping):
        return {name: _strict(item, root) for name, item in value.items()}
    return [_strict(item, root) for item in value] if isinstance(value, list | tuple) else value
