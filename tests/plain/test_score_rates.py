"""A smaller run of the proof on scores: the shipped interval keeps its error rates at the margin, others do not."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def proof(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import proof_scores

    return proof_scores


@pytest.mark.parametrize("differing", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("limit", [-0.01, -0.02, -0.08])
def test_with_one_seed_both_errors_are_at_most_5_percent(proof: ModuleType, limit: float, differing: float) -> None:
    """All tables of 128 right and wrong answers are enumerated, so this is exact."""
    found = proof.enumerated(proof.shipped, 128, limit, differing - limit)
    assert found.passed <= 0.05
    assert found.failed <= 0.05


@pytest.mark.parametrize(("rule", "limit"), [("t_alone", -0.01), ("mcnemar", -0.02), ("point", -0.02)])
def test_the_rules_in_use_elsewhere_pass_bad_candidates(proof: ModuleType, rule: str, limit: float) -> None:
    """Without this the test above could pass with a proof that measures nothing."""
    assert proof.enumerated(getattr(proof, rule), 128, limit, -limit).passed > 0.25


@pytest.mark.parametrize("seeds", [3, 5])
def test_with_several_seeds_both_errors_stay_near_5_percent(proof: ModuleType, seeds: int) -> None:
    """Neither exceeds 5 % by more than 1,000 draws can tell, with seeds that agree and with good and bad seeds."""
    import score_noise

    for flips, seed_sd in ((0.0, 0.0), (0.2, 0.015)):
        case = score_noise.answers(923, seeds, -0.02, flips=flips, swapped=0.0, seed_sd=seed_sd)
        (found,) = proof.rates(case, [proof.shipped], 1000)
        assert max(found.passed, found.failed) <= 0.07


def test_trained_pairs_are_resampled_around_their_own_gap(
    proof: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made-up pairs: at their gap few draws pass or fail, and six points to either side nearly all do."""
    random = np.random.default_rng(0)
    hard = random.random(600)
    full, lora = ((random.normal(hard, 0.05, (12, 600)) < share).astype(np.uint8) for share in (0.8, 0.78))
    np.savez(tmp_path / "pairs.npz", correct_full=full, correct_lora=lora, groups=np.arange(600) // 2)
    proof.trained(tmp_path / "pairs.npz", 300)
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith("shipped, 3 seeds"))
    pairs = [[float(share.rstrip("%")) for share in pair.split("/")] for pair in line.split()[3:]]
    assert f"true gap is {float(lora.mean()) - float(full.mean()):+.2%}" in printed
    assert "300 groups" in printed
    assert len(pairs) == len(proof.OFFSETS) + 1
    assert max(pairs[proof.OFFSETS.index(0.0)]) < 8
    assert pairs[0][0] > 95
    assert pairs[-2][1] > 95
