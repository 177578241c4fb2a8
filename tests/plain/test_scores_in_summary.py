"""Scores, slices, lost examples and the domain in summary and report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.reporting.assembly import run_summary
from pytest_ftguard.reporting.json import json_report, read_report
from pytest_ftguard.reporting.markdown import render
from pytest_ftguard.results import About, Answers, Memory, Parameters, Scores, SequenceLosses, Trial, TrialError
from pytest_ftguard.specs import LoRA, Peft, Variant

from .builders import FULL, LORA, WORKLOAD, losses, summary_lines, trial

COUNT = 64
WORK = replace(WORKLOAD, task="chat", score="scores:exact_match", seeds=(0, 1), slices=("language",))
LANGUAGES = ("de", *("en",) * (COUNT - 1))
ABOUT = About(tuple(f"id-{place}" for place in range(COUNT)), {"language": LANGUAGES})
LARGE: dict[str, Any] = {"memory": Memory(2_486_000_000, "allocator")}


def right(share: float) -> tuple[float, ...]:
    """Answers of which this share is right."""
    return tuple(float(place < share * COUNT) for place in range(COUNT))


def evaluated(scores: Mapping[str, Sequence[float]], **changes: Any) -> SequenceLosses:
    """Losses and scores of one model."""
    values = {name: tuple(row) for name, row in scores.items()}
    parts = {"nll": (20.0,) * COUNT, "made": Scores(values, 1.0), "about": ABOUT, **changes}
    return losses(parts.pop("nll"), scores=parts.pop("made"), **parts)


def scored(
    variant: Variant,
    share: float,
    seed: int = 0,
    *,
    names: Sequence[str] = ("exact_match",),
    measured: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Trial:
    """A trial with scores of the team's own, of a model of 135 million parameters."""
    trainable = 134_515_008 if variant.kind == "full" else 294_912
    parts: dict[str, Any] = {
        "validation": evaluated({name: right(share) for name in names}, **changes),
        "base_validation": evaluated({name: right(0.25) for name in names}, **{**changes, "nll": (30.0,) * COUNT}),
        "parameters": Parameters(134_515_008, trainable),
        **LARGE,
        **(measured or {}),
    }
    return trial(variant, [], seed=seed, workload=WORK, **parts)


def both(**options: Any) -> list[Trial]:
    """Two seeds of full fine-tuning and of LoRA, which is worse."""
    pairs = ((FULL, 0.75, 0), (FULL, 1.0, 1), (LORA, 0.5, 0), (LORA, 0.5, 1))
    return [scored(variant, share, seed, **options) for variant, share, seed in pairs]


def rows(lines: Sequence[str], first: str) -> list[str]:
    """The lines of the table that begins with this heading, with one blank between words."""
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    end = next((number for number, line in enumerate(lines) if number > start and not line), len(lines))
    return [" ".join(line.split()) for line in lines[start:end]]


def test_one_score_has_a_column_in_the_place_of_the_perplexity() -> None:
    """It is the mean over the examples, with the spread over the seeds; the base model has one too."""
    lines = summary_lines(both())
    assert rows(lines, "variant") == [
        "variant trainable val loss exact_match peak memory s/step",
        "base model 3.000 0.250",
        "full 134,515,008 100% 2.000 +-0.000 0.875 +-0.177 2.49 GB 0.5",
        "lora r=16 294,912 0.22% 2.000 +-0.000 0.500 +-0.000 2.49 GB 0.5",
    ]
    assert not any(line.startswith("score ") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "options",
    [
        {"names": ("exact_match", "rouge_l")},
        {"names": ("exact_match_after_normalization",)},
        {"measured": {"reference": losses([20.0] * COUNT), "base_reference": losses([30.0] * COUNT)}},
        {"answers": Answers((1,) * COUNT, (1,) * COUNT)},
    ],
)
def test_scores_without_room_have_a_table_of_their_own(options: dict[str, Any]) -> None:
    """Several ones, one with a long name, and one next to accuracy or to the loss on a reference text."""
    trials = [*both(**options), *(scored(LoRA(r=4, learning_rate=1e-3), 0.5, seed, **options) for seed in (0, 1))]
    lines = summary_lines(trials)
    names = options.get("names", ("exact_match",))
    assert "0.875" not in " ".join(rows(lines, "variant"))
    words = " ".join(rows(lines, "score ")).split()
    cells = (*names, "0.250", "0.875", "+-0.177", *("0.500", "+-0.000") * 2)
    assert {cell: words.count(cell) for cell in cells} == {
        cell: 1 if cell in names else len(names) * cells.count(cell) for cell in cells
    }
    assert max(map(len, lines[lines.index("scores: mean over the validation examples") :])) <= 80


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.500"), (12.5, "12.50"), (1234.5, "1234.5"), (1e9, "1e+09"), (1e-5, "1e-05"), (0.0, "0.000")],
)
def test_a_score_of_any_size_is_readable(value: float, shown: str) -> None:
    """As many digits as tell values of its size apart."""
    one = scored(FULL, 1.0)
    measured = {
        "validation": evaluated({"words": (value,) * COUNT}),
        "base_validation": evaluated({"words": (0.0,) * COUNT}),
    }
    (row,) = [row for row in rows(summary_lines([one.remeasured(**measured)]), "variant") if row.startswith("full")]
    assert row.split()[4] == shown


def test_a_score_that_one_seed_lacks_is_none_and_a_note_says_why() -> None:
    """A mean over the seeds that happened to be scored would flatter the variant."""
    trials = both()
    trials[1] = trials[1].remeasured(validation=evaluated({}, made=Scores({}, 1.0, "KeyError: 'no key', at row id-3")))
    odd = (math.nan, math.inf, *right(0.5)[2:])
    trials[2:] = [one.remeasured(validation=evaluated({"exact_match": odd})) for one in trials[2:]]
    lines = summary_lines(trials)
    assert [row.split()[-4] for row in rows(lines, "variant")[2:4]] == ["-", "nan"]
    text = " ".join(" ".join(lines).split())
    assert "note: scores:exact_match failed on full, seed 1: KeyError: 'no key', at row id-3" in text
    assert "note: exact_match of lora r=16, seeds 0, 1, is no finite number for 2 of 64 examples" in text


@pytest.mark.parametrize(("seconds", "words"), [(12.4, "in 12 s per model"), (2.0, None)])
def test_the_time_that_scoring_takes_is_told_if_it_is_long(seconds: float, words: str | None) -> None:
    """As the mean over the models, the base model among them."""
    scores = Scores({"exact_match": right(0.5)}, seconds)
    lines = summary_lines(both(made=scores))
    assert [line for line in lines if "scored by" in line] == (
        [f"note: scored by scores:exact_match {words}"] if words else []
    )


def test_each_slice_has_a_row_also_one_with_a_single_example() -> None:
    """Its number of examples, and of the base model and each variant the loss and the score, mean over the seeds."""
    lines = summary_lines(both())
    assert "slices by language: loss, exact_match" in lines
    assert rows(lines, "language") == [
        "language examples base model full lora r=16",
        "de 1 3.000, 1.000 2.000, 1.000 2.000, 1.000",
        f"en 63 3.000, {15 / 63:.3f} 2.000, {55 / 63:.3f} 2.000, {31 / 63:.3f}",
    ]
    plain = [one.remeasured(validation=replace(measured(one), about=About(ABOUT.names))) for one in both()]
    assert not any("slices" in line for line in summary_lines(plain))


def measured(one: Trial) -> SequenceLosses:
    """What a trial measured on the validation examples."""
    assert one.measured.validation is not None
    return one.measured.validation


def test_slices_show_accuracy_if_it_is_the_only_score_or_else_the_loss_alone() -> None:
    """A variant that failed has no figures, and a base model that nobody described takes the slices of the others."""
    labels = (1,) * COUNT
    answers = evaluated({}, made=None, answers=Answers(labels, (0, *labels[1:])))
    one = scored(FULL, 1.0, measured={"validation": answers, "base_validation": replace(answers, about=None)})
    failed = scored(LORA, 1.0, seed=1).remeasured(
        outcome="crashed", validation=None, base_validation=None, error=TrialError("so")
    )
    lines = summary_lines([one, failed])
    assert rows(lines, "language") == [
        "language examples base model full lora r=16",
        "de 1 2.000, 0.0% 2.000, 0.0% -",
        "en 63 2.000, 100.0% 2.000, 100.0% -",
    ]
    plain = evaluated({}, made=None)
    lines = summary_lines([scored(FULL, 1.0, measured={"validation": plain, "base_validation": plain})])
    assert "slices by language: loss" in lines
    assert rows(lines, "language")[1] == "de 1 2.000 2.000"


def test_a_variant_that_was_also_read_says_so_in_each_table() -> None:
    """Otherwise two columns would have one heading."""
    names = ("exact_match", "rouge_l")
    lines = summary_lines([scored(FULL, 0.75, names=names).come_by(cached=True), scored(FULL, 1.0, names=names)])
    assert rows(lines, "score ")[0] == "score base model full (read) full"
    assert rows(lines, "language")[0] == "language examples base model full (read) full"


def test_many_variants_and_slices_stay_within_80_columns() -> None:
    """Loss and score of a cell are broken apart before the table is too wide."""
    variants = [Peft("ia3", label=f"ia3 of kind {number}", learning_rate=1e-3) for number in range(8)]
    trials = [*both(), *(scored(variant, 0.5, seed) for variant in variants for seed in (0, 1))]
    lines = summary_lines(trials)
    start = lines.index("slices by language: loss, exact_match")
    assert max(map(len, lines[start:])) <= 80
    end = next(number for number, line in enumerate(lines) if "lost most" in line)
    words = " ".join(lines[start:end]).split()
    assert [words.count(word) for word in ("base", "full", "language", "ia3")] == [1, 1, 2, 8]


def test_the_examples_that_lost_most_are_named_in_one_line_per_candidate() -> None:
    """By their names only; long ones are cut, and what hides in one is shown."""
    lines = summary_lines(both())
    assert lines[-2:] == [
        "lora r=16 lost most exact_match against full on rows id-32, id-33, id-34, id-35,",
        "      id-36 (-1)",
    ]
    odd = About(("x" * 60, "a\x1b[31mb", *ABOUT.names[2:]))
    (full, _, lora, _) = both(about=odd)
    worse = lora.remeasured(validation=evaluated({"exact_match": (0.0, 0.5, *right(0.75)[2:])}, about=odd))
    line = " ".join(" ".join(summary_lines([full, worse])[-2:]).split())
    assert line.endswith(
        f"lora r=16 lost most exact_match against full on rows {'x' * 37}..., a\\x1b[31mb (-1 to -0.5)"
    )


def test_without_a_score_the_loss_tells_who_lost_most_and_nobody_is_named_who_did_not() -> None:
    """Sequences of a text have numbers; the line says by how much."""
    nll = [20.0] * COUNT
    trials = [trial(FULL, nll), trial(LORA, [*nll[:4], 23.0, *nll[5:]])]
    assert summary_lines(trials)[-1] == "lora r=16 lost most against full on sequence 5 (+0.3 nats per token)"
    assert not any("lost most" in line for line in summary_lines([trial(FULL, nll), trial(LORA, nll)]))


@pytest.mark.parametrize(
    ("answers", "nll", "words"),
    [
        (
            None,
            20.0,
            "domain: the base model is at 3.000 nats per token on the validation text and at 2.800 on the "
            "reference text (+0.200); full gained 1.000 variant",
        ),
        (Answers((1,) * COUNT, (1,) * COUNT), 20.0, "3.000 nats per example on the validation text"),
        (None, 31.0, "full lost 0.100"),
    ],
)
def test_a_domain_is_told_next_to_the_reference_text(answers: Answers | None, nll: float, words: str) -> None:
    """One line: the base model on both, and what full fine-tuning gained or lost on the domain."""
    parts: dict[str, Any] = {"reference": losses([20.0] * COUNT), "base_reference": losses([28.0] * COUNT)}
    base = losses([30.0] * COUNT, answers=answers)
    lines = summary_lines([trial(FULL, [nll] * COUNT, base_validation=base, **parts)])
    text = " ".join(" ".join(lines).split())
    assert words in text
    assert not any(line.startswith("domain:") for line in summary_lines([trial(FULL, [nll] * COUNT)]))


def test_the_spread_of_the_gain_is_that_over_the_seeds() -> None:
    """Without full fine-tuning there is no gain to tell."""
    parts: dict[str, Any] = {"reference": losses([20.0] * COUNT), "base_reference": losses([28.0] * COUNT)}
    two = [trial(FULL, [20.0 + seed] * COUNT, seed=seed, **parts) for seed in (0, 1)]
    text = " ".join(" ".join(summary_lines(two)).split())
    assert "full gained 0.950 +-0.071" in text
    assert "(+0.200) variant" in " ".join(" ".join(summary_lines([trial(LORA, [20.0] * COUNT, **parts)])).split())


def test_the_markdown_has_what_the_terminal_has() -> None:
    """Tables of scores and slices, and the examples."""
    text = render(run_summary(both(names=("exact_match", "rouge_l")), []))
    for words in (
        "### scores: mean over the validation examples",
        "| rouge\\_l | 0\\.250 | 0\\.875 +-0.177 | 0\\.500 +-0.000 |",
        "### slices by language: loss, exact\\_match",
        "| de | 1 | 3\\.000, 1.000 | 2\\.000, 1.000 | 2\\.000, 1.000 |",
        "- lora r=16 lost most exact\\_match against full on rows id-32,",
    ):
        assert words in text, text


def report(trials: Sequence[Trial]) -> dict[str, Any]:
    """The JSON report on trials."""
    found: dict[str, Any] = json.loads(json_report(trials, []))
    return found


def test_the_report_has_the_mean_of_each_score_over_all_examples_and_in_each_slice() -> None:
    """A score named as what a slice has anyway takes nothing's place."""
    answers = Answers((1,) * COUNT, (0, *(1,) * (COUNT - 1)))
    one = scored(FULL, 0.5, measured={"validation": evaluated({"loss": (9.0,) * COUNT}, answers=answers)})
    (written,) = report([one])["trials"]
    assert written["scores"] == {"accuracy": 63 / 64, "loss": 9.0}
    assert written["slices"] == {
        "language": {
            "de": {"examples": 1, "loss": 2.0, "accuracy": 0.0},
            "en": {"examples": 63, "loss": 2.0, "accuracy": 1.0},
        }
    }
    (plain,) = report([trial(FULL, [20.0] * COUNT)])["trials"]
    assert (plain["scores"], plain["slices"]) == ({}, {})
    (failed,) = report([trial(FULL, [20.0] * COUNT, outcome="crashed", validation=None)])["trials"]
    assert (failed["scores"], failed["slices"]) == (None, None)


def test_a_score_that_is_no_number_is_null_and_is_read_as_none(tmp_path: Path) -> None:
    """All others are what they were; means of it are null too."""
    values = (math.nan, -math.inf, *right(0.5)[2:])
    one = scored(FULL, 0.5, measured={"validation": evaluated({"exact_match": values})})
    (tmp_path / "r.json").write_text(json_report([one], []))
    (written,) = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)["trials"]
    assert written["validation"]["scores"]["values"]["exact_match"][:3] == [None, None, 1.0]
    assert written["scores"] == {"exact_match": None}
    (read,) = read_report(tmp_path / "r.json")
    found = measured(read.trials[0]).scored["exact_match"]
    assert [math.isnan(value) for value in found] == [True, True, *[False] * 62]
    assert found[2:] == values[2:]


def test_a_report_without_the_new_parts_is_read(tmp_path: Path) -> None:
    """An earlier version wrote neither scores nor slices; what is measured comes back whole."""
    values = report(both())
    for name in ("lost_most", "specialization"):
        del values[name]
    for one in values["trials"]:
        del one["scores"], one["slices"]
    (tmp_path / "r.json").write_text(json.dumps(values))
    full, lora = read_report(tmp_path / "r.json")
    assert [one.measured for one in (*full.trials, *lora.trials)] == [one.measured for one in both()]


def test_the_report_names_the_examples_that_lost_most() -> None:
    """With the gap in loss and scores of each, and the trials that it is about."""
    found = report(both())
    (lost,) = found["lost_most"]
    assert (lost["candidate"], lost["baseline"], lost["score"]) == ("lora r=16", "full", "exact_match")
    assert [one["name"] for one in lost["examples"]] == [f"id-{place}" for place in range(32, 37)]
    assert lost["examples"][0] == {"name": "id-32", "loss": 0.0, "scores": {"exact_match": -1.0}}
    assert lost["trials"] == [one["fingerprint"] for one in found["trials"] if one["variant"] == "lora"]
    assert report(both()[:2])["lost_most"] == []


def test_the_report_tells_how_special_a_domain_is() -> None:
    """Once for each workload with a reference text."""
    parts: dict[str, Any] = {"reference": losses([20.0] * COUNT), "base_reference": losses([28.0] * COUNT)}
    (found,) = report([trial(FULL, [20.0] * COUNT, seed=seed, **parts) for seed in (0, 1)])["specialization"]
    assert (found["unit"], found["gains"], len(found["trials"])) == ("nats per token", [1.0, 1.0], 2)
    figures = {name: found[name] for name in ("domain_loss", "reference_loss", "difference", "gain")}
    assert figures == pytest.approx({"domain_loss": 3.0, "reference_loss": 2.8, "difference": 0.2, "gain": 1.0})
    (alone,) = report([trial(LORA, [20.0] * COUNT, **parts)])["specialization"]
    assert (alone["gain"], alone["gains"]) == (None, [])
    assert report([trial(FULL, [20.0] * COUNT)])["specialization"] == []
