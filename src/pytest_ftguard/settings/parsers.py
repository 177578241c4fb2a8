"""How what users write becomes the value of a setting."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from pytest_ftguard.files import name_problem
from pytest_ftguard.gates.setting import Origin, text_of
from pytest_ftguard.specs.texts import is_place

__all__ = [
    "adapter_config_of",
    "assignments_of",
    "cache_size_of",
    "calibration_seeds_of",
    "data_of",
    "duration_of",
    "flag_of",
    "folder_of",
    "model_of",
    "modules_of",
    "output_of",
    "path_of",
    "quantization_of_setting",
    "reports_of",
    "seeds_of",
    "targets_of",
    "template_of",
    "update_of",
    "whole_of",
]


def path_of(value: Any, origin: Origin) -> str:
    """Return a path, from the folder of the file that sets it."""
    path = str(origin.folder / text_of(value, origin))
    if problem := name_problem(path):
        raise ValueError(problem)
    return path


def data_of(value: Any, origin: Origin) -> str:
    """Return the path of a file or a folder if there is one, or else a name on the hub or a function."""
    text = text_of(value, origin)
    return text if not is_place(text) and not (origin.folder / text).exists() else path_of(value, origin)


def template_of(value: Any, origin: Origin) -> str:
    """Return a chat template: of its file, or the text itself."""
    text = text_of(value, origin)
    if "{%" in text or "{{" in text:
        return text
    path = Path(path_of(value, origin))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"the file {str(path)!r} cannot be read ({reason}): give the path of a Jinja file, or the template"
        raise ValueError(message) from None


def output_of(value: Any, origin: Origin) -> str:
    """Return the path of a file that can be written."""
    path = path_of(value, origin)
    if Path(path).is_dir():
        raise ValueError("it is a folder: give a file name")
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is not a regular file: give a file name")
    parent = Path(path).parent
    if not parent.exists():
        raise ValueError(f"there is no folder {str(parent)!r}: create it, or choose a folder that exists")
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ValueError(f"nothing can be written to {parent}")
    return path


def reports_of(value: Any, origin: Origin) -> tuple[tuple[str, str], ...]:
    """Return each renderer with the path of its file, of lines of renderer=path, a list of such lines, or a table."""
    if isinstance(value, dict):
        pairs = [(str(renderer), text_of(path, origin)) for renderer, path in value.items()]
    else:
        lines = value if isinstance(value, list) else text_of(value, origin).split("\n")
        parts = [text_of(line, origin).partition("=") for line in lines if str(line).strip()]
        pairs = [(renderer.strip(), path.strip()) for renderer, _, path in parts]
    for renderer, path in pairs:
        if not renderer or not path:
            raise ValueError("each line must be renderer=path, for example my_package.report:render = report.html")
    return tuple((renderer, output_of(path, origin)) for renderer, path in pairs)


def adapter_config_of(value: Any, origin: Origin) -> str:
    """Return the path of a configuration of peft's."""
    path = path_of(value, origin)
    if not Path(path).exists():
        raise ValueError("there is no such folder or file: give what save_pretrained of peft wrote")
    return path


def folder_of(value: Any, origin: Origin) -> str:
    """Return the path of a folder, which need not exist."""
    path = Path(path_of(value, origin))
    if path.exists() and not path.is_dir():
        raise ValueError("it is a file: give a folder")
    return str(path)


def cache_size_of(value: Any, origin: Origin) -> int:
    """Return a number of bytes, at least one."""
    from pytest_ftguard.units import parse_bytes

    try:
        return parse_bytes(str(value))
    except ValueError as error:
        message = (
            f'{error}; to keep no store, set ftguard_no_cache = true; for no limit, give a large size such as "1000 TB"'
        )
        raise ValueError(message) from None


def model_of(value: Any, origin: Origin) -> str:
    """Return the path of a folder if there is one, or else a name on the hub."""
    folder = Path(path_of(value, origin))
    return str(folder) if folder.is_dir() else text_of(value, origin)


def whole_of(value: Any, origin: Origin) -> int:
    """Return a whole number."""
    try:
        if isinstance(value, str | int) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass  # one message for every way of being wrong, below
    better = f", written as {value:.0f}" if isinstance(value, float) and value.is_integer() else ""
    raise ValueError(f"it must be a whole number{better}")


def calibration_seeds_of(value: Any, origin: Origin) -> int:
    """Return a number of seeds that is large enough for a calibration."""
    number = whole_of(value, origin)
    if number < 10:
        raise ValueError("a calibration needs at least 10 seeds")
    return number


def _items(value: Any) -> list[str]:
    """Return the parts of a text that commas or lines separate, or those of a list."""
    if isinstance(value, list | tuple):
        return [part for item in value for part in _items(item)]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"it must be a text or a list of texts, and holds {value!r}")
    return [item.strip() for item in re.split(r"[,\n]", str(value)) if item.strip()]


def seeds_of(value: Any, origin: Origin) -> tuple[int, ...] | str:
    """Return seeds, or the text of a range of them."""
    try:
        items = _items(value)
    except TypeError:
        raise TypeError("each seed must be a whole number") from None
    if any(".." in item for item in items):
        return ", ".join(items)  # a range, which the workload reads
    return tuple(whole_of(item, origin) for item in items)


def targets_of(value: Any, origin: Origin) -> str | tuple[str, ...]:
    """Return "all-linear", a regular expression, or suffixes of module names."""
    # A comma or line separates suffixes; a text with any other sign of a regular expression is one.
    if isinstance(value, str) and re.search(r"[\\^$*+?()\[\]|{}]", value):
        return value.strip()
    names = tuple(_items(value))
    return names[0] if names == ("all-linear",) else names


def assignments_of(value: Any, origin: Origin) -> dict[str, Any]:
    """Return names and values: of lines of name=value, of a list of such lines, or of a table."""
    if isinstance(value, dict):
        try:
            json.dumps(value)
        except TypeError as error:
            message = f"a value must be a text, a number, true, false, a list or a table ({error})"
            raise ValueError(message) from None
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        raise TypeError('it must be lines of name=value, a list of such texts (["optim=sgd"]), or a table')
    lines = [line.strip() for line in value.split("\n") if line.strip()]
    wrong = [line for line in lines if "=" not in line]
    if wrong:
        raise ValueError(f"each line must be name=value, but one is {wrong[0]!r}")
    pairs = [line.partition("=") for line in lines]
    return {name.strip(): _literal(text.strip()) for name, _, text in pairs}


def quantization_of_setting(value: Any, origin: Origin) -> Any:
    """Return a name, or options as `assignments_of` reads them."""
    is_name = isinstance(value, str) and "=" not in value
    return text_of(value, origin) if is_name else assignments_of(value, origin)


def _literal(text: str) -> Any:
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # a plain word, as in optim=adamw_torch


def flag_of(value: Any, origin: Origin) -> bool:
    """Return a yes or no."""
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    text = str(value).strip().lower()
    if text not in words:
        raise ValueError("it must be true or false")
    return words[text]


def duration_of(value: Any, origin: Origin) -> float:
    """Return a number of seconds."""
    from pytest_ftguard.units import parse_duration

    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError('it must be a time, for example "30 s"')
    return parse_duration(f"{value:f}" if isinstance(value, float) else str(value))


def update_of(value: Any, origin: Origin) -> bool:
    """Return a yes or no that the ini file may not say."""
    wanted = flag_of(value, origin)
    if wanted and (origin.kind == "ini" or origin.name.startswith("-o ")):  # addopts may hold an -o
        raise ValueError("a run that always accepts never fails; give it on the command line, as --ftguard-update")
    return wanted


def names_of(value: Any, origin: Origin) -> tuple[str, ...]:
    """Return names, such as those of columns."""
    return tuple(_items(value))


def modules_of(value: Any, origin: Origin) -> tuple[str, ...]:
    """Return names of modules."""
    names = _items(value)
    if not all(part.isidentifier() for name in names for part in name.split(".")):
        raise ValueError("each must be the name of a module, for example my_package.gates")
    return tuple(names)
