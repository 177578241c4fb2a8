"""Whether the files of a model's weights are all there and whole, which is known before they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.units import format_bytes

__all__ = ["any_weights", "check_weight_files", "holds_no_weights", "is_lfs_pointer"]

_LFS: Final = b"version https://git-lfs"
_LARGEST_POINTER: Final = 1024
_PATTERNS: Final = ("model*.safetensors", "pytorch_model*.bin")
_OTHER_FORMATS: Final = {
    "*.onnx": "ONNX",
    "onnx": "ONNX",
    "tf_model*": "TensorFlow",
    "*.ckpt*": "TensorFlow",
    "flax_model*": "Flax",
    "*.msgpack": "Flax",
    "*.mlmodel": "Core ML",
    "openvino_model*": "OpenVINO",
    "consolidated.*": "its maker's own format",
}


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is what git leaves if git-LFS did not fetch the real one."""
    if not path.is_file() or path.stat().st_size > _LARGEST_POINTER:
        return False
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


def any_weights(folder: Path) -> bool:
    """Return whether a folder has weights of a model, an adapter's aside, in a format that is read without asking."""
    return any(True for pattern in _PATTERNS for _ in folder.glob(pattern))


def holds_no_weights(folder: Path) -> bool:
    """Return whether a folder has no weights in any format, and no index of them."""
    patterns = (*_PATTERNS, *_OTHER_FORMATS, "*.index*.json", "*.gguf", "*.safetensors")
    return not any(True for pattern in patterns for _ in folder.glob(pattern))


def check_weight_files(words: str, folder: Path, gguf_file: str | None) -> None:
    """Check that a folder has weights, all of them, and that none is cut short.

    Args:
        words: Beginning of a message, which names the model.
        folder: The model's folder.
        gguf_file: Name of the GGUF file that the weights are read from, if they are.

    Raises:
        ConfigurationError: They cannot be read; the message says why.
    """
    # transformers takes the first format that is there, and what is left of others does no harm.
    formats = [sorted(folder.glob(one)) for one in _PATTERNS]
    files = [folder / gguf_file] if gguf_file else next(filter(None, formats), [])
    pointers = [path.name for path in files if is_lfs_pointer(path)]
    if pointers:
        message = (
            f"{words}, but {', '.join(pointers[:5])} {'is a pointer' if len(pointers) == 1 else 'are pointers'} "
            "of git-LFS, not the weights themselves: run git lfs pull in that repository"
        )
        raise ConfigurationError(message)
    for index in _indices(folder):
        if missing := _missing_parts(index):
            message = (
                f"{words}, but weights are missing: {index.name} names {', '.join(missing[:5])}, which "
                f"{'is' if len(missing) == 1 else 'are'} not there; download or copy all files of the model again"
            )
            raise ConfigurationError(message)
    for path in files:
        if path.suffix == ".safetensors" and (fault := _fault(path)) is not None:
            message = f"{words}, but its file {path.name} is damaged ({fault}): download or copy it again"
            raise ConfigurationError(message)
    if not files:
        raise ConfigurationError(f"{words}, {_no_weights(folder)}")


def _indices(folder: Path) -> list[Path]:
    """Return the indices of the parts that transformers would read: a whole file goes first, safetensors before it."""
    safe = [folder / "model.safetensors", *sorted(folder.glob("model.safetensors.index*.json"))]
    pickled = [folder / "pytorch_model.bin", *sorted(folder.glob("pytorch_model.bin.index*.json"))]
    for whole, *indices in (safe, pickled):
        if whole.is_file():
            return []
        if indices:
            return indices
    return []


def _missing_parts(index: Path) -> list[str]:
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # transformers says what is wrong with it, if it needs it
    return sorted(str(part) for part in parts if not (index.parent / str(part)).is_file())


def _fault(path: Path) -> str | None:
    """Return in what a safetensors file is not whole; its header says how long it must be."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or 8 + length > size:
            return f"it has {format_bytes(size)}, not even its whole header"
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "its header is not that of a safetensors file"
    whole = 8 + length + max(ends, default=0)
    return None if size >= whole else f"it has {size:,} of its {whole:,} bytes"


def _no_weights(folder: Path) -> str:
    other = sorted({kind for pattern, kind in _OTHER_FORMATS.items() if any(folder.glob(pattern))})
    if other:
        return (
            f"which holds weights in another format only ({', '.join(other)}): give the model as safetensors, as "
            "save_pretrained writes them"
        )
    return "which has a config.json and no weights (model.safetensors): download or copy all files of the model again"
