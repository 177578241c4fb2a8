"""Every setting that users can make: its name, its meaning, and how its text is read."""

from __future__ import annotations

import json
import os
import re
from collections import ChainMap
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.files import name_problem
from pytest_ftguard.gates.catalogue import MARKER_KEYS
from pytest_ftguard.keys import Key, Origin, choice_of, number_of, text_of
from pytest_ftguard.reporting.registry import RENDERERS

__all__ = ["BY_NAME", "KEYS", "OWN_GATES", "SIGNING_KEY_VARIABLE"]


# A secret: no option and no ini key, which would be seen by others.
SIGNING_KEY_VARIABLE: Final = "FTGUARD_SIGNING_KEY"


def _path(value: Any, origin: Origin) -> str:
    path = str(origin.folder / text_of(value, origin))
    if problem := name_problem(path):
        raise ValueError(problem)
    return path


def _output(value: Any, origin: Origin) -> str:
    path = _path(value, origin)
    if Path(path).is_dir():
        raise ValueError("it is a folder: give a file name")
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is no regular file, which could be replaced: give a file name")
    parent = Path(path).parent
    if not parent.exists():
        raise ValueError(f"there is no folder {str(parent)!r}: create it, or choose a folder that exists")
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ValueError(f"nothing can be written to {parent}")
    return path


def _reports(value: Any, origin: Origin) -> tuple[tuple[str, str], ...]:
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
    return tuple((renderer, _output(path, origin)) for renderer, path in pairs)


def _adapter_config(value: Any, origin: Origin) -> str:
    path = _path(value, origin)
    if not Path(path).exists():
        raise ValueError("there is no such folder or file: give what save_pretrained of peft wrote")
    return path


def _folder(value: Any, origin: Origin) -> str:
    path = Path(_path(value, origin))
    if path.exists() and not path.is_dir():
        raise ValueError("it is a file, and a folder is meant")
    return str(path)


def _cache_size(value: Any, origin: Origin) -> int:
    from pytest_ftguard.units import parse_bytes

    try:
        return parse_bytes(str(value))
    except ValueError as error:
        message = f'{error}; for no store set no_cache, and for one without a limit a large size such as "1000 TB"'
        raise ValueError(message) from None


def _model(value: Any, origin: Origin) -> str:
    folder = Path(_path(value, origin))
    return str(folder) if folder.is_dir() else text_of(value, origin)


def _whole(value: Any, origin: Origin) -> int:
    try:
        if isinstance(value, str | int) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass  # one message for every way of being wrong, below
    better = f", written as {value:.0f}" if isinstance(value, float) and value.is_integer() else ""
    raise ValueError(f"it must be a whole number{better}")


def _calibration_seeds(value: Any, origin: Origin) -> int:
    number = _whole(value, origin)
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


def _seeds(value: Any, origin: Origin) -> tuple[int, ...] | str:
    try:
        items = _items(value)
    except TypeError:
        raise TypeError("each seed must be a whole number") from None
    if any(".." in item for item in items):
        return ", ".join(items)  # a range, which the workload reads
    return tuple(_whole(item, origin) for item in items)


def _targets(value: Any, origin: Origin) -> str | tuple[str, ...]:
    # A comma or line separates suffixes; a text with any other sign of a regular expression is one.
    if isinstance(value, str) and re.search(r"[\\^$*+?()\[\]|{}]", value):
        return value.strip()
    names = tuple(_items(value))
    return names[0] if names == ("all-linear",) else names


def _assignments(value: Any, origin: Origin) -> dict[str, Any]:
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


def _literal(text: str) -> Any:
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text  # a plain word, as in optim=adamw_torch


def _flag(value: Any, origin: Origin) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    text = str(value).strip().lower()
    if text not in words:
        raise ValueError("it must be true or false")
    return words[text]


def _duration(value: Any, origin: Origin) -> float:
    from pytest_ftguard.units import parse_duration

    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError('it must be a time, for example "30 s"')
    return parse_duration(f"{value:f}" if isinstance(value, float) else str(value))


def _update(value: Any, origin: Origin) -> bool:
    wanted = _flag(value, origin)
    if wanted and (origin.kind == "ini" or origin.name.startswith("-o ")):  # addopts may hold an -o
        raise ValueError("a run that always accepts never fails; give it on the command line, as --ftguard-update")
    return wanted


def _modules(value: Any, origin: Origin) -> tuple[str, ...]:
    names = _items(value)
    if not all(part.isidentifier() for name in names for part in name.split(".")):
        raise ValueError("each must be the name of a module, for example my_package.gates")
    return tuple(names)


OWN_GATES: Final = Key("gates", _modules, "modules that add gates of your own, for example my_package.gates")
"""What is read before all others, because the keys of these gates are settings too."""

_TRAINING: Final = (
    Key("model", _model, "hub id or folder of the base model"),
    Key("revision", text_of, "revision of the model on the hub"),
    Key("tokenizer", _model, "hub id or folder of the tokenizer, if it is not the model's own"),
    Key("train", _path, "training text: a text file, or JSON lines with a 'text' field"),
    Key("validation", _path, "validation text, in the same formats"),
    Key("reference", _path, "general text whose loss is measured and reported too"),
    Key("task", text_of, "what the model is trained for: causal-lm, or module:Class of a task of yours"),
    Key("block_size", _whole, "tokens in a sequence (128)"),
    Key("batch_size", _whole, "sequences in a batch (4)"),
    Key("steps", _whole, "optimizer steps (500)"),
    Key("seeds", _seeds, "seeds, one trial of each variant per seed (0, 1, 2); '3..8': more in doubt"),
    Key("precision", text_of, "auto, fp32 or bf16"),
    Key("final", _flag, "the steps are those of production", flag=True),
    Key("validation_sequences", _whole, "largest number of validation sequences (256)"),
    Key("model_args", _assignments, "lines of name=value for from_pretrained, for example gguf_file"),
    Key("training_args", _assignments, "lines of name=value for TrainingArguments"),
    Key("training_function", text_of, "module:function that trains in the Trainer's place"),
    Key("full_learning_rate", number_of, "learning rate of full fine-tuning (5e-5)"),
    Key(
        "full_search_learning_rate",
        _flag,
        "search full's learning rate around that one, with short trials",
        flag=True,
    ),
    Key("lora_r", _whole, "rank of the adapters (16)"),
    Key("lora_alpha", number_of, "numerator of the adapters' scale (32)"),
    Key("lora_dropout", number_of, "dropout before the adapters (0)"),
    Key("lora_target_modules", _targets, "all-linear, suffixes, or a regular expression"),
    Key(
        "adapter_config",
        _adapter_config,
        "folder or file of peft's (adapter_config.json): the candidate, in LoRA's place",
    ),
    Key("lora_learning_rate", number_of, "learning rate of LoRA (ten times that of full fine-tuning)"),
    Key(
        "lora_search_learning_rate",
        _flag,
        "search LoRA's learning rate around that one, with short trials",
        flag=True,
    ),
)
_RUN: Final = (
    OWN_GATES,
    Key("device", text_of, "auto, cpu, cuda, ..."),
    Key("require_gpu", _flag, "fail where there is no accelerator", flag=True),
    Key("executor", text_of, "who starts a trial's process: local, or module:function of your own (local)"),
    Key("timeout", _duration, "time that one trial may take: '30 min'; a number alone is seconds (no limit)"),
    Key(
        "keep_models",
        choice_of("auto", "yes", "no"),
        "keep trained weights for load() until the run ends (auto: up to 2 GB)",
    ),
    Key("calibration", _output, "file of the calibrated noise of seeds"),
    Key("calibrate", _calibration_seeds, "train so many seeds, 10 or more, and write their noise to the calibration"),
    Key("baseline_dir", _path, "folder of the accepted results (ftguard_baselines)"),
    Key("update", _update, "accept what the tests with assert_no_regression measure, and write it", flag=True),
    Key("update_in_ci", _flag, "let --ftguard-update accept also where the variable CI is set", flag=True),
    Key("plan", _flag, "train nothing: list the trials with the forecast of their memory", flag=True),
    Key(
        "forecast",
        choice_of("yes", "no"),
        "yes: a training that cannot fit, or must break max_memory, fails before it starts (yes)",
    ),
    Key("cache_dir", _folder, "folder of stored results (.ftguard_cache beside the ini file)"),
    Key("no_cache", _flag, "neither look results up nor store them", flag=True),
    Key("cache_size", _cache_size, "size beyond which what was long not used is removed ('1 GB'); 0 is an error"),
    Key("protected", _flag, "believe nothing that is stored, for where others may have written it", flag=True),
    Key("require_signed", _flag, f"believe only results signed with the key in {SIGNING_KEY_VARIABLE}", flag=True),
    Key("disable", _flag, "train nothing and skip the tests that would", flag=True),
    *(Key(row.name, _output, row.help) for row in RENDERERS.values()),
    Key("reports", _reports, "lines of renderer=path; a renderer is a name, or module:function of yours"),
    Key("github", choice_of("auto", "off"), "append the summary to GITHUB_STEP_SUMMARY: auto (if it is set) or off"),
)


# The last is the first that is gone through.
BY_NAME: Final = ChainMap({key.name: key for key in _RUN}, MARKER_KEYS, {key.name: key for key in _TRAINING})
"""Every setting by name, also those of gates that were added since."""
KEYS: Final = BY_NAME.values()
"""The same in order: what is trained, the limits and rules, and the run."""
