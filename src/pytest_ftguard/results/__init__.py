"""What a trial measured, as frozen plain data that is complete: every later stage works from it alone."""

from __future__ import annotations

from pytest_ftguard.results.losses import ACCURACY, About, Answers, BaseLosses, Scores, SequenceLosses
from pytest_ftguard.results.measured import Measured, Outcome
from pytest_ftguard.results.parts import (
    MINIMUM_UNITS,
    MOST_TRAINED_ON,
    Breakdown,
    CurvePoint,
    CurveText,
    Environment,
    Memory,
    Parameters,
    Start,
    Timing,
    TrialError,
    Updates,
    evenly_spaced,
    log_digests,
)
from pytest_ftguard.results.schema import from_plain, from_plain_if_any, to_plain
from pytest_ftguard.results.trained import TrainedVariant
from pytest_ftguard.results.trial import SCHEMA, TRAINER_RUN_FILE, Provenance, Trial

__all__ = [
    "ACCURACY",
    "MINIMUM_UNITS",
    "MOST_TRAINED_ON",
    "SCHEMA",
    "TRAINER_RUN_FILE",
    "About",
    "Answers",
    "BaseLosses",
    "Breakdown",
    "CurvePoint",
    "CurveText",
    "Environment",
    "Measured",
    "Memory",
    "Outcome",
    "Parameters",
    "Provenance",
    "Scores",
    "SequenceLosses",
    "Start",
    "Timing",
    "TrainedVariant",
    "Trial",
    "TrialError",
    "Updates",
    "evenly_spaced",
    "from_plain",
    "from_plain_if_any",
    "log_digests",
    "to_plain",
]
