"""Any method of peft, as plain data: the name of the method and the options of its configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Final

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.identity import PEFT
from pytest_ftguard.specs.methods.base import Search, Variant
from pytest_ftguard.specs.methods.lora import method_words, normal_form, peft_options
from pytest_ftguard.specs.methods.quantization import Quantization, quantization_of, quantization_words
from pytest_ftguard.specs.refused import REFUSED_LORA_OPTIONS
from pytest_ftguard.specs.values import FrozenOptions, text_value

__all__ = ["CONFIG_FILE", "Peft"]

CONFIG_FILE: Final = "adapter_config.json"
"""What peft calls the file of a configuration."""
# What peft writes into a configuration and what decides nothing of a training here.
_UNDECIDING: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "task_type",
    }
)
_TASKS: Final = ("CAUSAL_LM", "SEQ_CLS")


@dataclass(frozen=True, init=False)
class Peft(Variant):
    """A method of the installed peft, with the options of its configuration.

    Args:
        config: A configuration object of peft; a folder or file in peft's own format (`adapter_config.json`), written
            with a path separator or as a `Path`; or the name of a method, such as "ia3".
        method: The name of the method, instead of `config`.
        options: Options of the method's configuration, as a mapping.
        quantization: How the base is held, as in `LoRA`: "nf4", "fp4" or "int8", or options of
            `transformers.BitsAndBytesConfig`.
        label: What the summary calls the variant; the method with a few of its options by default.
        learning_rate: Learning rate of the optimizer after the warm-up. No rule is known for it, so it is searched if
            it is not given.
        search_learning_rate: "auto" searches the learning rate before the training if none is given. "yes", or True,
            searches it in any case, starting at `learning_rate`, or at ten times that of full fine-tuning.
        more_options: Options of the method's configuration, by name.

    Attributes:
        method: The name of the method in lower case: peft's `peft_type`.
        options: The options of its configuration. What decides nothing, such as the name of the base model that an
            adapter was trained on, is left out, and so is what a configuration object did not change.
        quantization: See above.
        label: The variant's name in the summary.
        learning_rate: See above.
        search_learning_rate: See above.

    Raises:
        ConfigurationError: A value is not allowed, or the file cannot be read.
    """

    kind: ClassVar[str] = "peft"
    rows: ClassVar = PEFT
    told_by_label: ClassVar[tuple[str, ...]] = ("method", "label")
    method: str
    options: Mapping[str, Any]
    quantization: Quantization = None
    label: str = ""  # a default, because the property of the base class would be taken for one
    learning_rate: float | None = None
    search_learning_rate: Search | bool = "auto"

    def __init__(
        self,
        config: Any = None,
        /,
        *,
        method: str | None = None,
        options: Mapping[str, Any] | None = None,
        quantization: Quantization = None,
        label: str | None = None,
        learning_rate: float | None = None,
        search_learning_rate: Search | bool = "auto",
        **more_options: Any,
    ) -> None:
        if (config is None) == (method is None):
            message = "Peft takes a configuration of peft, a folder or file of peft's, or the name of a method"
            raise ConfigurationError(message)
        given = {**dict(options or {}), **more_options}
        self._refuse(given)
        if method is not None or (isinstance(config, str) and not _is_path(config)):
            name = _method_name(method if method is not None else config)
        elif isinstance(config, str) or hasattr(config, "__fspath__"):
            name, found = _of_file(Path(config))
            given = _joined(found, given, f"the file {str(config)!r}")
        else:
            name, found = _of_object(config)
            given = _joined(found, given, f"the {type(config).__name__}")
        self._set("method", name)
        plain = {one: normal_form("Peft", one, _plain(value)) for one, value in given.items()}
        self._set("options", FrozenOptions(plain, "Peft.options"))
        self._set("quantization", quantization_of(quantization, "Peft.quantization"))
        self._set("label", self._made_label() if label is None else text_value("Peft.label", label))
        self._set("learning_rate", learning_rate)
        self._set("search_learning_rate", search_learning_rate)
        self._check_rate()

    @staticmethod
    def _refuse(options: Mapping[str, Any]) -> None:
        for name in sorted(options):
            if name in REFUSED_LORA_OPTIONS and name != "peft_type":
                message = f"Peft.options may not set {name!r}: {REFUSED_LORA_OPTIONS[name]}"
                raise ConfigurationError(message)
            if name == "peft_type":
                message = (
                    f"Peft.options may not set 'peft_type': give the method first, as in Peft({options[name]!r}, ...)"
                )
                raise ConfigurationError(message)

    def _made_label(self) -> str:
        """Return the method with its size and with what was switched on."""
        sizes = {"r": "r=", "num_virtual_tokens": "tokens="}
        told = [f"{word}{self.options[name]}" for name, word in sizes.items() if name in self.options]
        return " ".join([self.method, *told, *quantization_words(self.quantization), *method_words(self.options)])

    @property
    def peft_options(self) -> dict[str, Any]:
        """The options as peft's configuration takes them."""
        return peft_options(self.options)


def _is_path(text: str) -> bool:
    return bool(re.search(r"[/\\]|\.json$", text))


def _method_name(value: Any) -> str:
    name = str(_plain(value)).strip().lower().replace("-", "_")
    if not re.fullmatch(r"\w+", name):
        message = (
            f'the method of Peft must be a name such as "ia3", got {value!r}; a folder or file is written with a path '
            'separator, as in "./adapter"'
        )
        raise ConfigurationError(message)
    return name


def _joined(found: Mapping[str, Any], given: Mapping[str, Any], source: str) -> dict[str, Any]:
    twice = sorted(set(found) & set(given))
    if twice:
        message = f"{source} sets {', '.join(twice)}, and so does Peft(...): set each in one place"
        raise ConfigurationError(message)
    return {**found, **given}


def _of_file(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the method and the options that a file of peft's says, or that in a folder."""
    file = path / CONFIG_FILE if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = f"there is no {str(file)!r}: give a folder with an {CONFIG_FILE}, as peft's save_pretrained writes it"
        raise ConfigurationError(message) from None
    except OSError as error:
        message = f"{str(file)!r} cannot be read: {error.strerror or error}"
        raise ConfigurationError(message) from None
    except (ValueError, RecursionError) as error:
        message = f"{str(file)!r} is not JSON ({type(error).__name__}: {error}): let peft's save_pretrained write it"
        raise ConfigurationError(message) from None
    if not isinstance(values, dict) or not isinstance(values.get("peft_type"), str):
        message = f"{str(file)!r} has no peft_type, so it does not say which method it is for: let peft write it"
        raise ConfigurationError(message)
    return _method_and_options(values, repr(str(file)))


def _of_object(config: Any) -> tuple[str, dict[str, Any]]:
    """Return the method and the options of a configuration object that are not the defaults of its class."""
    kind = type(config)
    known: Mapping[str, Field[Any]] = getattr(kind, "__dataclass_fields__", {})
    method = getattr(config, "peft_type", None)
    if "peft_type" not in known or isinstance(config, type):
        message = (
            "Peft takes a configuration of peft such as LoraConfig(...), a folder or file of peft's, or the name of a "
            f"method, got {config!r}"
        )
        raise ConfigurationError(message)
    if kind.__module__.partition(".")[0] != "peft" or not method:
        message = (
            f"Peft was given a {kind.__module__}.{kind.__qualname__}, which is not the configuration of a method that "
            "the installed peft registers: give one of peft's own, or write a variant of your own (register_variant)"
        )
        raise ConfigurationError(message)
    values = {name: getattr(config, name) for name in known}
    name, options = _method_and_options(values, f"the {kind.__name__}")
    changed = {one: value for one, value in options.items() if _plain(value) != _plain(_default(known[one]))}
    return name, changed


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _method_and_options(values: Mapping[str, Any], source: str) -> tuple[str, dict[str, Any]]:
    task = _plain(values.get("task_type"))
    if task not in (None, *_TASKS):
        message = (
            f"{source} has the task_type {task!r}, and causal language models and classifiers are trained here "
            f"({', '.join(_TASKS)})"
        )
        raise ConfigurationError(message)
    return _method_name(values["peft_type"]), {name: one for name, one in values.items() if name not in _UNDECIDING}


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it, sets in order."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    nested = getattr(type(value), "__dataclass_fields__", None)
    return {name: _plain(getattr(value, name)) for name in nested} if nested else value
