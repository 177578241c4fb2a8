"""The model as it ships is evaluated in a process of its own, once, and the verdict goes where all verdicts go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.plain.builders import unwrapped

pytestmark = pytest.mark.torch

GATES = """
from pytest_ftguard import assert_merge_drift

def test_lora(lora_variant):
    assert_merge_drift(lora_variant, at_most=0.01)

def test_full(full_variant):
    assert_merge_drift(full_variant)
"""
FORMS = ("saved and reloaded", "merged, saved in fp32 and reloaded", "merged, saved in bf16 and reloaded")
JSON, LIMIT = "--ftguard-json=r.json", "--ftguard-max-merge-drift=0.01"


@pytest.fixture
def gates(project: pytest.Pytester) -> pytest.Pytester:
    """The project, with a gate on each variant."""
    project.makepyfile(GATES)
    return project


def report(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "r.json").read_text())["verdicts"]
    return sorted(found, key=lambda verdict: str(verdict["candidate"]))


def stored(folder: Path) -> dict[str, int]:
    """The files of measured forms, by their time of writing."""
    return {path.name: path.stat().st_ino for path in (folder / ".ftguard_cache" / "forms").iterdir()}


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_each_form_is_in_the_report_and_a_second_run_evaluates_nothing(
    gates: pytest.Pytester, workers: list[str]
) -> None:
    """The figures are the same to the last digit, as nothing but the store is read."""
    gates.runpytest_inprocess(JSON, LIMIT, "--junitxml=j.xml", *workers).assert_outcomes(passed=2)
    first, files = report(gates.path), stored(gates.path)
    assert [one["status"] for one in first] == ["PASS", "PASS"]
    assert [one["candidate"] for one in first] == ["full", "lora r=4"]
    assert [one["limit_source"] for one in first] == ["command line", "argument"]
    assert all(form in first[1]["note"] and form in first[1]["message"] for form in FORMS)
    assert "saved in bf16 and reloaded" in first[0]["note"]
    assert len(files) == 2
    properties = {item.attrib["name"]: item.attrib["value"] for item in ET.parse(gates.path / "j.xml").iter("property")}
    assert properties["ftguard.merge_drift.status"] == "PASS"
    assert properties["ftguard.merge_drift.unit"] == "nats per token"
    again = gates.runpytest_inprocess(JSON, LIMIT, *workers)
    again.assert_outcomes(passed=2)
    again.stdout.fnmatch_lines(["lora r=4 (cached) *"])
    assert report(gates.path) == first
    assert stored(gates.path) == files


def test_without_a_store_the_weights_of_the_run_are_evaluated(gates: pytest.Pytester) -> None:
    """Two tests of one variant share what was measured; nothing is written next to the tests."""
    gates.runpytest_inprocess(JSON, LIMIT, "--ftguard-no-cache").assert_outcomes(passed=2)
    assert not (gates.path / ".ftguard_cache").exists()


def test_a_limit_below_the_drift_fails_with_the_worst_form(gates: pytest.Pytester) -> None:
    """As the first line of the failure, with the limit from the ini file."""
    gates.makepyfile(
        """
        from pytest_ftguard import assert_merge_drift

        def test_full(full_variant):
            assert_merge_drift(full_variant)
        """
    )
    ini = gates.path / "tox.ini"
    ini.write_text(ini.read_text() + "\nftguard_max_merge_drift = 0.0001\n")
    result = gates.runpytest_inprocess(JSON)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*merge drift FAIL: *nats per token, limit 0.0001 (*): full"])
    (verdict,) = report(gates.path)
    assert verdict["status"] == "FAIL"
    assert verdict["interval"][0] > 0.0001
    assert "The worst form is full saved in bf16 and reloaded." in verdict["message"]


def test_a_plan_trains_and_evaluates_nothing(gates: pytest.Pytester) -> None:
    """The tests are skipped, because nothing is decided."""
    plan = gates.runpytest_inprocess("--ftguard-plan", LIMIT)
    plan.assert_outcomes(skipped=2)
    plan.stdout.fnmatch_lines(["plan: 2 trials to train, 0 cached; nothing was trained"])
    assert not (gates.path / ".ftguard_cache" / "forms").exists()
    gates.runpytest_inprocess(LIMIT)
    files = stored(gates.path)
    gates.runpytest_inprocess("--ftguard-plan", LIMIT).assert_outcomes(skipped=2)
    assert stored(gates.path) == files


def test_a_result_of_another_run_has_no_weights(gates: pytest.Pytester) -> None:
    """The verdict is INVALID and says where to call the helper."""
    gates.runpytest_inprocess(JSON, LIMIT)
    gates.makepyfile(
        """
        from pytest_ftguard import assert_merge_drift, read_report

        def test_read():
            for variant in read_report("r.json"):
                assert_merge_drift(variant, at_most=0.01)
        """
    )
    result = gates.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    lines = unwrapped(result)
    lines.fnmatch_lines(["*merge drift INVALID: no form of full was evaluated, limit 0.01 (the argument at_most)"])
    lines.fnmatch_lines(["*What to do: call assert_merge_drift in the run that trains the variant."])


def test_weights_that_were_not_kept_are_named(gates: pytest.Pytester) -> None:
    """With the setting that keeps them, and the run after that passes."""
    options = [LIMIT, "--ftguard-no-cache"]
    result = gates.runpytest_inprocess("--ftguard-keep-models=no", *options)
    result.assert_outcomes(failed=2)
    unwrapped(result).fnmatch_lines(["*were not kept: *pass --ftguard-keep-models=yes*"])
    gates.runpytest_inprocess("--ftguard-keep-models=yes", *options).assert_outcomes(passed=2)


def test_an_export_of_the_projects_own_is_called_in_the_trials_process(gates: pytest.Pytester) -> None:
    """It is found as other code of the tests; one that is misspelt is an error that names it."""
    gates.makepyfile(
        shipping="""
        import os
        from pathlib import Path
        from transformers import AutoModelForCausalLM

        def export(folder):
            Path(__file__).with_name("process.txt").write_text(str(os.getpid()))
            assert (folder / "config.json").is_file()
            return AutoModelForCausalLM.from_pretrained(folder)
        """,
        test_own="""
        import os
        from pathlib import Path
        import pytest
        from pytest_ftguard import ConfigurationError, assert_merge_drift

        def test_export(lora_variant):
            verdict = assert_merge_drift(lora_variant, at_most=0.01, deploy="shipping:export")
            assert "deployed by shipping:export" in verdict.message
            assert Path(__file__).with_name("process.txt").read_text() != str(os.getpid())

        def test_misspelt(lora_variant):
            with pytest.raises(ConfigurationError, match="deploy is 'shipping:exprot', which cannot be imported"):
                assert_merge_drift(lora_variant, at_most=0.01, deploy="shipping:exprot")
        """,
    )
    gates.runpytest_inprocess("test_own.py").assert_outcomes(passed=2)
    assert not (gates.path / ".ftguard_cache" / "forms").exists()
