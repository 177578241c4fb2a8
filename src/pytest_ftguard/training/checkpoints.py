"""Checkpoints of a training: if its process was killed, it goes on where it was, to the same numbers.

They are the Trainer's own, with a file of ours that is written last. It holds what was measured so far, and the digest
of every other file. If it is missing or does not agree, the checkpoint is not complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer, TrainerCallback

__all__ = ["CheckpointSaver", "CheckpointedTrainer", "can_make", "newest_complete", "without_checkpoints"]

_OUR_FILE: Final = "ftguard_measured.json"
# Trained weights that peft leaves out of its own file, see below.
_REST: Final = "ftguard_weights.safetensors"
# A pickle, which the Trainer writes and nobody reads. The others that are not safetensors or JSON (optimizer, schedule,
# random numbers) are read by transformers with weights_only=True, which runs no code.
_IGNORED: Final = frozenset({_OUR_FILE, "training_args.bin"})
# Free space that there must be for a checkpoint, as a multiple of its size: the disk is not the training's alone.
_SPARE: Final = 3
# Saving takes at most a twentieth of the time.
_PAUSE_FACTOR: Final = 20

State = dict[str, Any]


class CheckpointSaver(TrainerCallback):
    """Lets the Trainer save a checkpoint between two steps when it is time to, and completes it.

    Args:
        seconds: Least time between two checkpoints, longer if saving takes longer; 0 saves after each step.
        trainable: Number of parameters that are trained, which are saved with two moments each.
        measured: Returns what was measured so far, as JSON holds it.
        remark: Called once, with why no more checkpoints are made.
    """

    def __init__(
        self, seconds: float, trainable: int, measured: Callable[[], State], remark: Callable[[str], None]
    ) -> None:
        self._pause = seconds
        self._size_bytes = 12 * trainable
        self._measured = measured
        self._remark = remark
        self._last = self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint; the step's own clock has been stopped already."""
        self._began = time.monotonic()
        due = state.global_step < state.max_steps and self._began - self._last >= self._pause
        if due and self._has_room(Path(args.output_dir)):
            control.should_save = True

    def _has_room(self, folder: Path) -> bool:
        """Return whether a checkpoint fits on the disk; a folder that somebody has removed is made again."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(folder).free > _SPARE * self._size_bytes
        except OSError as error:
            self._give_up(error)
            return False

    def _give_up(self, error: OSError) -> None:
        # The training itself needs no disk.
        self._remark(without_checkpoints(error))
        self._pause = math.inf

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Complete the checkpoint, and only then remove the one before."""
        root = Path(args.output_dir)
        present = root / f"checkpoint-{state.global_step}"
        try:
            if not present.exists():
                message = "the Trainer could not write it"
                raise FileNotFoundError(message)
            _complete(present, self._measured())
        except OSError as error:
            shutil.rmtree(present, ignore_errors=True)
            self._give_up(error)
            return
        for folder in _by_age(root)[1:]:
            shutil.rmtree(folder, ignore_errors=True)
        self._last = time.monotonic()
        if self._pause:
            self._pause = max(self._pause, _PAUSE_FACTOR * (self._last - self._began))


class CheckpointedTrainer(Trainer):
    """A Trainer that goes on if a checkpoint cannot be written, and keeps every trained weight in those that can."""

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._save_checkpoint(*args, **kwargs)
            rest = _left_out_by_peft(self.model)
            if rest:
                tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in rest.items()}
                save_file(tensors, Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}" / _REST)
        except Exception:  # torch, safetensors and the system each have an error of their own for a full disk
            traceback.print_exc()
            output = Path(str(self.args.output_dir))
            shutil.rmtree(output / f"checkpoint-{self.state.global_step}", ignore_errors=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        rest = _left_out_by_peft(self.model)
        if not rest:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # peft would put the prompt where the weights that make it belong.
        for name, value in load_file(Path(resume_from_checkpoint) / _REST).items():
            with torch.no_grad():
                rest[name].copy_(value)


def _left_out_by_peft(model: Any) -> dict[str, nn.Parameter]:
    """Return the trained parameters of a method that makes a prompt, of which peft saves the prompt alone."""
    if not (isinstance(model, PeftModel) and model.peft_config[model.active_adapter].is_prompt_learning):
        return {}
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def without_checkpoints(error: OSError) -> str:
    """Return the note of a training that goes on without checkpoints."""
    return f"checkpoints could not be written ({error.strerror or error}); the training continued without them"


def _complete(folder: Path, measured: State) -> None:
    digests = {str(path.relative_to(folder)): _digest(path) for path in _files(folder)}
    draft = folder / f"{_OUR_FILE}.draft"
    with draft.open("w", encoding="utf-8") as file:
        json.dump({"files": digests, "measured": measured}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / _OUR_FILE)


def newest_complete(root: Path, remark: Callable[[str], None]) -> tuple[Path, State] | None:
    """Return the newest checkpoint that is complete, and what was measured until then; None if there is none.

    One that is not, because the process was killed while it was written or a file was damaged since, is removed.

    Args:
        root: Folder of a training's checkpoints; it need not exist.
        remark: Called with what is wrong with one that is removed.
    """
    for folder in _by_age(root):
        try:
            content = json.loads((folder / _OUR_FILE).read_text(encoding="utf-8"))
            files: Mapping[str, str] = content["files"]
            if files != {str(path.relative_to(folder)): _digest(path) for path in _files(folder)}:
                message = "its files are not those that were written"
                raise ValueError(message)
            return folder, dict(content["measured"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            remark(f"its {folder.name} was not complete, so it was removed ({reason})")
            shutil.rmtree(folder, ignore_errors=True)
    return None


def _by_age(root: Path) -> list[Path]:
    """Return the folders of checkpoints, that of the latest step first."""
    folders = [path for path in root.glob("checkpoint-*") if path.is_dir() and path.name.rpartition("-")[2].isdigit()]
    return sorted(folders, key=lambda path: -int(path.name.rpartition("-")[2]))


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in _IGNORED and not path.name.endswith(".draft")
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def can_make(folder: Path, note: Callable[[str], None]) -> bool:
    """Return whether the folder of checkpoints is there, made again if the store was removed meanwhile.

    Args:
        folder: The folder.
        note: Told what is wrong if it is not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        note(without_checkpoints(error))
        return False
    return True
