"""Gates on what was learnt: what may not pass, what is too early, and the way out of doubt."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_ftguard.gates.convergence import assess_convergence
from pytest_ftguard.gates.forgetting import assess_forgetting
from pytest_ftguard.gates.limits import NATS_PER_TOKEN, OF_GAIN, PERPLEXITY, Limit
from pytest_ftguard.gates.quality import assess_loss_gap, assess_perplexity_gap, assess_retention
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import CurvePoint, TrainedVariant, Trial
from pytest_ftguard.statistics import SeedNoise
from tests.plain.builders import FULL, LORA, WORKLOAD, losses, trained, trial

N = 128
STEPS = (25, 50, 100)
BASE_LOSS, FULL_LOSS = 3.0, 2.0
RULE = Rule()


def nll(loss: float, noise: float = 0.0, seed: int = 0) -> tuple[float, ...]:
    """Sequences of ten tokens with a given mean loss, and noise per sequence of a given size in nats per token."""
    draw = np.random.default_rng(seed).normal(0, 1, N)
    return tuple(float(10 * (loss + noise * e)) for e in draw - draw.mean())


def curve(*changes: float, noise: float = 0.0) -> tuple[CurvePoint, ...]:
    """A curve with the losses of full fine-tuning plus the changes at 25, 50 and 100 steps."""
    points = [CurvePoint(0, BASE_LOSS, nll(BASE_LOSS))]
    for number, (step, change) in enumerate(zip(STEPS, changes, strict=True)):
        values = nll(FULL_LOSS + change, noise, number + 1)
        points.append(CurvePoint(step, math.fsum(values) / (10 * N), values))
    return tuple(points)


FLAT = curve(0, 0, 0)


def full(loss: float = FULL_LOSS, **changes: Any) -> Trial:
    return trial(FULL, nll(loss), **{"curve": FLAT, **changes})


def lora(gap: float, noise: float = 0.0, **changes: Any) -> Trial:
    return trial(LORA, nll(FULL_LOSS + gap, noise, seed=9), **{"curve": FLAT, **changes})


def limit(value: float, unit: str = NATS_PER_TOKEN) -> Limit:
    return Limit(value, unit, Origin("ini", "ftguard_limit in pytest.ini"))


def judge(candidate: Trial, baseline: Trial, at_most: float, **rule: Any) -> Verdict:
    return assess_loss_gap(trained(LORA, candidate), trained(FULL, baseline), limit(at_most), Rule(**rule))


@pytest.mark.parametrize(("gain", "status"), [(0.301, "PASS"), (0.299, "INVALID")])
def test_beside_a_baseline_that_learnt_too_little_nothing_is_concluded(gain: float, status: str) -> None:
    """Full fine-tuning must gain more than three margins over the base model, or a bad LoRA looks equal."""
    lazy = BASE_LOSS - gain
    candidate = trial(LORA, nll(lazy + 0.01), curve=FLAT)
    verdict = judge(candidate, full(lazy), 0.1)
    assert verdict.status == status
    if status == "INVALID":
        assert "this test has no power: full gained only +0.2990 nats per token, limit 0.1 (" in verdict.headline
        assert "less than 3 times the limit of 0.1 nats per token" in verdict.message
        assert "set a limit of at most 0.099;" in verdict.message
        assert judge(candidate, full(lazy), 0.099).status == "PASS"


@pytest.mark.parametrize("loss", [BASE_LOSS, BASE_LOSS + 1])
def test_a_baseline_that_is_not_better_than_the_base_model_is_said_to_be_so(loss: float) -> None:
    """Nothing is concluded, and its learning rate is the first thing to check."""
    verdict = judge(trial(LORA, nll(BASE_LOSS - 0.1), curve=FLAT), full(loss), 0.1)
    assert verdict.status == "INVALID"
    assert "full is not better than the base model" in verdict.message
    assert "check its learning rate first: 0.0001 (set by you)" in verdict.message


def test_the_factor_of_the_gain_can_be_set() -> None:
    """A test may ask for five margins instead of three."""
    assert judge(lora(0.01), full(), 0.25, gain_factor=3).status == "PASS"
    assert judge(lora(0.01), full(), 0.25, gain_factor=5).status == "INVALID"


def test_a_gap_beyond_the_margin_fails_even_beside_a_lazy_baseline() -> None:
    """Worse than a baseline that learnt little is worse all the same."""
    assert judge(trial(LORA, nll(BASE_LOSS - 0.05), curve=FLAT), full(BASE_LOSS - 0.1), 0.04).status == "FAIL"


def test_a_gap_that_widens_beyond_the_margin_is_too_early_to_tell() -> None:
    """0.01, 0.03, 0.05 at 25, 50, 100 steps: about 0.07 at 200, so a margin of 0.06 is not met and 0.08 is."""
    candidate = lora(0.05, curve=curve(0.01, 0.03, 0.05))
    early = judge(candidate, full(), 0.06)
    assert early.status == "INCONCLUSIVE"
    for words in (
        "gap is widening",
        "0.0200 nats per token with each doubling",
        "+0.0700",
        "At 200",
        "allows 0.06",
    ):
        assert words in early.message, early.message
    assert judge(candidate, full(), 0.08).status == "PASS"


def test_a_gap_that_does_not_widen_may_pass() -> None:
    """A constant gap, a shrinking one, and one that moves within its noise are judged as they are."""
    for shape in ((0.05, 0.05, 0.05), (0.09, 0.07, 0.05)):
        assert judge(lora(0.05, curve=curve(*shape)), full(), 0.06).status == "PASS"
    assert judge(lora(0.05, curve=curve(0.048, 0.049, 0.05, noise=0.1)), full(), 0.06).status == "PASS"


def test_steps_that_are_those_of_production_are_judged_where_they_are() -> None:
    """With `final` the trend no longer decides."""
    final = replace(WORKLOAD, final=True)
    candidate = lora(0.05, curve=curve(0.01, 0.03, 0.05), workload=final)
    assert judge(candidate, full(workload=final), 0.06).status == "PASS"


def test_a_pass_says_whether_training_had_come_to_rest() -> None:
    """The word is "converged" only if doubling the steps gains less than a quarter of the margin in both."""
    assert "Both had converged at 100 steps" in judge(lora(0.01), full(), 0.1).message
    moving = full(curve=curve(0.1, 0.05, 0.0))
    message = judge(lora(0.01, curve=curve(0.1, 0.05, 0.0)), moving, 0.1).message
    assert "This holds at 100 steps; lora r=16 and full had not converged" in message


@pytest.mark.parametrize("points", [1, 2])
def test_without_a_trend_a_pass_comes_too_early_unless_the_steps_are_final(points: int) -> None:
    """Two points lie on any line, so nothing shows whether the gap is widening."""
    verdict = judge(lora(0.01, curve=FLAT[:points]), full(curve=FLAT[:points]), 0.1)
    assert verdict.status == "INCONCLUSIVE"
    assert "fewer than three points" in verdict.message
    final = replace(WORKLOAD, final=True)
    sides = (lora(0.01, curve=FLAT[:points], workload=final), full(curve=FLAT[:points], workload=final))
    verdict = judge(*sides, 0.1)
    assert verdict.status == "PASS"
    assert "had not converged" in verdict.message


def test_a_candidate_that_beats_full_beyond_noise_is_a_reason_to_look_at_full() -> None:
    """It passes, and the message says what it mostly means."""
    assert "undertrained" in judge(lora(-0.2), full(), 0.1).message
    assert "undertrained" not in judge(lora(-0.001, 0.1), full(), 0.1).message
    assert "undertrained" not in judge(lora(0.01), full(), 0.1).message


def several(gaps: list[float], noise: float) -> tuple[TrainedVariant, TrainedVariant]:
    workload = replace(WORKLOAD, seeds=tuple(range(len(gaps))))
    ours = [lora(gap, noise, seed=seed, workload=workload) for seed, gap in enumerate(gaps)]
    theirs = [full(seed=seed, workload=workload) for seed in range(len(gaps))]
    return trained(LORA, *ours), trained(FULL, *theirs)


def test_doubt_names_the_larger_noise_and_the_cheapest_way_out() -> None:
    """If seeds scatter, more seeds settle it and more text does not; if sequences scatter, text is named first."""
    scattered = assess_loss_gap(*several([0.0, 0.04, 0.08], 0.001), limit(0.05), RULE).message
    assert "100 % of the uncertainty comes from the 3 seeds" in scattered
    assert re.search(r"about \d+ seeds instead of 3 would settle it; more validation text alone would not", scattered)
    noisy = assess_loss_gap(*several([0.04, 0.04, 0.04], 0.3), limit(0.05), RULE).message
    assert "100 % of the uncertainty comes from the choice of 128 validation sequences" in noisy
    assert re.search(r"about \d+ validation sequences instead of 128 would settle it", noisy)


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_as_many_sequences_as_are_named_settle_it(noise: float) -> None:
    """With that many sequences of the same noise and the same gap the verdict is a PASS; with the present ones not."""
    verdict = judge(lora(0.04, noise), full(), 0.05)
    assert verdict.status == "INCONCLUSIVE"
    found = re.search(r"about (\d+) validation sequences", verdict.message)
    assert found is not None
    copies = math.ceil(int(found[1]) / N)
    more: dict[str, Any] = {"validation": losses(nll(FULL_LOSS + 0.04, noise, seed=9) * copies)}
    base: dict[str, Any] = {"base_validation": losses(nll(BASE_LOSS) * copies)}
    baseline = full(validation=losses(nll(FULL_LOSS) * copies), **base)
    assert judge(lora(0.04, noise, **more, **base), baseline, 0.05).status == "PASS"


def test_a_gap_on_the_edge_says_that_nothing_would_settle_it() -> None:
    """If the value is the limit, no number of seeds or sequences is named."""
    verdict = judge(lora(0.05, 0.1), full(), 0.05)
    assert verdict.status == "INCONCLUSIVE"
    assert "so close to the limit that neither" in verdict.message


def perplexity(at_most: float, gap: float = 0.01, noise: float = 0.0) -> Verdict:
    pair = trained(LORA, lora(gap, noise)), trained(FULL, full())
    return assess_perplexity_gap(*pair, limit(at_most, PERPLEXITY), RULE)


def test_the_perplexity_gap_is_judged_in_points_of_perplexity() -> None:
    """exp(2.01) - exp(2) is 0.0743: 0.08 allows it, 0.07 does not."""
    value = math.exp(2.01) - math.exp(2)
    verdict = perplexity(0.08)
    assert verdict.status == "PASS"
    assert verdict.value == pytest.approx(value)
    assert perplexity(0.07).status == "FAIL"
    assert perplexity(value, noise=0.05).status == "INCONCLUSIVE"


def test_the_bounds_of_the_perplexity_gap_are_those_of_the_loss_gap_times_the_perplexity() -> None:
    """The delta method: the slope of exp is the candidate's perplexity."""
    gap, points = judge(lora(0.01, 0.02), full(), 0.01), perplexity(0.08, noise=0.02)
    assert gap.interval is not None
    assert points.interval is not None
    width = gap.interval[1] - gap.interval[0]
    assert points.interval[1] - points.interval[0] == pytest.approx(width * math.exp(2.01), rel=1e-3)


def retained(share: float, gap: float = 0.1, noise: float = 0.0) -> Verdict:
    pair = trained(LORA, lora(gap, noise)), trained(FULL, full())
    return assess_retention(*pair, limit(share, OF_GAIN), RULE)


def test_retention_is_a_share_of_the_gain() -> None:
    """Base 3, full 2, LoRA 2.1: 90 % of the gain is retained."""
    assert retained(0.89).status == "PASS"
    assert retained(0.91).status == "FAIL"
    verdict = retained(0.9, noise=0.3)
    assert verdict.status == "INCONCLUSIVE"
    assert verdict.value == pytest.approx(0.9)
    assert verdict.limit.unit == "of the gain"
    assert "at least 90%" in verdict.message


def test_retention_does_not_claim_a_calibration_that_it_does_not_use() -> None:
    """A calibrated noise of the gap neither moves the bounds of the share nor is named in the message."""
    pair = trained(LORA, lora(0.1, 0.3)), trained(FULL, full())
    known = assess_retention(*pair, limit(0.5, OF_GAIN), Rule(seed_noise=SeedNoise(0.5, 9)))
    assert known == assess_retention(*pair, limit(0.5, OF_GAIN), RULE)
    assert "calibrated" not in known.message


def test_retention_beside_a_baseline_without_gain_is_invalid() -> None:
    """A share of nothing is no share."""
    for loss in (BASE_LOSS, BASE_LOSS + 1):
        pair = trained(LORA, lora(0.0)), trained(FULL, full(loss))
        assert assess_retention(*pair, limit(0.5, OF_GAIN), RULE).status == "INVALID"


def with_reference(candidate: Trial, loss: float, noise: float = 0.0) -> Trial:
    texts = {"reference": losses(nll(loss, noise, 5), digest="r"), "base_reference": losses(nll(1.0), digest="r")}
    return candidate.remeasured(**texts)


def test_forgetting_is_judged_against_the_base_model_or_against_full() -> None:
    """LoRA lost 0.2 on general text, full 0.5: it forgot 0.2, and 0.3 less than full."""
    ours, theirs = trained(LORA, with_reference(lora(0.01), 1.2)), trained(FULL, with_reference(full(), 1.5))
    assert assess_forgetting(ours, limit(0.21), RULE, None).status == "PASS"
    assert assess_forgetting(ours, limit(0.19), RULE, None).status == "FAIL"
    against = assess_forgetting(ours, limit(0.0), RULE, theirs)
    assert against.status == "PASS"
    assert against.value == pytest.approx(-0.3)
    noisy = trained(LORA, with_reference(lora(0.01), 1.2, 0.3))
    assert assess_forgetting(noisy, limit(0.2), RULE, None).status == "INCONCLUSIVE"


def test_forgetting_without_a_reference_text_says_what_to_set() -> None:
    """A text that was not measured is INVALID, and other sequences are too."""
    verdict = assess_forgetting(trained(LORA, lora(0.0)), limit(9), RULE, None)
    assert verdict.status == "INVALID"
    assert "ftguard_reference" in verdict.message
    other = with_reference(lora(0.0), 1.0)
    assert other.measured.reference is not None
    mixed = other.remeasured(reference=replace(other.measured.reference, digest="else"))
    assert assess_forgetting(trained(LORA, mixed), limit(9), RULE, None).status == "INVALID"


def test_convergence_is_what_doubling_the_steps_would_still_gain() -> None:
    """0.1, 0.05, 0 above the end: 0.05 with each doubling."""
    moving = trained(FULL, full(curve=curve(0.1, 0.05, 0.0)))
    assert assess_convergence(moving, limit(0.051), RULE).status == "PASS"
    assert assess_convergence(moving, limit(0.049), RULE).status == "FAIL"
    noisy = trained(FULL, full(curve=curve(0.1, 0.05, 0.0, noise=0.2)))
    assert assess_convergence(noisy, limit(0.05), RULE).status == "INCONCLUSIVE"
    for unknown in (FLAT[:3], (), curve(math.nan, 0, 0)):
        assert assess_convergence(trained(FULL, full(curve=unknown)), limit(9), RULE).status == "INVALID"
    assert assess_convergence(trained(FULL), limit(9), RULE).status == "INVALID"


@pytest.mark.parametrize(("count", "status"), [(12, "PASS"), (13, "INVALID")])
@pytest.mark.parametrize("side", ["candidate", "baseline"])
def test_a_text_of_which_more_than_a_tenth_was_trained_on_is_invalid(count: int, status: str, side: str) -> None:
    """12 of 128 sequences are less than a tenth, 13 are more; the message counts them, whichever side it was."""
    counted = losses(nll(FULL_LOSS), trained_on=count)
    one, other = lora(0.0), full()
    one, other = (
        (one.remeasured(validation=counted), other)
        if side == "candidate"
        else (one, other.remeasured(validation=counted))
    )
    verdict = assess_loss_gap(trained(LORA, one), trained(FULL, other), limit(0.05), RULE)
    assert verdict.status == status
    assert ("13 of 128 validation sequences are also in the training data" in verdict.message) is (count == 13)


def test_copies_that_were_left_out_are_in_the_message() -> None:
    """Too few different documents are not called too few documents."""
    few = losses(nll(FULL_LOSS), documents=tuple(number % 8 for number in range(N)), repeated=248)
    sides = (lora(0.0).remeasured(validation=few), full().remeasured(validation=few))
    base = losses(nll(BASE_LOSS), documents=few.documents)
    one, other = (side.remeasured(base_validation=base) for side in sides)
    verdict = assess_loss_gap(trained(LORA, one), trained(FULL, other), limit(0.05), RULE)
    assert verdict.status == "INVALID"
    assert "8 different validation documents are too few" in verdict.message
    assert "248 sequences repeat earlier ones and count once" in verdict.message
    assert "give a longer validation text that does not repeat itself" in verdict.message


@pytest.mark.parametrize(("at_most", "is_told"), [(0.5, False), (5.0, True)])
def test_a_pass_without_power_says_so_if_gain_factor_allows_it(at_most: float, is_told: bool) -> None:
    """A gain_factor of 0 lets a variant pass that learned nothing: the summary says it under the verdict."""
    verdict = assess_loss_gap(trained(LORA, lora(0.01)), trained(FULL, full()), limit(at_most), Rule(gain_factor=0))
    assert verdict.status == "PASS"
    assert ("This PASS proves nothing" in (verdict.note or "")) is is_told
    assert ("This PASS proves nothing" in verdict.message) is is_told
