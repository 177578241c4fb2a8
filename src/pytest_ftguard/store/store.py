"""A folder of results by fingerprint, with their weights, checkpoints and notes; nothing in it is code."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.results import Environment, Trial
from pytest_ftguard.specs import TrialSpec
from pytest_ftguard.store.entries import digest_of, entries_of, place_of, write_entry
from pytest_ftguard.store.failures import Failures
from pytest_ftguard.store.fingerprint import Fingerprint, same_machine
from pytest_ftguard.store.forms import StoredForms
from pytest_ftguard.store.locks import one_of_many
from pytest_ftguard.store.nearest import of_any_seed, why_missing
from pytest_ftguard.store.notes import Notes
from pytest_ftguard.store.reading import read_or_set_aside
from pytest_ftguard.store.room import make_checkpoints, make_room, prepare, remove
from pytest_ftguard.store.trainings import StoredTraining, entries_with_weights
from pytest_ftguard.store.trust import Trust
from pytest_ftguard.store.weights import DamagedWeightsError, OtherWeightsError, keep_weights, size_of, take_weights
from pytest_ftguard.units import format_bytes

__all__ = ["Store", "StoreOptions"]

# Weights beyond this share of the store's size are not kept: those of a few seeds would fill it.
_SHARE_FOR_WEIGHTS: Final = 1 / 8


@dataclass(frozen=True)
class StoreOptions:
    """How a store is used.

    Attributes:
        folder: Where it lies; made if it is not there yet.
        limit_bytes: Size beyond which the entries that were not used for longest are removed.
        reads: Whether results are read from it; what is trained is written all the same.
        keeps_weights: Whether trained weights are kept too, if they take little of the store's size.
        signing_key: Key of the signatures; None if there is none.
        requires_signature: Whether only entries with a valid signature are believed.
    """

    folder: Path
    limit_bytes: int = 1000**3
    reads: bool = True
    keeps_weights: bool = True
    signing_key: bytes | None = None
    requires_signature: bool = False

    @property
    def trust(self) -> Trust:
        """What in it is believed."""
        return Trust(self.reads, self.signing_key, self.requires_signature)


class Store:
    """A folder of results.

    Args:
        options: Where it lies and how it is used.
        run: The present run; what it has trained itself is not called cached, and is believed in any case.

    Attributes:
        run: The present run.
        notes: What is remembered to save time.
        failures: How trials failed, for the other processes of the run.
        forms: What trained models come to in the forms in which they are shipped.
        problems: What went wrong, one sentence each; nothing of it loses a result.
    """

    def __init__(self, options: StoreOptions, run: str) -> None:
        self._options = options
        self._trust = options.trust
        self.run = run
        self._folder = options.folder
        self.problems: list[str] = []
        self.notes = Notes(options.folder, self._trust)
        self.failures = Failures(options.folder, self._trust, run)
        self.forms = StoredForms(options.folder, self._trust, run)
        self._began = time.time()
        self._used: list[Mapping[str, Any]] = []

    def find(self, fingerprint: Fingerprint, spec: TrialSpec, environment: Environment | None) -> Trial | None:
        """Return the result of a trial that was trained before, or None.

        The losses of any machine of the kind count. If bytes and seconds were measured on another machine, the result
        says so, and no gate on them rests on it.

        Args:
            fingerprint: What decides the trial.
            spec: The trial; the result takes its paths.
            environment: The present machine; None if it is not known, so that every result is another machine's.
        """
        read = [(path, result) for path in self._entries(fingerprint.key) if (result := self._read(path)) is not None]
        found = [(path, result) for path, result in read if self._trust.reads or _run(result) == self.run]
        if not found:
            if read:
                self.complain(f"protected is set, so all results stored in {str(self._folder)!r} are ignored")
            return None
        path, result = max(found, key=lambda pair: _is_of(pair[1], environment))
        self._used.append(of_any_seed(fingerprint.parts))
        with suppress(OSError):
            os.utime(path)  # what is used stays longest
        if _run(result) == self.run:
            return replace(result, spec=spec)
        return replace(_reused(result, environment), spec=spec)

    def find_training(self, fingerprint: Fingerprint, environment: Environment | None) -> StoredTraining | None:
        """Return a result of the same training on other examples, with weights to be evaluated again; None without.

        Args:
            fingerprint: What decides the trial.
            environment: The present machine, as in `find`.
        """
        if not (self._trust.reads and fingerprint.is_complete):
            return None
        read = [
            StoredTraining(_reused(result, environment), parts)
            for path, parts in entries_with_weights(self._folder, fingerprint)
            if (result := self._read(path)) is not None and result.measured.probe is not None
        ]
        # Of one that was evaluated again already, the curve may be of other sequences.
        return max(
            read,
            key=lambda one: (_is_of(one.result, environment), one.result.measured.curve_of is None),
            default=None,
        )

    def keep(self, fingerprint: Fingerprint, result: Trial, twin: Trial | None = None) -> None:
        """Write a result that ended `ok`.

        Args:
            fingerprint: What decides the trial.
            result: The result.
            twin: One that has the same weights here.
        """
        if result.measured.outcome != "ok" or result.measured.environment is None:
            return
        path = place_of(self._folder, fingerprint.key, result.measured.environment)
        try:
            prepare(self._folder)
            if result.provenance.model_dir is not None and self._options.keeps_weights:
                place = None if twin is None else self._weights_of(twin)
                self._keep_weights(Path(result.provenance.model_dir), path, digest_of(result), place)
            write_entry(path, fingerprint.parts, self.run, result, self._trust)
        except OSError as error:
            self.complain(f"the result was not stored in {str(self._folder)!r}: {error.strerror or error}")
            return
        self.notes.write_digests()
        self._clean_up()

    def keep_weights(self, result: Trial, trained: Path) -> str | None:
        """Copy weights that were trained again to the result that was found without any.

        Args:
            result: The result, as it was found.
            trained: Folder of the weights.

        Returns:
            Why they were not kept; None if they were.
        """
        if result.provenance.content is None or result.measured.environment is None:
            return "what decides them is not known"
        path = place_of(self._folder, result.provenance.content, result.measured.environment)
        kept = self._keep_weights(trained, path, digest_of(result))
        self._clean_up()
        return kept

    def _keep_weights(self, trained: Path, entry: Path, result: str, twin: Path | None = None) -> str | None:
        try:
            if size_of(trained) > _SHARE_FOR_WEIGHTS * self._options.limit_bytes:
                return "they take more than an eighth of cache_size"
            keep_weights(trained, _weights(self._folder, entry), result, self._trust, twin)
        except OSError as error:
            self.complain(f"weights were not stored in {str(self._folder)!r}: {error.strerror or error}")
            return "they could not be written"
        return None

    def take_weights(self, result: Trial, target: Path) -> bool:
        """Copy the weights of a result that was found to a folder of one's own, which is made.

        Returns:
            Whether there are any that are believed; otherwise there may be a folder with some of them.
        """
        place = self._weights_of(result)
        if place is None or not self._trust.reads or not place.is_dir():
            return False
        try:
            take_weights(place, target, digest_of(result), self._trust)
            with suppress(OSError):
                os.utime(place)
        except (DamagedWeightsError, OSError) as error:
            if not isinstance(error, OtherWeightsError):  # another run may have trained it again, and need them
                remove(place)
            self.complain(f"the stored weights {str(place)!r} are not used, and trained again: {error}")
            return False
        return True

    def _weights_of(self, result: Trial) -> Path | None:
        """Return where the weights of a result are, if it has any; None if it is not known."""
        if result.provenance.content is None or result.measured.environment is None:
            return None
        return _weights(self._folder, place_of(self._folder, result.provenance.content, result.measured.environment))

    def lock(self, key: str, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Hold the lock of a trial, so that only one of many processes trains it.

        Args:
            key: The fingerprint's key.
            on_wait: Called a few times a second while another process holds it.
        """
        return one_of_many(self._folder, key, on_wait, self.complain)

    def checkpoints(self, fingerprint: Fingerprint) -> Path | None:
        """Return the folder for a trial's checkpoints; None if there can be none, or they would not be believed."""
        if not (self._trust.of_notes and fingerprint.is_complete):
            return None
        try:
            return make_checkpoints(self._folder, fingerprint.key)
        except OSError as error:
            self.complain(f"no checkpoints are kept in {str(self._folder)!r}: {error.strerror or error}")
            return None

    def why_missing(self, fingerprint: Fingerprint, not_again: str = "") -> str | None:
        """Return what differs from the nearest of the latest entries; None if earlier runs left none of its kind.

        Args:
            fingerprint: What decides the trial.
            not_again: Why weights of the same training were not evaluated instead.
        """
        if not (self._trust.reads and fingerprint.is_complete):
            return None
        return why_missing(self._folder, fingerprint, self.run, self._used, not_again)

    def _entries(self, key: str) -> list[Path]:
        try:
            return entries_of(self._folder, key)
        except OSError as error:
            self.complain(f"{str(self._folder)!r} cannot be read: {error.strerror or error}")
            return []

    def _read(self, path: Path) -> Trial | None:
        return read_or_set_aside(self._folder, path, self._trust, self.complain)

    def _clean_up(self) -> None:
        removed = make_room(self._folder, self._options.limit_bytes)
        if any(one.used >= self._began and one.path.suffix == ".json" for one in removed):
            limit = format_bytes(self._options.limit_bytes)
            self.complain(f"cache_size is {limit}, too small for this run: results of it were removed again")

    def complain(self, problem: str) -> None:
        """Note a problem for the summary, once."""
        if problem not in self.problems:
            self.problems.append(problem)


def _weights(folder: Path, entry: Path) -> Path:
    return folder / "weights" / entry.stem


def _run(result: Trial) -> str | None:
    return result.measured.time.run if result.measured.time else None


def _reused(result: Trial, environment: Environment | None) -> Trial:
    """Return a result of an earlier run, as one that this run takes from the store."""
    # The folder of the weights lives as long as the run.
    not_kept = "they were trained in an earlier run"
    elsewhere = None if _is_of(result, environment) else _elsewhere(result, environment)
    return result.come_by(
        cached=True, measured_again=False, measured_elsewhere=elsewhere, model_dir=None, not_kept=not_kept
    )


def _is_of(result: Trial, environment: Environment | None) -> bool:
    return (
        environment is not None
        and result.measured.environment is not None
        and same_machine(result.measured.environment, environment)
    )


def _elsewhere(result: Trial, environment: Environment | None) -> str:
    def described(one: Environment | None) -> str:
        return f"{one.device_name} with {one.threads} threads" if one else "a machine without that device"

    return f"it was trained on {described(result.measured.environment)}, and this is {described(environment)}"
