"""The lab of a pytest process and its store, opened when something is first to be trained."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_ftguard.plugin.progress import ProgressDisplay
from pytest_ftguard.plugin.xdist import disturbance
from pytest_ftguard.settings.keys import SIGNING_KEY_VARIABLE

if TYPE_CHECKING:
    import pytest

    from pytest_ftguard.plugin.xdist import SharedFolder
    from pytest_ftguard.running.lab import Lab
    from pytest_ftguard.settings.reading import Settings
    from pytest_ftguard.store.store import Store, StoreOptions

__all__ = ["Workshop", "store_options"]

_CACHE_FOLDER: Final = ".ftguard_cache"
_CACHE_BYTES: Final = 1000**3


class Workshop:
    """Where the trials of a pytest process are trained.

    Args:
        config: pytest's configuration.
        settings: What the user set.
        folder: What the processes of the run share.

    Attributes:
        lab: The lab; None until it is opened.
        store: The store; None until the lab is opened.
    """

    def __init__(self, config: pytest.Config, settings: Settings, folder: SharedFolder) -> None:
        self._config = config
        self._settings = settings
        self._progress = ProgressDisplay(config)
        self._folder = folder
        self.lab: Lab | None = None
        self.store: Store | None = None

    def open(self) -> Lab:
        """Return the lab, opened now if nothing was trained before."""
        from pytest_ftguard.running.executor import ExecutorOptions
        from pytest_ftguard.running.executors import DEFAULT_EXECUTOR, make_executor
        from pytest_ftguard.running.lab import Lab, LabOptions

        if self.lab is None:
            self.store = self._open_store()
            chosen = self._settings.get("executor")
            name, origin = (chosen.value, chosen.origin.name) if chosen else (DEFAULT_EXECUTOR, "default")
            executor = make_executor(name, ExecutorOptions(self._folder.place, disturbance(self._config)), origin)
            options = LabOptions(
                device=self._settings.value("device", "auto"),
                timeout_seconds=self._settings.value("timeout", None),
                keep_at_most_bytes=self._settings.keep_at_most_bytes,
                foretell=self._settings.value("forecast", "yes") == "yes",
                root=self._folder.place,
            )
            self.lab = Lab(options, executor, self._progress.show, self.store)
        return self.lab

    def _open_store(self) -> Store:
        from pytest_ftguard.store.store import Store, StoreOptions

        chosen = store_options(self._settings, self._config.rootpath)
        if chosen is None:
            # One that ends with the run: the workers of xdist share what they train, and with nobody else.
            chosen = StoreOptions(self._folder.make() / "store", keeps_weights=False)
        return Store(chosen, self._folder.place.name if self._folder.place else uuid.uuid4().hex)

    def close(self) -> None:
        """End what is running and remove what was written."""
        if self.lab is not None:
            self.lab.close()
        self._folder.remove()


def store_options(
    settings: Settings, rootdir: Path, environment: Mapping[str, str] = os.environ
) -> StoreOptions | None:
    """Return where results are stored and which are believed; None if none are.

    Args:
        settings: What was set.
        rootdir: Where the default folder lies.
        environment: Where the key of the signatures is.
    """
    from pytest_ftguard.store.store import StoreOptions

    if settings.value("no_cache", False):
        return None
    key = environment.get(SIGNING_KEY_VARIABLE)
    return StoreOptions(
        folder=Path(settings.value("cache_dir", rootdir / _CACHE_FOLDER)),
        limit_bytes=settings.value("cache_size", _CACHE_BYTES),
        reads=not settings.value("protected", False),
        signing_key=key.encode() if key else None,
        # Whoever signs answers for all that went into a result: what is unsigned must not.
        requires_signature=settings.value("require_signed", False) or bool(key),
    )
