"""The fingerprint of a trial: everything that decides its result, by content, and nothing else."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from pytest_ftguard import __version__
from pytest_ftguard.results import Environment
from pytest_ftguard.specs import TrialSpec, Variant, Workload, canonical_json, content_of, import_path, places_of
from pytest_ftguard.specs.identity import UNDECIDING_ARGUMENTS, fields_of, rows_of
from pytest_ftguard.store.contents import (
    NOT_INSTALLED,
    UnknownContentError,
    file_digest,
    installed_version,
    model_files,
    source_files,
    text_content,
)
from pytest_ftguard.tasks import path_of_own

__all__ = [
    "MEASURING",
    "Fingerprint",
    "changes",
    "contents_of",
    "fingerprint_of",
    "machine_facts",
    "other_surroundings",
    "parts_of_training",
    "same_machine",
]

# Rises if what decides a trial is written in another form, so that nothing of before is taken for it.
_SCHEMA: Final = 1
_PACKAGES: Final = ("torch", "transformers", "peft", "accelerate", "numpy", "tokenizers")
# Only the training knows which of them it calls; a package that is not installed decides nothing.
_OPTIONAL_PACKAGES: Final = ("bitsandbytes", "flash-attn", "gguf", "kernels", "liger-kernel", "torchao", "triton")
# These read the rows of other tasks than the one on plain texts, or fill in their chat template.
_OF_ROWS: Final = ("datasets", "jinja2", "pandas", "pyarrow")
# Environment variables by which libraries compute otherwise.
_VARIABLES: Final = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "PYTORCH_TUNABLEOP_ENABLED",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
)
# Trained weights do not depend on how they are scored.
_SOURCE_OF_SCORE: Final = "score's source of "
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_DEVICE_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_NVIDIA: Final = Path("/proc/driver/nvidia")
# Where ROCm's driver lists its devices, and what tells a Windows subsystem that has a GPU from one that has none.
_AMD: Final = Path("/sys/class/kfd/kfd/topology/nodes")
_WINDOWS: Final = Path("/dev/dxg")
_CPUINFO: Final = Path("/proc/cpuinfo")


MEASURING: Final = frozenset(
    {"errors", "files", "imports", "results", "specs", "statistics", "tasks", "training", "units"}
)
"""The rooms that training is built on: what they hold decides what is trained and measured."""


@dataclass(frozen=True)
class Fingerprint:
    """What decides a trial, part by part.

    Attributes:
        parts: Value of each part by its name; names and values are fit to be read.
        is_complete: Whether these are all; otherwise it stands for the trial within one run only.
        contents: Those of the parts that depend on files.
    """

    parts: Mapping[str, Any]
    is_complete: bool = True
    contents: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> str:
        """SHA-256 of the parts."""
        return hashlib.sha256(canonical_json(dict(self.parts)).encode()).hexdigest()


def fingerprint_of(
    spec: TrialSpec,
    device: str,
    precision: str,
    known: MutableMapping[str, list[Any]],
    environment: Mapping[str, str] = os.environ,
) -> Fingerprint:
    """Return the fingerprint of a trial; torch is not imported.

    Args:
        spec: What is trained.
        device: Kind of device that the trial runs on, for its "auto".
        precision: Precision that it trains in, for its "auto".
        known: Digests of large files; see `contents.file_digest`.
        environment: Environment variables.

    Raises:
        UnknownContentError: What decides the trial is not known in full.
    """
    parts: dict[str, Any] = {"schema": _SCHEMA}
    parts |= {f"version of {name}": installed_version(name) for name in _PACKAGES}
    others = () if spec.workload.task == "causal-lm" else _OF_ROWS
    optional = {name: installed_version(name) for name in (*_OPTIONAL_PACKAGES, *others)}
    parts |= {f"version of {name}": version for name, version in optional.items() if version != NOT_INSTALLED}
    parts["version of pytest-ftguard"] = __version__
    parts["version of python"] = platform.python_version()
    parts["code of pytest-ftguard"] = _own_code()
    parts |= {f"environment variable {name}": environment[name] for name in _VARIABLES if name in environment}
    content = content_of(spec, "result", places="left out")
    parts |= content.pop("workload")
    variant = content.pop("variant")
    parts["kind"] = variant.pop("kind")
    parts |= {f"{spec.variant.kind}_{name}": value for name, value in variant.items()}
    parts |= {**content, "device": device, "precision": precision}
    contents = contents_of(spec, known)
    return Fingerprint(parts | contents, contents=contents)


def contents_of(spec: TrialSpec, known: MutableMapping[str, list[Any]]) -> dict[str, Any]:
    """Return the parts of a fingerprint that depend on files, which may change while a trial is trained.

    Args:
        spec: What is trained.
        known: Digests of large files; see `contents.file_digest`.

    Raises:
        UnknownContentError: What decides the trial is not known in full.
    """
    variant, rows = content_of(spec.variant, "result", places="left out"), rows_of(type(spec.variant))
    named = {
        f"{spec.variant.kind}_{name}": _with_contents(value, known)
        for name, value in variant.items()
        if name in rows and rows[name].names_files
    }
    return _of_workload(spec.workload, known) | named | _sources_of(spec.variant, known)


def parts_of_training(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a fingerprint that decide the trained weights, without those of their evaluation alone.

    What a trial is for stays among them: a search and a timing have weights that nobody evaluates again.
    """
    training, texts = fields_of(Workload, "training"), places_of(Workload, "text")
    left_out = set(fields_of(Workload, "evaluation")) - {*training, "purpose"}
    names = {f"{name} text" if name in texts else name for name in left_out}
    return {name: value for name, value in parts.items() if name not in names and not name.startswith(_SOURCE_OF_SCORE)}


def _of_workload(workload: Workload, known: MutableMapping[str, list[Any]]) -> dict[str, Any]:
    arguments = {
        name: _by_content(value, known)
        for name, value in workload.training_args.items()
        if name not in UNDECIDING_ARGUMENTS
    }
    found: dict[str, Any] = {"training_args": arguments}
    for role in places_of(Workload, "text"):
        path = getattr(workload, role)
        if path is not None:
            found[f"{role} text"] = text_content(path, known)
    for role in places_of(Workload, "model"):
        if getattr(workload, role) is not None:
            files = model_files(role, workload, known)
            found |= {f"{role}'s {file}": digest for file, digest in files.items()}
    for path in (workload.own_training, path_of_own(workload.task)):
        sources = {} if path is None else source_files(path, known)
        found |= {f"source of {module}": digest for module, digest in sources.items()}
    scores = {} if workload.score is None else source_files(workload.score, known)
    return found | {f"{_SOURCE_OF_SCORE}{module}": digest for module, digest in scores.items()}


def _sources_of(variant: Variant, known: MutableMapping[str, list[Any]]) -> dict[str, Any]:
    """Return the digests of the code of a variant of the user's own: its class, its adapter, and what they import."""
    path = import_path(variant)
    if path is None:
        return {}
    sources = source_files(path, known) | (source_files(variant.adapter, known) if variant.adapter else {})
    return {f"source of {module}": digest for module, digest in sources.items()}


def _with_contents(value: Any, known: MutableMapping[str, list[Any]], name: str = "") -> Any:
    """Return a value in which what is a path stands for the files that it leads to.

    Raises:
        UnknownContentError: It names what is on the hub, and so may change.
    """
    if isinstance(value, Mapping):
        return {key: _with_contents(item, known, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_contents(item, known, name) for item in value]
    if not isinstance(value, str):
        return value
    path = Path(value)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError):  # a text may be longer than a name can be
        is_folder = is_file = False
    if is_folder:
        files = sorted(one for one in path.rglob("*") if one.is_file())
        return {str(one.relative_to(path)): file_digest(one, known) for one in files}
    if name.endswith("_name_or_path") and not is_file:
        message = f"it is not known which revision {value!r} ({name}) is: give a folder"
        raise UnknownContentError(message)
    return [file_digest(path, known)] if is_file else value


def _by_content(value: Any, known: MutableMapping[str, list[Any]]) -> Any:
    """Return a setting, or the content of the file that it names: `accelerator_config` may be one."""
    is_file = isinstance(value, str) and Path(value).is_file()
    return [file_digest(Path(value), known)] if is_file else value


@cache
def _own_code() -> str:
    """Return a digest of the code that trains and measures: between two versions it may change as well.

    That is every room that training is built on, so that a function that moves from one to another stays covered.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).with_suffix("").parts[0] in MEASURING:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def changes(ours: Fingerprint, theirs: Mapping[str, Any]) -> list[str]:
    """Return what differs between a fingerprint and the parts of another one, short values with them.

    Anyone may have written the other one, so what is no printable character is escaped: a terminal would obey it.
    """
    names = sorted(name for name in ours.parts.keys() | theirs.keys() if ours.parts.get(name) != theirs.get(name))
    return [_printable(f"{name}{_values(theirs.get(name), ours.parts.get(name))}") for name in names]


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _values(before: Any, now: Any) -> str:
    texts = ["none" if value is None else str(value) for value in (before, now)]
    is_digest = any(isinstance(value, list) or len(text) > 40 for value, text in zip((before, now), texts, strict=True))
    return "" if is_digest else f" ({texts[0]} -> {texts[1]})"


def other_surroundings(fingerprint: Fingerprint, environment: Environment) -> list[str]:
    """Return in what the machine that has trained differs from what a fingerprint says, as far as both say it.

    Args:
        fingerprint: What was to be trained, as this machine describes it.
        environment: The machine on which it was trained.
    """
    theirs = {"device": environment.device, "precision": environment.precision}
    theirs |= {f"version of {name}": version for name, version in environment.versions.items()}
    known = {"device", "precision", "version of python", *(f"version of {name}" for name in _PACKAGES)}
    found = []
    for name in sorted(known & theirs.keys() & fingerprint.parts.keys()):
        ours = str(fingerprint.parts[name])
        # A version is followed by a digest of the code if that is not from an index.
        if theirs[name] != ours and not ours.startswith(f"{theirs[name]} "):
            found.append(_printable(f"{name} ({ours} -> {theirs[name]})"))
    return found


def machine_facts(device: str, precision: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a digest of what "auto" depends on, found without torch: the same facts always give the same device."""
    variables = (*_DEVICE_VARIABLES, *_THREAD_VARIABLES)
    facts = [
        device,
        precision,
        platform.system(),
        platform.machine(),
        platform.processor(),
        _processor(),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        [_text(path) for path in sorted(_NVIDIA.glob("gpus/*/information"))],
        _text(_NVIDIA / "version"),
        sorted(path.name for path in Path("/dev").glob("nvidia*")),
        [_text(path) for path in sorted(_AMD.glob("*/properties"))],
        _WINDOWS.exists(),
        {name: environment[name] for name in variables if name in environment},
        [installed_version(name) for name in _PACKAGES],
        platform.python_version(),
    ]
    return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def _processor() -> list[str]:
    lines = _text(_CPUINFO).split("\n\n")[0].splitlines()
    kept = ("model name", "vendor_id", "flags", "Features")
    return [line for line in lines if line.partition(":")[0].strip() in kept]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def same_machine(ours: Environment, theirs: Environment) -> bool:
    """Return whether bytes and seconds of one environment are those of the other."""
    return (ours.device, ours.device_name, ours.threads, ours.platform) == (
        theirs.device,
        theirs.device_name,
        theirs.threads,
        theirs.platform,
    )
