"""Results by fingerprint, in a folder: written whole or not at all, checked when they are read, nothing but JSON.

An entry is a file of two lines: what decides the result, with a checksum of the second line, and the result itself.
Its name is the digest of the former, so that an entry that was changed anywhere is known by itself.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.errors import FtguardError
from pytest_ftguard.files import write_whole
from pytest_ftguard.locks import held
from pytest_ftguard.results import SCHEMA, Environment, TrialResult, checked
from pytest_ftguard.specs import TrialSpec, canonical_json
from pytest_ftguard.store.fingerprint import Fingerprint, changes, same_machine
from pytest_ftguard.store.room import held_results, keep_latest, make_room, remove, remove_older
from pytest_ftguard.store.weights import DamagedWeightsError, OtherWeightsError, keep_weights, size_of, take_weights
from pytest_ftguard.units import format_bytes

__all__ = ["Store", "StoreOptions"]

_CACHE_TAG: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache of pytest-ftguard, see https://bford.info/cachedir/\n"
)
# Those who wait for a trial read how it failed within moments.
_FAILURE_SECONDS: Final = 3600.0
_COMPARED_ENTRIES: Final = 300
_FAILURES: Final = frozenset({"out_of_memory", "diverged", "crashed", "timed_out"})
_MOST_CHANGES: Final = 6
_MOST_DAMAGED: Final = 20
# Weights beyond this share of the store's size are not kept: those of a few seeds would fill it.
_SHARE_FOR_WEIGHTS: Final = 1 / 8
# What a result is told anew whenever it is found.
_OF_THE_FINDER: Final = frozenset({"spec", "cached", "measured_elsewhere", "model_dir", "not_kept"})


@dataclass(frozen=True)
class StoreOptions:
    """How a store is used.

    Attributes:
        folder: Where it lies; made where it is not there yet.
        limit_bytes: Size beyond which the entries that were not used for longest are removed.
        reads: Whether anything in it is believed; what is trained is written all the same.
        keeps_weights: Whether trained weights are kept too, where they take little of the store's size.
        signing_key: Key of the signatures; None where there is none.
        requires_signature: Whether only entries with a valid signature are believed.
    """

    folder: Path
    limit_bytes: int = 1000**3
    reads: bool = True
    keeps_weights: bool = True
    signing_key: bytes | None = None
    requires_signature: bool = False


class _UnsignedError(FtguardError):
    """An entry has no signature, or one by another key."""


class Store:
    """A folder of results.

    Args:
        options: Where it lies and how it is used.
        run: The present run; what it has trained itself is not called cached, and is believed in any case.

    Attributes:
        run: The present run.
        digests: Digests of large files that were seen before; see `contents.file_digest`.
        problems: What went wrong, one sentence each; nothing of it loses a result.
    """

    def __init__(self, options: StoreOptions, run: str) -> None:
        self._options = options
        self.run = run
        self._folder = options.folder
        self.problems: list[str] = []
        # A remembered digest is as good as the result that is found by it, and is not signed.
        self._trusts_notes = options.reads and not options.requires_signature
        self.digests: MutableMapping[str, list[Any]] = self._read_notes("digests.json")
        self._digests_before = dict(self.digests)
        self._began = time.time()
        self._used: list[Mapping[str, Any]] = []

    def find(self, fingerprint: Fingerprint, spec: TrialSpec, environment: Environment | None) -> TrialResult | None:
        """Return the result of a trial that was trained before, or None.

        Losses are those of any machine of the kind; where bytes and seconds were measured on another one, the result
        says so, and no gate on them rests on it.

        Args:
            fingerprint: What decides the trial.
            spec: The trial, whose paths the result is given.
            environment: The present machine; None where it is not known, so that every result is another machine's.
        """
        read = [(path, result) for path in self._entries(fingerprint.key) if (result := self._read(path)) is not None]
        found = [(path, result) for path, result in read if self._options.reads or _run(result) == self.run]
        if not found:
            if read:
                self.complain(f"protected is set, so nothing that is stored in {str(self._folder)!r} was believed")
            return None
        path, result = max(found, key=lambda pair: _is_of(pair[1], environment))
        self._used.append(_of_any_seed(fingerprint.parts))
        with suppress(OSError):
            os.utime(path)  # what is used stays longest
        if _run(result) == self.run:
            return replace(result, spec=spec)
        # The folder of the weights lives as long as the run.
        result = replace(result, model_dir=None, not_kept="they were trained in an earlier run")
        elsewhere = None if _is_of(result, environment) else _elsewhere(result, environment)
        return replace(result, spec=spec, cached=True, measured_elsewhere=elsewhere)

    def keep(self, fingerprint: Fingerprint, result: TrialResult) -> None:
        """Write a result that ended `ok`."""
        if result.outcome != "ok" or result.environment is None:
            return
        body = json.dumps(result.to_dict(), ensure_ascii=False)
        parts = dict(fingerprint.parts)
        header = {
            "schema": SCHEMA,
            "parts": parts,
            "run": self.run,
            "checksum": hashlib.sha256(body.encode()).hexdigest(),
            "signature": self._signature(parts, body),
        }
        path = self._entry(fingerprint.key, result.environment)
        try:
            self._prepare()
            if result.model_dir is not None and self._options.keeps_weights:
                self._keep_weights(Path(result.model_dir), path, _digest_of(result))
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, f"{json.dumps(header, ensure_ascii=False)}\n{body}\n")
        except OSError as error:
            self.complain(f"the result was not stored in {str(self._folder)!r}: {error.strerror or error}")
            return
        self._write_digests()
        self._clean_up()

    def keep_weights(self, result: TrialResult, trained: Path) -> str | None:
        """Copy weights that were trained again to the result that was found without any.

        Args:
            result: The result, as it was found.
            trained: Folder of the weights.

        Returns:
            Why they were not kept; None where they were.
        """
        if result.content is None or result.environment is None:
            return "what decides them is not known"
        kept = self._keep_weights(trained, self._entry(result.content, result.environment), _digest_of(result))
        self._clean_up()
        return kept

    def _keep_weights(self, trained: Path, entry: Path, result: str) -> str | None:
        try:
            if size_of(trained) > _SHARE_FOR_WEIGHTS * self._options.limit_bytes:
                return "they take more than an eighth of cache_size"
            keep_weights(trained, self._weights(entry), result, self._sign)
        except OSError as error:
            self.complain(f"weights were not stored in {str(self._folder)!r}: {error.strerror or error}")
            return "they could not be written"
        return None

    def take_weights(self, result: TrialResult, target: Path) -> bool:
        """Copy the weights of a result that was found to a folder of one's own, which is made.

        Returns:
            Whether there are any that are believed; otherwise there may be a folder with some of them.
        """
        if result.content is None or result.environment is None or not self._options.reads:
            return False
        place = self._weights(self._entry(result.content, result.environment))
        if not place.is_dir():
            return False
        try:
            sign = self._sign if self._options.requires_signature else None
            take_weights(place, target, _digest_of(result), sign)
            with suppress(OSError):
                os.utime(place)
        except (DamagedWeightsError, OSError) as error:
            if not isinstance(error, OtherWeightsError):  # another run may have trained it anew, and need them
                remove(place)
            self.complain(f"the stored weights {str(place)!r} are not used, and trained again: {error}")
            return False
        return True

    @contextmanager
    def lock(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of a trial, so that of many processes that want it one trains it.

        Args:
            key: The fingerprint's key.
            on_wait: Called a few times a second while another process holds it.
        """
        try:
            self._prepare()
            # Few files for all trials, which are never removed: nobody else may hold a lock that has been.
            path = self._folder / "locks" / f"{key[:3]}.lock"
            path.parent.mkdir(exist_ok=True)
            lock = held([path], on_wait)
            lock.__enter__()
        except (OSError, NotImplementedError) as error:
            # Trained twice is better than not at all.
            self.complain(
                f"nothing can be locked in {str(self._folder)!r}: {getattr(error, 'strerror', None) or error}"
            )
            yield
            return
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def find_failure(self, fingerprint: Fingerprint, spec: TrialSpec, since: float) -> TrialResult | None:
        """Return how a trial failed in this run, or in another one while this process waited for it; None otherwise.

        Failures of earlier runs are not remembered: most are worth another try.

        Args:
            fingerprint: What decides the trial.
            spec: The trial.
            since: When this process began to wait, by the clock of the system.
        """
        if not self._trusts_notes:
            return None
        try:
            values = json.loads(self._failure(fingerprint.key).read_text(encoding="utf-8"))
            result = TrialResult.from_dict(values["result"])
            # Room and patience are those of a run; what diverges or crashes does so in another one as well.
            waited_for = since < values["time"] <= time.time() and result.outcome in ("diverged", "crashed")
            believed = result.outcome in _FAILURES and (values["run"] == self.run or waited_for)
            return replace(result, spec=spec) if believed else None
        except (OSError, FtguardError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def keep_failure(self, fingerprint: Fingerprint, result: TrialResult) -> None:
        """Write down that a trial failed, for those who wait for it."""
        path = self._failure(fingerprint.key)
        with suppress(OSError):
            self._prepare()
            path.parent.mkdir(exist_ok=True)
            remove_older(path.parent, _FAILURE_SECONDS)
            write_whole(path, json.dumps({"run": self.run, "time": time.time(), "result": result.to_dict()}))

    def _failure(self, key: str) -> Path:
        return self._folder / "failures" / f"{key}.json"

    def checkpoints(self, fingerprint: Fingerprint) -> Path | None:
        """Return the folder for a trial's checkpoints; None where there can be none, or they would not be believed."""
        if not (self._trusts_notes and fingerprint.is_complete):
            return None
        folder = self._folder / "checkpoints" / fingerprint.key
        try:
            if folder.is_symlink() or folder.parent.is_symlink():
                raise OSError(errno.ELOOP, "it is a link to another folder")
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.complain(f"no checkpoints are kept in {str(self._folder)!r}: {error.strerror or error}")
            return None
        return folder

    def why_missing(self, fingerprint: Fingerprint) -> str | None:
        """Return what differs from the nearest of the latest entries; None where earlier runs left none of its kind.

        What this run has found itself stands beside the trial, and was not changed into it.
        """
        if not (self._options.reads and fingerprint.is_complete):
            return None
        # Another seed is no change, and what differs in nothing else was trained, or is new, or was damaged.
        if _of_any_seed(fingerprint.parts) in self._used:
            return ""
        kind = fingerprint.parts["kind"]
        others = [
            parts
            for parts in self._latest_parts()
            # A timing has a trial beside it, and is not stored in a trial's place.
            if parts.get("kind") == kind and "beside" not in parts and _of_any_seed(parts) not in self._used
        ]
        if not others:
            return None
        seed = fingerprint.parts["seed"]
        others.sort(key=lambda parts: parts.get("seed") != seed)
        found = min((changes(fingerprint, {**parts, "seed": seed}) for parts in others), key=len)
        more = len(found) - _MOST_CHANGES
        return ", ".join(found[:_MOST_CHANGES]) + (f" and {more} more" if more > 0 else "")

    def environment(self, facts: str) -> Environment | None:
        """Return the environment that the facts of a machine stand for, where a trial has shown it."""
        values = self._read_notes("environments.json").get(facts)
        with suppress(TypeError, FtguardError):
            return checked(Environment(**values)) if values else None
        return None

    def remember_environment(self, facts: str, environment: Environment) -> None:
        """Write down what a machine's facts stand for."""
        if not self._trusts_notes:
            return
        known = {**self._read_notes("environments.json"), facts: asdict(environment)}
        self._write_notes("environments.json", known)

    def _entry(self, key: str, environment: Environment) -> Path:
        machine = [environment.device, environment.device_name, environment.threads, environment.platform]
        digest = hashlib.sha256(canonical_json(machine).encode()).hexdigest()
        return self._folder / "results" / key[:2] / f"{key}-{digest[:12]}.json"

    def _weights(self, entry: Path) -> Path:
        return self._folder / "weights" / entry.stem

    def _entries(self, key: str) -> list[Path]:
        try:
            return sorted((self._folder / "results" / key[:2]).glob(f"{key}-*.json"))
        except OSError as error:
            self.complain(f"{str(self._folder)!r} cannot be read: {error.strerror or error}")
            return []

    def _read(self, path: Path) -> TrialResult | None:
        """Return an entry's result; a damaged entry is set aside, and one that is not believed is passed over."""
        try:
            return self._checked(path)
        except FileNotFoundError:
            return None  # removed meanwhile, for want of room
        except _UnsignedError as error:
            self.complain(f"the stored result {str(path)!r} is not used: {error}")
        except OSError as error:
            self.complain(f"the stored result {str(path)!r} cannot be read: {error.strerror or error}")
        except (FtguardError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._set_aside(path, f"{type(error).__name__}: {error}")
        return None

    def _checked(self, path: Path) -> TrialResult:
        first, _, body = path.read_text(encoding="utf-8").removesuffix("\n").partition("\n")
        header = json.loads(first)
        parts = header["parts"]
        if Fingerprint(parts).key != path.name.partition("-")[0]:
            raise FtguardError("what it was trained from is not what its name says")
        if hashlib.sha256(body.encode()).hexdigest() != header["checksum"]:
            raise FtguardError("its checksum is wrong")
        if self._options.requires_signature:
            expected = self._signature(parts, body)
            if expected is None or not hmac.compare_digest(str(header["signature"]), expected):
                raise _UnsignedError("it has no signature by this key, without which nothing is believed")
        result = TrialResult.from_dict(json.loads(body))
        if result.outcome != "ok" or result.environment is None:
            raise FtguardError(f"its outcome is {result.outcome!r}")
        return result

    def _set_aside(self, path: Path, reason: str) -> None:
        place = self._folder / "damaged" / path.name
        try:
            if place.parent.is_symlink():
                raise OSError(errno.ELOOP, f"{str(place.parent)!r} is a link to another folder")
            place.parent.mkdir(exist_ok=True)
            keep_latest(place.parent, _MOST_DAMAGED - 1)
            path.replace(place)
            moved = f"it was moved to {str(place)!r}"
        except OSError as error:
            moved = f"it could not be moved ({error.strerror or error})"
        self.complain(f"the stored result {str(path)!r} is damaged ({reason}): {moved}, and its trial is trained again")

    def _signature(self, parts: Mapping[str, Any], body: str) -> str | None:
        return self._sign(f"{canonical_json(dict(parts))}\n{body}")

    def _sign(self, text: str) -> str | None:
        key = self._options.signing_key
        return None if key is None else hmac.new(key, text.encode(), "sha256").hexdigest()

    def _latest_parts(self) -> Iterator[Mapping[str, Any]]:
        for entry in sorted(held_results(self._folder), key=lambda entry: -entry.used)[:_COMPARED_ENTRIES]:
            with (
                suppress(OSError, ValueError, KeyError, TypeError, RecursionError),
                entry.path.open(encoding="utf-8") as file,
            ):
                header = json.loads(file.readline())
                if header["run"] != self.run and isinstance(header["parts"], dict):
                    yield header["parts"]

    def _clean_up(self) -> None:
        removed = make_room(self._folder, self._options.limit_bytes)
        if any(one.used >= self._began and one.path.suffix == ".json" for one in removed):
            limit = format_bytes(self._options.limit_bytes)
            self.complain(f"cache_size is {limit}, too small for this run: results of it were removed again")

    def _prepare(self) -> None:
        """Make the folder, which git and backups leave out."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, text in ((".gitignore", "*\n"), ("CACHEDIR.TAG", _CACHE_TAG)):
            if not (self._folder / name).exists():
                write_whole(self._folder / name, text)

    def _write_digests(self) -> None:
        if self._trusts_notes and self.digests != self._digests_before:
            known = {**self._read_notes("digests.json"), **self.digests}
            # Path.exists() raises for a name that is too long, or in a folder that is closed.
            there = {path: note for path, note in known.items() if os.path.exists(path)}  # noqa: PTH110
            self._write_notes("digests.json", there)
            self._digests_before = dict(self.digests)

    def _read_notes(self, name: str) -> dict[str, Any]:
        if not self._trusts_notes:
            return {}
        try:
            values = json.loads((self._folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}  # they only save time
        return values if isinstance(values, dict) else {}

    def _write_notes(self, name: str, values: Mapping[str, Any]) -> None:
        with suppress(OSError):
            self._prepare()
            write_whole(self._folder / name, json.dumps(values))

    def complain(self, problem: str) -> None:
        """Note a problem for the summary, once."""
        if problem not in self.problems:
            self.problems.append(problem)


def _digest_of(result: TrialResult) -> str:
    """Return what tells a training from any other: all that it measured."""
    measured = {name: value for name, value in result.to_dict().items() if name not in _OF_THE_FINDER}
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()


def _of_any_seed(parts: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**parts, "seed": None}


def _run(result: TrialResult) -> str | None:
    return result.time.run if result.time else None


def _is_of(result: TrialResult, environment: Environment | None) -> bool:
    return environment is not None and result.environment is not None and same_machine(result.environment, environment)


def _elsewhere(result: TrialResult, environment: Environment | None) -> str:
    def described(one: Environment | None) -> str:
        return f"{one.device_name} with {one.threads} threads" if one else "a machine without that device"

    return f"it was trained on {described(result.environment)}, and this is {described(environment)}"
