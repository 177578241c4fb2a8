"""A quantized LoRA is configured, planned, trained, shown and found again like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.plain.builders import unwrapped

pytestmark = pytest.mark.torch

TEST = """
from pytest_ftguard import LoRA, assert_loss_gap

def test_settings(full_variant, lora_variant):
    assert lora_variant.label == "lora r=4 nf4"
    assert_loss_gap(lora_variant, full_variant, at_most=3)

def test_next_to_full_precision(ftguard, full_variant, lora_variant):
    plain = ftguard.train(LoRA(r=4, learning_rate=1e-2))
    assert_loss_gap(lora_variant, plain, at_most=3)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_trained_shown_and_found_again(project: pytest.Pytester, workers: int) -> None:
    """Without and with xdist; what few bits cost alone stands below the table and in the report."""
    ini = (project.path / "tox.ini").read_text()
    (project.path / "tox.ini").write_text(f"{ini}\nftguard_lora_quantization = nf4\n")
    project.makepyfile(test_it=TEST)
    options = [
        "--ftguard-json=report.json",
        "--ftguard-lora-learning-rate=2e-3",
        *(["-n", str(workers)] if workers else []),
    ]
    planned = project.runpytest_inprocess(*options, "--ftguard-plan")
    planned.stdout.fnmatch_lines(["*lora r=4 nf4*"])
    assert "a model without its weights cannot be quantized" in unwrapped(planned).str()
    for cached in (False, True):
        result = project.runpytest_inprocess(*options)
        result.assert_outcomes(passed=2)
        assert "the base of lora r=4 nf4 is quantized, which alone changes its loss by" in unwrapped(result).str()
        trials = json.loads(Path("report.json").read_text())["trials"]
        assert {trial["cached"] for trial in trials} == {cached}
        gaps = {trial["label"]: trial["base_gap"] for trial in trials}
        assert gaps["lora r=4 nf4"] is not None
        assert gaps["full"] is gaps["lora r=4"] is None


def test_a_wrong_name_is_a_usage_error(project: pytest.Pytester) -> None:
    """It names the option, before anything runs."""
    project.makepyfile(test_it=TEST)
    result = project.runpytest_inprocess("--ftguard-lora-quantization=nf5")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*quantization must be one of nf4, fp4, int8*got 'nf5'*--ftguard-lora-quantization*"])
