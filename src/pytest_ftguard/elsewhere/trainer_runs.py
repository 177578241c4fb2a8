"""Finished Trainer runs of the user's own, read back as a trained variant."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pytest_ftguard.comparison.grouping import trained_variants
from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.results import (
    TRAINER_RUN_FILE,
    TrainedVariant,
    Trial,
    log_digests,
)

__all__ = ["read_trainer_runs"]

_STATE_FILE = "trainer_state.json"


def read_trainer_runs(*folders: str | os.PathLike[str]) -> TrainedVariant:
    """Return a variant that your own `Trainer` runs trained, one run for each seed.

    Each run needs `FtguardCallback` among its callbacks, which measures it, and `trainer.save_state()` at its end.

    Args:
        folders: Output folder of each run.

    Raises:
        ConfigurationError: A folder lacks a file, its files belong to different runs, or the runs are not those of one
            variant on one workload with a seed each.
    """
    if not folders:
        message = "read_trainer_runs needs the output folder of at least one run"
        raise ConfigurationError(message)
    trials = sorted((_read_run(Path(folder)) for folder in folders), key=lambda trial: trial.spec.seed)
    seeds = [trial.spec.seed for trial in trials]
    if len(set(seeds)) != len(seeds):
        message = (
            f"the runs in {_names(folders)} have the seeds {seeds}: a repeated seed adds no evidence, so train each "
            "with a seed of its own"
        )
        raise ConfigurationError(message)
    found = trained_variants(trials)
    if len({trial.measured.parameters for trial in trials if trial.measured.parameters}) > 1:
        message = f"the runs in {_names(folders)} trained different numbers of parameters: read each variant by itself"
        raise ConfigurationError(message)
    if len(found) > 1:
        one, other = found[0].trials[0].spec.to_dict(), found[1].trials[0].spec.to_dict()
        differing = [
            f"{name} is {one[part][name]!r} and {other[part].get(name)!r}"
            for part in ("variant", "workload")
            for name in one[part]
            if one[part][name] != other[part].get(name) and name != "seeds"
        ]
        message = (
            f"the runs in {_names(folders)} are not those of one variant with several seeds: {'; '.join(differing)}; "
            "read each variant by itself"
        )
        raise ConfigurationError(message)
    return found[0]


def _names(folders: tuple[str | os.PathLike[str], ...]) -> str:
    return ", ".join(repr(os.fspath(folder)) for folder in folders)


def _read_run(folder: Path) -> Trial:
    if not folder.is_dir():
        message = f"there is no folder {str(folder.absolute())!r}: give the output_dir of a Trainer run"
        raise ConfigurationError(message)
    content = _read_json(folder / TRAINER_RUN_FILE, "add FtguardCallback to the callbacks of the Trainer")
    try:
        trial = Trial.from_dict(content["trial"]).come_by(cached=True)
        digests = list(content["log"])
    except (FtguardError, KeyError, TypeError, ValueError) as error:
        message = f"{str(folder / TRAINER_RUN_FILE)!r} cannot be used: {error}; train again"
        raise ConfigurationError(message) from None
    steps = trial.spec.workload.steps
    saved = [path for path in (folder / _STATE_FILE, folder / f"checkpoint-{steps}" / _STATE_FILE) if path.exists()]
    state_file = saved[0] if saved else folder / _STATE_FILE
    state = _read_json(state_file, "call trainer.save_state() after trainer.train()")
    log = state.get("log_history") if isinstance(state, dict) else None
    # A checkpoint's log ends before that of the run, and trainer.save_state() may come after further entries.
    found = log_digests(log) if isinstance(log, list) else []
    common = min(len(found), len(digests))
    if log is None or state.get("global_step") != steps or found[:common] != digests[:common]:
        step = state.get("global_step") if isinstance(state, dict) else None
        message = (
            f"{str(state_file)!r} (step {step}) and {TRAINER_RUN_FILE} next to it (step {steps}) do not have the same "
            "log, so they are from different runs: train again, with the callback, into an empty folder"
        )
        raise ConfigurationError(message)
    return trial


def _read_json(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{str(path.absolute())!r} cannot be read ({error.strerror or error}): {remedy}"
        raise ConfigurationError(message) from None
    except ValueError as error:
        message = f"{str(path.absolute())!r} is damaged, it is not JSON ({error}): train again"
        raise ConfigurationError(message) from None
