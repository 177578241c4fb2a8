"""Ini file, command line, environment and marker become settings and specs; this is the only parser of them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.catalogue import MARKER_KEYS
from pytest_ftguard.gates.setting import ENVIRONMENT_PREFIX, INI_PREFIX, Key, Origin, Setting
from pytest_ftguard.settings.ini import early_value, ini_overrides, ini_values
from pytest_ftguard.settings.keys import KEYS, SIGNING_KEY_VARIABLE, keys_of_fields, required_fields
from pytest_ftguard.specs import Full, LoRA, Peft, Workload

if TYPE_CHECKING:
    import pytest


__all__ = [
    "Settings",
    "marker_problem",
    "marker_settings",
    "read_early",
    "read_settings",
]


_KEEP_AUTO_BYTES: Final = 2 * 1000**3


_OF_ONES_OWN: Final = "; the limit of a gate of your own is known once ftguard_gates names the gate's module"


# What a configuration of peft's does not say.
_RATE: Final = ("learning_rate", "search_learning_rate")


Made = TypeVar("Made")


class Settings:
    """What the user set, with the place of each value; what was not set is absent.

    Args:
        values: Setting by name.
    """

    def __init__(self, values: Mapping[str, Setting]) -> None:
        self._values = dict(values)

    def get(self, name: str) -> Setting | None:
        """Return a setting; None if it was not made."""
        return self._values.get(name)

    def value(self, name: str, default: Any) -> Any:
        """Return a setting's value, or the default if it was not made."""
        setting = self._values.get(name)
        return default if setting is None else setting.value

    def workload(self) -> Workload:
        """Return the workload that the settings describe.

        Raises:
            ConfigurationError: The model or a text is not set, or a value is not allowed.
        """
        missing = [f"{INI_PREFIX}{name}" for name in required_fields(Workload) if name not in self._values]
        if missing:
            message = (
                f"nothing says what to train: set {', '.join(missing)} in the ini file, "
                "or override the fixture ftguard_workload in conftest.py"
            )
            raise ConfigurationError(message)
        return self._make(Workload, keys_of_fields(Workload))

    def full(self) -> Full:
        """Return the full variant that the settings describe."""
        return self._make(Full, keys_of_fields(Full))

    def lora(self) -> LoRA | Peft:
        """Return the candidate that the settings describe: LoRA, or what a configuration of peft's says.

        Raises:
            ConfigurationError: A value is not allowed, or two of them say what the candidate is.
        """
        if (config := self._values.get("adapter_config")) is not None:
            return self._peft(config)
        return self._make(LoRA, keys_of_fields(LoRA))

    def _peft(self, config: Setting) -> Peft:
        keys = keys_of_fields(LoRA)
        others = [key for name, key in keys.items() if name not in _RATE and key in self._values]
        if others:
            second = self._values[others[0]]
            message = (
                f"adapter_config (set by {config.origin.name}) and {others[0]} (set by {second.origin.name}) both say "
                f"what the candidate is: remove one of them, or set the value in {config.value!r}"
            )
            raise ConfigurationError(message)
        rate = {name: keys[name] for name in _RATE}
        try:
            made = self._make(lambda **values: Peft(Path(config.value), **values), rate)
        except ConfigurationError as error:
            known = any(setting.origin.name in str(error) for setting in self._values.values())
            raise ConfigurationError(str(error) if known else f"{error} (set by {config.origin.name})") from None
        if made.learning_rate is None and not made.searches_first:
            message = (
                f"adapter_config (set by {config.origin.name}) is for the method {made.method!r}, for which no rule "
                "gives a learning rate: set ftguard_lora_learning_rate, or ftguard_lora_search_learning_rate = yes"
            )
            raise ConfigurationError(message)
        return made

    def overriding(self) -> dict[str, str]:
        """Return the settings that win over the ini file, each with its place."""
        kinds = ("command line", "environment")
        return {name: one.origin.name for name, one in self._values.items() if one.origin.kind in kinds}

    def of_fixture(self, name: str) -> list[Setting]:
        """Return the settings that the fixture `ftguard_workload`, `ftguard_full` or `ftguard_lora` is made of."""
        kinds = {"ftguard_workload": Workload, "ftguard_full": Full, "ftguard_lora": LoRA}
        names = {*keys_of_fields(kinds[name]).values(), *(["adapter_config"] if name == "ftguard_lora" else [])}
        return [setting for key, setting in self._values.items() if key in names]

    def check_specs(self) -> None:
        """Raise the error of a value that no spec would take, before anything runs."""
        # The model and the texts may come from a fixture; the other values are checked next to stand-ins for them.
        given: dict[str, Any] = dict.fromkeys(required_fields(Workload), "-")
        names = {field: key for field, key in keys_of_fields(Workload).items() if field not in given}
        self._make(lambda **values: Workload(**given, **values), names)
        if "task" in self._values:
            from pytest_ftguard.tasks import check_name

            name = self._values["task"].value
            check_name(name, self._said_of_task(name))
        self.full()
        self.lora()

    def check_task(self, name: str) -> None:
        """Raise the error of a workload's task that cannot be found.

        Args:
            name: The task, which a fixture of the user's may have named.

        Raises:
            ConfigurationError: There is no such task, or it is no task.
        """
        from pytest_ftguard.tasks import find_task

        find_task(name, self._said_of_task(name))

    def _said_of_task(self, name: str) -> str:
        """Return the beginning of a message about a task: which setting named it, if one did."""
        setting = self._values.get("task")
        if setting is None or setting.value != name:
            return f"Workload.task is {name!r}"
        return f"{INI_PREFIX}task is {name!r} (set by {setting.origin.name})"

    def _make(self, make: Callable[..., Made], names: Mapping[str, str]) -> Made:
        found = {field: self._values[key] for field, key in names.items() if key in self._values}
        try:
            return make(**{field: setting.value for field, setting in found.items()})
        except ConfigurationError as error:
            # The spec names its field; the user needs the key that filled it.
            culprit = next((setting for field, setting in found.items() if f".{field} " in str(error)), None)
            raise ConfigurationError(f"{error} (set by {culprit.origin.name})" if culprit else str(error)) from None

    @property
    def keep_at_most_bytes(self) -> int | None:
        """Largest size of trained weights that are kept; None is no bound."""
        return {"auto": _KEEP_AUTO_BYTES, "yes": None, "no": 0}[self.value("keep_models", "auto")]


def read_settings(config: pytest.Config, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return what was set: command line before environment before ini file.

    Raises:
        ConfigurationError: A value is wrong, or a name is unknown.
    """
    from_ini = ini_values(config, INI_PREFIX)
    places = _ini_places(config, [*from_ini, *(key.ini for key in KEYS)])
    _refuse_unknown_names(environment, {name: places[name].name for name in from_ini})
    here = config.invocation_params.dir
    values: dict[str, Setting] = {}
    for key in KEYS:
        option = config.getoption(key.ini, None)
        setting = _first(key, option, environment.get(key.variable), here) or _read(key, from_ini, places)
        if setting is not None:
            values[key.name] = setting
    settings = Settings(values)
    if "calibrate" in values and "calibration" not in values:
        message = f"calibrate (set by {values['calibrate'].origin.name}) needs a file to write: set ftguard_calibration"
        raise ConfigurationError(message)
    if settings.value("require_signed", False) and not environment.get(SIGNING_KEY_VARIABLE):
        message = (
            f"require_signed (set by {values['require_signed'].origin.name}) needs the key of the signatures: set the "
            f"environment variable {SIGNING_KEY_VARIABLE}"
        )
        raise ConfigurationError(message)
    if values:
        settings.check_specs()
    return settings


def read_early(config: pytest.Config, key: Key, environment: Mapping[str, str] = os.environ) -> Setting | None:
    """Return one setting before pytest has parsed its options, from the same places; None if none of them sets it.

    Raises:
        ConfigurationError: The value is wrong.
    """
    options, here = config.known_args_namespace, config.invocation_params.dir
    setting = _first(key, getattr(options, key.ini, None), environment.get(key.variable), here)
    if setting is None and (raw := early_value(config, key.ini)) is not None:
        file = config.inipath.name if config.inipath else "the ini file"
        setting = key.read(raw, Origin("ini", f"{key.ini} in {file}", config.rootpath))
    return setting


def _first(key: Key, option: Any, variable: str | None, here: Path) -> Setting | None:
    """Return the setting that the command line makes, or else the environment."""
    if option is not None:
        return key.read(option, Origin("command line", f"the option {key.option}", here))
    if variable is not None:
        return key.read(variable, Origin("environment", f"the environment variable {key.variable}", here))
    return None


def _read(key: Key, from_ini: Mapping[str, Any], places: Mapping[str, Origin]) -> Setting | None:
    raw = from_ini.get(key.ini)
    return None if raw is None else key.read(raw, places[key.ini])


def _ini_places(config: pytest.Config, names: Iterable[str]) -> dict[str, Origin]:
    """Return the origin of keys: the ini file or `-o`. Relative paths of both start at the root folder."""
    overrides, file = ini_overrides(config), config.inipath.name if config.inipath else "the ini file"
    return {
        name: Origin("command line", f"-o {name}=...", config.rootpath)
        if name in overrides
        else Origin("ini", f"{name} in {file}", config.rootpath)
        for name in names
    }


def _refuse_unknown_names(environment: Mapping[str, str], ini_places: Mapping[str, str]) -> None:
    # A misspelt limit that is silently ignored would be a gate that nobody has.
    known_variables = {SIGNING_KEY_VARIABLE, *(key.variable for key in KEYS)}
    known_ini = {key.ini for key in KEYS}
    for name in environment:
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known_variables:
            raise ConfigurationError(f"the environment variable {name} is unknown{_closest(name, known_variables)}")
    for name, place in ini_places.items():
        if name not in known_ini:
            raise ConfigurationError(f"the key {place} is unknown{_closest(name, known_ini)}")


def _closest(name: str, known: Iterable[str]) -> str:
    by_folded = {one.lower(): one for one in known}
    matches = difflib.get_close_matches(name.lower().replace("-", "_"), list(by_folded), n=1)
    hint = f"; did you mean {by_folded[matches[0]]}?" if matches else "; pytest --help lists the keys of pytest-ftguard"
    limit = re.match(r"(ftguard_)?(max|min)_", name.lower().replace("-", "_"))
    return f"{hint}{_OF_ONES_OWN if limit else ''}"


def marker_problem(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a marker's arguments, or None."""
    if arguments:
        return (
            f"the marker ftguard takes keywords only, got {arguments!r}: write ftguard({next(iter(MARKER_KEYS))}=...)"
        )
    for name, value in keywords.items():
        if name not in MARKER_KEYS:
            hint = _OF_ONES_OWN if name.startswith(("max_", "min_")) else ""
            return f"the marker ftguard has no keyword {name!r}; it has {', '.join(MARKER_KEYS)}{hint}"
        try:
            MARKER_KEYS[name].read(value, _marker_origin(name))
        except ConfigurationError as error:
            return str(error)
    return None


def marker_settings(markers: Iterable[Mapping[str, Any]]) -> Settings:
    """Return what a test's markers set, the closest marker first; they were checked at collection."""
    values: dict[str, Setting] = {}
    for keywords in markers:
        for name, value in keywords.items():
            values.setdefault(name, MARKER_KEYS[name].read(value, _marker_origin(name)))
    return Settings(values)


def _marker_origin(name: str) -> Origin:
    return Origin("marker", f"the marker ftguard({name}=...)")
