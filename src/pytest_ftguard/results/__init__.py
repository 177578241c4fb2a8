"""What a trial measured, as frozen plain data that is complete: every later stage works from it alone."""

from __future__ import annotations

from pytest_ftguard.results.checking import checked
from pytest_ftguard.results.parts import (
    MINIMUM_UNITS,
    MOST_TRAINED_ON,
    Breakdown,
    CurvePoint,
    Environment,
    Memory,
    Parameters,
    SequenceLosses,
    Start,
    Timing,
    TrialError,
    evenly_spaced,
    log_digests,
)
from pytest_ftguard.results.trained import TrainedVariant
from pytest_ftguard.results.trial import SCHEMA, TRAINER_RUN_FILE, Outcome, TrialResult

__all__ = [
    "MINIMUM_UNITS",
    "MOST_TRAINED_ON",
    "SCHEMA",
    "TRAINER_RUN_FILE",
    "Breakdown",
    "CurvePoint",
    "Environment",
    "Memory",
    "Outcome",
    "Parameters",
    "SequenceLosses",
    "Start",
    "Timing",
    "TrainedVariant",
    "TrialError",
    "TrialResult",
    "checked",
    "evenly_spaced",
    "log_digests",
]
