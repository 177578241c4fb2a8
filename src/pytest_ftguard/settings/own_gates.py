"""The gates of a user's own: their modules are imported before any other setting is read."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.settings.keys import OWN_GATES
from pytest_ftguard.settings.reading import read_early

if TYPE_CHECKING:
    import pytest

__all__ = ["import_gates"]


def import_gates(config: pytest.Config) -> None:
    """Import the modules that `ftguard_gates` names; each adds its gates.

    Raises:
        ConfigurationError: A module cannot be imported, or a gate cannot be added.
    """
    setting = read_early(config, OWN_GATES)
    for name in setting.value if setting else ():
        try:
            import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may even end the process, and the run would look as if it was green
            what = "" if isinstance(error, FtguardError) else f"it cannot be imported: {type(error).__name__}: "
            assert setting is not None
            message = f"{OWN_GATES.ini} names the module {name!r} (set by {setting.origin.name}), but {what}{error}"
            raise ConfigurationError(message) from error
