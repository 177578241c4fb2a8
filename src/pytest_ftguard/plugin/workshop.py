"""The lab of a pytest process and its store, opened when something is first to be trained."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from pytest_ftguard.plugin.progress import ProgressDisplay
from pytest_ftguard.plugin.xdist import disturbance

if TYPE_CHECKING:
    import pytest

    from pytest_ftguard.plugin.xdist import SharedFolder
    from pytest_ftguard.running.lab import Lab
    from pytest_ftguard.settings.reading import Settings
    from pytest_ftguard.store.store import Store

__all__ = ["Workshop"]


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

        chosen = self._settings.store(self._config.rootpath)
        if chosen is None:
            # One that ends with the run: the workers of xdist share what they train, and with nobody else.
            chosen = StoreOptions(self._folder.make() / "store", keeps_weights=False)
        return Store(chosen, self._folder.place.name if self._folder.place else uuid.uuid4().hex)

    def close(self) -> None:
        """End what is running and remove what was written."""
        if self.lab is not None:
            self.lab.close()
        self._folder.remove()
