"""A learning rate is searched where that is asked for, and the run says what it tried and chose."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.torch

TEST = """
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant, at_most=3)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_search_finds_a_better_rate_and_says_so(project: pytest.Pytester, workers: int) -> None:
    """A first guess a hundred times too low is left behind; LoRA's default follows the rate that was found."""
    project.makepyfile(TEST)
    options = ["-n", str(workers)] if workers else []
    result = project.runpytest_inprocess(
        "--ftguard-full-search-learning-rate=yes",
        "--ftguard-full-learning-rate=1e-5",
        "--ftguard-json=r.json",
        *options,
    )
    result.assert_outcomes(passed=1)
    trials = json.loads((project.path / "r.json").read_text())["trials"]
    tried = {trial["settings"]["learning_rate"]: trial for trial in trials if trial["purpose"] == "search"}
    assert len(tried) == 5
    assert {trial["workload"]["steps"] for trial in tried.values()} == {10}
    best = min(tried, key=lambda rate: tried[rate]["validation"]["loss"])
    assert best > 5e-5
    full, lora = (trial for trial in trials if trial["purpose"] == "gates")
    assert full["settings"]["learning_rate"] == best
    assert lora["settings"]["learning_rate"] == pytest.approx(10 * best)
    assert full["validation"]["digest"] != tried[best]["validation"]["digest"]
    result.stdout.fnmatch_lines(
        [f"learning rates: full {best:g}, *", "searched for full, on sequences that no gate uses, *"]
    )


def test_a_text_without_sequences_to_spare_is_one_clear_error(project: pytest.Pytester) -> None:
    """Nothing is searched on the sequences that decide."""
    project.makepyfile(TEST)
    result = project.runpytest_inprocess(
        "--ftguard-lora-search-learning-rate=yes", "--ftguard-validation-sequences=9999"
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*a search for a learning rate needs 32 others, and 0 are left; give a longer text*"])
