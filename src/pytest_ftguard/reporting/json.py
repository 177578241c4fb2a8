"""The JSON report: strict JSON, in which what was not measured, or is not finite, is null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pytest_ftguard import __version__
from pytest_ftguard.reporting.terminal import RecordedVerdict
from pytest_ftguard.results import SCHEMA, SequenceLosses, TrialResult
from pytest_ftguard.specs import variant_to_dict

__all__ = ["json_report"]


def json_report(trials: Sequence[TrialResult], verdicts: Sequence[RecordedVerdict]) -> str:
    """Return the text of the report.

    Args:
        trials: All trials.
        verdicts: All verdicts.
    """
    environment = next((trial.environment for trial in trials if trial.environment), None)
    report = {
        "schema": SCHEMA,
        "ftguard_version": __version__,
        "environment": asdict(environment) if environment else None,
        "trials": [_trial(trial) for trial in trials],
        "verdicts": [{"nodeid": recorded.nodeid, **recorded.verdict.to_dict()} for recorded in verdicts],
    }
    return json.dumps(_strict(report), allow_nan=False, indent=2, ensure_ascii=False) + "\n"


def _trial(trial: TrialResult) -> dict[str, Any]:
    return {
        "fingerprint": trial.fingerprint,
        "variant": trial.spec.variant.kind,
        "label": trial.spec.variant.label,
        "settings": variant_to_dict(trial.spec.variant),
        "workload": trial.spec.workload.to_dict(),
        "seed": trial.spec.seed,
        "outcome": trial.outcome,
        "cached": trial.cached,
        "parameters": asdict(trial.parameters) if trial.parameters else None,
        "validation": _losses(trial.validation),
        "base_validation": _losses(trial.base_validation),
        "reference": _losses(trial.reference),
        "base_reference": _losses(trial.base_reference),
        "curve": [{"step": point.step, "loss": point.loss} for point in trial.curve],
        "memory": asdict(trial.memory) if trial.memory else None,
        "time": asdict(trial.time) if trial.time else None,
        "environment": asdict(trial.environment) if trial.environment else None,
        "error": asdict(trial.error) if trial.error else None,
    }


def _losses(losses: SequenceLosses | None) -> dict[str, Any] | None:
    if losses is None:
        return None
    return {
        "loss": losses.loss,
        "perplexity": losses.perplexity,
        "sequences": len(losses.nll),
        "tokens": sum(losses.tokens),
    }


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _strict(item) for name, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, list | tuple) else value
