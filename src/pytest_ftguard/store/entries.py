"""The file of one result: written whole or not at all, and checked when it is read.

It has two lines: what decides the result, with a checksum of the second line, and the result itself. Its name is the
digest of the former, so that an entry that was changed anywhere is known by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.files import write_whole
from pytest_ftguard.results import SCHEMA, Environment, Trial, to_plain
from pytest_ftguard.specs import canonical_json
from pytest_ftguard.store.fingerprint import Fingerprint
from pytest_ftguard.store.room import held_results
from pytest_ftguard.store.trust import Trust

__all__ = ["digest_of", "entries_of", "latest_parts", "parts_of", "place_of", "read_entry", "write_entry"]


def place_of(folder: Path, key: str, environment: Environment) -> Path:
    """Return the file of a result.

    Args:
        folder: That of the store.
        key: The key of its fingerprint.
        environment: The machine that it was trained on.
    """
    machine = [environment.device, environment.device_name, environment.threads, environment.platform]
    digest = hashlib.sha256(canonical_json(machine).encode()).hexdigest()
    return folder / "results" / key[:2] / f"{key}-{digest[:12]}.json"


def entries_of(folder: Path, key: str) -> list[Path]:
    """Return the files of the results of a key, one for each machine.

    Raises:
        OSError: The folder cannot be read.
    """
    return sorted((folder / "results" / key[:2]).glob(f"{key}-*.json"))


def write_entry(path: Path, parts: Mapping[str, Any], run: str, result: Trial, trust: Trust) -> None:
    """Write a result.

    Args:
        path: Its place.
        parts: What decides it.
        run: The run that has trained it.
        result: The result.
        trust: Signs it, if there is a key.

    Raises:
        OSError: It cannot be written.
    """
    body = json.dumps(result.to_dict(), ensure_ascii=False)
    header = {
        "schema": SCHEMA,
        "parts": dict(parts),
        "run": run,
        "checksum": hashlib.sha256(body.encode()).hexdigest(),
        "signature": trust.sign(_signed(parts, body)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f"{json.dumps(header, ensure_ascii=False)}\n{body}\n")


def read_entry(path: Path, trust: Trust) -> Trial:
    """Return the result of an entry.

    Raises:
        UnsignedError: It has no signature, and one is required.
        OSError: It cannot be read.
        Exception: It is damaged: FtguardError, ValueError, KeyError, TypeError, AttributeError or RecursionError.
    """
    first, _, body = path.read_text(encoding="utf-8").removesuffix("\n").partition("\n")
    header = json.loads(first)
    parts = header["parts"]
    if Fingerprint(parts).key != path.name.partition("-")[0]:
        raise FtguardError("what it was trained from is not what its name says")
    if hashlib.sha256(body.encode()).hexdigest() != header["checksum"]:
        raise FtguardError("its checksum is wrong")
    if trust.requires_signature:
        trust.check(_signed(parts, body), header["signature"])
    result = Trial.from_dict(json.loads(body))
    if result.measured.outcome != "ok" or result.measured.environment is None:
        message = f"its outcome is {result.measured.outcome!r}"
        raise FtguardError(message)
    return result


def _signed(parts: Mapping[str, Any], body: str) -> str:
    return f"{canonical_json(dict(parts))}\n{body}"


def parts_of(path: Path) -> Mapping[str, Any] | None:
    """Return what decided the result of an entry, as its file says; None if it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            parts = json.loads(file.readline())["parts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return parts if isinstance(parts, dict) else None


def latest_parts(folder: Path, most: int, run: str) -> Iterator[Mapping[str, Any]]:
    """Yield what decided the results that were used last and that another run has trained.

    Args:
        folder: That of the store.
        most: How many files are looked at.
        run: The present run.
    """
    for entry in sorted(held_results(folder), key=lambda entry: -entry.used)[:most]:
        with (
            suppress(OSError, ValueError, KeyError, TypeError, RecursionError),
            entry.path.open(encoding="utf-8") as file,
        ):
            header = json.loads(file.readline())
            if header["run"] != run and isinstance(header["parts"], dict):
                yield header["parts"]


def digest_of(result: Trial) -> str:
    """Return what tells a training from any other: all that it measured."""
    return hashlib.sha256(json.dumps(to_plain(result.measured), sort_keys=True).encode()).hexdigest()
