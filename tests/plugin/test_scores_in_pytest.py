"""Scores of the team's own in a run of pytest: measured, judged, mended without a training, and in slices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from tests.classified import rows_of, save_model, write_rows
from tests.plain.builders import unwrapped

pytestmark = pytest.mark.torch

INI = """
[pytest]
ftguard_task = classification
ftguard_model = model
ftguard_train = train.jsonl
ftguard_validation = validation.jsonl
ftguard_block_size = 32
ftguard_batch_size = 8
ftguard_steps = 24
ftguard_seeds = 0
ftguard_precision = fp32
ftguard_validation_sequences = 160
ftguard_full_learning_rate = 3e-3
ftguard_lora_learning_rate = 1e-2
ftguard_lora_r = 4
ftguard_final = true
ftguard_gain_factor = 0
"""
# How sure a model is of the right class, by a pass of its own over all rows.
SCORES = """
import torch

def sureness(model, tokenizer, rows):
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    found = []
    for row, logits in zip(rows, model(**inputs).logits.float()):
        found.append(torch.softmax(logits, -1)[int(row["label"] == "pos")].item())
    return found
"""


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Labelled rows in two languages."""
    return [{**row, "language": "de" if place % 2 else "en"} for place, row in enumerate(rows_of(count, seed=seed))]


@pytest.fixture
def team(project: pytest.Pytester) -> pytest.Pytester:
    """A project that trains a classifier, and has a score of its own next to its tests."""
    write_rows(project.path / "train.jsonl", rows(200, 0))
    write_rows(project.path / "validation.jsonl", rows(170, 1))
    save_model(project.path / "model", "llama")
    project.makeini(INI)
    project.makepyfile(scores=SCORES)
    return project


def run(team: pytest.Pytester, body: str, *more: str, ini: str = "") -> pytest.RunResult:
    """Run one test with this body, with further lines in the ini file."""
    team.makeini(INI + ini)
    imports = "from pytest_ftguard import *\nfrom pytest_ftguard import read_report\n"
    team.makepyfile(test_it=f"{imports}\ndef test_it(full_variant, lora_variant):\n    {body}\n")
    return team.runpytest_inprocess("--ftguard-json=report.json", *more)


def report() -> dict[str, Any]:
    """Return the last report."""
    found: dict[str, Any] = json.loads(Path("report.json").read_text())
    return found


def test_a_score_is_named_as_advised(team: pytest.Pytester) -> None:
    """Then it is measured of the weights that are stored, of the base model too, and no training is made."""
    body = 'assert_score(lora_variant, score="sureness", at_least=0.4)'
    first = run(team, body)
    first.assert_outcomes(failed=1)
    assert "name a function that gives it: ftguard_score = module:function" in unwrapped(first).str()
    body = 'assert_score(lora_variant, score="sureness")'
    second = run(team, body, ini="ftguard_score = scores:sureness\nftguard_min_score = 40%\n")
    second.assert_outcomes(passed=1)
    second.stdout.fnmatch_lines(["score sureness*>= 0.4*(ini)*PASS*"])
    (lora,) = [trial for trial in report()["trials"] if trial["variant"] == "lora"]
    assert lora["measured_again"]
    values = lora["validation"]["scores"]["values"]["sureness"]
    assert len(values) == 160 == len(lora["base_validation"]["scores"]["values"]["sureness"])
    assert sum(values) > sum(lora["base_validation"]["scores"]["values"]["sureness"])
    (verdict,) = report()["verdicts"]
    assert (verdict["score"], verdict["slice"]) == ("sureness", None)


def test_a_score_is_mended_as_advised_without_a_training(team: pytest.Pytester) -> None:
    """A score that fails on a trained model costs no training: its row is named, and the gate on the loss goes on."""
    raising = 'if "lora" in str(model) and row["text"].startswith("good"): raise KeyError("no key")'
    team.makepyfile(scores=SCORES.replace("        found.", f"        {raising}\n        found."))
    body = (
        "assert_loss_gap(lora_variant, full_variant, at_most=3); "
        'assert_score_gap(lora_variant, full_variant, at_most="30 pp")'
    )
    ini = "ftguard_score = scores:sureness\n"
    first = run(team, body, ini=ini)
    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(["*INVALID: the score of lora r=4, seed 0, failed*", "*KeyError: 'no key', at row *"])
    assert [verdict["status"] for verdict in report()["verdicts"]] == ["PASS", "INVALID"]
    team.makepyfile(scores=SCORES)
    second = run(team, body, ini=ini)
    second.assert_outcomes(passed=1)
    assert [trial["measured_again"] for trial in report()["trials"]] == [True, True]


def test_slices_are_named_as_advised(team: pytest.Pytester) -> None:
    """Each by its values, and "length" by the number of tokens; each slice has its verdict."""
    first = run(team, 'assert_accuracy_gap(lora_variant, full_variant, at_most="40 pp", slice="language=de")')
    first.assert_outcomes(failed=1)
    assert "name its column: ftguard_slices = language" in unwrapped(first).str()
    each = 'assert_accuracy_gap(lora_variant, full_variant, at_most="60 pp", each_slice=True)'
    unset = run(team, each)
    assert "there are no slices: set ftguard_slices = COLUMN" in unwrapped(unset).str()
    ini = "ftguard_slices = language\n"
    second = run(team, each, ini=ini)
    second.assert_outcomes(passed=1)
    assert [verdict["slice"] for verdict in report()["verdicts"]] == ["language=de", "language=en"]
    assert all(trial["measured_again"] for trial in report()["trials"])
    unknown = run(team, each, ini="ftguard_slices = country\n")
    assert "no column named 'country' (ftguard_slices)" in unwrapped(unknown).str()


def test_scores_and_slices_are_in_summary_report_and_junit(team: pytest.Pytester) -> None:
    """Each slice's verdict has properties of its own, with its score and its slice."""
    ini = "ftguard_score = scores:sureness\nftguard_slices = language\n"
    each = 'assert_score_gap(lora_variant, full_variant, at_most="60 pp", each_slice=True)'
    result = run(team, each, "--junitxml=junit.xml", "--ftguard-markdown=summary.md", ini=ini)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "scores: mean over the validation examples",
            "score *base model *full *lora r=4",
            "sureness *0.*0.*0.*",
            "slices by language: loss, sureness",
            "language *examples *base model *full *lora r=4",
            "de * 0.*, 0.* 0.*, 0.* 0.*, 0.*",
            "en * 0.*, 0.* 0.*, 0.* 0.*, 0.*",
        ]
    )
    assert "### slices by language: loss, sureness" in Path("summary.md").read_text()
    full, lora = report()["trials"]
    assert lora["scores"].keys() == full["scores"].keys() == {"accuracy", "sureness"}
    slices = lora["slices"]["language"]
    assert slices.keys() == {"de", "en"}
    assert sum(one["examples"] for one in slices.values()) == 160
    total = sum(one["examples"] * one["sureness"] for one in slices.values())
    assert total / 160 == pytest.approx(lora["scores"]["sureness"])
    properties = {one.get("name"): one.get("value") for one in ET.parse("junit.xml").iter("property")}
    for name, value in (("score_gap", "de"), ("score_gap.2", "en")):
        assert properties[f"ftguard.{name}.slice"] == f"language={value}"
        assert properties[f"ftguard.{name}.score"] == "sureness"
        assert properties[f"ftguard.{name}.status"] == "PASS"


def test_two_sources_of_a_score_are_made_one_as_advised(team: pytest.Pytester) -> None:
    """What scored yesterday's full fine-tuning is no longer what scores LoRA today."""
    ini = "ftguard_score = scores:sureness\n"
    both = 'assert_score_gap(lora_variant, full_variant, at_most="30 pp")'
    run(team, both, ini=ini).assert_outcomes(passed=1)
    Path("report.json").rename("yesterday.json")
    team.makepyfile(scores=SCORES + "\n# another source\n")
    read = 'assert_score_gap(lora_variant, read_report("yesterday.json")[0], at_most="30 pp")'
    result = run(team, read, ini=ini)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*INVALID: the source of the score was not the same for all trials*"])
    assert "train both in one run" in unwrapped(result).str()
    run(team, both, ini=ini).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "has no attribute 'sureness'"),
        ("sureness = 3", "name a function"),
        ("def sureness(model): pass", "must take (model, tokenizer, rows)"),
        ("def sureness(model, tokenizer, rows): return 1 / 0", "failed on the base model: ZeroDivisionError"),
        ("def sureness(model, tokenizer, rows): return [1.0]", "sureness has 1 values for 160 rows"),
        ("def sureness(model, tokenizer, rows): return 1.0", "must be one number for each of 160 rows"),
        ("def sureness(model, tokenizer, rows): return ['x' for _ in rows]", "which is no number"),
        ("def sureness(model, tokenizer, rows): return {'accuracy': [0.0] * len(rows)}", "has an accuracy of its own"),
        (
            "def sureness(model, tokenizer, rows):\n    model.score.weight.data.zero_()\n    return [0.0] * len(rows)",
            "changes the model's weights",
        ),
    ],
)
def test_a_wrong_score_is_told_before_anything_is_trained(team: pytest.Pytester, source: str, words: str) -> None:
    """One clear message that names the function; nothing is lost, because nothing was trained."""
    team.makepyfile(scores=source)
    result = run(team, 'assert_score(lora_variant, at_least="1%")', ini="ftguard_score = scores:sureness\n")
    assert result.ret != 0
    assert words in unwrapped(result).str()
    assert "scores:sureness" in unwrapped(result).str()
    assert not any(trial["outcome"] == "ok" for trial in (report()["trials"] if Path("report.json").exists() else []))


PAIR = 'assert_accuracy_gap(lora_variant, full_variant, at_most="60 pp")'


@pytest.mark.parametrize(
    ("ini", "words"),
    [
        ("ftguard_score = scores:nothing\n", "has no attribute 'nothing'"),
        ("ftguard_score = nowhere:sureness\n", "which cannot be imported (ModuleNotFoundError"),
        ("ftguard_slices = country\n", "no column named 'country' (ftguard_slices)"),
        ("ftguard_group = movie\n", "no column named 'movie' (ftguard_group)"),
    ],
)
def test_a_plan_says_what_is_wrong_with_score_slices_and_group(team: pytest.Pytester, ini: str, words: str) -> None:
    """Without a training, as a training would."""
    result = run(team, PAIR, "--ftguard-plan", ini=ini)
    assert words in unwrapped(result).str()
    assert not list(team.path.glob(".ftguard_cache/*/*/weights*"))


def test_a_plan_with_scores_slices_and_groups_forecasts_what_one_without_does(team: pytest.Pytester) -> None:
    """And no gate on them decides anything there."""
    body = (
        f'{PAIR}; assert_score(lora_variant, at_least="99%"); '
        'assert_score_gap(lora_variant, full_variant, at_most="1 pp"); '
        'assert_no_regression(lora_variant, full_variant, at_most="1 pp")'
    )
    forecasts = []
    more = "ftguard_score = scores:sureness\nftguard_slices = language, length\nftguard_group = language\n"
    for ini in ("", more):
        run(team, body, "--ftguard-plan", ini=ini).assert_outcomes(skipped=1)
        trials = report()["trials"]
        assert {trial["outcome"] for trial in trials} == {"planned"}
        forecasts.append([trial["memory"]["forecast_bytes"] for trial in trials])
        assert report()["verdicts"] == []
    assert forecasts[0] == forecasts[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_scores_are_stored_and_made_again_if_their_source_changes(team: pytest.Pytester, workers: int) -> None:
    """Nothing is trained a second time, and what is unchanged is not even scored."""
    options = ["-n", str(workers)] if workers else []
    body, ini = (
        f'{PAIR}; assert_score(lora_variant, score="sureness", at_least=0.4)',
        "ftguard_score = scores:sureness\n",
    )
    run(team, body, *options, ini=ini).assert_outcomes(passed=1)
    first = report()["trials"]
    assert [(trial["cached"], trial["measured_again"]) for trial in first] == [(False, False)] * 2
    run(team, body, *options, ini=ini).assert_outcomes(passed=1)
    assert [(trial["cached"], trial["measured_again"]) for trial in report()["trials"]] == [(True, False)] * 2
    team.makepyfile(scores=SCORES.replace(".item()", ".item() ** 0.5"))
    run(team, body, *options, ini=ini).assert_outcomes(passed=1)
    again = report()["trials"]
    assert [trial["measured_again"] for trial in again] == [True] * 2
    for one, other in zip(first, again, strict=True):
        losses = [{**trial["validation"], "scores": None} for trial in (one, other)]
        assert losses[0] == losses[1]
        assert one["curve"] == other["curve"]
        for name in ("validation", "base_validation"):
            before, now = (trial[name]["scores"]["values"]["sureness"] for trial in (one, other))
            assert now == pytest.approx([value**0.5 for value in before])


def test_scores_are_accepted_and_held_to_it(team: pytest.Pytester) -> None:
    """The same training again has fallen by nothing; another source of the score is no regression but INVALID."""
    body = (
        'assert_no_regression(lora_variant, full_variant, at_most="9 pp"); '
        'assert_no_regression(lora_variant, at_most=0.09, score="sureness")'
    )
    ini = "ftguard_score = scores:sureness\n"
    accepted = run(team, body, "--ftguard-update", "--ftguard-seeds=0,1,2", ini=ini)
    accepted.assert_outcomes(passed=1)
    files = sorted(team.path.glob("ftguard_baselines/*.json"))
    assert len(files) == 2
    held = json.loads(files[0].read_text())["accepted"]
    assert sorted(held["scores"]) == ["accuracy", "sureness"]
    again = run(team, body, "--ftguard-seeds=0,1,2", ini=ini)
    again.assert_outcomes(passed=1)
    found = [(one["gate"], one["score"], one["status"], one["value"]) for one in report()["verdicts"]]
    assert found == [("regression", "accuracy", "PASS", 0.0), ("regression", "sureness", "PASS", 0.0)]
    team.makepyfile(scores=SCORES + "\n# another source\n")
    other = run(team, body, "--ftguard-seeds=0,1,2", ini=ini)
    other.assert_outcomes(failed=1)
    other.stdout.fnmatch_lines(["*sureness regression INVALID: sureness is not what was accepted under that name*"])
    assert [one["status"] for one in report()["verdicts"]] == ["PASS", "INVALID"]
