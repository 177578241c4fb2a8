"""Every setting that users can make, and what it means: the fields of specs, limits and rules, and the run."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import MISSING, Field, fields
from inspect import getdoc
from typing import Any, Final

from pytest_ftguard.gates.catalogue import MARKER_KEYS
from pytest_ftguard.gates.setting import Key, Origin, choice_of, number_of, text_of
from pytest_ftguard.reporting.registry import RENDERERS
from pytest_ftguard.settings.parsers import (
    adapter_config_of,
    assignments_of,
    cache_size_of,
    calibration_seeds_of,
    data_of,
    duration_of,
    flag_of,
    folder_of,
    model_of,
    modules_of,
    names_of,
    output_of,
    path_of,
    quantization_of_setting,
    reports_of,
    seeds_of,
    targets_of,
    template_of,
    update_of,
    whole_of,
)
from pytest_ftguard.specs import Full, LoRA, Workload, rows_of
from pytest_ftguard.specs.values import Spec

__all__ = ["BY_NAME", "GROUPS", "KEYS", "OWN_GATES", "SIGNING_KEY_VARIABLE", "keys_of_fields", "required_fields"]

# A secret: no option and no ini key, which would be seen by others.
SIGNING_KEY_VARIABLE: Final = "FTGUARD_SIGNING_KEY"

OWN_GATES: Final = Key("gates", modules_of, "modules that add gates of your own, for example my_package.gates")
"""What is read before all others, because the keys of these gates are settings too."""

_PREFIXES: Final[Mapping[type[Spec], str]] = {Workload: "", Full: "full_", LoRA: "lora_"}
# Set by `seeds`, by our own short trials, or in a fixture only.
_NO_SETTINGS: Final = ("most_seeds", "purpose", "bias", "options")
_PLACES: Final = {"model": model_of, "text": data_of, "revision": text_of}
_TYPES: Final[Mapping[str, Callable[[Any, Origin], Any]]] = {
    "bool": flag_of,
    "bool | None": flag_of,
    "int": whole_of,
    "float": number_of,
    "float | None": number_of,
    "tuple[int, ...]": seeds_of,
    "tuple[str, ...]": names_of,
    "Mapping[str, Any]": assignments_of,
    "str | Sequence[str]": targets_of,
    "Quantization": quantization_of_setting,
    "Search | bool": choice_of("auto", "yes", "no"),
}
_PARSERS: Final[Mapping[str, Callable[[Any, Origin], Any]]] = {"chat_template": template_of}
# How a text is written that is no plain word or number.
_FORMS: Final = {
    seeds_of: "'3..8': up to 8 if in doubt",
    assignments_of: "one name=value a line",
    template_of: "the path of its file, or the template itself",
}


def keys_of_fields(kind: type[Spec]) -> dict[str, str]:
    """Return the name of the setting of each field that settings can fill, by the name of the field."""
    return {item.name: f"{_PREFIXES[kind]}{item.name}" for item in _fields(kind) if item.name not in _NO_SETTINGS}


def required_fields(kind: type[Spec]) -> list[str]:
    """Return the names of the fields that have no default."""
    return [item.name for item in _fields(kind) if item.default is MISSING and item.default_factory is MISSING]


def _fields(kind: type[Spec]) -> tuple[Field[Any], ...]:
    return fields(kind)  # type: ignore[arg-type]


def _keys(kind: type[Spec]) -> Iterator[Key]:
    """Yield the setting of each field: its type says how it is read, and the docstring what it means."""
    names, rows, meanings = keys_of_fields(kind), rows_of(kind), dict(_meanings(kind))
    for item in _fields(kind):
        if item.name in names:
            place, annotation = rows[item.name].place, str(item.type)
            parse = _PLACES[place] if place else _PARSERS.get(item.name) or _TYPES.get(annotation, text_of)
            meaning = _with_default(meanings.get(item.name, ""), item.default)
            if parse in _FORMS:
                meaning += f"; {_FORMS[parse]}"
            yield Key(names[item.name], parse, meaning.replace("%", "%%"), flag=annotation == "bool")


def _meanings(kind: type[Spec]) -> Iterator[tuple[str, str]]:
    """Yield the name of each field and what the docstring's list of attributes says first, and of None."""
    text = (getdoc(kind) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    for name, meaning in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text, re.MULTILINE):
        words = " ".join(meaning.split())
        default = re.search(r"[;.] None is ([^.]+)\.?$", words)
        first = re.split(r"[.;] ", words.removesuffix("."), maxsplit=1)[0]
        yield name, f"{first[0].lower()}{first[1:]}{f' ({default[1]})' if default else ''}"


def _with_default(meaning: str, default: object) -> str:
    if default is MISSING or default in (None, ()) or isinstance(default, bool):
        return meaning
    values = default if isinstance(default, tuple) else (default,)
    shown = ", ".join(f"{value:g}" if isinstance(value, float) else f"{value}" for value in values)
    return meaning if shown in meaning else f"{meaning} ({shown})"


_VARIANTS: Final = (
    *_keys(Full),
    *_keys(LoRA),
    Key(
        "adapter_config",
        adapter_config_of,
        "adapter_config.json of peft, or its folder: the candidate, in place of LoRA",
    ),
)
_RUN: Final = (
    OWN_GATES,
    Key("device", text_of, "device to train on: auto, cpu, cuda, ... (auto)"),
    Key("require_gpu", flag_of, "fail if there is no accelerator", flag=True),
    Key("executor", text_of, "what starts each trial's process: local, or module:function of your own (local)"),
    Key("timeout", duration_of, "longest time for one trial: '30 min'; a number alone is seconds (no limit)"),
    Key(
        "keep_models",
        choice_of("auto", "yes", "no"),
        "auto, yes or no: keep trained weights for load() until the run ends (auto: up to 2 GB)",
    ),
    Key(
        "calibration",
        output_of,
        "file with the calibrated noise of the seeds: read, or written with --ftguard-calibrate",
    ),
    Key(
        "calibrate",
        calibration_seeds_of,
        "number of seeds, 10 or more, to train so that their noise is written to the calibration file",
    ),
    Key("baseline_dir", path_of, "folder of the accepted results (ftguard_baselines)"),
    Key(
        "update",
        update_of,
        "accept what the tests with assert_no_regression measure, and write it to baseline_dir",
        flag=True,
    ),
    Key("update_in_ci", flag_of, "let --ftguard-update accept even if the variable CI is set", flag=True),
    Key("plan", flag_of, "train nothing: list the trials and forecast their memory", flag=True),
    Key(
        "forecast",
        choice_of("yes", "no"),
        "yes or no: refuse to start a training that cannot fit, or must exceed max_memory (yes)",
    ),
    Key("cache_dir", folder_of, "folder of stored results (.ftguard_cache next to the ini file)"),
    Key("no_cache", flag_of, "neither read nor write the store", flag=True),
    Key(
        "cache_size",
        cache_size_of,
        "largest size of the store ('1 GB'): results that were not used for longest go first; 0 is an error",
    ),
    Key("protected", flag_of, "ignore all stored results, because others may have written them", flag=True),
    Key("require_signed", flag_of, f"use only stored results signed with the key in {SIGNING_KEY_VARIABLE}", flag=True),
    Key("disable", flag_of, "train nothing and skip the tests that would", flag=True),
    *(Key(row.name, output_of, row.help) for row in RENDERERS.values()),
    Key(
        "reports",
        reports_of,
        "reports to write, one renderer=path a line; a renderer is a name, or module:function of your own",
    ),
    Key(
        "github", choice_of("auto", "off"), "auto or off: append the summary to GITHUB_STEP_SUMMARY if it is set (auto)"
    ),
)

GROUPS: Final[Mapping[str, MutableMapping[str, Key]]] = {
    "The workload": {key.name: key for key in _keys(Workload)},
    "The variants": {key.name: key for key in _VARIANTS},
    "Limits and rules": MARKER_KEYS,
    "The run": {key.name: key for key in _RUN},
}
"""Every setting by group and name, also those of gates that were added since."""
BY_NAME: Final = ChainMap(*reversed([*GROUPS.values()]))  # the last is the first that is gone through
"""Every setting by name."""
KEYS: Final = BY_NAME.values()
"""The same in order: what is trained, the limits and rules, and the run."""
