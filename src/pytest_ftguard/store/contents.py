"""What a spec's paths and names lead to, by content: files, revisions on the hub, and the source of user functions."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import json
import os
import sys
import sysconfig
import time
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.specs import Workload
from pytest_ftguard.specs.texts import hub_text, is_function

__all__ = [
    "NOT_INSTALLED",
    "UnknownContentError",
    "file_digest",
    "installed_version",
    "model_files",
    "source_files",
    "text_content",
]

# What from_pretrained reads; a README or a log next to it decides nothing.
_MODEL_SUFFIXES: Final = frozenset(
    {".safetensors", ".bin", ".json", ".model", ".txt", ".gguf", ".jinja", ".tiktoken", ".pt", ".msgpack", ".h5"}
)
# Left by a Trainer next to the weights.
_NOT_THE_MODELS: Final = frozenset(
    {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "trainer_state.json", "all_results.json"}
)
# Small files are read each time: it costs less than to be wrong about one that was changed twice within a moment.
_REMEMBERED_FROM_BYTES: Final = 1 << 20
_SETTLED_SECONDS: Final = 2.0

_COMPRESSED: Final = frozenset({".bz2", ".gz", ".xz", ".zst"})

NOT_INSTALLED: Final = "not installed"
"""The version of what is not there."""
# Folders at the top of a checkout that hold no code of what is installed from it.
_NO_CODE: Final = frozenset({"build", "dist", "docs", "examples", "node_modules", "test", "tests", "venv"})
_OURS: Final = __name__.partition(".")[0]
_NEVER_THE_PROJECTS: Final = frozenset({*sys.stdlib_module_names, _OURS})


class UnknownContentError(FtguardError):
    """What a name leads to cannot be told, so a result cannot be known by it; the message says why."""


def file_digest(path: Path, known: MutableMapping[str, list[Any]]) -> str:
    """Return the SHA-256 of a file's bytes.

    Args:
        path: The file.
        known: Digests of large files by path, each with the size, time, and inode that the file had; extended.

    Raises:
        UnknownContentError: The file cannot be read.
    """
    try:
        stat = path.stat()
        # The time of the last change of the inode too: tools set that of the content, and sizes are often equal.
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
        name = str(path.absolute())
        remembered = known.get(name)
        if isinstance(remembered, list) and remembered[:-1] == mark:
            return str(remembered[-1])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        message = f"{str(path)!r} cannot be read: {error.strerror or error}"
        raise UnknownContentError(message) from error
    # A file that is being written may change again without a change of size or time.
    settled = time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_SECONDS
    if stat.st_size >= _REMEMBERED_FROM_BYTES and settled:
        known[name] = [*mark, digest]
    return digest


def text_content(text: str, known: MutableMapping[str, list[Any]]) -> list[str]:
    """Return what kind of text a path leads to, and a digest of its content.

    Args:
        text: A file, a folder that `save_to_disk` wrote, or a data set on the hub.
        known: See `file_digest`.

    Raises:
        UnknownContentError: It cannot be read, or its content may be another one whenever it is asked for.
    """
    path = Path(text)
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
        inside = [f"{one.relative_to(path)} {file_digest(one, known)}" for one in files]
        return ["folder", hashlib.sha256("\n".join(inside).encode()).hexdigest()]
    if (hub := hub_text(text)) is not None:
        if not hub.is_fixed:
            message = (
                f"the content of {text!r} may change on the hub at any time: name the commit, as in "
                f"hub:{hub.name}@0123456789abcdef0123456789abcdef01234567:{hub.split}"
            )
            raise UnknownContentError(message)
        return ["hub", hashlib.sha256(text.encode()).hexdigest()]
    if is_function(text):
        message = f"which rows {text!r} returns is known only when it is called: write them to a file and give its path"
        raise UnknownContentError(message)
    # The end of its name says how it is read.
    last = path.suffix.lower()
    packed = Path(path.stem).suffix.lower() if last in _COMPRESSED else ""
    return [packed + last, file_digest(path, known)]


def model_files(role: str, workload: Workload, known: MutableMapping[str, list[Any]]) -> dict[str, str]:
    """Return what decides a model or a tokenizer: digests of a folder's files, or the revision on the hub.

    Args:
        role: "model" or "tokenizer", a field of the workload.
        workload: Its revision and `model_args` say which files are meant; a tokenizer of its own has neither.
        known: See `file_digest`.

    Raises:
        UnknownContentError: A file cannot be read, or there is none, or the revision is not known.
    """
    name = getattr(workload, role)
    options = workload.model_args if role == "model" else {}
    root = Path(name)
    if not root.is_dir():
        return {"revision": _hub_revision(name, workload.revision if role == "model" else None, options)}
    folder = root / str(options.get("subfolder") or "")
    suffixes = _MODEL_SUFFIXES | ({".py"} if options.get("trust_remote_code") else set())
    gguf = options.get("gguf_file")
    files = [
        path
        for place, _, names in os.walk(folder, followlinks=True)
        for path in (Path(place) / one for one in names)
        if path.suffix.lower() in suffixes
        and (path.suffix.lower() != ".gguf" or gguf is None)
        and path.name not in _NOT_THE_MODELS
        and not any(part.startswith((".", "checkpoint-")) for part in path.relative_to(folder).parts)
    ]
    if gguf is not None:
        files.append(folder / str(gguf))
    if not files:
        message = f"the {role} {str(folder)!r} has no file that is known to belong to one"
        raise UnknownContentError(message)
    return {str(path.relative_to(folder)): file_digest(path, known) for path in sorted(files)}


def _hub_revision(name: str, revision: str | None, options: Mapping[str, Any]) -> str:
    """Return the commit that a name stands for: the hub says so, or, offline, its local cache."""
    from huggingface_hub import hf_hub_download

    where = {key: options[key] for key in ("cache_dir", "local_files_only", "subfolder") if key in options}
    try:
        # Asks for the small file alone; which commit it belongs to is in its path.
        path = Path(hf_hub_download(name, "config.json", revision=revision, **where))
    except Exception as error:  # a missing repository, no network, no rights: each has an exception of its own
        message = f"the hub does not say which revision {name!r} is: {type(error).__name__}"
        raise UnknownContentError(message) from error
    return path.parts[path.parts.index("snapshots") + 1]


def source_files(function: str, known: MutableMapping[str, list[Any]]) -> dict[str, str]:
    """Return the digests of the modules that a function "module:function" is made of.

    These are its module, the packages that hold it, and all that they import, directly or not, as far as they are the
    project's own. Of what is installed the versions are named. Our own code is left out, because it is a part of
    every fingerprint already. Nothing is imported.

    Args:
        function: Name of the function.
        known: See `file_digest`.

    Raises:
        UnknownContentError: The source of a module is not found.
    """
    found: dict[str, str] = {}
    installed: set[str] = set()
    seen: set[str] = set()
    queue = [function.partition(":")[0]]
    while queue:
        module = queue.pop()
        if module in seen or module.partition(".")[0] in _NEVER_THE_PROJECTS:
            continue
        seen.add(module)
        queue += [module.rpartition(".")[0]] if "." in module else []
        path = _source(module)
        if path is not None and not _is_installed(path):
            found[module] = file_digest(path, known)
            queue += _imports(path, module, is_package=path.name == "__init__.py")
        elif "." not in module:
            installed.add(module)
    if not found and not function.startswith(f"{_OURS}."):
        message = f"the source of {function!r} is not found"
        raise UnknownContentError(message)
    return found | _installed_versions(installed)


def _installed_versions(modules: Collection[str]) -> dict[str, str]:
    """Return the versions of the distributions that modules belong to.

    Raises:
        UnknownContentError: One belongs to none, as the modules of some editable installations.
    """
    owners = importlib.metadata.packages_distributions()
    strange = sorted(set(modules) - owners.keys())
    if strange:
        message = f"the source of {', '.join(map(repr, strange))} is not found"
        raise UnknownContentError(message)
    names = sorted({name for module in modules for name in owners[module]})
    return {f"installed {name}": installed_version(name) for name in names}


def installed_version(distribution: str) -> str:
    """Return the version of what is installed, with a digest of its code if the version does not settle it.

    What comes from an index is told by its version. What was installed from a folder, a repository or an archive may
    keep its version while its code changes: https://packaging.python.org/en/latest/specifications/direct-url/

    Args:
        distribution: Its name.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED
    try:
        origin = json.loads(found.read_text("direct_url.json") or "null")
        is_editable = bool(origin and origin.get("dir_info", {}).get("editable"))
        if not origin:
            return found.version
        code = _code_in(Path(url2pathname(urlsplit(origin["url"]).path))) if is_editable else _recorded_code(found)
    except (OSError, ValueError, KeyError, AttributeError):
        return found.version
    return f"{found.version} {code[:12]}"


def _code_in(root: Path) -> str:
    """Return a digest of the Python files of a project, but for those in hidden folders and environments."""
    digest = hashlib.sha256()
    for place, folders, names in os.walk(root):
        left_out = _NO_CODE if Path(place) == root else ()  # a package of its own may be called so
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in left_out)
        for name in sorted(names):
            if name.endswith(".py"):
                path = Path(place) / name
                digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _recorded_code(found: importlib.metadata.Distribution) -> str:
    """Return a digest of what the installer wrote down of each file; compiled and generated ones have no hash there."""
    files = found.files or ()
    hashes = sorted(f"{file} {file.hash.value}" for file in files if file.hash is not None and file.suffix == ".py")
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _source(module: str) -> Path | None:
    """Return a module's file without importing it or what holds it."""
    folders: Any = None
    spec = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = importlib.machinery.PathFinder.find_spec(name, folders)
        if spec is None:
            return None
        folders = spec.submodule_search_locations
    origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith((".py", *importlib.machinery.EXTENSION_SUFFIXES)) else None


def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in _installation_places())


@functools.cache
def _installation_places() -> frozenset[str]:
    places = (sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    return frozenset(place for place in (*places, sys.base_prefix + "/lib") if place)


def _imports(path: Path, module: str, *, is_package: bool) -> Collection[str]:
    if path.suffix != ".py":
        return ()  # compiled: it says nothing of what it imports
    return _imported(path.read_bytes(), module if is_package else module.rpartition(".")[0])


@functools.lru_cache(maxsize=4096)  # each trial of a run asks for the same few files
def _imported(source: bytes, package_name: str) -> frozenset[str]:
    try:
        return frozenset(_named_imports(ast.parse(source), package_name.split(".") if package_name else []))
    except (SyntaxError, ValueError):
        return frozenset()  # the trial says what is wrong with it


def _named_imports(tree: ast.Module, package: list[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=name, names=names, level=level):
                base = [*package[: len(package) - level + 1]] if level else []
                full = ".".join([*base, *([name] if name else [])])
                yield from filter(None, [full, *(f"{full}.{alias.name}" if full else alias.name for alias in names)])
            case _:
                pass
