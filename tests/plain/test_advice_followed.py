"""Whoever follows the advice of a message sees it work, in the very test that it is for.

Trainings are made up: losses have exactly the mean and the spread that they had, however many seeds and sequences there
are. So what is seen is whether the advice is enough, and that it names what changes this test.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from pytest_ftguard.accepting import gate
from pytest_ftguard.accepting.asked import Asked, Metric
from pytest_ftguard.accepting.history import AcceptedFile
from pytest_ftguard.comparison.pairs import compare
from pytest_ftguard.gates.calibration import calibrate, find_seed_noise
from pytest_ftguard.gates.convergence import assess_convergence
from pytest_ftguard.gates.forgetting import assess_forgetting
from pytest_ftguard.gates.limits import BYTES, NATS_PER_TOKEN, OF_GAIN, PERPLEXITY, SHARE, Limit
from pytest_ftguard.gates.memory import assess_memory
from pytest_ftguard.gates.merge_drift import assess_merge_drift
from pytest_ftguard.gates.quality import assess_loss_gap, assess_perplexity_gap, assess_retention
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.setting import Origin, Setting
from pytest_ftguard.gates.step_time import assess_time
from pytest_ftguard.gates.verdict import Verdict
from pytest_ftguard.results import CurvePoint, Parameters, SequenceLosses, Timing, TrainedVariant, Trial
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.specs import Full, LoRA, RateSource, Variant, Workload
from pytest_ftguard.specs.methods.rates import Maker
from tests.plain.builders import FULL, LORA, WORKLOAD, GivenSource, losses, trained, trial

ADVICE: Final = {
    "accepting.gate._few_seeds": "test_the_seeds_that_accepting_asks_for_are_accepted",
    "accepting.gate._forbidden_by_anchor": "test_the_advice_is_what_accepting_would_do",
    "accepting.gate.assess_regression": "test_the_advice_is_what_accepting_would_do",
    "accepting.missing.missing": "test_a_missing_result_is_accepted_by_what_its_message_says",
    "comparison.evidence._too_few": "test_a_text_with_too_few_sequences_has_enough_after_what_is_advised",
    "comparison.evidence.no_evidence": "test_sequences_that_were_trained_on_are_removed_as_advised",
    "comparison.pairs._repeated": "test_seeds_that_are_shuffled_as_advised_are_several_runs",
    "comparison.pairs._same_learning_rate": "test_both_ways_out_of_one_learning_rate_work",
    "comparison.pairs._unpaired": "test_seeds_are_paired_as_advised",
    "comparison.pairs.text_problems": "test_a_reference_text_is_given_as_advised",
    "comparison.scores._one_class": "test_rows_of_every_class_are_given_as_advised",
    "comparison.scores._other_base": "test_the_base_model_is_scored_alike_as_advised",
    "comparison.scores._problems": "test_a_score_is_mended_as_advised_without_a_training",
    "comparison.scores._too_few": "test_slices_are_named_as_advised",
    "comparison.scores._unmeasured": "test_a_score_is_named_as_advised",
    "comparison.scores._two_sources": "test_two_sources_of_a_score_are_made_one_as_advised",
    "comparison.same_work._different": "test_what_differs_between_the_sides_is_made_one",
    "comparison.same_work.different_arithmetic": "test_what_differs_between_the_sides_is_made_one",
    "comparison.same_work.different_content": "test_what_differs_between_the_sides_is_made_one",
    "comparison.same_work.different_workload": "test_what_differs_between_the_sides_is_made_one",
    "comparison.problem._trained_something_else": "test_what_was_not_trained_as_it_should_be_decides_nothing",
    "gates.convergence.assess_convergence": "test_the_steps_that_are_advised_have_a_trend",
    "gates.explain.measured_elsewhere": "test_bytes_of_another_machine_are_measured_again_as_advised",
    "gates.explain.no_gain": "test_a_limit_that_is_advised_gives_an_answer_or_is_not_named",
    "gates.explain.no_share": "test_a_baseline_that_learned_more_has_a_share",
    "gates.forgetting.assess_forgetting": "test_doubt_about_forgetting_is_settled_as_advised",
    "gates.memory.assess_memory": "test_what_memory_is_saved_by_can_be_set_in_this_test",
    "gates.merge_drift._answer": "test_a_drift_is_settled_or_avoided_as_advised",
    "gates.merge_drift._not_at_hand": "test_forms_are_evaluated_in_the_run_that_trains_as_advised",
    "gates.quality._conclude": "test_doubt_is_settled_by_what_is_advised",
    "gates.rates.learned_nothing": "test_the_advice_about_a_default_rate_works_when_it_is_followed",
    "gates.score_gain.no_gain": "test_a_limit_that_is_advised_for_a_score_gives_an_answer",
    "gates.score_gain.tells_nothing": "test_a_score_that_is_the_same_everywhere_is_mended_as_advised",
    "gates.score_gain.unfit": "test_percentage_points_are_of_scores_from_0_to_1",
    "gates.score_rules.assess_score": "test_doubt_about_a_score_is_settled_as_advised",
    "gates.score_rules.verdict": "test_doubt_about_a_score_is_settled_as_advised",
    "gates.step_time._different_runs": "test_seconds_of_different_runs_are_measured_in_one_as_advised",
    "gates.step_time._disturbed": "test_seconds_of_different_runs_are_measured_in_one_as_advised",
    "gates.step_time._short_of_memory": "test_seconds_of_different_runs_are_measured_in_one_as_advised",
    "gates.step_time.assess_time": "test_a_time_has_the_seeds_that_are_advised",
}
"""Each function that gives advice, and the test that follows it."""

ROOT: Final = Path(__file__).parents[2]
BASE, LEVEL = 3.0, 2.0
MANY: Final = 10**6
LONG: Final = replace(WORKLOAD, seeds=(0, 1, 2), final=True, validation_sequences=128)


def _advising() -> Iterator[str]:
    """Each function that makes a `Problem` with a remedy, or gives a verdict with what to do."""
    for package in ("gates", "comparison", "accepting"):
        for path in sorted((ROOT / "src/pytest_ftguard" / package).glob("*.py")):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef) and any(map(_advises, ast.walk(function))):
                    yield f"{package}.{path.stem}.{function.name}"


def _advises(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    # `Asked.give` hands on what it was given.
    handed_on = isinstance(named.get("what_to_do"), ast.Name)
    is_problem = isinstance(node.func, ast.Name) and node.func.id == "Problem"
    return "remedy" in named or ("what_to_do" in named and not handed_on) or (is_problem and len(node.args) > 2)


def test_every_advice_has_a_test_that_follows_it() -> None:
    """A new one needs a row in the table above, with a test that exists."""
    verdicts = {"gates.quality._conclude"}  # what to do is a name there too
    assert set(_advising()) | verdicts == set(ADVICE)
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    for test in ADVICE.values():
        assert any(f"def {test}(" in text for text in texts), test


def spread(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """So many numbers with mean 0 and standard deviation 1."""
    if count < 2:
        return np.zeros(count)
    draw = np.random.default_rng(0).normal(0, 1, count)
    draw -= draw.mean()
    scaled: np.ndarray[Any, np.dtype[np.float64]] = draw / draw.std(ddof=1)
    return scaled


@dataclass(frozen=True)
class World:
    """What a training on a workload would give.

    Attributes:
        gap: Loss gap, in nats per token.
        noise: Of the sequences, or of the documents.
        seed_noise: Of the seeds.
        shared: Noise of the sequences that both variants have.
        has: Number of sequences that the text gives.
        document: Sequences of a document; 0 if the text has none.
        gain: What full gains over the base model.
        maker: What made the workload.
    """

    gap: float = 0.05
    noise: float = 0.0
    seed_noise: float = 0.0
    shared: float = 0.0
    has: int = MANY
    document: int = 0
    gain: float = BASE - LEVEL
    maker: Maker = "settings"

    def pair(self, work: Workload = LONG, **changes: Any) -> tuple[TrainedVariant, TrainedVariant]:
        """LoRA and full, trained on a workload."""
        return self.side(LORA, work, **changes), self.side(FULL, work, **changes)

    def side(self, variant: Variant, work: Workload = LONG, **changes: Any) -> TrainedVariant:
        """One of them."""
        count = min(self.has, work.validation_sequences)
        level = BASE - self.gain + (self.gap if variant.kind != "full" else 0)
        noisy = variant.kind != "full"
        trials = []
        for offset, seed in zip(self.seed_noise * spread(len(work.seeds)), work.seeds, strict=True):
            own = offset + self.noise * self._draw(count) if noisy else 0.0
            nll = 10 * (level + own + self.shared * self._draw(count))
            content = {
                "validation": self._losses(nll),
                "base_validation": self._losses(np.full(count, 10 * BASE)),
                "curve": _curve(level, work.steps, count),
            }
            trials.append(trial(variant, nll.tolist(), seed=seed, workload=work, **{**content, **changes}))
        return replace(trained(variant, *trials), workload_maker=self.maker)

    def _draw(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        if not self.document:
            return spread(count)
        return np.repeat(spread(count // self.document), self.document)

    def _losses(self, nll: np.ndarray[Any, np.dtype[np.float64]]) -> SequenceLosses:
        documents = tuple(index // self.document for index in range(len(nll))) if self.document else None
        return losses(nll.tolist(), documents=documents, digest=f"{len(nll)} sequences")


def _curve(level: float, steps: int, count: int) -> tuple[CurvePoint, ...]:
    at = (0, max(1, steps // 4), max(1, steps // 2), steps)
    return tuple(CurvePoint(step, level if step else BASE, (10 * (level if step else BASE),) * count) for step in at)


def follow(work: Workload, message: str, maker: Maker) -> Workload:
    """The workload with the values that a message advises; a key is of use only if the settings made it."""
    todo = message.partition("What to do: ")[2]
    keys = re.findall(r"ftguard_(\w+) = ([\w.]*\w(?:, \d+)*)", todo)
    arguments = re.findall(r"Workload\(\.\.\., (\w+)=(\([^)]*\)|[^)]+)\)", todo)
    assert not (arguments if maker == "settings" else keys), message
    values = {name: ast.literal_eval(text) for name, text in arguments}
    for name, text in keys:
        if name in Workload.__dataclass_fields__:
            numbers = tuple(int(one) for one in text.split(", ") if one.isdigit())
            one = numbers[0] if numbers else {"true": True}.get(text, text)
            values[name] = numbers if name == "seeds" else one
    return replace(work, **values)


def limit(value: float, unit: str = NATS_PER_TOKEN) -> Limit:
    return Limit(value, unit, Origin("argument", "the argument at_most"))


Judge = Callable[..., Verdict]
GATES: Final[dict[str, tuple[Judge, Limit, float]]] = {
    "loss": (assess_loss_gap, limit(0.06), 0.05),
    "perplexity": (assess_perplexity_gap, limit(0.46, PERPLEXITY), 0.05),
    "retention": (assess_retention, limit(0.9, OF_GAIN), 0.09),
}


@pytest.mark.parametrize("maker", ["settings", "code"])
@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize(
    ("has", "bound", "document"), [(MANY, 128, 0), (128, 128, 0), (100, 128, 0), (MANY, 256, 2), (150, 256, 2)]
)
def test_doubt_is_settled_by_what_is_advised(name: str, maker: Maker, has: int, bound: int, document: int) -> None:
    """By more of the text, by a longer text, or by both, whichever this text needs."""
    judge, at_most, gap = GATES[name]
    world = World(gap, 0.12, has=has, document=document, maker=maker)
    asks = replace(LONG, validation_sequences=bound)
    doubt = judge(*world.pair(asks), at_most, Rule())
    assert doubt.status == "INCONCLUSIVE", doubt.message
    work = follow(asks, doubt.message, maker)
    if has < bound:
        assert "give a longer validation text" in doubt.message
    longer = replace(world, has=MANY)
    settled = judge(*longer.pair(work), at_most, Rule())
    assert settled.status == "PASS", (doubt.message, settled.message)


@pytest.mark.parametrize("maker", ["settings", "code"])
@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("seeds", [(0, 1, 2), (5, 7, 9, 11)])
def test_doubt_that_comes_of_seeds_is_settled_by_as_many_as_are_named(
    name: str, maker: Maker, seeds: tuple[int, ...]
) -> None:
    """The seeds that there are stay, so nothing is trained twice."""
    judge, at_most, gap = GATES[name]
    work = replace(LONG, seeds=seeds)
    world = World(gap, 0.001, seed_noise=0.0125, maker=maker)
    doubt = judge(*world.pair(work), at_most, Rule())
    assert doubt.status == "INCONCLUSIVE", doubt.message
    assert "more validation text alone would not" in doubt.message
    followed = follow(work, doubt.message, maker)
    assert followed.seeds[: len(seeds)] == seeds
    assert len(followed.seeds) > len(seeds)
    assert judge(*world.pair(followed), at_most, Rule()).status == "PASS"
    one_less = replace(followed, seeds=followed.seeds[:-1])
    assert judge(*world.pair(one_less), at_most, Rule()).status == "INCONCLUSIVE"


@pytest.mark.parametrize("maker", ["settings", "code"])
@pytest.mark.parametrize("name", GATES)
def test_doubt_that_takes_both_is_settled_by_both(name: str, maker: Maker) -> None:
    """If neither more seeds nor more text alone settles it, the message names how many of each do together."""
    judge, at_most, gap = GATES[name]
    world = World(gap, 0.12, seed_noise=0.015, maker=maker)
    doubt = judge(*world.pair(), at_most, Rule())
    assert "would settle it together" in doubt.message, doubt.message
    work = follow(LONG, doubt.message, maker)
    assert judge(*world.pair(work), at_most, Rule()).status == "PASS", doubt.message
    for each in ("seeds", "validation_sequences"):
        alone = replace(work, **{each: getattr(LONG, each)})
        assert judge(*world.pair(alone), at_most, Rule()).status == "INCONCLUSIVE"


@pytest.mark.parametrize(("gap", "least"), [(0.05, 0.82), (0.02, 0.93)])
def test_doubt_about_a_share_is_settled_also_far_from_the_limit(gap: float, least: float) -> None:
    """The noise of the share that is asked about counts, and not that of the share that was measured."""
    world, at_most = World(gap, 0.1, shared=5.0), limit(least, OF_GAIN)
    doubt = assess_retention(*world.pair(), at_most, Rule())
    assert doubt.status == "INCONCLUSIVE", doubt.message
    work = follow(LONG, doubt.message, "settings")
    assert assess_retention(*world.pair(work), at_most, Rule()).status == "PASS", doubt.message


def test_doubt_with_a_calibrated_noise_is_settled_once_it_is_calibrated_again() -> None:
    """A calibration is that of one text, so with more of it the old one no longer counts."""
    world, at_most = World(0.05, 0.12, seed_noise=0.002), limit(0.06)
    twelve = replace(LONG, seeds=tuple(range(12)))
    known = [calibrate(*world.pair(twelve))]
    pair = world.pair()
    doubt = assess_loss_gap(*pair, at_most, Rule(seed_noise=find_seed_noise(known, *pair)))
    assert doubt.status == "INCONCLUSIVE"
    assert "calibrate again" in doubt.message
    work = follow(LONG, doubt.message.replace("seeds =", "ignored ="), "settings")
    fresh = world.pair(work)
    assert find_seed_noise(known, *fresh) is None
    again = [calibrate(*world.pair(replace(twelve, validation_sequences=work.validation_sequences)))]
    noise = find_seed_noise(again, *fresh)
    assert noise is not None
    assert assess_loss_gap(*fresh, at_most, Rule(seed_noise=noise)).status == "PASS"


@pytest.mark.parametrize(
    ("gap", "noise", "end"),
    [(0.01, 0.0, "PASS"), (0.09, 0.0, "FAIL"), (0.06, 0.3, None)],
)
@pytest.mark.parametrize("judge", [assess_loss_gap, assess_perplexity_gap])
def test_a_limit_that_is_advised_gives_an_answer_or_is_not_named(
    gap: float, noise: float, end: str | None, judge: Judge
) -> None:
    """If the result fails there, the message says so; if it is in doubt there, no limit is named."""
    world = World(gap, noise, gain=0.2)
    points = judge is assess_perplexity_gap
    at_most = limit(1.8 if points else 0.1, PERPLEXITY if points else NATS_PER_TOKEN)
    verdict = judge(*world.pair(), at_most, Rule())
    assert verdict.status == "INVALID", verdict.message
    found = re.search(r"set a limit of at most ([\d.]+\d)(, at which this result fails)?", verdict.message)
    if end is None:
        assert found is None
        assert "What to do: train for more steps." in verdict.message
        return
    assert found is not None
    assert judge(*world.pair(), replace(at_most, value=float(found[1])), Rule()).status == end
    assert bool(found[2]) is (end == "FAIL")


def test_a_pass_that_proves_nothing_names_a_limit_that_proves_something() -> None:
    """A factor below 1 lets a lazy baseline through; at the limit that is named its PASS has no such note."""
    pair, rule = World(0.0, 0.01, gain=0.05).pair(), Rule(gain_factor=0.1)
    hollow = assess_loss_gap(*pair, limit(0.1), rule)
    found = re.search(r"Set a limit of at most ([\d.]+\d), or leave gain_factor", hollow.message)
    assert found is not None, hollow.message
    better = assess_loss_gap(*pair, limit(float(found[1])), rule)
    assert (better.status, "proves nothing" in better.message) == ("PASS", False)


def test_a_baseline_that_learned_more_has_a_share() -> None:
    """What is advised is more steps, and a gain is what they bring."""
    verdict = assess_retention(*World(-0.5, gain=0.0).pair(), limit(0.9, OF_GAIN), Rule())
    assert verdict.status == "INVALID"
    assert "What to do: train for more steps." in verdict.message
    assert assess_retention(*World(gain=1.0).pair(), limit(0.9, OF_GAIN), Rule()).status == "PASS"


@pytest.mark.parametrize("maker", ["settings", "code"])
@pytest.mark.parametrize("points", [2, 4])
def test_steps_of_production_are_set_as_advised(maker: Maker, points: int) -> None:
    """Then neither a gap that widens nor a trend that is not known decides."""
    work, at = replace(LONG, final=False), (0, 25, 50, 100)[:points]
    widens = [
        tuple(CurvePoint(step, 2.0, (10 * (2.0 + rise * step / 100),) * 128) for step in at) for rise in (0.05, 0)
    ]

    def judged(work: Workload) -> Verdict:
        world = World(0.05, maker=maker)
        ours, theirs = (world.side(one, work, curve=curve) for one, curve in zip((LORA, FULL), widens, strict=True))
        return assess_loss_gap(ours, theirs, limit(0.06), Rule())

    early = judged(work)
    assert (early.status, "Too early to tell" in early.message) == ("INCONCLUSIVE", True)
    assert judged(follow(work, early.message, maker)).status == "PASS"


def test_another_variant_is_chosen_only_if_there_is_one() -> None:
    """Next to another LoRA the other choice is that one, and not full fine-tuning."""
    world, high = World(0.5), LoRA(r=64, learning_rate=1e-3)
    ours = replace(world.side(LORA), rate=RateSource("searched", "settings"))
    theirs = replace(replace(world, gap=0.0).side(high), variant=high)
    message = assess_loss_gap(ours, theirs, limit(0.1), Rule()).message
    assert "choose lora r=64. Raise the limit" in message
    assert "choose full fine-tuning. Raise" in assess_loss_gap(ours, world.side(FULL), limit(0.1), Rule()).message


EXPERTS: Final = "mlp.experts.gate_up_proj"


@pytest.mark.parametrize(
    ("targets", "options", "left_alone", "advice"),
    [
        (["c_attn"], {}, {"mlp.c_fc": 0.4, "mlp.c_proj": 0.4}, "adapt all linear layers with"),
        (["q_proj", "gate"], {}, {EXPERTS: 0.8}, "adapt fused experts (target_parameters) with"),
        (["q_proj"], {}, {EXPERTS: 0.79, "mlp.gate": 0.01}, "adapt fused experts (target_parameters) with"),
        (["q_proj"], {}, {EXPERTS: 0.4, "k_proj": 0.4}, "all linear layers and fused experts (target_parameters) with"),
        ("all-linear", {}, {"block.input_linear": 0.8}, "adapt fused experts (target_parameters) with"),
        ("all-linear", {"exclude_modules": ["c_fc"]}, {"mlp.c_fc": 0.8}, "adapt all linear layers with"),
    ],
)
def test_what_has_no_adapter_is_adapted_as_advised(
    targets: Any, options: dict[str, Any], left_alone: dict[str, float], advice: str
) -> None:
    """The advice names what the trial left alone, and is gone once all of it is adapted."""
    variant = LoRA(target_modules=targets, learning_rate=1e-3, options=options)

    def message(counts: Parameters) -> str:
        side = World(0.5).side(variant, parameters=counts)
        searched = replace(side, rate=RateSource("searched", "settings"))
        return assess_loss_gap(searched, World().side(FULL), limit(0.1), Rule()).message

    reached = {"q_proj": 1 - sum(left_alone.values())}
    assert advice in message(Parameters(1000, 100, adapted=reached, left_alone=left_alone))
    assert "What to do: choose full" in message(
        Parameters(1000, 10**6, adapted={**reached, **left_alone}, left_alone={})
    )


def test_a_candidate_that_beats_an_undertrained_baseline_asks_for_what_can_be_done() -> None:
    """If the baseline's rate could not be searched, only more steps are left; with them the note is gone."""
    world = World(-0.1)
    candidate, baseline = world.pair()
    stuck = replace(baseline, rate=RateSource("default", "settings", why_not="the text is too short"))
    message = assess_loss_gap(candidate, stuck, limit(0.1), Rule()).message
    assert "is probably undertrained: train for more steps, before you rely on this PASS" in message
    longer = replace(LONG, steps=2 * LONG.steps)
    ours, theirs = World(0.02).side(LORA, longer), World(0.02).side(FULL, longer)
    assert "undertrained" not in assess_loss_gap(ours, theirs, limit(0.1), Rule()).message


def test_what_differs_from_an_accepted_result_is_undone_as_advised() -> None:
    """Undone, it is judged again; if nothing differs, and something was not measured, that is no advice."""
    world = World()
    file, other = held("t", world.pair()), replace(LONG, batch_size=LONG.batch_size + 1)
    differs = gate.assess_regression(asked(*world.pair(other), file))
    assert (differs.status, "undo what differs" in differs.message) == ("INVALID", True)
    assert gate.assess_regression(asked(*world.pair(LONG), file)).status == "PASS"
    unmeasured = gate.assess_regression(asked(*world.pair(memory=None), file, limit(0.1, SHARE), "memory"))
    assert (unmeasured.status, "undo what differs" in unmeasured.message) == ("INVALID", False)


@pytest.mark.parametrize("maker", ["settings", "code"])
@pytest.mark.parametrize(
    ("has", "bound", "document"),
    [(MANY, 40, 0), (30, 40, 0), (40, 40, 0), (50, 256, 0), (90, 256, 2), (MANY, 100, 2), (200, 256, 4)],
)
def test_a_text_with_too_few_sequences_has_enough_after_what_is_advised(
    has: int, bound: int, document: int, maker: Maker
) -> None:
    """One message names all that is missing: the bound, the text, or both."""
    world, work = World(has=has, document=document, maker=maker), replace(LONG, validation_sequences=bound)
    few = assess_loss_gap(*world.pair(work), limit(0.06), Rule())
    assert (few.status, "are too few" in few.headline) == ("INVALID", True)
    followed = follow(work, few.message.partition(", or set ")[0], maker)
    longer = replace(world, has=MANY) if "longer" in few.message else world
    assert assess_loss_gap(*longer.pair(followed), limit(0.06), Rule()).status == "PASS", few.message


def test_a_shorter_block_gives_as_many_sequences_as_are_needed() -> None:
    """The number that is named is small enough for this very text."""
    tokens = 50 * WORKLOAD.block_size + 3
    few = assess_loss_gap(*World(has=tokens // LONG.block_size).pair(), limit(0.06), Rule())
    work = follow(LONG, few.message, "settings")
    assert work.block_size < LONG.block_size
    assert tokens // work.block_size >= 64
    assert assess_loss_gap(*World(has=tokens // work.block_size).pair(work), limit(0.06), Rule()).status == "PASS"


def test_sequences_that_were_trained_on_are_removed_as_advised() -> None:
    """Then nothing is left of the problem."""
    ours, theirs = World().pair()
    leaked = losses([20.0] * 128, digest="128 sequences", trained_on=64)
    copied = [
        replace(side, trials=tuple(one.remeasured(validation=leaked) for one in side.trials)) for side in (ours, theirs)
    ]
    verdict = assess_loss_gap(copied[0], copied[1], limit(0.06), Rule())
    assert "What to do: remove them from one of the two and train again." in verdict.message
    assert assess_loss_gap(ours, theirs, limit(0.06), Rule()).status == "PASS"


@pytest.mark.parametrize("maker", ["settings", "code"])
def test_a_reference_text_is_given_as_advised(maker: Maker) -> None:
    """By the key or the argument that this test has; for a run of one's own Trainer, by its callback."""
    world = World(maker=maker)
    verdict = assess_forgetting(world.side(LORA), limit(0.1), Rule(), None)
    work = follow(LONG, verdict.message, maker)
    assert work.reference == "general.txt"
    texts = {"reference": losses([25.0] * 128, digest="r"), "base_reference": losses([25.0] * 128, digest="r")}
    assert assess_forgetting(world.side(LORA, work, **texts), limit(0.1), Rule(), None).status == "PASS"
    elsewhere = assess_forgetting(replace(world, maker="elsewhere").side(LORA), limit(0.1), Rule(), None).message
    assert "give a general text: FtguardCallback(..., reference=...) in a Trainer run." in elsewhere


@pytest.mark.parametrize("maker", ["settings", "code"])
@pytest.mark.parametrize(("noise", "seed_noise"), [(0.1, 0.0), (0.001, 0.0125)])
def test_doubt_about_forgetting_is_settled_as_advised(maker: Maker, noise: float, seed_noise: float) -> None:
    """By as much of the reference text, or as many seeds, as the message names."""

    def judged(work: Workload) -> Verdict:
        world = World(maker=maker)
        count, offsets = work.validation_sequences, seed_noise * spread(len(work.seeds))
        side = world.side(LORA, work, base_reference=losses([20.0] * count, digest=f"r {count}"))
        trials = [
            one.remeasured(
                reference=losses((20.5 + 10 * (offset + noise * spread(count))).tolist(), digest=f"r {count}")
            )
            for one, offset in zip(side.trials, offsets, strict=True)
        ]
        return assess_forgetting(replace(side, trials=tuple(trials)), limit(0.06), Rule(), None)

    doubt = judged(replace(LONG, reference="r"))
    assert doubt.status == "INCONCLUSIVE", doubt.message
    assert judged(follow(replace(LONG, reference="r"), doubt.message, maker)).status == "PASS", doubt.message


@pytest.mark.parametrize("makers", [("settings", "elsewhere"), ("elsewhere", "settings"), ("code", "code")])
def test_seeds_are_paired_as_advised(makers: tuple[Maker, Maker]) -> None:
    """The side that another run trained keeps its seeds; otherwise the side with more of them does."""
    works = {"elsewhere": replace(LONG, seeds=(3, 4)), "settings": LONG, "code": replace(LONG, seeds=(7,))}
    first, second = (works[maker] for maker in makers)
    second = LONG if makers == ("code", "code") else second
    ours = World(maker=makers[0]).side(LORA, first)
    theirs = World(maker=makers[1]).side(FULL, second)
    verdict = assess_loss_gap(ours, theirs, limit(0.06), Rule())
    assert "no seed in common" in verdict.message or "not paired" in verdict.message
    (problem,) = compare(ours, theirs).unpaired
    label = re.match(r"train (.*) with the seeds of", problem.remedy)
    assert label is not None
    is_ours = label[1] == ours.label
    maker = makers[0 if is_ours else 1]
    work = follow(first if is_ours else second, f"What to do: {problem.remedy}", maker)
    pair = (World(maker=maker).side(LORA, work), theirs) if is_ours else (ours, World(maker=maker).side(FULL, work))
    assert not compare(*pair).unpaired
    assert assess_loss_gap(*pair, limit(0.06), Rule()).status == "PASS"


def test_both_ways_out_of_one_learning_rate_work() -> None:
    """Another rate for one side, or the argument that says that it is meant."""
    world, full = World(), Full(learning_rate=1e-3)
    pair = world.side(LORA), world.side(full)
    verdict = assess_loss_gap(*pair, limit(0.06), Rule())
    assert "give one of them another learning_rate, or pass same_learning_rate=True" in verdict.message
    assert assess_loss_gap(*pair, limit(0.06), Rule(same_learning_rate=True)).status == "PASS"
    assert assess_loss_gap(*world.pair(), limit(0.06), Rule()).status == "PASS"


def test_seeds_that_are_shuffled_as_advised_are_several_runs() -> None:
    """With batches of their own they are."""
    verdict = assess_loss_gap(*World().pair(data_order="one"), limit(0.06), Rule())
    assert "shuffle the training data with each seed" in verdict.message
    assert assess_loss_gap(*World().pair(), limit(0.06), Rule()).status == "PASS"


@pytest.mark.parametrize(
    ("work", "changes", "advice"),
    [
        ({"steps": 50}, {}, "train both on one workload"),
        ({}, {"device": "cuda"}, "train both in one environment"),
        ({"seeds": (7, 8)}, {}, "train both with the same seeds"),
    ],
)
def test_what_differs_between_the_sides_is_made_one(work: dict[str, Any], changes: dict[str, Any], advice: str) -> None:
    """A pair that is alike in it has no such problem."""
    world = World()
    full = world.side(FULL, replace(LONG, **work))
    environment = full.trials[0].measured.environment
    assert environment is not None
    other = replace(environment, **changes)
    full = replace(full, trials=tuple(one.remeasured(environment=other) for one in full.trials))
    verdict = assess_loss_gap(world.side(LORA), full, limit(0.06), Rule())
    assert advice in verdict.message
    assert assess_loss_gap(*world.pair(), limit(0.06), Rule()).status == "PASS"


def held(test: str, pair: tuple[TrainedVariant, TrainedVariant] | None = None) -> AcceptedFile:
    asked_for = AcceptedFile(Path("accepted.json"), test, None)
    if pair is None:
        return asked_for
    _, history = gate.accept(asked(*pair, asked_for), [])
    assert history is not None
    return replace(asked_for, history=history)


def asked(
    candidate: TrainedVariant,
    baseline: TrainedVariant,
    file: AcceptedFile,
    at_most: Limit | None = None,
    metric: Metric = "loss_gap",
) -> Asked:
    return Asked(
        candidate=candidate,
        baseline=baseline,
        limit=at_most or limit(0.02),
        rule=Rule(),
        metric=metric,
        file=file,
    )


@pytest.mark.parametrize("maker", ["settings", "code"])
@pytest.mark.parametrize("then", [None, (4, 5, 6)])
def test_the_seeds_that_accepting_asks_for_are_accepted(maker: Maker, then: tuple[int, ...] | None) -> None:
    """If there is an accepted result, its seeds are asked for: with none in common the anchor would refuse them."""
    world, one = World(maker=maker), replace(LONG, seeds=(0,))
    file = held("t", world.pair(replace(LONG, seeds=then)) if then else None)
    refused, nothing = gate.accept(asked(*world.pair(one), file), [])
    assert (refused.status, nothing) == ("INVALID", None)
    accepted, _ = gate.accept(asked(*world.pair(follow(one, refused.message, maker)), file), [])
    assert accepted.status == "PENDING", accepted.message


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_missing_result_is_accepted_by_what_its_message_says(seeds: tuple[int, ...]) -> None:
    """With enough seeds, or as it is; and a reaction is changed where it was set."""
    world, work = World(), replace(LONG, seeds=seeds)
    verdict = gate.assess_regression(asked(*world.pair(work), held("t")))
    assert ("ftguard_seeds" in verdict.message) is (len(seeds) < 3)
    assert "or set ftguard_on_missing = warn" in verdict.message
    pair = world.pair(follow(work, verdict.message, "settings"))
    assert gate.assess_regression(asked(*pair, held("t", pair))).status == "PASS"
    fails = Setting("fail", Origin("argument", "the argument on_missing"))
    elsewhere = gate.assess_regression(asked(*world.pair(work), held("t")), fails).message
    assert "or have on_missing, which is set by the argument on_missing, be warn" in elsewhere
    assert "ftguard_on_missing" not in elsewhere


@pytest.mark.parametrize("seeds", [(0, 5, 6), (1, 7)])
@pytest.mark.parametrize("maker", ["settings", "code"])
def test_a_growth_in_doubt_gets_the_accepted_seeds(maker: Maker, seeds: tuple[int, ...]) -> None:
    """Each is then paired with itself, so its noise is gone."""
    then = World(0.05, 0.2, seed_noise=0.02, maker=maker)
    now = replace(then, gap=0.065, noise=0.21)
    file = held("t", then.pair(replace(LONG, seeds=(0, 1, 2))))
    work = replace(LONG, seeds=seeds)
    doubt = gate.assess_regression(asked(*now.pair(work), file))
    assert doubt.status == "INCONCLUSIVE", doubt.message
    settled = gate.assess_regression(asked(*now.pair(follow(work, doubt.message, maker)), file))
    assert settled.status == "PASS", (doubt.message, settled.message)


@pytest.mark.parametrize(("noise", "seed_noise"), [(0.07, 0.0), (0.0, 0.004)])
def test_a_growth_in_doubt_is_settled_by_both_results_with_as_many(noise: float, seed_noise: float) -> None:
    """The accepted file is deleted, accepted again with as many, and compared with as many."""
    then, now = World(0.05), World(0.065, noise, seed_noise=seed_noise)
    doubt = gate.assess_regression(asked(*now.pair(), held("t", then.pair())))
    assert doubt.status == "INCONCLUSIVE", doubt.message
    assert "delete 'accepted.json' and accept again with --ftguard-update" in doubt.message
    seeds = re.search(r"about (\d+) seeds", doubt.message)
    sequences = re.search(r"about (\d+) validation sequences", doubt.message)
    works = []
    if seeds:
        works.append(replace(LONG, seeds=tuple(range(int(seeds[1])))))
    if sequences:
        works.append(replace(LONG, validation_sequences=int(sequences[1])))
    assert works, doubt.message
    for work in works:
        again = gate.assess_regression(asked(*now.pair(work), held("t", then.pair(work))))
        assert again.status == "PASS", (doubt.message, again.message)


def seconds(work: Workload, maker: Maker, *runs: str) -> list[TrainedVariant]:
    sides: list[TrainedVariant] = []
    for variant, each in ((LORA, 0.4), (FULL, 0.5)):
        ratio = spread(len(work.seeds)) * (0.05 if variant is LORA else 0)
        times = [Timing(each + float(one), 97, 50.0, run=runs[len(sides)]) for one in ratio]
        side = World(maker=maker).side(variant, work)
        trials = tuple(one.remeasured(time=time) for one, time in zip(side.trials, times, strict=True))
        sides.append(replace(side, trials=trials))
    return sides


@pytest.mark.parametrize("maker", ["settings", "code"])
@pytest.mark.parametrize(("seeds", "status"), [((3,), "INVALID"), ((0, 1), "INCONCLUSIVE")])
def test_a_time_has_the_seeds_that_are_advised(maker: Maker, seeds: tuple[int, ...], status: str) -> None:
    """One seed is too few and two are hardly enough: both messages name the seeds with which it is settled."""

    def judged(work: Workload) -> Verdict:
        ours, theirs = seconds(work, maker, "now", "now")
        return assess_time(ours, limit(1.0, SHARE), theirs, 0.95)

    work = replace(LONG, seeds=seeds)
    first = judged(work)
    assert first.status == status, first.message
    followed = follow(work, first.message, maker)
    assert len(followed.seeds) == 4
    assert judged(followed).status == "PASS"


@pytest.mark.parametrize("maker", ["settings", "code"])
def test_short_trials_have_the_same_advice_as_their_variants(maker: Maker) -> None:
    """They are of the same workload, and more seeds of it are more of theirs."""
    work = replace(LONG, seeds=(0, 1))
    short = [replace(side, workload_maker="elsewhere") for side in seconds(work, maker, "now", "now")]
    source = GivenSource(time_beside=lambda *_: (short[0], short[1]))
    candidate, baseline = (replace(side, source=source) for side in seconds(work, maker, "earlier", "now"))
    ours, theirs = candidate.timed_beside(baseline, "their steps were timed in different runs")
    doubt = assess_time(ours, limit(1.0, SHARE), theirs, 0.95)
    assert doubt.status == "INCONCLUSIVE"
    assert len(follow(work, doubt.message, maker).seeds) == 4


@pytest.mark.parametrize("place", ["the option --ftguard-seeds", "the environment variable FTGUARD_SEEDS"])
def test_a_key_that_another_place_wins_over_is_not_advised(place: str) -> None:
    """What the command line or the environment sets is changed there."""
    ours, theirs = (replace(side, overriding={"seeds": place}) for side in seconds(LONG, "settings", "now", "now"))
    one, other = (replace(side, trials=side.trials[:1]) for side in (ours, theirs))
    message = assess_time(one, limit(1.0, SHARE), other, 0.95).message
    assert f"set seeds = 0, 1, 2, 3 by {place}" in message
    assert "ftguard_seeds" not in message
    rate = RateSource("given", "settings")
    search = {"lora_search_learning_rate": "the option --ftguard-lora-search-learning-rate"}
    worse = replace(World(0.5).side(LORA), rate=rate, overriding=search)
    found = assess_loss_gap(worse, World().side(FULL), limit(0.1), Rule()).message
    assert "(lora_search_learning_rate = yes by the option --ftguard-lora-search-learning-rate)" in found


@pytest.mark.parametrize("maker", ["settings", "code"])
def test_doubt_about_convergence_is_settled_by_the_seeds_that_are_advised(maker: Maker) -> None:
    """If the seeds are what moves the trend; with the same steps and more of them it is settled."""

    def judged(work: Workload) -> Verdict:
        side = World(maker=maker).side(LORA, work)
        trials = []
        for one, offset in zip(side.trials, 0.02 * spread(len(work.seeds)), strict=True):
            falls = 0.03 + offset
            points = [CurvePoint(0, BASE, (10 * BASE,) * 128)]
            for doublings, step in ((2, 25), (1, 50), (0, 100)):
                loss = LEVEL + falls * doublings
                points.append(CurvePoint(step, loss, tuple((10 * loss + 0.01 * spread(128)).tolist())))
            trials.append(one.remeasured(curve=tuple(points)))
        return assess_convergence(replace(side, trials=tuple(trials)), limit(0.05), Rule())

    doubt = judged(LONG)
    assert doubt.status == "INCONCLUSIVE", doubt.message
    work = follow(LONG, doubt.message, maker)
    assert len(work.seeds) > len(LONG.seeds), doubt.message
    assert judged(work).status == "PASS"


def test_seconds_of_different_runs_are_measured_in_one_as_advised() -> None:
    """And without what disturbed them, on a device with room for them."""
    ours, theirs = seconds(LONG, "settings", "earlier", "now")
    verdict = assess_time(ours, limit(1.0, SHARE), theirs, 0.95)
    assert "train both in one (--ftguard-no-cache trains what is in the store again)" in verdict.message
    ours, theirs = seconds(LONG, "settings", "now", "now")
    assert assess_time(ours, limit(1.0, SHARE), theirs, 0.95).status == "PASS"
    ours, theirs = seconds(LONG, "elsewhere", "earlier", "now")
    other = assess_time(ours, limit(1.0, SHARE), theirs, 0.95)
    assert "What to do: train both in one." in other.message  # no option trains what another run has trained


def test_bytes_of_another_machine_are_measured_again_as_advised() -> None:
    """What this run has trained counts."""
    side = World().side(LORA)
    memory = side.trials[0].measured.memory
    assert memory is not None
    stored = replace(
        side,
        trials=tuple(
            one.remeasured(memory=replace(memory, method="allocator")).come_by(measured_elsewhere="another GPU")
            for one in side.trials
        ),
    )
    budget = limit(10**6, BYTES)
    assert "--ftguard-no-cache trains it here" in assess_memory(stored, budget).message
    here = replace(stored, trials=tuple(one.come_by(measured_elsewhere=None) for one in stored.trials))
    assert assess_memory(here, budget).status == "PASS"


@pytest.mark.parametrize("maker", ["settings", "code"])
def test_what_memory_is_saved_by_can_be_set_in_this_test(maker: Maker) -> None:
    """What is set already, what a training of one's own refuses, and what full fine-tuning has not are left out."""
    budget, world = limit(10, BYTES), World(maker=maker)
    message = assess_memory(world.side(LORA), budget).message
    work = follow(LONG, message, maker)
    assert work.batch_size == LONG.batch_size // 2
    replace(work, training_args={"gradient_checkpointing": True, "gradient_accumulation_steps": 2})
    for words in ("gradient_accumulation_steps", "gradient_checkpointing", "adapt fewer target modules"):
        assert words in message
    own = replace(LONG, training_function="mine:train", batch_size=1)
    least = assess_memory(world.side(LORA, own), budget).message
    assert "training_args" not in least
    assert "gradient" not in least
    assert "batch" not in least
    assert "block_size" in least
    assert "target modules" not in assess_memory(world.side(FULL), budget).message
    share = assess_memory(world.side(LORA), limit(0.5, SHARE), world.side(FULL)).message
    assert "adapt fewer target modules or lower the rank" in share
    lowest = LoRA(r=1, learning_rate=1e-3)
    assert "lower the rank" not in assess_memory(world.side(lowest), limit(0.5, SHARE), world.side(FULL)).message


def drifting(side: TrainedVariant, drifts: Mapping[str, float]) -> TrainedVariant:
    """A variant with a drift in nats per token for each form, which is made if its dtype is asked for."""

    def forms(trial: Trial, shipping: Shipping) -> tuple[FormLosses, ...]:
        losses = trial.measured.validation
        assert losses is not None
        noise = 0.5 * spread(len(losses.nll))
        return tuple(
            FormLosses(form=form, nll=tuple((np.array(losses.nll) + 10 * drift + noise).tolist()), digest=losses.digest)
            for form, drift in drifts.items()
            if shipping.dtype in form or "bf16" not in form
        )

    trials = tuple(one.come_by(model_dir="kept") for one in side.trials)
    return replace(side, trials=trials, source=GivenSource(forms=forms))


@pytest.mark.parametrize("maker", ["settings", "code"])
def test_a_drift_is_settled_or_avoided_as_advised(maker: Maker) -> None:
    """In doubt more of the text settles it; a type that loses too much is not shipped."""
    drifts = {"saved and reloaded": 0.0, "merged, saved in fp32 and reloaded": 0.0, "merged, saved in bf16": 0.06}
    side = drifting(World(maker=maker).side(LORA), drifts)
    found = assess_merge_drift(side, limit(0.02), Rule(), Shipping())
    assert found.status == "FAIL"
    assert 'What to do: ship the weights in fp32 (dtype="fp32")' in found.message
    assert assess_merge_drift(side, limit(0.02), Rule(), Shipping("fp32")).status == "PASS"
    doubt = assess_merge_drift(side, limit(0.064), Rule(), Shipping())
    assert doubt.status == "INCONCLUSIVE"
    work = follow(LONG, doubt.message, maker)
    assert work.validation_sequences > LONG.validation_sequences
    again = drifting(World(maker=maker).side(LORA, work), drifts)
    assert assess_merge_drift(again, limit(0.064), Rule(), Shipping()).status == "PASS"


def test_forms_are_evaluated_in_the_run_that_trains_as_advised() -> None:
    """A variant that was read from elsewhere has no weights."""
    side = World(maker="elsewhere").side(LORA)
    found = assess_merge_drift(side, limit(0.02), Rule(), Shipping())
    assert found.status == "INVALID"
    assert "What to do: call assert_merge_drift in the run that trains the variant." in found.message
    here = drifting(World().side(LORA), {"saved and reloaded": 0.0})
    assert assess_merge_drift(here, limit(0.02), Rule(), Shipping()).status == "PASS"
