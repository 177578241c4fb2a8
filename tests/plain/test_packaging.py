"""What is published: the package's page on PyPI, and the source distribution."""

from __future__ import annotations

import re
import tarfile
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = f"{PROJECT['urls']['Homepage']}/blob/main/"
RAW = f"{PROJECT['urls']['Homepage'].replace('github.com', 'raw.githubusercontent.com')}/main/"


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_the_readme_links_absolutely() -> None:
    """PyPI shows the README without the repository around it, so each link in it is a whole address."""
    found = links((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found
    assert [link for link in found if not link.startswith("https://")] == []


def test_links_to_the_project_lead_to_files() -> None:
    """Each link of the README into the project names a file that exists, the picture too."""
    found = links((ROOT / "README.md").read_text(encoding="utf-8"))
    inside = [link.removeprefix(FILES).removeprefix(RAW) for link in found if link.startswith((FILES, RAW))]
    assert "docs/summary.svg" in inside
    assert [path for path in inside if not (ROOT / path.partition("#")[0]).is_file()] == []


def test_the_readme_is_short() -> None:
    """A stranger reads it in a few minutes; whatever is longer belongs into docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a source distribution, without the folder that holds them all."""
    (artifact,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("sdist")))
    with tarfile.open(artifact) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


@pytest.mark.parametrize("folder", ["src", "tests", "docs", "examples", "benchmarks"])
def test_the_source_distribution_holds_every_file(folder: str, packed: set[str]) -> None:
    """Whoever has the source distribution can build, test and read everything."""
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md", ".ini", ".svg"}
    }
    assert files - packed == set()


def test_the_source_distribution_holds_what_the_tests_are_run_with(packed: set[str]) -> None:
    """Both files of constraints, tox's settings, changelog and schema are in it; what a run has stored is not."""
    assert {"constraints.txt", "constraints-lowest.txt", "tox.ini", "CHANGELOG.md", "LICENSE", "README.md"} <= packed
    assert "docs/reference/report.schema.json" in packed
    assert not [name for name in packed if ".ftguard_cache" in name]
