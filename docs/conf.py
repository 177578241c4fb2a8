"""Settings of Sphinx, which builds these pages: `tox -e docs`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE / "reference")]

from generate import fill  # noqa: E402 - needs the line above

from pytest_ftguard import __version__  # noqa: E402

project = "pytest-ftguard"
author = "The pytest-ftguard developers"
copyright = author  # noqa: A001 - Sphinx's name
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"pytest-ftguard {release}"
html_extra_path = ["reference/report.schema.json"]

# Only the callback's base class comes from these, and they take a gigabyte: nobody needs them to build the pages.
_LARGE = ("accelerate", "peft", "safetensors", "tokenizers", "torch", "transformers")
autodoc_mock_imports = [name for name in _LARGE if find_spec(name) is None]
autodoc_class_signature = "separated"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Without it, "The verdict: PASS, or ..." is taken for a type.
napoleon_use_rtype = False

nitpicky = True
# Types of other packages, whose pages are not read here, and names inside the package that have no entry of their own.
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|os|pathlib|numpy|peft|torch|transformers|pytest)\..*"),
    (r"py:.*", r"pytest_ftguard\.\w+\..*"),
    (r"py:class", r"Bias|Loaded|Precision|Purpose|Variant"),
]


def setup(app: Sphinx) -> None:
    """Fill the tables in when a page is read."""

    def fill_page(app: Sphinx, name: str, text: list[str]) -> None:
        text[0] = fill(text[0])

    app.connect("source-read", fill_page)
