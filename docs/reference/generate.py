"""The tables of the reference, made from the code: a new setting, gate or public name appears by itself.

`conf.py` calls `fill` for every page. A page has a place for each table, with a line for those who read its source:

    <!-- generated: settings -->
    The table is made when the pages are built.
    <!-- end -->

`python docs/reference/generate.py` writes the table of options that the plugin loads at the start of every pytest run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final

import pytest_ftguard
from pytest_ftguard import errors, specs
from pytest_ftguard.gates.catalogue import GATES, MARKER_KEYS, argument_of
from pytest_ftguard.gates.setting import Key
from pytest_ftguard.settings.keys import GROUPS
from pytest_ftguard.specs import Full, LoRA, Workload

__all__ = ["GENERATED", "OPTIONS", "SCHEMA", "fill", "options_module"]

OPTIONS: Final = Path(__file__).parents[2] / "src" / "pytest_ftguard" / "plugin" / "options.py"

SCHEMA: Final = Path(__file__).with_name("report.schema.json")
_PLACE: Final = re.compile(r"^<!-- generated: (\w+) -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
_SPECS: Final[Mapping[str, type]] = {"": Workload, "full_": Full, "lora_": LoRA}


def fill(page: str) -> str:
    """Return a page with its tables in their places.

    Args:
        page: The text of the page.

    Raises:
        KeyError: The page asks for a table that nobody makes.
    """
    return _PLACE.sub(lambda match: GENERATED[match[1]](), page)


def _settings() -> str:
    """Return a table of settings for each group."""
    blocks = []
    for name, keys in GROUPS.items():
        rows = [
            (f"`{key.name}`", f"`{key.option}{'' if key.flag else '=...'}`", _default(key), _help(key))
            for key in keys.values()
        ]
        blocks.append(f"## {name}\n\n{_table(('Key', 'Option', 'Default', 'Meaning'), rows)}")
    return "\n\n".join(blocks)


def _default(key: Key) -> str:
    """Return the default of a setting that fills a field of a spec, and nothing for the others."""
    if key.flag:
        return "no"
    for prefix, spec in _SPECS.items():
        found = [item for item in fields(spec) if key.name == f"{prefix}{item.name}"]
        if found and found[0].default not in (MISSING, None, ""):
            return f"`{_text(found[0].default)}`"
    return ""


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _help(key: Key) -> str:
    return key.help.replace("%%", "%")


def _gates() -> str:
    """Return the table of gates."""
    rows = [
        (
            row.title,
            f"{{py:func}}`{row.helper[0]} <pytest_ftguard.{row.helper[0]}>`",
            f"`{argument_of(row.limit.name)}`",
            f"`{row.limit.name}`",
            _help(row.limit),
            f"`{row.name}`",
        )
        for row in GATES.values()
    ]
    return _table(("Gate", "Helper", "Argument", "Key and marker", "The limit", "Name in JSON"), rows)


def _marker() -> str:
    """Return the table of what the marker takes."""
    return _table(("Keyword", "Meaning"), [(f"`{key.name}`", _help(key)) for key in MARKER_KEYS.values()])


def _report() -> str:
    """Return a table for each part of the JSON report."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = {
        "The file": schema,
        **{name.replace("_", " ").capitalize(): part for name, part in schema["$defs"].items()},
    }
    blocks = []
    for title, part in parts.items():
        rows = [(f"`{name}`", _type(item), item["description"]) for name, item in part["properties"].items()]
        blocks.append(f"## {title}\n\n{part['description']}\n\n{_table(('Name', 'Type', 'Meaning'), rows)}")
    return "\n\n".join(blocks)


def _type(item: Mapping[str, Any]) -> str:
    if "anyOf" in item:
        return " or ".join(_type(one) for one in item["anyOf"])
    if "$ref" in item:
        name = item["$ref"].rpartition("/")[2].replace("_", " ")
        return f"[{name}](#{name.replace(' ', '-')})"
    types = item["type"] if isinstance(item["type"], list) else [item["type"]]
    inner = f" of {_type(item['items'])}" if "items" in item else ""
    return " or ".join(f"{one}{inner if one == 'array' else ''}" for one in types)


def _python() -> str:
    """Return what autodoc needs to show every public name, in groups; nothing heavy is imported for it."""
    names = pytest_ftguard.__all__
    results = {"Ftguard", "TrainedVariant", "Trial", "Verdict"}
    groups: dict[str, list[str]] = {
        "Workload and variants": [name for name in names if name in specs.__all__ and name not in results],
        "Assertion helpers": [name for name in names if name.startswith("assert_")],
        "What fixtures and helpers give": [name for name in names if name in results],
        "Errors and warnings": [name for name in names if name in errors.__all__],
    }
    grouped = {name for group in groups.values() for name in group}
    groups["Results from elsewhere"] = [name for name in names if name not in grouped]
    return "\n\n".join(f"## {title}\n\n{_autodoc(group)}" for title, group in groups.items())


def _autodoc(names: Iterable[str]) -> str:
    lines = ["```{eval-rst}"]
    for name in names:
        is_class = name[0].isupper()
        lines.append(f".. {'autoclass' if is_class else 'autofunction'}:: pytest_ftguard.{name}")
        if is_class and name not in errors.__all__:
            lines.append("   :members:")
        lines.append("")
    return "\n".join([*lines, "```"])


def _table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = [*headers]
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "settings": _settings,
    "gates": _gates,
    "marker": _marker,
    "report": _report,
    "python": _python,
}


def _quoted(text: str) -> str:
    return repr(text) if '"' in text else f'"{text}"'


def options_module() -> str:
    """Return the module that declares options to pytest without importing what reads them."""
    groups = []
    for name, keys in GROUPS.items():
        rows = [f"        ({json.dumps(key.name)}, {key.flag}, {_quoted(key.help)})," for key in keys.values()]
        groups += [f"    {json.dumps(name)}: (", *rows, "    ),"]
    limits = [f"    {json.dumps(name)}," for name in MARKER_KEYS]
    return "\n".join(
        [
            '"""Every option, as plain values that load fast. Made by docs/reference/generate.py: do not edit."""',
            "",
            "# ruff: noqa: E501",
            "# fmt: off",
            "",
            "from __future__ import annotations",
            "",
            "from typing import Final",
            "",
            '__all__ = ["LIMITS_AND_RULES", "OPTIONS"]',
            "",
            "OPTIONS: Final = {",
            *groups,
            "}",
            '"""The name of each setting of a group, whether it is a flag, and what it means."""',
            "",
            "LIMITS_AND_RULES: Final = (",
            *limits,
            ")",
            '"""The settings that a marker takes."""',
            "",
        ]
    )


if __name__ == "__main__":
    OPTIONS.write_text(options_module(), encoding="utf-8")
