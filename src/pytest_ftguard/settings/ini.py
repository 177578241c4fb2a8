"""What the ini file and `-o` set, in the types that the file has: those of TOML are not turned into text and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_ftguard.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

__all__ = ["early_value", "ini_overrides", "ini_values"]


def early_value(config: pytest.Config, name: str) -> Any:
    """Return what the ini file or `-o` sets, before pytest has parsed its options; None if neither does.

    It takes the types that pytest makes of those of a TOML file.
    """
    overrides = _overrides(config.known_args_namespace.override_ini)
    from_file = config._inicfg if hasattr(config, "_inicfg") else config.inicfg
    return overrides[name] if name in overrides else _value(config, name, ()) if name in from_file else None


def ini_values(config: pytest.Config, prefix: str) -> dict[str, Any]:
    """Return the keys of the ini file and of `-o` that start with a prefix, each with its value.

    Raises:
        ConfigurationError: pytest does not read the table in which the keys are.
    """
    # pytest has no public list of the keys; the private one was renamed in pytest 9.
    from_file = config._inicfg if hasattr(config, "_inicfg") else config.inicfg
    overrides = ini_overrides(config)
    names = [name for name in {**from_file, **overrides} if _is_meant(name, prefix)]
    path = config.inipath
    written = _toml_tables(path) if path is not None and path.suffix == ".toml" and _mentions(path, prefix) else []
    _refuse_unread(written, names, prefix, path)
    return {name: overrides[name] if name in overrides else _value(config, name, written) for name in names}


def ini_overrides(config: pytest.Config) -> dict[str, str]:
    """Return what `-o` sets, on the command line, in PYTEST_ADDOPTS or in addopts, by key."""
    return _overrides(config.getoption("override_ini"))


def _overrides(texts: Iterable[str] | None) -> dict[str, str]:
    return dict(_assignment(text) for text in texts or ())


def _is_meant(name: str, prefix: str) -> bool:
    """Return whether a key was meant for us, even if it has dashes or capitals as options and variables do."""
    return name.lower().replace("-", "_").startswith(prefix)


def _assignment(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value


def _mentions(path: Path, prefix: str) -> bool:
    return prefix.encode() in path.read_bytes()


def _value(config: pytest.Config, name: str, tables: Iterable[Mapping[str, Any]]) -> Any:
    for table in tables:
        if name in table:
            return table[name]
    return config._inicfg[name].value if hasattr(config, "_inicfg") else config.inicfg[name]


def _toml_tables(path: Path) -> list[Mapping[str, Any]]:
    """Return the tables of a TOML file in which pytest looks for its settings."""
    import tomllib

    content = tomllib.loads(path.read_text(encoding="utf-8"))
    tool = content.get("tool", {}).get("pytest", {})
    return [tool.get("ini_options", {}), tool, content.get("pytest", {})]


def _refuse_unread(tables: Iterable[Mapping[str, Any]], names: Iterable[str], prefix: str, path: Path | None) -> None:
    """Raise the error of keys that are in the file, but in a table that this version of pytest passes over."""
    read = set(names)
    unread = next((name for table in tables for name in table if name.startswith(prefix) and name not in read), None)
    if unread is not None and path is not None:
        import pytest

        message = (
            f"pytest {pytest.__version__} does not read the table of {path.name} that sets {unread}: write "
            "[tool.pytest.ini_options] in pyproject.toml, or use pytest 9, which reads [tool.pytest]"
        )
        raise ConfigurationError(message)
