"""The documentation follows the code: its generated tables, and the messages that it explains."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pytest_ftguard
from pytest_ftguard.gates.catalogue import GATES, MARKER_KEYS
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, Limit
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import RecordedVerdict, Verdict
from pytest_ftguard.reporting.json import json_report
from pytest_ftguard.results import About, Answers, Breakdown, CurveText, Memory, Scores, Start, TrialError, Updates
from pytest_ftguard.settings.keys import KEYS
from tests.plain.builders import FULL, LORA, losses, trial

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@cache
def generate() -> ModuleType:
    """The script that makes the tables, which is next to the pages."""
    spec = spec_from_file_location("ftguard_docs_generate", DOCS / "reference" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    text: str = generate().fill((DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8"))
    return text


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_each_setting_is_in_the_reference(key: Any) -> None:
    """A setting has a row with its option and its meaning, and appears there by itself."""
    rows = [line for line in page("settings").splitlines() if line.startswith(f"| `{key.name}` | `{key.option}")]
    assert len(rows) == 1
    assert key.help.replace("%%", "%").replace("|", "\\|") in rows[0]


def test_the_options_are_those_of_the_settings() -> None:
    """The table that pytest loads at its start follows the specs, the catalogue of gates and the renderers."""
    generator = generate()
    assert generator.OPTIONS.read_text(encoding="utf-8") == generator.options_module(), (
        "run python docs/reference/generate.py"
    )


@pytest.mark.parametrize("gate", GATES.values(), ids=lambda gate: gate.name)
def test_each_gate_is_in_the_reference(gate: Any) -> None:
    """A gate has a row with its helper, its key and its name in JSON, and each of the three is findable."""
    rows = [line for line in page("gates").splitlines() if line.startswith(f"| {gate.title} |")]
    assert len(rows) == 1
    assert all(f"`{name}`" in rows[0] for name in (gate.name, gate.limit.name))
    assert gate.helper[0] in rows[0]
    assert f"`{gate.helper[0]}(" in page("gates"), "give an example of its use in gates.md"


@pytest.mark.parametrize("name", MARKER_KEYS)
def test_each_keyword_of_the_marker_is_in_the_reference(name: str) -> None:
    """What a marker takes is listed with the gates."""
    assert f"\n| `{name}` |" in page("gates")


@pytest.mark.parametrize("name", pytest_ftguard.__all__)
def test_each_public_name_is_in_the_reference(name: str) -> None:
    """The page asks autodoc once for each name that the package gives."""
    assert len(re.findall(rf"^\.\. auto\w+:: pytest_ftguard\.{name}$", page("python"), re.MULTILINE)) == 1


def test_no_page_asks_for_a_table_that_nobody_makes() -> None:
    """Every place for a table is filled, and every table has a place."""
    pages = [path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")]
    asked = [name for text in pages for name in re.findall(r"<!-- generated: (\w+) -->", text)]
    assert sorted(asked) == sorted(generate().GENERATED)
    assert not [text for text in pages if "<!-- " in generate().fill(text)]


def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(generate().SCHEMA.read_text(encoding="utf-8"))
    return found


def problems(value: Any, rule: Mapping[str, Any], place: str = "report") -> Iterator[str]:
    """Yield each place with a value that breaks a rule of the JSON Schema; a name that the rule lacks counts too."""
    if "$ref" in rule:
        yield from problems(value, schema()["$defs"][rule["$ref"].rpartition("/")[2]], place)
    elif "anyOf" in rule:
        yield from min((list(problems(value, one, place)) for one in rule["anyOf"]), key=len)
    else:
        types = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
        if not any(_is_of(value, one) for one in types):
            yield f"{place} is {value!r}, and the schema says {rule['type']}"
        elif value not in rule.get("enum", [value]) or value != rule.get("const", value):
            yield f"{place} is {value!r}, which the schema does not list"
        elif isinstance(value, dict) and {"properties", "additionalProperties"} & rule.keys():
            yield from (f"{place} lacks {name!r}" for name in rule.get("required", ()) if name not in value)
            for name, item in value.items():
                known = rule.get("properties", {}).get(name, rule.get("additionalProperties"))
                yield from [f"{place} has {name!r}"] if known is None else problems(item, known, f"{place}.{name}")
        elif isinstance(value, list) and "items" in rule:
            for item in value:
                yield from problems(item, rule["items"], f"{place}[]")


def _is_of(value: Any, name: str) -> bool:
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if name in kinds:
        return isinstance(value, kinds[name])
    return isinstance(value, int if name == "integer" else int | float) and not isinstance(value, bool)


def report() -> dict[str, Any]:
    """A report in which every part is there once."""
    nll = [20.0] * 64
    breakdown = Breakdown(1, 1, 1, 1, "forward")
    memory = Memory(4, "live tensors", forecast_bytes=4, breakdown=breakdown, phases={"train": 4})
    complete = trial(
        LORA,
        nll,
        validation=losses(
            nll,
            answers=Answers((0, 1) * 32, (1,) * 64),
            scores=Scores({"exact_match": (1.0,) * 64}, 2.0),
            about=About(("1",) * 64, {"language": ("de",) * 64}),
        ),
        memory=memory,
        start=Start(0.1, 0.0),
        curve_of=CurveText("text", (10, 10), (0, 1), "text.txt", is_validation=True),
        reference=losses(nll),
        base_reference=losses(nll),
        notes=("resumed",),
        updates=Updates(adapters=2, weights=0),
    )
    failed = trial(FULL, nll, outcome="crashed", validation=None, memory=None, error=TrialError("it ended", "log"))
    better = replace(FULL, learning_rate=2e-5)
    verdict = Verdict(
        gate="loss_gap",
        status="FAIL",
        candidate="lora r=16",
        baseline="full",
        value=0.1,
        interval=(0.05, 0.15),
        limit=Limit(0.02, NATS_PER_TOKEN, Origin("ini", "ftguard_max_loss_gap in pytest.ini")),
        details=("The whole interval is beyond the limit.",),
    )
    whole = trial(better, [10.0] * 64, reference=losses(nll), base_reference=losses(nll))
    text = json_report([complete, failed, whole], [RecordedVerdict("test_it.py::test_it", verdict)])
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_schema_describes_the_report() -> None:
    """What --ftguard-json writes is what the JSON Schema says, name by name."""
    assert list(problems(report(), schema())) == []


def test_the_schema_knows_no_name_that_is_never_written() -> None:
    """A name that was removed from the report is not in the schema any more."""
    written = report()
    first = written["trials"][0]
    parts = {
        "trial": first,
        "parameters": first["parameters"],
        "updates": first["updates"],
        "losses": first["validation"],
        "answers": first["validation"]["answers"],
        "scores": first["validation"]["scores"],
        "about": first["validation"]["about"],
        "curve_point": first["curve"][0],
        "curve_text": first["curve_of"],
        "start": first["start"],
        "memory": first["memory"],
        "breakdown": first["memory"]["breakdown"],
        "time": first["time"],
        "environment": first["environment"],
        "error": written["trials"][1]["error"],
        "verdict": written["verdicts"][0],
        "lost_most": written["lost_most"][0],
        "lost_example": written["lost_most"][0]["examples"][0],
        "specialization": written["specialization"][0],
    }
    assert parts.keys() == schema()["$defs"].keys()
    assert {name: set(part) for name, part in parts.items()} == {
        name: set(part["properties"]) for name, part in schema()["$defs"].items()
    }


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 2}, "report.schema is 2, which the schema does not list"),
        ({"trials": None}, "report.trials is None, and the schema says array"),
        ({"new": 1}, "report has 'new'"),
        (
            {"trials": [{**report()["trials"][0], "scores": {"exact_match": "1"}}]},
            "report.trials[].scores.exact_match is '1', and the schema says ['number', 'null']",
        ),
        (
            {"trials": [{**report()["trials"][0], "slices": {"language": {"de": {"examples": 64}}}}]},
            "report.trials[].slices.language.de lacks 'loss'",
        ),
    ],
)
def test_a_report_of_another_shape_is_found(change: dict[str, Any], problem: str) -> None:
    """The check of the report would fail if the report changed and the schema did not."""
    assert list(problems({**report(), **change}, schema())) == [problem]


@cache
def texts_of_the_code() -> tuple[str, ...]:
    """Every text in the code, with three dots for what is filled in."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)


def explained() -> list[str]:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^### `(.+)`$", text, re.MULTILINE)


@pytest.mark.parametrize("message", explained())
def test_each_message_that_is_explained_exists(message: str) -> None:
    """A message can be found by searching the page: the page quotes what the code says."""
    wanted = message.removeprefix("note: ").strip(".")
    assert [text for text in texts_of_the_code() if wanted in text], (
        "the message has changed: update troubleshooting.md"
    )


def test_messages_are_explained() -> None:
    """The page has its messages where the test above looks for them."""
    assert len(explained()) >= 30


PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def snippets(language: str) -> list[str]:
    """Every fenced block of a language in README and documentation."""
    found = (
        re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S) for path in PAGES
    )
    return [block for blocks in found for block in blocks]


@pytest.mark.parametrize("snippet", snippets("python"))
def test_each_python_snippet_uses_public_names(snippet: str) -> None:
    """What a reader copies is Python, and imports only what the package gives."""
    imported = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.ImportFrom)]
    names = {name.name for node in imported if node.module == "pytest_ftguard" for name in node.names}
    assert names <= set(pytest_ftguard.__all__)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_name_of_a_setting_exists(path: Path) -> None:
    """Ini keys, options and environment variables are spelt as the plugin reads them."""
    text = path.read_text(encoding="utf-8")
    known = {name for key in KEYS for name in (key.ini, key.option, key.variable)}
    known |= {"ftguard_workload", "ftguard_full", "ftguard_lora", "ftguard_trial", "ftguard_noise", "ftguard_baselines"}
    known |= {"ftguard_max_hard_gap", "--ftguard-max-hard-gap", "FTGUARD_MAX_HARD_GAP"}  # of a gate of one's own
    known |= {"FTGUARD_SIGNING_KEY", "ftguard_some_name", "--ftguard-some-name", "FTGUARD_SOME_NAME"}
    found = re.findall(r"(?<![\w.])(?:ftguard_|FTGUARD_|--ftguard-)[a-zA-Z][\w-]*", text)
    assert {name.rstrip("-") for name in found} - known == set()


def test_snippets_are_found() -> None:
    """The two tests above look at something."""
    assert len(snippets("python")) >= 10
