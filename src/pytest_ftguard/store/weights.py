"""Trained weights next to their result: a folder of safetensors, with a list of what each file must be."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.specs import canonical_json
from pytest_ftguard.store.trust import Trust, UnsignedError

__all__ = ["DamagedWeightsError", "OtherWeightsError", "has_weights", "keep_weights", "size_of", "take_weights"]

_LIST: Final = "ftguard_weights.json"
# What save_pretrained calls weights, and the index of those in parts, and what an adapter's method has changed in its
# base. Nothing else is kept or taken: no pickle, no code, and no configuration, which may name code.
_WEIGHTS: Final = re.compile(r"(?P<kind>model|adapter_model|base_changes)(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_WHOLE: Final = ({"model"}, {"adapter_model"}, {"adapter_model", "base_changes"})


class DamagedWeightsError(FtguardError):
    """Weights are not those that belong to a result; the message says in what."""


class OtherWeightsError(DamagedWeightsError):
    """Weights are whole, and not those of this result, or not to be believed here."""


def has_weights(folder: str | None) -> bool:
    """Return whether a folder of trained weights still holds any: a cleaner of temporary files may remove them."""
    return folder is not None and Path(folder).is_dir() and bool(_files(Path(folder)))


def size_of(folder: Path) -> int:
    """Return the bytes of the weights in a folder; a file that other results have too counts for each in part."""
    stats = [path.stat() for path in _files(folder)]
    return sum(stat.st_size // max(1, stat.st_nlink) for stat in stats)


def keep_weights(trained: Path, place: Path, result: str, trust: Trust, twin: Path | None = None) -> None:
    """Copy trained weights to their place, in which they are whole or not at all.

    Args:
        trained: Folder that a trial has saved them to.
        place: Folder that they are kept in; what was there is replaced.
        result: Digest of what the training that they come from has measured.
        trust: Signs the list of the files, if there is a key.
        twin: Another place that has the same weights: if it can be, a file is shared with it.

    Raises:
        OSError: They cannot be written.
    """
    # Not mkdtemp's, which nobody else could read: whom the store is shared with is for the umask to say.
    draft, before = (place.with_name(f".{uuid.uuid4().hex}.draft") for _ in range(2))
    draft.mkdir(parents=True)
    try:
        for path in _files(trained):
            if twin is None or not _shared(path, twin / path.name, draft / path.name):
                shutil.copyfile(path, draft / path.name)
        content = {"result": result, "files": {path.name: _digest(path) for path in _files(draft)}}
        text = canonical_json(content)
        (draft / _LIST).write_text(json.dumps({"content": content, "signature": trust.sign(text)}), encoding="utf-8")
        with suppress(FileNotFoundError):
            place.rename(before)  # whoever is killed while these are removed leaves no half of them in their place
        draft.rename(place)
    finally:
        for folder in (draft, before):
            shutil.rmtree(folder, ignore_errors=True)


def take_weights(place: Path, target: Path, result: str, trust: Trust) -> None:
    """Copy kept weights to a folder of one's own, and check there that they are what was kept.

    Args:
        place: Folder that they are kept in.
        target: Folder that is made; nobody else writes to it.
        result: Digest of what the training that they must come from has measured.
        trust: Checks the signature of the list, if one is required.

    Raises:
        DamagedWeightsError: A file is not what it was, or they belong to another result.
        OSError: They cannot be read.
    """
    try:
        kept = json.loads((place / _LIST).read_text(encoding="utf-8"))
        content = kept["content"]
        files: Mapping[str, str] = dict(content["files"])
        belongs, signature = content["result"], kept["signature"]
        text = canonical_json(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedWeightsError(f"{type(error).__name__}: {error}") from error
    try:
        trust.check(text, signature, "they have")
    except UnsignedError as error:
        raise OtherWeightsError(str(error)) from error
    if belongs != result:
        raise OtherWeightsError("they belong to another result")
    target.mkdir(parents=True)
    for path in _files(place):
        shutil.copyfile(path, target / path.name)
    kinds = {_WEIGHTS.fullmatch(path.name)["kind"] for path in _files(target)}  # type: ignore[index]
    # An adapter next to a whole model would be loaded on top of it.
    if kinds not in _WHOLE or {path.name: _digest(path) for path in _files(target)} != files:
        raise DamagedWeightsError("a file is not what was written")


def _shared(trained: Path, other: Path, target: Path) -> bool:
    """Return whether a file could be put into its place without a copy: another place has the very same."""
    try:
        if other.is_symlink() or _digest(other) != _digest(trained):
            return False
        target.hardlink_to(other)
    except OSError:
        return False
    return True


def _files(folder: Path) -> list[Path]:
    paths = [path for path in folder.iterdir() if _WEIGHTS.fullmatch(path.name) and path.is_file()]
    return sorted(path for path in paths if not path.is_symlink())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
