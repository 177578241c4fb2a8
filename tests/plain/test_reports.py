"""The summary, the progress line and the JSON report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from contextvars import copy_context
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.current import active_test
from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.gates.limits import BYTES, GROWTH, NATS_PER_TOKEN, SHARE, Limit
from pytest_ftguard.gates.quality import assert_loss_gap
from pytest_ftguard.gates.setting import Origin
from pytest_ftguard.gates.verdict import RecordedVerdict, Status, Verdict, give
from pytest_ftguard.reporting.assembly import Remarks, plan_summary, run_summary
from pytest_ftguard.reporting.json import json_report, read_report
from pytest_ftguard.reporting.progress import progress_line
from pytest_ftguard.reporting.registry import RENDERERS, find_renderer
from pytest_ftguard.reporting.terminal import terminal_lines
from pytest_ftguard.reporting.variants import distinct_labels
from pytest_ftguard.results import Breakdown, Measured, Memory, Parameters, Provenance, Timing, Trial, TrialError
from pytest_ftguard.results.progress import Progress
from pytest_ftguard.settings.keys import BY_NAME
from pytest_ftguard.specs import LoRA, TrialSpec
from tests.plain.builders import FULL, LORA, WORKLOAD, losses, plan_lines, remarks, summary_lines, trained, trial

NLL = [20.0 + 0.01 * i for i in range(64)]
BIG: dict[str, Any] = {"parameters": Parameters(134_515_008, 134_515_008), "memory": Memory(2_486_000_000, "allocator")}
INI = Origin("ini", "ftguard_limit in pytest.ini")
VERDICT = Verdict(
    gate="loss_gap",
    status="INCONCLUSIVE",
    candidate="lora r=16",
    baseline="full",
    value=0.019,
    interval=(0.012, 0.026),
    limit=Limit(0.02, NATS_PER_TOKEN, INI),
    details=("...",),
)


def trials() -> list[Trial]:
    return [trial(FULL, NLL, seed=s, **BIG) for s in (0, 1)] + [
        trial(LORA, [x + s for x in NLL], seed=s) for s in (0, 1)
    ]


def test_losses_that_are_not_finite_are_shown_and_do_not_end_the_summary() -> None:
    """Two seeds have no spread if one is NaN, and the rest of the summary is shown."""
    broken = [trial(LORA, [math.nan] * 64, seed=seed) for seed in (0, 1)]
    text = "\n".join(summary_lines([*trials()[:2], *broken], [RecordedVerdict("t.py::test_it", VERDICT)], []))
    assert "nan" in text
    assert "INCONCLUSIVE" in text


def test_a_regression_is_shown_with_its_sign_and_accepted_files_are_counted() -> None:
    """A share that has grown is no share of the baseline; what was only accepted has no value."""
    grown = replace(
        VERDICT, gate="regression", status="FAIL", value=0.062, interval=None, limit=Limit(0.05, GROWTH, INI)
    )
    accepted = replace(grown, status="ACCEPTED", value=None)
    text = "\n".join(summary_lines([], [RecordedVerdict("t.py::test_it", one) for one in (grown, accepted)], []))
    assert re.search(r"regression +\+6\.2% +<= 5%  \(ini\) +FAIL", text)
    assert re.search(r"regression +- +<= 5%  \(ini\) +ACCEPTED", text)
    asking = replace(accepted, note="It has become better by more than the limit: accept it with --ftguard-update.")
    lines = summary_lines([], [RecordedVerdict("t.py::test_it", one) for one in (asking, grown)], [])
    assert lines[2:5] == [
        "    lora r=16 in t.py::test_it",
        "    It has become better by more than the limit: accept it with",
        "    --ftguard-update.",
    ]
    assert Verdict.from_dict(asking.to_dict()) == asking
    assert Verdict.from_dict({name: value for name, value in grown.to_dict().items() if name != "note"}) == grown
    assert remarks() == []
    assert remarks(accepted=["a/b.json", "a/c.json", "a/b.json"]) == ["2 results accepted in a: review and commit"]
    assert remarks(accepted=["a/b.json"], unchanged=["a/b.json"]) == ["1 result accepted in a: review and commit"]
    some = remarks(accepted=["a/b.json"], unchanged=["a/b.json", "a/c.json"])
    assert some == ["1 result accepted in a: review and commit; 1 unchanged"]
    assert remarks(unchanged=["a/b.json"]) == ["1 result accepted before in a: unchanged"]


def test_the_summary_shows_both_variants_the_base_and_the_gates_in_80_columns() -> None:
    """A model of 135 million parameters, two seeds and every column fit."""
    lines = summary_lines(trials(), [RecordedVerdict("tests/test_quality.py::test_it", VERDICT)], [])
    text = "\n".join(lines)
    for words in (
        "base model",
        "134,515,008 100%",
        "2.49 GB",
        "100  10%",
        "+-0.071",
        "+0.019 [0.012, 0.026]",
        "<= 0.02  (ini)",
    ):
        assert words in text, text
    assert "100 steps of 4x128 x 2 seeds" in text
    assert "learning rates: full 0.0001, lora r=16 0.001" in text
    assert max(map(len, lines)) <= 80


def test_nothing_that_happened_is_an_empty_summary() -> None:
    """No trial, no verdict, no skipped test: no line."""
    assert summary_lines([], [], []) == []
    assert "2 tests did not run" in summary_lines([], [], ["no GPU", "no GPU"])[0]


def test_a_verdict_goes_from_process_to_process_as_it_is() -> None:
    """The place of its limit goes with it; the JSON report keeps the fields that its readers know."""
    assert Verdict.from_dict(json.loads(json.dumps(VERDICT.to_dict()))) == VERDICT
    (shown,) = json.loads(json_report([], [RecordedVerdict("t.py::test_it", VERDICT)]))["verdicts"]
    assert list(shown) == [
        "nodeid",
        "test_outcome",
        "gate",
        "status",
        "candidate",
        "baseline",
        "value",
        "interval",
        "limit",
        "unit",
        "limit_source",
        "message",
        "note",
        "attempts",
        "candidate_learning_rate",
        "candidate_rate_origin",
        "baseline_learning_rate",
        "baseline_rate_origin",
        "score",
        "slice",
    ]
    assert (shown["limit"], shown["unit"], shown["limit_source"]) == (0.02, "nats per token", "ini")


def test_a_failed_trial_is_shown_with_its_reason_and_without_figures() -> None:
    """An average over the surviving seeds would flatter the variant."""
    spec = TrialSpec(workload=WORKLOAD, variant=LORA, seed=1)
    failed = Trial(spec, Measured(outcome="diverged", error=TrialError("the training loss is nan at step 7")))
    lines = summary_lines([trial(LORA, NLL), failed], [], [])
    row = next(line for line in lines if line.startswith("lora r=16"))
    assert row.split()[-1] == "-"
    assert "lora r=16, seed 1, ended diverged: the training loss is nan at step 7" in lines


@pytest.mark.parametrize(
    ("changes", "measured", "limit"),
    [
        ({"value": 0.02, "interval": (0.019, 0.02049)}, "+0.0200 [0.0190, 0.0205]", "0.02"),
        (
            {"value": 2e-4, "interval": (1.1e-4, 3e-4), "limit": Limit(1e-4, NATS_PER_TOKEN, INI)},
            "+0.00020 [0.00011, 0.00030]",
            "0.0001",
        ),
        ({"value": 0.6004, "interval": None, "limit": Limit(0.6, SHARE, INI)}, "60.04% of full", "60%"),
        ({"value": 900_400_000, "interval": None, "limit": Limit(9e8, BYTES, INI)}, "900.4 MB", "900.0 MB"),
        ({"value": 899_999_999, "interval": None, "limit": Limit(9e8, BYTES, INI)}, "899.999999 MB", "900.000000 MB"),
    ],
)
def test_no_row_is_rounded_so_that_it_contradicts_its_verdict(
    changes: dict[str, Any], measured: str, limit: str
) -> None:
    """What lies beyond the limit is shown beyond it, with as many digits as that takes."""
    rows = summary_lines([], [RecordedVerdict("a::b", replace(VERDICT, **changes))], [])
    assert measured in rows[1]
    assert f"<= {limit}  (" in rows[1]


def test_variants_that_look_alike_are_told_apart() -> None:
    """Two variants with one label show the settings in which they differ, options by name; others show their label."""
    pairs: list[tuple[LoRA, LoRA, tuple[str, str]]] = [
        (LORA, replace(LORA, alpha=64), ("", " alpha=64")),
        (LORA, replace(LORA, learning_rate=1e-4), (" learning_rate=0.001", " learning_rate=0.0001")),
        (
            replace(LORA, options={"layers_to_transform": [0]}),
            replace(LORA, options={"layers_to_transform": [1, 2]}),
            (" layers_to_transform=0", " layers_to_transform=1,2"),
        ),
    ]
    for one, other, told in pairs:
        assert distinct_labels([one, FULL, other]) == [f"lora r=16{told[0]}", "full", f"lora r=16{told[1]}"]


def test_every_name_below_the_table_is_that_in_the_table() -> None:
    """Also of two variants that differ in their learning rates alone: notes, failures and rows of gates."""
    other = replace(LORA, learning_rate=1e-4)
    trials = [trial(LORA, NLL, notes=("so",)), trial(other, NLL), trial(FULL, NLL)]
    failed = trial(other, NLL, seed=1).remeasured(outcome="crashed", validation=None)
    sides = trained(other, trial(other, NLL)), trained(FULL, trial(FULL, NLL))
    verdict = give("loss_gap", "PASS", candidate=sides[0], baseline=sides[1], measured=0.1, limit=VERDICT.limit)
    summary = run_summary([*trials, failed], [RecordedVerdict("t.py::test_it", verdict)])
    text = " ".join(word for line in terminal_lines(summary) for word in line.text.split())
    assert text.count("lora r=16") == text.count("lora r=16 learning_rate=")
    for words in ("learning_rate=0.001, seed 0: so", "learning_rate=0.0001, seed 1, ended", "=0.0001 in t.py::test_it"):
        assert words in text


def test_more_seeds_of_a_variant_stand_in_its_row() -> None:
    """The figures are those of all seeds that were trained, as the gate judges them."""
    first, more = replace(WORKLOAD, seeds=(0,)), replace(WORKLOAD, seeds=(0, 1))
    lines = summary_lines([trial(LORA, NLL, workload=first), trial(LORA, NLL, seed=1, workload=more)], [], [])
    assert "x 2 seeds" in lines[0]
    assert sum(line.startswith("lora") for line in lines) == 1


@pytest.mark.parametrize(("trainable", "share"), [(1000, "100%"), (9999, "99.9%"), (9970, "99.7%"), (996, "10%")])
def test_only_all_of_the_parameters_are_100_percent(trainable: int, share: str) -> None:
    """A variant that leaves some parameters frozen never looks like full fine-tuning."""
    total = 1000 if trainable == 1000 else 10_000
    lines = summary_lines([trial(LORA, NLL, parameters=Parameters(total, trainable))], [], [])
    row = next(line for line in lines if line.startswith("lora"))
    assert share in row.split(), row


def test_accumulated_batches_are_in_the_heading() -> None:
    """A step of two micro-batches is twice the work."""
    workload = replace(WORKLOAD, training_args={"gradient_accumulation_steps": 2})
    assert "100 steps of 4x128x2 x 1 seed" in summary_lines([trial(LORA, NLL, workload=workload)], [], [])[0]


def test_the_json_report_names_places_from_the_root_folder(tmp_path: Path) -> None:
    """A report goes to other machines; what lies elsewhere, or only looks alike, keeps its path."""
    work = replace(
        WORKLOAD,
        model="/p/q/models/tiny",
        train="/p/q/data/train.txt",
        validation="/data/p/q/validation.txt",
        reference="/p/qr/reference.txt",
        model_args={"cache_dir": "/p/q/hub"},
    )
    error = TrialError("cannot read '/p/q/data/train.txt'", 'File "/p/q/mine.py", line 4\n/p/q/data: /x/p/q/y')
    one = trial(FULL, NLL, workload=work, outcome="crashed", error=error, notes=("see /p/q/log",))
    verdict = replace(VERDICT, details=("set by /p/q/tox.ini",))
    (found,) = json.loads(json_report([one], [RecordedVerdict("a::b", verdict)], Path("/p/q")))["trials"]
    places = {name: found["workload"][name] for name in ("model", "train", "validation", "reference", "model_args")}
    assert places == {
        "model": "models/tiny",
        "train": "data/train.txt",
        "validation": "/data/p/q/validation.txt",
        "reference": "/p/qr/reference.txt",
        "model_args": {"cache_dir": "hub"},
    }
    assert found["error"]["message"] == "cannot read 'data/train.txt'"
    assert found["error"]["log_tail"] == 'File "mine.py", line 4\ndata: /x/p/q/y'
    assert found["notes"] == ["see log"]
    for root in (None, Path("/")):
        (whole,) = json.loads(json_report([one], [], root))["trials"]
        assert whole["workload"]["train"] == "/p/q/data/train.txt"
    path = tmp_path / "r.json"
    path.write_text(json_report([trial(FULL, NLL, workload=work)], [], Path("/p/q")), encoding="utf-8")
    (read,) = read_report(path)
    assert read.workload.train == "data/train.txt"
    assert read.loss == trial(FULL, NLL).measured.validation.loss  # type: ignore[union-attr]


def test_the_json_report_is_strict_and_complete() -> None:
    """What is not finite or not measured is null, and every documented field is there."""
    wild = trial(LORA, [math.nan] * 64, memory=None)
    huge = trial(FULL, [1e5] * 64, memory=None, seed=3)  # its perplexity is beyond a float
    text = json_report([wild, huge], [RecordedVerdict("a::b", replace(VERDICT, value=None, interval=None))])

    def refuse(word: str) -> Any:
        raise AssertionError(word)

    report = json.loads(text, parse_constant=refuse)
    known = {"schema", "ftguard_version", "environment", "trials", "verdicts", "lost_most", "specialization"}
    assert set(report) == known
    first, second = report["trials"]
    assert first["validation"] == {
        "loss": None,
        "perplexity": None,
        "sequences": 64,
        "tokens": 640,
        "sequence_nll": [None] * 64,
        "sequence_tokens": [10] * 64,
        "documents": None,
        "digest": "text",
        "repeated": 0,
        "trained_on": 0,
        "unknown": 0.0,
    }
    assert max(map(len, text.splitlines())) > 64  # numbers stand in a row, not one below the other
    assert first["memory"] is None
    assert second["validation"]["perplexity"] is None
    assert second["validation"]["loss"] == 1e4
    assert {
        "fingerprint",
        "variant",
        "label",
        "seed",
        "outcome",
        "cached",
        "parameters",
        "curve",
        "time",
        "error",
    } <= set(first)
    assert report["verdicts"][0]["nodeid"] == "a::b"
    assert report["verdicts"][0]["interval"] is None


def test_a_report_is_read_back_as_variants(tmp_path: Path) -> None:
    """All that was measured comes back, marked as cached; what was not finite is still not finite."""
    path = tmp_path / "ftguard.json"
    escalated = replace(WORKLOAD, seeds=(0, 1, 2), most_seeds=8)
    first = trial(FULL, NLL, reference=losses(NLL, documents=tuple(range(len(NLL)))))
    second = trial(FULL, NLL, seed=2, workload=escalated, error=TrialError('[\n 1,\n 2\n] "'))
    third = trial(LORA, [math.nan, *NLL[1:]])
    path.write_text(json_report([third, first, second], []), encoding="utf-8")
    full, lora = read_report(path)
    assert (full.label, full.workload.seeds) == ("full", (0, 2))
    assert full.trials == (first.come_by(cached=True), second.come_by(cached=True))
    assert (lora.variant, lora.trials[0].spec.fingerprint) == (LORA, third.fingerprint)
    assert lora.trials[0].measured.validation is not None
    assert math.isnan(lora.trials[0].measured.validation.nll[0])
    assert lora.trials[0].measured.validation.nll[1:] == tuple(NLL[1:])
    with pytest.raises(FtguardError, match="not trained in this run"):
        full.load()


def test_what_the_texts_hold_is_read_back_and_may_be_missing(tmp_path: Path) -> None:
    """Reports of earlier versions say nothing of it."""
    path, counts = tmp_path / "ftguard.json", {"repeated": 3, "trained_on": 2, "unknown": 0.01}
    path.write_text(json_report([trial(FULL, NLL, validation=losses(NLL, **counts))], []), encoding="utf-8")
    assert read_report(path)[0].trials[0].measured.validation == losses(NLL, **counts)
    report = json.loads(path.read_text(encoding="utf-8"))
    for name in counts:
        del report["trials"][0]["validation"][name]
    path.write_text(json.dumps(report), encoding="utf-8")
    assert read_report(path)[0].trials[0].measured.validation == losses(NLL)


@pytest.mark.parametrize(
    "name",
    sorted(
        {item.name for item in fields(Measured)} - {"start", "notes", "remarks", "supervised_tokens"}
    ),  # these an earlier version lacked
)
def test_a_report_that_lacks_a_part_is_no_report(tmp_path: Path, name: str) -> None:
    """What was measured and is not there must not be read as what was never measured, such as another source."""
    path = tmp_path / "ftguard.json"
    report = json.loads(json_report([trial(FULL, NLL, code="a digest")], []))
    del report["trials"][0][name]
    path.write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=rf"KeyError: '{name}'\): make it again"):
        read_report(path)


def test_a_report_of_an_earlier_version_says_nothing_of_start_notes_and_remarks(tmp_path: Path) -> None:
    """It is read all the same."""
    path = tmp_path / "ftguard.json"
    report = json.loads(json_report([trial(FULL, NLL)], []))
    for name in ("start", "notes", "remarks", "supervised_tokens"):
        del report["trials"][0][name]
    path.write_text(json.dumps(report), encoding="utf-8")
    assert read_report(path)[0].trials == (trial(FULL, NLL, cached=True),)


def test_a_report_of_a_run_that_asked_for_more_seeds_still_owes_its_looks(tmp_path: Path) -> None:
    """Judged at the full confidence, a run that stopped when it liked the answer would err too often."""
    path = tmp_path / "ftguard.json"
    declared = replace(WORKLOAD, seeds=(0, 1, 2), most_seeds=8)
    more = replace(declared, seeds=(0, 1, 2, 3, 4))
    trials = [
        trial(variant, [value + noise for value in NLL], seed=seed, workload=declared if seed < 3 else more)
        for variant, noise in ((FULL, 0.0), (LORA, 0.001))
        for seed in range(5)
    ]
    path.write_text(json_report(trials, []), encoding="utf-8")
    full, lora = read_report(path)
    assert full.workload.looks == (3, 5, 8)
    assert [one.spec.seed for one in lora.trials] == [0, 1, 2, 3, 4]

    def judge() -> Verdict:
        active_test.set(None)  # this verdict is not one of this very test run
        return assert_loss_gap(lora, full, at_most=0.1)

    verdict = copy_context().run(judge)
    assert "5 seeds. This was look 2 of at most 3: each bound is wrong in at most 1.67 % of cases" in verdict.message


def test_a_report_gives_full_first_whatever_was_trained_first(tmp_path: Path) -> None:
    """`full, lora = read_report(...)` must not turn with the order of the tests that wrote it."""
    path = tmp_path / "ftguard.json"
    path.write_text(json_report([trial(LORA, NLL), trial(FULL, NLL)], []), encoding="utf-8")
    assert [variant.label for variant in read_report(path)] == ["full", "lora r=16"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file"),
        ("{", "make it again"),
        ("[]", "make it again"),
        pytest.param("[" * 100_000, "make it again", id="deep"),
        ('{"schema": 2, "trials": []}', "has schema 2, and this version reads 1"),
        ('{"schema": 1, "trials": [{"outcome": "ok"}]}', "KeyError"),
    ],
)
def test_a_file_that_is_no_report_is_one_clear_error(tmp_path: Path, text: str | None, words: str) -> None:
    """The message names the file and says what to do."""
    path = tmp_path / "ftguard.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"ftguard.json.*{words}"):
        read_report(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parameters": {"total": "x", "trainable": 1}}, r"Expected `int`, got `str` - at `\$.parameters.total`"),
        ({"settings": {"kind": "full", "learning_rate": 10**400}}, "Full.learning_rate must be a finite number"),
        ({"workload": 3}, "TrialSpec.workload must be a workload, got 3"),
        ({"curve": [{"step": 0, "loss": "x", "nll": []}]}, r"Expected `float`, got `str` - at `\$.curve\[0\].loss`"),
        ({"cached": [], "notes": [3]}, r"Expected `str`, got `int` - at `\$.notes\[0\]`"),
    ],
)
def test_a_report_with_a_wrong_value_is_no_report(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """It is named before anything reckons with it."""
    path = tmp_path / "ftguard.json"
    report = json.loads(json_report([trial(FULL, NLL)], []))
    report["trials"][0].update(change)
    path.write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=words):
        read_report(path)


@pytest.mark.parametrize(("order", "blocks"), [("order 0", 1), ("other", 2)])
def test_the_same_work_in_another_folder_stands_in_the_same_table(order: str, blocks: int) -> None:
    """A variant of another machine is shown with this one's, unless its batches were others."""
    elsewhere = replace(WORKLOAD, train="/mnt/train.txt", model="/mnt/model")
    lines = summary_lines([trial(LORA, NLL), trial(FULL, NLL, workload=elsewhere, data_order=order)], [], [])
    assert sum(line.startswith("variant") for line in lines) == blocks


def test_a_trial_that_two_workers_trained_counts_once() -> None:
    """Under xdist the same trial may come from two folders of texts."""
    elsewhere = replace(WORKLOAD, train="/mnt/train.txt")
    lines = summary_lines([trial(FULL, NLL), trial(FULL, NLL, workload=elsewhere)], [], [])
    assert "x 1 seed" in lines[0]
    assert "+-" not in "\n".join(lines)


def test_a_result_survives_json() -> None:
    """What a worker writes is what pytest reads."""
    for one in trials():
        assert Trial.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def places_of_values(values: Any, *place: Any) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a result that was written, lists and mappings included."""
    yield place
    if isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from places_of_values(value, *place, name)


@pytest.mark.parametrize(
    "value",
    ["x", None, True, 0, 1.5, pytest.param(10**400, id="huge"), -math.inf, math.nan, [], ["x"], {}, {"a": []}],
)
def test_a_result_with_a_wrong_value_is_refused_or_can_be_shown(value: Any) -> None:
    """Whatever a file holds in one place, it is no traceback in the summary or in the report."""
    memory = Memory(600, "allocator", breakdown=Breakdown(1, 2, 3, 4, "forward"), phases={"load": 5})
    timing = Timing(0.5, 97, 50.0, "run", 0.1, 2e3, 10**9, 1e12, "a neighbour")
    documents = losses(NLL, documents=tuple(range(len(NLL))))
    one = trial(LORA, NLL, memory=memory, time=timing, reference=documents, error=TrialError("why"), notes=("note",))
    assert Trial.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    places = list(places_of_values(one.to_dict()))[1:]
    shown = 0
    for place in places:
        values = json.loads(json.dumps(one.to_dict()))
        owner = values
        for name in place[:-1]:
            owner = owner[name]
        owner[place[-1]] = value
        with suppress(FtguardError, ValueError):
            read = Trial.from_dict(values)
            shown += 1
            assert summary_lines([read, trial(FULL, NLL)], [], [])
            assert json_report([read], [])
    assert shown < len(places)


def test_the_progress_line_names_variant_seed_step_loss_and_time() -> None:
    """Before training it says what is done instead of the step."""
    spec = TrialSpec(workload=WORKLOAD, variant=LORA, seed=3)
    line = progress_line(Progress(spec, "train", 40, 1.25, 20.0, 75.0)).text
    for words in ("lora r=16", "seed 3", "step 40/100", "loss 1.250", "1:15 left"):
        assert words in line
    assert "resumed" not in line
    assert "step 40/100, resumed at 30" in progress_line(Progress(spec, "train", 40, 1.25, 20.0, 75.0, 30)).text
    assert "loading" in progress_line(Progress(spec, "load", 0, None, 2.0, None)).text


def planned(variant: Any, forecast: int | None, **changes: Any) -> Trial:
    memory = None if forecast is None else Memory(None, "forecast", forecast_bytes=forecast)
    error = TrialError("no forecast: it looks at its values") if forecast is None else None
    spec = TrialSpec(workload=WORKLOAD, variant=variant, seed=0)
    measured = Measured(outcome="planned", parameters=Parameters(1000, 100), memory=memory, error=error)
    return Trial(spec, measured, Provenance(**changes))


def test_what_was_trained_beside_others_is_not_called_changed() -> None:
    """The nearest stored entry may be another variant that stands as it was: it differs, and that is all."""
    reasons = {("lora r=7", "lora_r (9 -> 7)"): [1, 0], ("full", "steps (5 -> 7), train text"): [0]}
    assert " ".join(" ".join(remarks(reasons=reasons)).split()) == (
        "trained, not taken from the store: lora r=7, seeds 0, 1; the nearest there differs in: lora_r (9 -> 7) "
        "trained, not taken from the store: full, seed 0; the nearest there differs in: steps (5 -> 7), train text"
    )


def test_a_plan_shows_forecasts_shares_and_what_budgets_say() -> None:
    """Full first, each share of full's; a budget that would break stands out."""
    budget = replace(
        VERDICT,
        gate="memory_budget",
        status="FAIL",
        value=0.6,
        interval=None,
        limit=Limit(0.5, SHARE, INI),
    )
    trials = [planned(LORA, 600_000_000), planned(FULL, 1_000_000_000, cached=True)]
    lines = plan_lines(trials, [RecordedVerdict("a::b", budget)])
    assert lines[0] == "plan: 1 trial to train, 1 cached; nothing was trained"
    rows = [line.split() for line in lines]
    assert ["full", "(cached)", "1", "100", "1.00", "GB"] in rows
    assert ["lora", "r=16", "1", "100", "600", "MB", "60.0%"] in rows
    assert "lora r=16: 60.0% of full BREAKS the budget of 50% (ini)" in lines


def test_a_plan_without_a_forecast_says_why() -> None:
    """Never a guess: the words take the place of the number, and the reason is below."""
    budget = replace(
        VERDICT,
        gate="memory_budget",
        status="INVALID",
        value=None,
        interval=None,
        limit=Limit(1e9, BYTES, INI),
        baseline=None,
    )
    lines = plan_lines([planned(LORA, None), planned(FULL, 10**9)], [RecordedVerdict("a::b", budget)])
    assert any(line.split() == ["lora", "r=16", "1", "100", "no", "forecast"] for line in lines)
    assert "lora r=16: no forecast: it looks at its values" in lines
    assert "lora r=16: - no forecast for the budget of 1 GB (ini)" in [line.replace("1.00", "1") for line in lines]


def test_seeds_of_a_report_stand_apart_from_those_trained_here() -> None:
    """Those of the store do not: their content shows that they are the same variant."""

    def rows(**earlier: Any) -> list[str]:
        trials = [trial(FULL, NLL, seed=0, cached=True, **earlier), trial(FULL, NLL, seed=1)]
        return [line.split("  ")[0] for line in summary_lines(trials, [], []) if line.startswith("full")]

    assert rows(content="known") == ["full (1 of 2 cached)"]
    assert rows() == ["full (read)", "full"]


def test_each_line_has_a_tone_which_is_not_read_from_its_text() -> None:
    """A test that passes is green whatever its name ends with; all that lets a test fail is red."""
    statuses: tuple[Status, ...] = ("PASS", "FAIL", "INVALID", "INCONCLUSIVE", "ACCEPTED")
    verdicts = [RecordedVerdict(f"t.py::test_{one}_FAIL", replace(VERDICT, status=one)) for one in statuses]
    failed = trial(LORA, NLL).remeasured(outcome="crashed", error=TrialError("it ends with PASS"))
    summary = run_summary([failed], verdicts, [], Remarks(notes=["note: FAIL"], problems=["so: PASS"]))
    tones = {line.text.split()[-1]: line.tone for line in terminal_lines(summary) if line.text.startswith("loss gap")}
    assert tones == {"PASS": "good", "FAIL": "bad", "INVALID": "bad", "INCONCLUSIVE": "bad", "ACCEPTED": "good"}
    others = {line.text: line.tone for line in terminal_lines(summary) if not line.text.startswith("loss gap")}
    assert others.pop("lora r=16, seed 0, ended crashed: it ends with PASS") == "bad"
    assert others.pop("so: PASS") == "bad"
    assert set(others.values()) == {"neutral"}
    budgets = [RecordedVerdict("a::b", replace(VERDICT, status=one)) for one in statuses[:3]]
    plan = [line.tone for line in terminal_lines(plan_summary([planned(LORA, 1)], budgets)) if "budget" in line.text]
    assert plan == ["good", "bad", "bad"]


def test_a_label_of_several_lines_stays_in_its_row() -> None:
    """A line break, or what hides text, is shown as an escape; the table keeps a line for each verdict."""
    share = replace(
        VERDICT, value=0.6, interval=None, limit=replace(VERDICT.limit, unit=SHARE), baseline="a\nb\x1b[31m"
    )
    lines = summary_lines([], [RecordedVerdict("t.py::test_it", share)] * 2)
    assert len(lines) == 5
    assert "60.0% of a\\nb\\x1b[31m" in lines[1]


def test_notes_are_as_wide_as_the_summary() -> None:
    """Further lines are indented; an option or a path is never broken, and a command keeps its line."""
    path, command = f"/folder/{'x' * 90}.json", "    git -C /folder mv " + "y" * 90
    notes = ["note: short", "note: " + "some words " * 12 + "--ftguard-no-cache", f"{path} was not written\n{command}"]
    for lines in (remarks(notes=notes), remarks(problems=notes)):
        assert lines[0] == "note: short"
        assert lines[-3:] == [path, "      was not written", command]
        middle = lines[1:-3]
        assert [line.startswith("      ") for line in middle] == [False, True, True]
        assert max(map(len, middle)) <= 80
        assert " ".join(" ".join(middle).split()) == notes[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "nothing",
            "there is no renderer 'nothing': give one of json, markdown, or a function of yours as",
        ),
        ("no_such_module:render", "'no_such_module:render' cannot be imported: ModuleNotFoundError: No module named"),
        ("math:nothing", "'math:nothing' cannot be imported: AttributeError: module 'math' has no attribute 'nothing'"),
        ("math:", "'math:' cannot be imported: AttributeError"),
        (":render", "':render' cannot be imported: ValueError"),
        ("math:pi", "the renderer 'math:pi' is not a function: it is 3.14"),
    ],
)
def test_a_renderer_that_is_not_there_is_one_clear_error(name: str, words: str) -> None:
    """It says what was asked for, and what there is."""
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        find_renderer(name)


def test_a_renderer_is_a_row_and_its_setting_follows() -> None:
    """Option, ini key and environment variable have its name; what it renders is a text."""
    for name, row in RENDERERS.items():
        key = BY_NAME[name]
        assert (key.option, key.ini, key.variable) == (
            f"--ftguard-{name}",
            f"ftguard_{name}",
            f"FTGUARD_{name.upper()}",
        )
        assert key.help == row.help
        assert VERDICT.status in find_renderer(name)(run_summary([], [RecordedVerdict("a::b", VERDICT)]))
    functions: list[object] = [find_renderer("math:fsum"), find_renderer("json:JSONDecoder.decode")]
    assert functions == [math.fsum, json.JSONDecoder.decode]
