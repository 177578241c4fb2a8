"""Ini file, command line, environment and marker become settings and specs; this is the only parser of them.

Every pytest run imports this module, so whatever takes time to import is imported where it is needed.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from pytest_ftguard.errors import ConfigurationError, hide_our_frames

if TYPE_CHECKING:
    import pytest

    from pytest_ftguard.specs import Full, LoRA, Workload

__all__ = [
    "KEYS",
    "MARKER_KEYS",
    "Setting",
    "Settings",
    "add_options",
    "marker_problem",
    "marker_settings",
    "read_settings",
]

__tracebackhide__ = hide_our_frames

MARKER_KEYS: Final = (
    "max_loss_gap",
    "max_perplexity_gap",
    "min_retention",
    "max_forgetting",
    "max_improvement",
    "max_memory",
    "max_time",
    "confidence",
    "gain_factor",
    "on_inconclusive",
)
_ENVIRONMENT_PREFIX: Final = "FTGUARD_"
_INI_PREFIX: Final = "ftguard_"
_KEEP_AUTO_BYTES: Final = 2 * 1000**3

Made = TypeVar("Made")


class Place(NamedTuple):
    """Where a setting was found: the kind of place, and the place itself for messages."""

    kind: str
    name: str
    folder: Path


class Setting(NamedTuple):
    """A value and where it was set."""

    value: Any
    source: str
    place: str


class Key(NamedTuple):
    """A setting that users can make.

    `parse` turns what was found, a text except in markers, into the value; it raises ValueError with the reason.
    """

    name: str
    parse: Callable[[Any, Place], Any]
    help: str
    flag: bool = False

    @property
    def option(self) -> str:
        return f"--ftguard-{self.name.replace('_', '-')}"

    @property
    def ini(self) -> str:
        return f"{_INI_PREFIX}{self.name}"

    @property
    def variable(self) -> str:
        return f"{_ENVIRONMENT_PREFIX}{self.name.upper()}"


def _text(value: Any, place: Place) -> str:
    return str(value).strip()


def _path(value: Any, place: Place) -> str:
    return str(place.folder / str(value).strip())


def _output(value: Any, place: Place) -> str:
    path = _path(value, place)
    if Path(path).is_dir():
        raise ValueError("it is a folder, and a file is meant")
    parent = next(folder for folder in Path(path).parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ValueError(f"nothing can be written to {parent}")
    return path


def _model(value: Any, place: Place) -> str:
    folder = place.folder / str(value).strip()
    return str(folder) if folder.is_dir() else str(value).strip()


def _whole(value: Any, place: Place) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ValueError("it must be a whole number") from None


def _number(value: Any, place: Place) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ValueError("it must be a number") from None


def _confidence(value: Any, place: Place) -> float:
    number = _number(value, place)
    if not 0.5 < number < 1:
        raise ValueError("it must lie between 0.5 and 1, for example 0.95")
    return number


def _gain_factor(value: Any, place: Place) -> float:
    number = _number(value, place)
    if not 0 <= number < float("inf"):
        raise ValueError("it must be a number of at least 0, for example 3")
    return number


def _calibration_seeds(value: Any, place: Place) -> int:
    number = _whole(value, place)
    if number < 10:
        raise ValueError("a calibration needs at least 10 seeds")
    return number


def _items(value: Any) -> list[str]:
    return [item.strip() for item in re.split(r"[,\n]", str(value)) if item.strip()]


def _seeds(value: Any, place: Place) -> tuple[int, ...] | str:
    if ".." in str(value):
        return str(value)  # a range, which the workload reads
    return tuple(_whole(item, place) for item in _items(value))


def _targets(value: Any, place: Place) -> str | tuple[str, ...]:
    # A comma or line separates suffixes; a text with any other sign of a regular expression is one.
    if re.search(r"[\\^$*+?()\[\]|{}]", str(value)):
        return str(value).strip()
    names = tuple(_items(value))
    return names[0] if names == ("all-linear",) else names


def _assignments(value: Any, place: Place) -> dict[str, Any]:
    lines = [line.strip() for line in str(value).split("\n") if line.strip()]
    wrong = [line for line in lines if "=" not in line]
    if wrong:
        raise ValueError(f"each line must be name=value, but one is {wrong[0]!r}")
    pairs = [line.partition("=") for line in lines]
    return {name.strip(): _literal(text.strip()) for name, _, text in pairs}


def _literal(text: str) -> Any:
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # a plain word, as in optim=adamw_torch


def _flag(value: Any, place: Place) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    text = str(value).strip().lower()
    if text not in words:
        raise ValueError("it must be true or false")
    return words[text]


def _choice(*choices: str) -> Callable[[Any, Place], str]:
    def parse(value: Any, place: Place) -> str:
        text = str(value).strip()
        if text not in choices:
            raise ValueError(f"it must be one of {', '.join(choices)}")
        return text

    return parse


def _duration(value: Any, place: Place) -> float:
    from pytest_ftguard.units import parse_duration

    return parse_duration(str(value))


def _number_limit(what: str, unit: str) -> Callable[[Any, Place], Any]:
    def parse(value: Any, place: Place) -> Any:
        from pytest_ftguard.limits import parse_number_limit

        return parse_number_limit(value, what, unit, place.kind, place.name)

    return parse


def _share_limit(what: str, unit: str) -> Callable[[Any, Place], Any]:
    def parse(value: Any, place: Place) -> Any:
        from pytest_ftguard.limits import parse_share_limit

        return parse_share_limit(value, what, unit, place.kind, place.name)

    return parse


def _memory_limit(value: Any, place: Place) -> Any:
    from pytest_ftguard.limits import parse_memory_limit

    return parse_memory_limit(value, place.kind, place.name)


KEYS: Final = (
    Key("model", _model, "hub id or folder of the base model"),
    Key("revision", _text, "revision of the model on the hub"),
    Key("tokenizer", _model, "hub id or folder of the tokenizer, if it is not the model's own"),
    Key("train", _path, "training text: a text file, or JSON lines with a 'text' field"),
    Key("validation", _path, "validation text, in the same formats"),
    Key("reference", _path, "general text whose loss is measured and reported too"),
    Key("task", _text, "what the model is trained for (causal-lm)"),
    Key("block_size", _whole, "tokens in a sequence (128)"),
    Key("batch_size", _whole, "sequences in a batch (4)"),
    Key("steps", _whole, "optimizer steps (500)"),
    Key("seeds", _seeds, "seeds, one trial of each variant per seed (0, 1, 2); '3..8': more in doubt"),
    Key("precision", _text, "auto, fp32 or bf16"),
    Key("final", _flag, "the steps are those of production", flag=True),
    Key("validation_sequences", _whole, "largest number of validation sequences (256)"),
    Key("model_args", _assignments, "lines of name=value for from_pretrained, for example gguf_file"),
    Key("training_args", _assignments, "lines of name=value for TrainingArguments"),
    Key("full_learning_rate", _number, "learning rate of full fine-tuning (5e-5)"),
    Key("lora_r", _whole, "rank of the adapters (16)"),
    Key("lora_alpha", _number, "numerator of the adapters' scale (32)"),
    Key("lora_dropout", _number, "dropout before the adapters (0)"),
    Key("lora_target_modules", _targets, "all-linear, suffixes, or a regular expression"),
    Key("lora_learning_rate", _number, "learning rate of LoRA (ten times that of full fine-tuning)"),
    Key("max_loss_gap", _number_limit("loss gap", "nats per token"), "largest accepted loss gap, in nats per token"),
    Key("max_perplexity_gap", _number_limit("perplexity gap", "perplexity"), "largest accepted perplexity gap"),
    Key("min_retention", _share_limit("retention", "of the gain"), "smallest accepted share of full's gain: '90%%'"),
    Key("max_forgetting", _number_limit("forgetting", "nats per token"), "largest growth of the reference loss"),
    Key("max_improvement", _number_limit("convergence", "nats per token"), "what doubling the steps may still gain"),
    Key(
        "max_time",
        _share_limit("step time", "of baseline"),
        "largest share of the baseline's step time: '80%%'",
    ),
    Key("max_memory", _memory_limit, "largest accepted peak memory: '0.9 GB', or '60%%' of the baseline's"),
    Key("confidence", _confidence, "one-sided confidence of each bound (0.95)"),
    Key("gain_factor", _gain_factor, "margins that full fine-tuning must gain over the base model (3)"),
    Key("on_inconclusive", _choice("fail", "warn"), "what an INCONCLUSIVE verdict does: fail or warn"),
    Key("device", _text, "auto, cpu, cuda, ..."),
    Key("require_gpu", _flag, "fail where there is no accelerator", flag=True),
    Key("timeout", _duration, "time that one trial may take, for example '30 min' (no limit)"),
    Key(
        "keep_models",
        _choice("auto", "yes", "no"),
        "keep trained weights for load() until the run ends (auto: up to 2 GB)",
    ),
    Key("calibration", _path, "file of the calibrated noise of seeds"),
    Key("calibrate", _calibration_seeds, "train so many seeds, 10 or more, and write their noise to the calibration"),
    Key("disable", _flag, "train nothing and skip the tests that would", flag=True),
    Key("json", _output, "file to which trials and verdicts are written"),
)
_BY_NAME: Final = {key.name: key for key in KEYS}


class Settings:
    """What the user set, with the place of each value; what was not set is absent.

    Args:
        values: Setting by name.
    """

    def __init__(self, values: Mapping[str, Setting]) -> None:
        self._values = dict(values)

    def get(self, name: str) -> Setting | None:
        """Return a setting, or None where it was not made."""
        return self._values.get(name)

    def value(self, name: str, default: Any) -> Any:
        """Return a setting's value, or the default where it was not made."""
        setting = self._values.get(name)
        return default if setting is None else setting.value

    def workload(self) -> Workload:
        """Return the workload that the settings describe.

        Raises:
            ConfigurationError: The model or a text is not set, or a value is not allowed.
        """
        from dataclasses import fields

        from pytest_ftguard.specs import Workload

        missing = [f"{_INI_PREFIX}{name}" for name in ("model", "train", "validation") if name not in self._values]
        if missing:
            message = (
                f"nothing says what to train: set {', '.join(missing)} in the ini file, "
                "or override the fixture ftguard_workload in conftest.py"
            )
            raise ConfigurationError(message)
        return self._make(Workload, {item.name: item.name for item in fields(Workload)})

    def full(self) -> Full:
        """Return the full variant that the settings describe."""
        from pytest_ftguard.specs import Full

        return self._make(Full, {"learning_rate": "full_learning_rate"})

    def lora(self) -> LoRA:
        """Return the LoRA variant that the settings describe."""
        from pytest_ftguard.specs import LoRA

        names = ("r", "alpha", "dropout", "target_modules", "learning_rate")
        return self._make(LoRA, {name: f"lora_{name}" for name in names})

    def of_fixture(self, name: str) -> list[Setting]:
        """Return the settings that the fixture `ftguard_workload`, `ftguard_full` or `ftguard_lora` is made of."""
        from pytest_ftguard.specs import Workload

        prefix = {"ftguard_full": "full_", "ftguard_lora": "lora_"}.get(name)
        fields = Workload.__dataclass_fields__
        return [
            setting
            for key, setting in self._values.items()
            if (key in fields if prefix is None else key.startswith(prefix))
        ]

    def check_specs(self) -> None:
        """Raise the error of a value that no spec would take, before anything runs."""
        from pytest_ftguard.specs import Workload

        # The model and the texts may come from a fixture; the other values are checked beside stand-ins for them.
        names = [item for item in Workload.__dataclass_fields__ if item not in ("model", "train", "validation")]
        self._make(
            lambda **values: Workload(model="-", train="-", validation="-", **values), {name: name for name in names}
        )
        self.full()
        self.lora()

    def _make(self, make: Callable[..., Made], names: Mapping[str, str]) -> Made:
        found = {field: self._values[key] for field, key in names.items() if key in self._values}
        try:
            return make(**{field: setting.value for field, setting in found.items()})
        except ConfigurationError as error:
            # The spec names its field; the user needs the key that filled it.
            culprit = next((setting for field, setting in found.items() if f".{field} " in str(error)), None)
            raise ConfigurationError(f"{error} (set by {culprit.place})" if culprit else str(error)) from None

    @property
    def keep_at_most_bytes(self) -> int | None:
        """Largest size of trained weights that are kept; None is no bound."""
        return {"auto": _KEEP_AUTO_BYTES, "yes": None, "no": 0}[self.value("keep_models", "auto")]


def add_options(parser: pytest.Parser) -> None:
    """Declare every option and its ini twin."""
    group = parser.getgroup("ftguard", "full fine-tuning against LoRA (pytest-ftguard)")
    for key in KEYS:
        # default=None: an option that was not given must not hide the ini key.
        action = {"action": "store_true"} if key.flag else {"action": "store", "metavar": key.name.upper()}
        group.addoption(key.option, dest=key.ini, default=None, help=key.help, **action)
        parser.addini(key.ini, key.help.replace("%%", "%"), default=None)


def read_settings(config: pytest.Config, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return what was set: command line before environment before ini file.

    Raises:
        ConfigurationError: A value is wrong, or a name is unknown.
    """
    ini_name = config.inipath.name if config.inipath else "the command line's -o"
    _refuse_unknown_names(environment, _ini_names(config), ini_name)
    here = config.invocation_params.dir
    values: dict[str, Setting] = {}
    for key in KEYS:
        candidates = (
            (config.getoption(key.ini), Place("command line", f"the option {key.option}", here)),
            (environment.get(key.variable), Place("environment", f"the environment variable {key.variable}", here)),
            (config.getini(key.ini), Place("ini", f"{key.ini} in {ini_name}", config.rootpath)),
        )
        for raw, place in candidates:
            if raw is not None:
                values[key.name] = _parse(key, raw, place)
                break
    settings = Settings(values)
    if "calibrate" in values and "calibration" not in values:
        message = f"calibrate (set by {values['calibrate'].place}) needs a file to write: set ftguard_calibration"
        raise ConfigurationError(message)
    if values:
        settings.check_specs()
    return settings


def _parse(key: Key, raw: Any, place: Place) -> Setting:
    if isinstance(raw, str) and not raw.strip():
        message = f"{key.name} is empty (set by {place.name}): give a value, or remove it"
        raise ConfigurationError(message)
    try:
        return Setting(key.parse(raw, place), place.kind, place.name)
    except ConfigurationError:
        raise
    except ValueError as error:
        message = f"{key.name} is {raw!r} (set by {place.name}): {error}"
        raise ConfigurationError(message) from None


def _ini_names(config: pytest.Config) -> list[str]:
    """Return the keys of the ini file and of `-o`, of which pytest has no public list."""
    from_file = config._inicfg if hasattr(config, "_inicfg") else config.inicfg  # renamed in pytest 9
    overrides = config.getoption("override_ini") or ()  # pytest 8 keeps them apart
    return [*from_file, *(text.partition("=")[0].strip() for text in overrides)]


def _refuse_unknown_names(environment: Mapping[str, str], ini_names: Iterable[str], ini_name: str) -> None:
    # A misspelt limit that is silently ignored would be a gate that nobody has.
    known_variables, known_ini = {key.variable for key in KEYS}, {key.ini for key in KEYS}
    for name in environment:
        if name.startswith(_ENVIRONMENT_PREFIX) and name not in known_variables:
            raise ConfigurationError(f"the environment variable {name} is unknown{_closest(name, known_variables)}")
    for name in ini_names:
        if name.startswith(_INI_PREFIX) and name not in known_ini:
            raise ConfigurationError(f"the key {name} in {ini_name} is unknown{_closest(name, known_ini)}")


def _closest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]}?" if matches else "; pytest --help lists the keys of pytest-ftguard"


def marker_problem(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a marker's arguments, or None."""
    if arguments:
        return f"the marker ftguard takes keywords only, got {arguments!r}: write ftguard({MARKER_KEYS[0]}=...)"
    for name, value in keywords.items():
        if name not in MARKER_KEYS:
            return f"the marker ftguard has no keyword {name!r}; it has {', '.join(MARKER_KEYS)}"
        try:
            _parse(_BY_NAME[name], value, _marker_place(name))
        except ConfigurationError as error:
            return str(error)
    return None


def marker_settings(markers: Iterable[Mapping[str, Any]]) -> Settings:
    """Return what a test's markers set, the closest marker first; they were checked at collection."""
    values: dict[str, Setting] = {}
    for keywords in markers:
        for name, value in keywords.items():
            values.setdefault(name, _parse(_BY_NAME[name], value, _marker_place(name)))
    return Settings(values)


def argument_setting(name: str, value: Any) -> Setting:
    """Return a value that was passed to an assertion helper.

    Raises:
        ConfigurationError: The value is wrong.
    """
    argument = "at_most" if name.startswith("max_") else "at_least" if name.startswith("min_") else name
    return _parse(_BY_NAME[name], value, Place("argument", f"the argument {argument}", Path()))


def _marker_place(name: str) -> Place:
    return Place("marker", f"the marker ftguard({name}=...)", Path())
