"""A smaller run of the proof: the shipped rule keeps its error rates at the margin, and the other rules do not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "proof.py"
DRAWS = 2000


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("ftguard_proof", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seeds", [3, 5])
def test_at_the_margin_the_shipped_rule_errs_rarely_on_the_noise_of_trained_pairs(
    proof: ModuleType, seeds: int
) -> None:
    """Neither error exceeds 6 % by more than 2,000 draws can tell."""
    counts = proof.shares(proof.shipped, proof.trained(), seeds, proof.MARGIN, DRAWS)
    assert counts["INVALID"] == 0
    assert counts["PASS"] / DRAWS <= 0.07
    assert counts["FAIL"] / DRAWS <= 0.07


@pytest.mark.parametrize("rule", ["point_estimate", "token_wise"])
def test_the_rules_in_use_elsewhere_err_often(proof: ModuleType, rule: str) -> None:
    """Without this the test above could pass with a proof that measures nothing."""
    counts = proof.shares(getattr(proof, rule), proof.trained(), 3, proof.MARGIN, DRAWS)
    assert counts["PASS"] / DRAWS > 0.25


def test_away_from_the_margin_the_shipped_rule_decides(proof: ModuleType) -> None:
    """No gap passes, twice the margin fails, mostly."""
    noise = proof.trained()
    assert proof.shares(proof.shipped, noise, 5, 0.0, 300)["PASS"] > 280
    assert proof.shares(proof.shipped, noise, 5, 2 * proof.MARGIN, 300)["FAIL"] > 280


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_second_chance_at_another_rate_lets_no_more_candidates_pass(
    proof: ModuleType, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    """At the margin the answers after a search err as rarely as one look, also if both rates are equally good."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import proof_search

    losses, random = proof_search.read(), proof.np.random.default_rng(0)
    setup = proof_search.Setup(seeds, 0.0, first_is_worse=False, own_noise=True)
    answers = [proof_search.answer(random, losses, setup, searches=True) for _ in range(DRAWS)]
    assert answers.count("PASS") / DRAWS <= 0.07
    assert answers.count("FAIL") / DRAWS <= 0.07
