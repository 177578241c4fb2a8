r"""The renderers, found by name: option, ini key and environment variable of the built-in ones follow from a row here.

Every pytest run imports this module, so the renderers themselves are imported when one is needed.

A renderer is a function that takes a `Summary` and returns the text of a file. One of yours needs no registration:

    # my_package/report.py
    from pytest_ftguard import Summary

    def render(summary: Summary) -> str:
        return "\n".join(row.cells[-1] for block in summary.about("gates") for row in block.table.rows)

    # pytest.ini
    [pytest]
    ftguard_reports = my_package.report:render = out/report.txt

A package that others install may give it a name, in an entry point of the group `pytest_ftguard.renderers`
(`text = "my_package.report:render"`); then `ftguard_reports = text = out/report.txt` does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.specs.importing import entry_points, imported

if TYPE_CHECKING:
    from pytest_ftguard.reporting.summary import Summary

    Renderer = Callable[[Summary], str]

__all__ = ["GROUP", "RENDERERS", "RendererRow", "find_renderer"]

GROUP: Final = "pytest_ftguard.renderers"


class RendererRow(NamedTuple):
    """A renderer of ours.

    Attributes:
        name: Its name, and that of the setting that holds the path of its file.
        help: What the file is, for `--help`.
        place: The function, as "module:function".
        writes_empty: Whether there is a file too if nothing was trained or decided.
    """

    name: str
    help: str
    place: str
    writes_empty: bool = False


_ROWS: Final = (
    RendererRow(
        "json",
        "file to write the trials and verdicts to, as JSON",
        "pytest_ftguard.reporting.json:render",
        writes_empty=True,
    ),
    RendererRow(
        "markdown",
        "file to write the summary to, in GitHub's Markdown",
        "pytest_ftguard.reporting.markdown:render",
    ),
)
RENDERERS: Final = {row.name: row for row in _ROWS}


def find_renderer(name: str) -> Renderer:
    """Return the renderer of a name, or the function that "module:function" names.

    Raises:
        ConfigurationError: There is none, or it cannot be imported.
    """
    if name in RENDERERS:
        return _load(name, RENDERERS[name].place)
    if ":" in name:
        return _load(name, name)
    found = entry_points(GROUP)
    if name in found:
        return _load(name, found[name])
    known = ", ".join(sorted({*RENDERERS, *found}))
    message = f"there is no renderer {name!r}: give one of {known}, or a function of yours as module:function"
    raise ConfigurationError(message)


def _load(name: str, place: str) -> Renderer:
    try:
        found = imported(place)
    except Exception as error:  # a user's module may raise anything while it is imported
        message = f"the renderer {name!r} cannot be imported: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
    if not callable(found):
        message = f"the renderer {name!r} is not a function: it is {found!r}"
        raise ConfigurationError(message)
    return cast("Renderer", found)
