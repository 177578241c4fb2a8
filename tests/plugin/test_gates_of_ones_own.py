"""A gate of a user's own package, that of docs/how-to/write-a-gate.md, works from its option to its verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tests.conftest import WITHIN
from tests.plain.builders import unwrapped

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "docs/how-to/write-a-gate.md").read_text(encoding="utf-8")
(GATE, USE) = re.findall(r"^```python\n(.*?)^```$", RECIPE, re.MULTILINE | re.DOTALL)
EXECUTOR = """
from dataclasses import replace

from tests.conftest import WITHIN
from tests.plain.builders import losses, trial
from tests.plain.executors import FakeExecutor

class Made(FakeExecutor):
    def __init__(self, options):
        super().__init__()

    def train(self, job):
        # On the last 16 of 64 sequences, which are the hardest, LoRA is 0.1 nats per token worse; elsewhere it is not.
        spec, base = job.spec, losses([30 + 0.1 * number for number in range(64)])
        full = [20 + 0.01 * (number % 7) for number in range(64)]
        nll = [loss + (spec.variant.kind == "lora" and number >= 48) for number, loss in enumerate(full)]
        return replace(trial(spec.variant, nll, seed=spec.seed, base_validation=base), spec=spec)
"""
INI = """[pytest]
addopts = --strict-config --strict-markers
ftguard_model = {model}
ftguard_train = t
ftguard_validation = v
ftguard_executor = made_up:Made
ftguard_seeds = 0, 1
ftguard_full_learning_rate = 1e-4
ftguard_lora_learning_rate = 1e-3
"""
TESTS = """
import pytest
from my_package.gates import assert_hard_gap

def test_ini(full_variant, lora_variant):
    assert assert_hard_gap(lora_variant, full_variant).status == "PASS"

@pytest.mark.ftguard(max_hard_gap=0.09)
def test_marker(full_variant, lora_variant):
    assert_hard_gap(lora_variant, full_variant)

@pytest.mark.ftguard(max_hard_gap=0.09)
def test_argument(full_variant, lora_variant):
    assert_hard_gap(lora_variant, full_variant, at_most=0.11)

def test_argument_fails(full_variant, lora_variant):
    assert_hard_gap(lora_variant, full_variant, at_most=0.09)

@pytest.mark.ftguard(gain_factor=50)
def test_without_power(full_variant, lora_variant):
    assert_hard_gap(lora_variant, full_variant)
"""
# What a conftest.py, a plugin and the ini file can name: a row without its helper, which takes no time to import.
LIGHT = """
from pytest_ftguard.gates.catalogue import GateRow, Key, add_gate, number_limit

for name in ("worst", "other"):
    key = Key(f"max_{name}", number_limit(name, "nats"), "50%% of it")
    add_gate(GateRow(name, name, key, ("assert_it", "light")))
"""
LOOK = """
from pytest_ftguard.plugin.run import RUN

def test_it(request):
    worst, other = (request.config.stash[RUN].session.settings.get(f"max_{name}") for name in ("worst", "other"))
    assert (worst.value.value, worst.origin.kind) == (0.5, "ini")
    assert (other.value.value, other.origin.kind) == (0.7, "command line")
"""
WORKERS = pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, gates_restored: None) -> pytest.Pytester:
    """A project with the recipe's gate, named in its ini file, and trainings that are made up."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}")
    monkeypatch.setenv("PYTEST_ADDOPTS", WITHIN)
    for name in ("m/config.json", "t", "v", "my_package/__init__.py"):
        (pytester.path / name).parent.mkdir(exist_ok=True)
        (pytester.path / name).write_text("{}")
    (pytester.path / "my_package/gates.py").write_text(GATE)
    pytester.makepyfile(made_up=EXECUTOR, test_it=TESTS)
    pytester.makeconftest("")
    write_ini(pytester, "ftguard_gates = my_package.gates", "ftguard_max_hard_gap = 0.11")
    return pytester


def write_ini(project: pytest.Pytester, *lines: str) -> None:
    """Write the ini file, with these lines at its end."""
    (project.path / "pytest.ini").write_text("\n".join([INI.format(model=project.path / "m"), *lines]))


@pytest.fixture
def light(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, gates_restored: None) -> pytest.Pytester:
    """A project in which nothing is trained, with a module light that adds two gates and that nothing names."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}")
    monkeypatch.setenv("PYTEST_ADDOPTS", WITHIN)
    pytester.makepyfile(light=LIGHT, test_it=LOOK)
    pytester.makeconftest("")
    write_ini(pytester, "ftguard_max_worst = 0.5")
    return pytester


def verdicts(project: pytest.Pytester) -> dict[str, tuple[str, float, str]]:
    """What the JSON report says of each test: status, limit and where that was set."""
    report = json.loads((project.path / "r.json").read_text())
    assert {(one["gate"], one["unit"]) for one in report["verdicts"]} == {("hard_gap", "nats per token")}
    assert all(one["value"] in (None, pytest.approx(0.1)) for one in report["verdicts"])
    return {
        one["nodeid"].partition("::")[2]: (one["status"], one["limit"], one["limit_source"])
        for one in report["verdicts"]
    }


@WORKERS
def test_it_works_like_one_of_ours(project: pytest.Pytester, workers: list[str]) -> None:
    """Limits of ini file, marker and argument, on both sides; summary, JSON, JUnit and Markdown know name and title."""
    result = project.runpytest("--ftguard-json=r.json", "--ftguard-markdown=s.md", "--junit-xml=j.xml", *workers)
    result.assert_outcomes(passed=2, failed=3)
    assert verdicts(project) == {
        "test_ini": ("PASS", 0.11, "ini"),
        "test_marker": ("FAIL", 0.09, "marker"),
        "test_argument": ("PASS", 0.11, "argument"),
        "test_argument_fails": ("FAIL", 0.09, "argument"),
        "test_without_power": ("INVALID", 0.11, "ini"),
    }
    rows = [line.split() for line in result.stdout.str().splitlines() if line.startswith("hard text ")]
    assert sorted(row[2:3] + row[-4:] for row in rows) == [
        ["+0.100", "<=", "0.09", "(argument)", "FAIL"],
        ["+0.100", "<=", "0.09", "(marker)", "FAIL"],
        ["+0.100", "<=", "0.11", "(argument)", "PASS"],
        ["+0.100", "<=", "0.11", "(ini)", "PASS"],
        ["-", "<=", "0.11", "(ini)", "INVALID"],
    ]
    unwrapped(result).fnmatch_lines(["*LimitExceeded: hard text FAIL: +0.1000 [[]*] nats per token, limit 0.09 (*"])
    cases = {case.get("name"): case for case in ET.parse(project.path / "j.xml").iter("testcase")}
    for name, (status, _, _) in verdicts(project).items():
        properties = {one.get("name"): one.get("value") for one in cases[name].iter("property")}
        assert properties["ftguard.hard_gap.status"] == status
    assert (project.path / "s.md").read_text().count("| hard text |") == 5


def test_its_option_and_its_variable_count(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """They decide in the usual order: the option before the environment, and both before the ini file."""
    project.makepyfile(test_it=USE)
    monkeypatch.setenv("FTGUARD_MAX_HARD_GAP", "0.09")
    project.runpytest("--ftguard-json=r.json").assert_outcomes(passed=1, failed=1)
    assert verdicts(project) == {
        "test_hard_text": ("FAIL", 0.09, "environment"),
        "test_with_a_marker": ("PASS", 0.1, "marker"),
    }
    project.runpytest("--ftguard-json=r.json", "--ftguard-max-hard-gap", "0.12").assert_outcomes(passed=2)
    assert verdicts(project)["test_hard_text"] == ("PASS", 0.12, "command line")


@WORKERS
@pytest.mark.parametrize("way", ["ini", "-o", "option", "variable", "conftest", "plugin"])
def test_each_way_of_naming_the_module_makes_its_keys_known(
    light: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, way: str, workers: list[str]
) -> None:
    """So its limits are read, from the ini file with strict configuration, and from the command line."""
    options = []
    match way:
        case "ini":
            write_ini(light, "ftguard_max_worst = 0.5", "ftguard_gates =", "    json", "    light")
        case "-o":
            options = ["-o", "ftguard_gates=json, light"]
        case "option":
            options = ["--ftguard-gates=light"]
        case "variable":
            monkeypatch.setenv("FTGUARD_GATES", "light")
        case "conftest":
            light.makeconftest("import light")
        case "plugin":
            monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}:{light.path}")
            options = ["-p", "light"]
    # A plugin that -p names is imported before a run within this process could find it.
    run = light.runpytest_subprocess if way == "plugin" else light.runpytest
    run("--ftguard-max-other=0.7", *options, *workers).assert_outcomes(passed=1)


def test_the_module_is_imported_too_if_conftest_names_the_plugin(
    light: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then pytest tells the plugin of its options later; a marker may set the limit all the same."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    (light.path / "pytest.ini").write_text("[pytest]\nftguard_gates = light")
    light.makeconftest('pytest_plugins = ["pytest_ftguard.plugin"]')
    light.makepyfile(test_it="import pytest\n\n@pytest.mark.ftguard(max_worst=1)\ndef test_it(): pass")
    light.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_toml_file_may_hold_a_list_of_modules(light: pytest.Pytester) -> None:
    """A list and a number, in the types of TOML."""
    (light.path / "pytest.ini").unlink()
    light.makepyprojecttoml('[tool.pytest.ini_options]\nftguard_gates = ["json", "light"]\nftguard_max_worst = "0.5"')
    light.runpytest("--strict-config", "--ftguard-max-other=0.7").assert_outcomes(passed=1)


def test_pytest_lists_the_names_of_a_gate(light: pytest.Pytester) -> None:
    """Among the options, the ini keys and the keywords of the marker; without the module none of them."""
    write_ini(light)
    for options, count in (([], 0), (["--ftguard-gates=light"], 2)):
        text = light.runpytest("--help", *options).stdout.str()
        assert (
            len(re.findall(r"^ +(?:--ftguard-max-worst=MAX_WORST|ftguard_max_worst \(string\):)", text, re.M)) == count
        )
        markers = light.runpytest("--markers", *options).stdout.str()
        assert "ftguard(max_loss_gap=None, " in markers
        assert ("max_worst=None" in markers) is bool(count)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "it cannot be imported: ModuleNotFoundError: No module named 'light'"),
        ("import sys; sys.exit(0)", "it cannot be imported: SystemExit: 0"),
        ("1 / 0", "it cannot be imported: ZeroDivisionError: division by zero"),
        ("import pytest; pytest.skip(allow_module_level=True)", "it cannot be imported: Skipped: "),
        (
            LIGHT.replace("GateRow(name,", "GateRow('loss_gap',"),
            "the gate 'loss_gap' of light.assert_it cannot be added: there is the gate 'loss_gap' of *already",
        ),
        (
            LIGHT.replace('f"max_{name}"', '"max_memory"'),
            "*light.assert_it cannot be added: the key max_memory (option --ftguard-max-memory) belongs to*",
        ),
        (
            LIGHT.replace("max_", ""),
            "*light.assert_it cannot be added: the key of its limit is 'worst', which must begin with max_*",
        ),
    ],
    ids=["missing", "exit", "error", "skip", "name", "key", "prefix"],
)
def test_a_wrong_module_ends_the_run(light: pytest.Pytester, source: str | None, words: str) -> None:
    """The one error names the module, where it was set, and what is wrong; no run without the gate looks green."""
    (light.path / "light.py").unlink()
    if source is not None:
        (light.path / "light.py").write_text(source)
    write_ini(light, "ftguard_gates = light")
    result = light.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    place = "ftguard: ftguard_gates names the module 'light' (set by ftguard_gates in pytest.ini), but"
    found = [line for line in result.stderr.lines if line.strip()]
    assert len(found) == 1
    result.stderr.fnmatch_lines([f"ERROR: {place} {words}"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ftguard-gates=a/b"], "gates is 'a/b' (set by the option --ftguard-gates): each must be the name of a mod"),
        (["--ftguard-gates="], "gates is empty (set by the option --ftguard-gates): give a value"),
        ([], "the key ftguard_max_worst in pytest.ini is unknown*known once ftguard_gates names the gate's module"),
    ],
)
def test_a_wrong_or_missing_name_is_an_error(light: pytest.Pytester, options: list[str], words: str) -> None:
    """A limit of a gate that nothing names is not ignored, and the message says what to set."""
    result = light.runpytest(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: ftguard: {words}*"])


def test_a_marker_of_a_gate_that_nothing_names_is_an_error(light: pytest.Pytester) -> None:
    """It is found at collection, and says what to set."""
    write_ini(light)
    light.makepyfile(test_it="import pytest\n\n@pytest.mark.ftguard(max_worst=1)\ndef test_it(): pass")
    result = light.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no keyword 'max_worst'*known once ftguard_gates names the gate's module*"])


def test_nothing_of_a_gate_is_imported_unless_it_is_named(light: pytest.Pytester) -> None:
    """A run without gates of one's own starts as before."""
    write_ini(light)
    light.makepyfile(
        test_it="import sys\n\ndef test_it():\n    assert not {'light', 'numpy', 'scipy'} & set(sys.modules)"
    )
    light.runpytest_subprocess().assert_outcomes(passed=1)
