"""Renderers of ours and of a user's own write their files, once, and only from the process that has all results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.plain.builders import unwrapped

GATES = """
import pytest
from pytest_ftguard import assert_loss_gap

def test_good_FAIL(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=5)

@pytest.mark.parametrize("name", ["a|b", "<script>", "%0A", "::error"])
def test_bad(full_variant, lora_variant, name):
    assert_loss_gap(lora_variant, full_variant, at_most=0.01)
"""
REPORT = """
from pytest_ftguard import Summary

def render(summary: Summary) -> str:
    rows = [row for block in summary.about("gates") for row in block.table.rows]
    tested = [f"{row.recorded.nodeid} {row.cells[-1]} {row.tone}" for row in rows]
    return "\\n".join([f"{len(summary.trials)} trials", *sorted(tested)])
"""
EXPECTED = """2 trials
test_it.py::test_bad[%0A] FAIL bad
test_it.py::test_bad[::error] FAIL bad
test_it.py::test_bad[<script>] FAIL bad
test_it.py::test_bad[a|b] FAIL bad
test_it.py::test_good_FAIL PASS good"""


@pytest.fixture
def gates(made_up: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a gate that passes and four that fail, a renderer of its own, and no step of GitHub Actions."""
    made_up.makepyfile(test_it=GATES, my_report=REPORT)
    made_up.mkdir("out")
    monkeypatch.setenv("FTGUARD_SEEDS", "0")
    monkeypatch.setenv("FTGUARD_GAIN_FACTOR", "0")
    monkeypatch.setenv("FTGUARD_FINAL", "true")
    return made_up


def on_path(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the project's modules be imported, as those of an installed package."""
    ours = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{ours}:{ours / 'src'}:{project.path}")


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_every_report_is_written_once_also_if_tests_fail(
    gates: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """JSON, Markdown, the step of GitHub Actions and a renderer from outside agree, by import path and by name."""
    on_path(gates, monkeypatch)
    step = gates.path / "step.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    package = gates.mkdir("dummy-1.0.dist-info")
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: dummy\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pytest_ftguard.renderers]\nmine = my_report:render\n")
    monkeypatch.setenv("FTGUARD_REPORTS", "my_report:render = out/mine.txt\nmine = out/named.txt")
    result = gates.runpytest_subprocess("--ftguard-json=out/r.json", "--ftguard-markdown=out/s.md", *options)
    result.assert_outcomes(passed=1, failed=4)
    assert (gates.path / "out/mine.txt").read_text() == EXPECTED
    assert (gates.path / "out/named.txt").read_text() == EXPECTED
    text = (gates.path / "out/s.md").read_text()
    assert text.startswith("## ftguard summary\n\n**5 verdicts: 4 FAIL, 1 PASS**\n")
    for name in ("`test_it.py::test_bad[a`&#124;`b]`", "`test_it.py::test_bad[<script>]`"):
        assert text.count(f"| **FAIL** | {name} |") == 1
    assert step.read_text() == f"before\n\n\n{text}"
    assert len(json.loads((gates.path / "out/r.json").read_text())["verdicts"]) == 5


def test_colours_follow_the_verdict_and_github_can_be_left_out(
    gates: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test named ..._FAIL that passes is not printed red; `ftguard_github = off` leaves the step's file alone."""
    step = gates.path / "step.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    result = gates.runpytest_subprocess("--color=yes", "-o", "ftguard_github=off")
    result.assert_outcomes(passed=1, failed=4)
    lines = result.stdout.str().partition("ftguard summary")[2].splitlines()
    assert next(line for line in lines if "test_good_FAIL" in line) == "    lora r=16 in test_it.py::test_good_FAIL"
    assert sum(line.startswith("\x1b[32mloss gap") and "PASS" in line for line in lines) == 1
    assert sum(line.startswith("\x1b[31mloss gap") and "FAIL" in line for line in lines) == 4
    assert not step.exists()


def test_nothing_is_written_if_nothing_was_trained(gates: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file with verdicts of an earlier run stays; only the JSON report is written even if it is empty."""
    on_path(gates, monkeypatch)
    gates.makepyfile(test_it="def test_nothing(): pass")
    step = gates.path / "step.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    (gates.path / "out/s.md").write_text("PASS")
    result = gates.runpytest_subprocess(
        "--ftguard-markdown=out/s.md", "--ftguard-json=out/r.json", "--ftguard-reports=my_report:render=out/mine.txt"
    )
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert not step.exists()
    assert [path.name for path in (gates.path / "out").iterdir()] == ["r.json"]
    assert json.loads((gates.path / "out/r.json").read_text())["verdicts"] == []


def test_what_cannot_be_written_fails_the_run_if_it_was_asked_for(
    gates: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of ours that is missing is a problem; the step of GitHub Actions, which nobody asked for, is a note."""
    gates.makepyfile(
        test_it="""
        import shutil
        from pytest_ftguard import assert_loss_gap

        def test_it(full_variant, lora_variant, request):
            assert_loss_gap(lora_variant, full_variant, at_most=5)
            if not request.config.getoption("ftguard_json"):
                shutil.rmtree("out")
                open("out", "w").close()
        """
    )
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(gates.path))
    noted = gates.runpytest_subprocess("--ftguard-json=out/r.json")
    assert noted.ret == 0
    unwrapped(noted).fnmatch_lines(["note: nothing was appended to GITHUB_STEP_SUMMARY (*): Is a directory. *"])
    failed = gates.runpytest_subprocess("--ftguard-markdown=out/s.md")
    assert failed.ret == 1
    failed.assert_outcomes(passed=1)
    unwrapped(failed).fnmatch_lines(
        ["loss gap*PASS", "ftguard: the file *s.md (set by the option --ftguard-markdown) was not written: *"]
    )


def test_a_renderer_that_fails_is_a_problem_and_the_summary_is_shown(
    gates: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is not green, because somebody relies on the file; other files are written."""
    on_path(gates, monkeypatch)
    gates.makepyfile(
        my_report="def nothing(summary): return None\ndef wrong(summary):\n    return {}['x']",
        test_it="""
        from pytest_ftguard import assert_loss_gap

        def test_it(full_variant, lora_variant):
            assert_loss_gap(lora_variant, full_variant, at_most=5)
        """,
    )
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(gates.path / "out/c.md"))  # which one renderer writes anyway
    reports = "my_report:nothing=out/a.txt\nmy_report:wrong=out/b.txt\nmarkdown=out/c.md"
    result = gates.runpytest_subprocess(f"--ftguard-reports={reports}")
    result.assert_outcomes(passed=1)
    assert result.ret == 1
    unwrapped(result).fnmatch_lines(
        [
            "loss gap*PASS",
            "ftguard: the file *a.txt (set by the option --ftguard-reports) was not written: the renderer "
            "'my_report:nothing' must return a text, and returned NoneType",
            "ftguard: the file *b.txt (set by *) was not written: KeyError: 'x' (*my_report.py:3)",
        ]
    )
    assert [path.name for path in (gates.path / "out").iterdir()] == ["c.md"]
    text = (gates.path / "out/c.md").read_text()
    assert text.count("- ftguard: the file") == 2
    assert text.count("## ftguard summary") == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            "nothing=out/a",
            "there is no renderer 'nothing': give one of json, markdown*(set by the option --ftguard-r*)",
        ),
        ("my_report:render=out/a\njson=out/a", "my_report:render (set by *) and json (set by *) would both write *"),
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(
    gates: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str, words: str
) -> None:
    """It is a usage error that says what was set and where."""
    on_path(gates, monkeypatch)
    result = gates.runpytest_subprocess(f"--ftguard-reports={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: ftguard: {words}"])
