"""What a folder really holds: each kind that is not a whole causal language model gets a sentence of its own.

The files are looked at before any weights are read. Of a model on the hub only the small files are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import CONFIG_MAPPING
from transformers.utils import cached_file  # type: ignore[attr-defined]

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.causal_lm.weight_files import (
    any_weights,
    check_weight_files,
    holds_no_weights,
    is_lfs_pointer,
)

__all__ = [
    "PREDICTS_TOKENS",
    "Wanted",
    "check_folder",
    "check_tokenizer_folder",
    "has_vocabulary_file",
    "holds_shapes_alone",
]

_MERGE: Final = "merge it (merge_and_unload, then save_pretrained of model and tokenizer)"
_OTHER_PROJECTS: Final = {
    "modules.json": "is a sentence-transformers model, which makes vectors of sentences and predicts no next token",
    "model_index.json": "is a diffusers pipeline, which makes images",
}
_VOCABULARY: Final = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json", "*.vocab", "*.bpe", "*.codes")
_SMALL_FILES: Final = ("config.json", "tokenizer_config.json", *_VOCABULARY)


@dataclass(frozen=True)
class Wanted:
    """What a task needs of a model.

    Attributes:
        advice: What to give in its place, for messages.
        reads: Files of other projects next to a model that are no hindrance.
    """

    advice: str
    reads: frozenset[str] = frozenset()


PREDICTS_TOKENS: Final = Wanted("give a causal language model such as GPT-2, Llama or Qwen")


@dataclass(frozen=True)
class _Place:
    """Where the files of a model are: a folder, or what the hub's cache gives."""

    name: str
    options: dict[str, Any]
    wanted: Wanted = PREDICTS_TOKENS

    @property
    def folder(self) -> Path | None:
        root = Path(self.name)
        return root / self.options.get("subfolder", "") if root.is_dir() else None

    @property
    def words(self) -> str:
        part = self.options.get("subfolder")
        return f"Workload.model is {self.name!r}" + (f" (subfolder {part!r})" if part else "")

    def find(self, name: str, *, at_root: bool = False) -> Path | None:
        """Return a file by its name; None if there is none, or none that can be had."""
        if (folder := self.folder) is not None:
            path = (Path(self.name) if at_root else folder) / name
            return path if path.is_file() else None
        known = ("cache_dir", "local_files_only", "revision", *(() if at_root else ("subfolder",)))
        options = {key: self.options[key] for key in known if key in self.options}
        try:
            found = cached_file(
                self.name,
                name,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **options,
            )
        except (OSError, ValueError):
            return None  # what is wrong with the id itself, transformers says when it loads the model
        return None if found is None else Path(found)

    def read(self, name: str, *, at_root: bool = False) -> dict[str, Any] | None:
        """Return a JSON file's content; None if there is none.

        Raises:
            ConfigurationError: The file is there, and holds something else.
        """
        path = self.find(name, at_root=at_root)
        if path is None:
            return None
        if is_lfs_pointer(path):
            raise ConfigurationError(_not_pulled(self.words, [name]))
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            message = f"{self.words}, and {str(path)!r} is not JSON ({error}): save or download the model again"
            raise ConfigurationError(message) from error
        return content if isinstance(content, dict) else {}


def holds_shapes_alone(workload: Workload, options: dict[str, Any]) -> bool:
    """Return whether a model is a folder with a configuration and no weights of any kind, enough for a plan."""
    place = _Place(workload.model, options)
    return place.folder is not None and place.find("config.json") is not None and holds_no_weights(place.folder)


def check_folder(
    workload: Workload, options: dict[str, Any], *, needs_weights: bool = True, wanted: Wanted = PREDICTS_TOKENS
) -> None:
    """Check that a workload's model is a whole model of the wanted kind, as far as its files tell.

    Args:
        workload: Names the model.
        options: Those of its options that say where the files are.
        needs_weights: Whether a folder with a configuration alone is refused.
        wanted: What the task needs.

    Raises:
        ConfigurationError: It is something else, or not whole; the message says what, and what to give instead.
    """
    place = _Place(workload.model, options, wanted)
    if Path(place.name).is_file():
        raise ConfigurationError(_a_file(place))
    if place.folder is not None and not place.folder.is_dir():
        message = f"{place.words}, which is not there; {_others(Path(place.name)) or 'it has no folders with a model'}"
        raise ConfigurationError(message)
    for kind in (_adapter, _other_project, _of_gguf, _without_config, _config_kind):
        if (sentence := kind(place)) is not None:
            raise ConfigurationError(f"{place.words}, {sentence}")
    if place.folder is not None and (needs_weights or not holds_no_weights(place.folder)):
        check_weight_files(place.words, place.folder, options.get("gguf_file"))


def _a_file(place: _Place) -> str:
    path = Path(place.name)
    inside = str(path.parent)
    if path.suffix == ".gguf":
        advice = f"set it to {inside!r}, and model_args to {json.dumps({'gguf_file': path.name})}"
    else:
        advice = f"give the folder that it is in ({inside!r})"
    return f"{place.words}, which is a file: {advice}"


def _adapter(place: _Place) -> str | None:
    """Name an adapter, which transformers would load into the model, from either place."""
    for at_root in (False, True):
        config = place.read("adapter_config.json", at_root=at_root)
        if config is None:
            continue
        if _holds_weights_too(place):
            return (
                "and an adapter (adapter_config.json) is next to the whole model: transformers would load it into the "
                "base; remove adapter_config.json and adapter_model.safetensors or move them to another folder, or, if "
                f"the adapter belongs to the base, {_MERGE}"
            )
        base = config.get("base_model_name_or_path")
        return f"which is an adapter of {base or 'a model that it does not name'}: give its base, or {_MERGE}"
    return None


def _holds_weights_too(place: _Place) -> bool:
    if "gguf_file" in place.options:
        return True
    there = place.folder is None or any_weights(place.folder)  # those on the hub are not looked for
    return there and place.read("config.json") is not None


def _other_project(place: _Place) -> str | None:
    for name, kind in _OTHER_PROJECTS.items():
        if name not in place.wanted.reads and place.find(name) is not None:
            return f"which {kind} ({name}): {place.wanted.advice}"
    return None


def _of_gguf(place: _Place) -> str | None:
    """Name the GGUF files of a folder that has no other weights, or not the one that was named."""
    if place.folder is None:
        return None
    found = sorted(path.name for path in place.folder.glob("*.gguf"))
    asked = place.options.get("gguf_file")
    if asked is not None:
        if (place.folder / str(asked)).is_file():
            return None
        return f"and model_args names gguf_file={asked!r}, which is not there; it has {_list(found) or 'no GGUF file'}"
    if not found or any_weights(place.folder):
        return None
    return f"which holds GGUF weights only ({_list(found)}): set model_args to {json.dumps({'gguf_file': found[0]})}"


def _without_config(place: _Place) -> str | None:
    folder = place.folder
    if folder is None or "gguf_file" in place.options or (folder / "config.json").is_file():
        return None
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "which is an empty folder: give one that save_pretrained has written"
    if others := _others(folder):
        return f"which has no config.json itself; {others}"
    if (folder / "params.json").is_file() or any(folder.glob("consolidated.*")):
        return "which holds a model in its maker's own format: convert it to that of transformers, or download that"
    return (
        f"which has no config.json, so it is no model of transformers (it holds {_list(names)}): give a folder that "
        "save_pretrained has written"
    )


def _others(folder: Path) -> str | None:
    """Name the folders inside that hold a model, checkpoints in the order of their steps."""

    def order(path: Path) -> tuple[int, str]:
        number = path.name.rpartition("-")[2]
        return (int(number) if number.isdecimal() else -1, path.name)

    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    found = sorted((path for path in inside if _holds_a_model(path)), key=order)
    if not found:
        return None
    last, names = found[-1], _list([path.name for path in found])
    if (last / "adapter_config.json").is_file():
        return f"it holds adapters ({names}): give their base, or {_MERGE}"
    return f"it holds {names}: give {str(last)!r}"


def _holds_a_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))


def _config_kind(place: _Place) -> str | None:
    """Name what config.json alone tells: a quantized model, or one that this transformers cannot make."""
    if "gguf_file" in place.options or (config := place.read("config.json")) is None:
        return None
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict):
        method = quantized.get("quant_method", "unknown method")
        bits = next((f", {bits} bits" for bits in (4, 8) if quantized.get(f"load_in_{bits}bit")), "")
        return (
            f"which is quantized ({method}{bits}): full fine-tuning needs weights in full precision, so give the model "
            "that it was made from"
        )
    return None if config.get("model_type") in CONFIG_MAPPING else _unknown(config, place)


def _unknown(config: dict[str, Any], place: _Place) -> str | None:
    """Name a model that transformers does not know, unless it brings code that is trusted."""
    kind, own_code = config.get("model_type"), isinstance(config.get("auto_map"), dict)
    if own_code and place.options.get("trust_remote_code"):
        return None
    if own_code:
        return (
            "which brings code of its own (auto_map in its config.json): read that code, and set model_args to "
            '{"trust_remote_code": true} if you trust it'
        )
    if kind is None:
        return "but its config.json has no model_type, so transformers cannot load it: " + place.wanted.advice
    advice = place.wanted.advice
    return f"but its model_type {kind!r} is not known to this version of transformers: upgrade it, or {advice}"


def check_tokenizer_folder(field: str, name: str, folder: Path) -> None:
    """Check that a tokenizer's files are there and not pointers to them; what is no folder is not looked into.

    Raises:
        ConfigurationError: They are pointers of git-LFS, or it is a file.
    """
    if Path(name).is_file():
        message = (
            f"Workload.{field} is {name!r}, which is a file: give the folder that it is in ({str(folder.parent)!r})"
        )
        raise ConfigurationError(message)
    if folder.is_dir() and (pointers := _pointers(folder)):
        raise ConfigurationError(_not_pulled(f"Workload.{field} is {name!r}", pointers))


def has_vocabulary_file(folder: Path) -> bool:
    """Return whether a folder has any file that a tokenizer could read its vocabulary from."""
    return any(True for pattern in _VOCABULARY for _ in folder.glob(pattern))


def _pointers(folder: Path) -> list[str]:
    return sorted({path.name for pattern in _SMALL_FILES for path in folder.glob(pattern) if is_lfs_pointer(path)})


def _not_pulled(words: str, names: list[str]) -> str:
    return f"{words}, {_pull(names)}"


def _pull(names: list[str]) -> str:
    verb = "is a pointer" if len(names) == 1 else "are pointers"
    return f"but {_list(names)} {verb} of git-LFS, not the file itself: run git lfs pull in that repository"


def _list(names: list[str]) -> str:
    return ", ".join(_shortened(names))


def _shortened(names: list[str]) -> Iterator[str]:
    yield from names[:5]
    if len(names) > 5:
        yield f"and {len(names) - 5} more"
