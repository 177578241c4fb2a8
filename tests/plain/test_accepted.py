"""The files of accepted results: what is written is what is read, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard import __version__
from pytest_ftguard.accepting.files import AcceptedFiles
from pytest_ftguard.accepting.history import History, read_history, write_history
from pytest_ftguard.accepting.names import file_name
from pytest_ftguard.accepting.record import PairRecord, record_pair
from pytest_ftguard.accepting.unused import find_unused, unused_note
from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.files import write_all
from pytest_ftguard.plugin.collected import Collected
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import LoRA, Peft, Variant
from tests.plain.builders import FULL, LORA, WORKLOAD, losses, trained, trial

N = 64
PLACE = Path("accepted.json")


def pair(gap: float = 0.1, variant: Variant = LORA, seeds: tuple[int, ...] = (0, 1, 2)) -> tuple[TrainedVariant, ...]:
    workload = replace(WORKLOAD, seeds=seeds)
    sides = []
    for one, level in ((variant, 2 + gap), (FULL, 2.0)):
        nll = [10 * level + 0.123456789 * i for i in range(N)]
        sides.append(trained(one, *(trial(one, nll, seed=seed, workload=workload) for seed in seeds)))
    return tuple(sides)


def record(*arguments: Any) -> PairRecord:
    return record_pair(*pair(*arguments))


HISTORY = History("test_it.py::test_it", record(), record())
OURS = replace(HISTORY, test="t.py::test")


def test_what_is_written_is_what_is_read() -> None:
    """Also after a second result was accepted, with the first one as the anchor."""
    assert read_history(write_history(HISTORY), PLACE) == HISTORY
    moved = HISTORY.accept(record(0.2, LoRA(r=8, learning_rate=1e-3, target_modules=("q", "v"))))
    again = read_history(write_history(moved), PLACE)
    assert again == moved
    assert again.anchor == HISTORY.accepted
    assert again.accept(record(0.3)).anchor == HISTORY.accepted


def test_the_gap_of_a_record_is_the_mean_difference_per_token() -> None:
    """0.1 nats per token, whatever the sequences' own losses are; of the seeds that are asked for."""
    held = record(0.1)
    assert held.gap(held.seeds) == pytest.approx(0.1)
    first = replace(held, differences=(tuple(2 * one for one in held.differences[0]), *held.differences[1:]))
    assert [first.gap(seeds) for seeds in ((0,), (1, 2), (0, 2))] == pytest.approx([0.2, 0.1, 0.15])


def test_a_file_is_small_and_shows_what_changed() -> None:
    """A line for each list of numbers, last of all, and one copy of them while last and first are the same."""
    text = write_history(HISTORY)
    assert len(text) < 10_000
    assert '"anchor": null' in text
    long = [number for number, line in enumerate(text.splitlines()) if line.count(",") > 10]
    assert min(long) > 0.7 * len(text.splitlines())
    assert sum(line.count(",") > 10 for line in text.splitlines()) == 5  # three seeds, the base model, the tokens
    one, other = (
        text.splitlines(),
        write_history(History(HISTORY.test, *[record(0.1, LoRA(r=8, learning_rate=1e-3))] * 2)),
    )
    changed = [line for line in other.splitlines() if line not in one]
    assert [line.strip() for line in changed if '"lora r=8' not in line] == [
        '"gap": "+0.1000 nats per token, lora r=8 above full",',
        '"r": 8,',
    ]


def test_a_file_begins_with_what_a_reviewer_reads() -> None:
    """Gap, losses, settings, training, day and place; of the anchor too once it is another result."""
    first = replace(record(), accepted_on="2026-01-02", model="some-model", bounds=(0.09, 0.11))
    later = replace(record(0.2, LoRA(r=8, learning_rate=1e-3, dropout=0.1)), accepted_on="2026-03-04")
    shown = json.loads(write_history(History("t.py::test", first, first)))
    assert list(shown) == ["test", "headline", "schema", "accepted", "anchor"]
    assert shown["headline"] == {
        "accepted": "2026-01-02",
        "gap": "+0.1000 [+0.0900, +0.1100] nats per token, lora r=16 above full",
        "losses": "lora r=16 2.4889, full 2.3889, base model 3.0000",
        "candidate": "lora r=16: alpha 32, target_modules all-linear, learning_rate 0.001",
        "baseline": "full: learning_rate 0.0001",
        "training": "some-model, 100 steps of 4x128, 3 seeds (0, 1, 2), 64 validation sequences",
        "memory and time": "candidate 600 B, 0.5 s a step; baseline 1.00 kB, 0.5 s a step",
        "measured on": f"a processor, fp32, pytest-ftguard {__version__}",
    }
    moved = json.loads(write_history(History("t.py::test", later, first)))["headline"]
    assert moved["candidate"] == (
        "lora r=8 dropout=0.1: alpha 32, target_modules all-linear, dropout 0.1, learning_rate 0.001"
    )
    assert moved["first accepted"] == (
        "2026-01-02: gap +0.1000 [+0.0900, +0.1100], lora r=16: alpha 32, target_modules all-linear, "
        "learning_rate 0.001"
    )


@pytest.mark.parametrize(("gap", "word"), [(0.1, "above"), (0.0, "above"), (-0.1, "below")])
def test_the_headline_says_on_which_side_of_the_baseline_the_candidate_is(gap: float, word: str) -> None:
    """A candidate with the lower loss is below."""
    first = record(gap)
    shown = json.loads(write_history(History("t.py::test", first, first)))["headline"]["gap"]
    assert shown == f"{gap:+.4f} nats per token, lora r=16 {word} full"


def test_the_headline_is_never_read_back() -> None:
    """Whatever somebody writes into it, or without it, the file holds the same; the day is no part of the result."""
    content = json.loads(write_history(HISTORY))
    for headline in ({"gap": "-9"}, [1, None], None):
        assert read_history(json.dumps({**content, "headline": headline}), PLACE) == HISTORY
    del content["headline"]
    assert read_history(json.dumps(content), PLACE) == HISTORY
    other_day = replace(HISTORY.accepted, accepted_on="1999-12-31", model="elsewhere", bounds=None)
    assert other_day == HISTORY.accepted


def test_a_file_of_an_earlier_version_is_read_as_before() -> None:
    """Without headline, model, day and bounds, and with its keys in another order."""
    content = json.loads(write_history(HISTORY))
    del content["headline"]
    for name in ("model", "accepted_on", "bounds"):
        del content["accepted"][name]
    held = read_history(json.dumps(content, sort_keys=True), PLACE)
    assert held == HISTORY
    assert (held.accepted.model, held.accepted.accepted_on, held.accepted.bounds) == (None, None, None)
    assert "on an unknown date" in write_history(held)


def test_digits_far_below_the_noise_are_left_out() -> None:
    """A hundredth of a thousandth of a nat in a sequence changes no line of the file."""
    ours, theirs = pair()
    moved = [
        one.remeasured(validation=losses([nll + 1e-6 for nll in one.measured.validation.nll]))
        for one in ours.trials
        if one.measured.validation
    ]
    assert record_pair(trained(LORA, *moved), theirs).differences == record().differences


Change = Callable[[dict[str, Any]], Any]
DAMAGES: dict[str, Change] = {
    "no record": lambda c: c.pop("accepted"),
    "no anchor": lambda c: c.pop("anchor"),
    "a list for a record": lambda c: c.update(accepted=[1, 2]),
    "a text for the anchor": lambda c: c.update(anchor="the first"),
    "no differences": lambda c: c["accepted"].pop("differences"),
    "a day that is a number": lambda c: c["accepted"].update(accepted_on=3),
    "one bound": lambda c: c["accepted"].update(bounds=[0.1]),
    "a seed too few": lambda c: c["accepted"]["differences"].pop(),
    "a seed twice": lambda c: c["accepted"].update(seeds=[0, 0, 1]),
    "a seed that is a text": lambda c: c["accepted"].update(seeds=["0", "1", "2"]),
    "a sequence too few": lambda c: c["accepted"]["differences"][1].pop(),
    "a difference that is null": lambda c: c["accepted"]["differences"][1].__setitem__(0, None),
    "a difference that is true": lambda c: c["accepted"]["differences"][1].__setitem__(0, True),
    "a difference that is NaN": lambda c: c["accepted"]["differences"][1].__setitem__(0, float("nan")),
    "a difference that is infinite": lambda c: c["accepted"]["differences"][1].__setitem__(0, float("inf")),
    "a difference beyond a float": lambda c: c["accepted"]["differences"][1].__setitem__(0, 10**400),
    "no tokens": lambda c: c["accepted"]["base"].update(tokens=[0] * N),
    "documents of another number": lambda c: c["accepted"]["base"].update(documents=[0]),
    "an unknown field": lambda c: c["accepted"].update(run="rm -r"),
    "an unknown setting": lambda c: c["accepted"]["candidate"]["variant"].update(rank=8),
    "an unknown kind": lambda c: c["accepted"]["candidate"]["variant"].update(kind="os.system"),
    "no memory at all": lambda c: c["accepted"]["baseline"].update(peak_bytes=0),
    "a time of 0": lambda c: c["accepted"]["baseline"].update(seconds_per_step=[0.0, 0.1, 0.1]),
    "times of no seed": lambda c: c["accepted"]["baseline"].update(seconds_per_step=[]),
    "versions in a list": lambda c: c["accepted"]["environment"].update(versions=["torch"]),
    "no work": lambda c: c["accepted"].update(work=None),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_one_clear_error(name: str) -> None:
    """The message names the file and says what to do; nothing of it is used."""
    content = json.loads(write_history(HISTORY))
    DAMAGES[name](content)
    with pytest.raises(ConfigurationError, match=r"accepted.json' is not a file of accepted results.*restore it"):
        read_history(json.dumps(content), PLACE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a file of accepted results"),
        (write_history(HISTORY)[:-100], "is not a file of accepted results"),
        ("[]", "is not a file of accepted results"),
        ("null", "is not a file of accepted results"),
        ('{"schema": 1, "trials": []}', "is not a file of accepted results"),
        ("[" * 100_000, "is not a file of accepted results"),
        ('{"schema": 2}', "have schema 2, and this version of pytest-ftguard reads 1"),
        ('{"schema": true, "accepted": {}}', "."),
    ],
)
def test_what_is_no_file_of_accepted_results_is_one_clear_error(text: str, words: str) -> None:
    """Cut short, empty, another program's, too deep, or of another schema."""
    with pytest.raises(ConfigurationError, match=rf"accepted.json' {words}|{words}.*delete it"):
        read_history(text, PLACE)


def test_names_of_files_are_readable_and_never_the_same() -> None:
    """Long names are cut, signs that a file cannot have are replaced, and a digest tells apart what then is alike."""
    names = {
        file_name(test, number)
        for test in (
            "tests/test_it.py::test_rank[4]",
            "tests/test_it.py::test_rank[a/b]",
            "tests/test_it.py::test_rank[a-b]",
        )
        for number in (1, 2)
    }
    names.add(file_name("t.py::test[" + "x" * 500 + "]", 1))
    assert len(names) == 7
    assert all(len(name) < 160 and "/" not in name for name in names)
    assert file_name("tests/test_it.py::test_rank[4]", 1).startswith("tests-test_it.test_rank[4]-")


def test_a_test_has_a_file_for_each_pair_in_the_order_in_which_it_asks(tmp_path: Path) -> None:
    """Another metric of the same pair is in the same file; a rerun counts again; settings do not name the file."""
    files = AcceptedFiles("t.py::test", tmp_path, write_all)
    one, other = pair(), pair(0.1, LoRA(r=8, learning_rate=1e-3))
    first = files.find(*one)
    assert first.history is None
    assert files.find(*other).place != first.place
    assert files.find(*one).place == first.place
    files.queue(first, OURS)
    files.write()
    files.start()
    assert files.find(*other).history == OURS


def test_what_a_test_accepts_is_written_when_it_has_passed(tmp_path: Path) -> None:
    """Until then nothing is on disk, nor held against it; a rerun starts without it, and what is dropped is lost."""
    files = AcceptedFiles("t.py::test", tmp_path, write_all)
    first = files.find(*pair())
    files.queue(first, OURS)
    assert files.find(*pair()).history is None
    assert list(tmp_path.iterdir()) == []
    for forget in (files.start, files.drop):
        files.queue(first, OURS)
        forget()
        assert files.find(*pair()).history is None
        files.write()
        assert list(tmp_path.iterdir()) == []
    files.queue(files.find(*pair()), OURS)
    files.write()
    assert files.news() == ([str(first.place)], [])
    assert files.news() == ([], [])
    assert files.find(*pair()).history == OURS


def test_a_file_that_was_removed_meanwhile_is_written_again(tmp_path: Path) -> None:
    """What is accepted as it is must be on disk once the test has passed."""
    files = AcceptedFiles("t.py::test", tmp_path, write_all)
    files.queue(files.find(*pair()), OURS)
    files.write()
    files.news()
    same = files.find(*pair())
    files.queue(same, OURS)
    same.place.unlink()
    files.write()
    assert files.news() == ([str(same.place)], [])
    assert files.find(*pair()).history == OURS


def test_what_is_accepted_as_it_is_is_counted_apart(tmp_path: Path) -> None:
    """Asked for by one metric or by two; it is not written again."""
    files = AcceptedFiles("t.py::test", tmp_path, write_all)
    pairs = (pair(), pair(0.1, LoRA(r=8, learning_rate=1e-3)))
    one, other = (files.find(*asked) for asked in pairs)
    files.queue(other, OURS)
    files.write()
    files.news()
    files.start()
    one, other = (files.find(*asked) for asked in pairs)
    files.queue(one, OURS)
    files.queue(other, OURS)
    files.queue(other, OURS)
    files.write()
    assert files.news() == ([str(one.place)], [str(other.place)])


@pytest.mark.parametrize("has_file", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_metrics_of_one_test_complete_the_record_of_a_pair(tmp_path: Path, has_file: bool, turned: bool) -> None:
    """Each vouches for its own figures only: seconds that one of them has, and bytes of another, are both written."""
    files = AcceptedFiles("t.py::test", tmp_path, write_all)
    if has_file:
        files.queue(files.find(*pair()), OURS)
        files.write()
    now = record(0.2)

    def without(**figures: Any) -> PairRecord:
        return replace(now, candidate=replace(now.candidate, **figures), baseline=replace(now.reference, **figures))

    records = [without(seconds_per_step=None), without(peak_bytes=None)]
    for one in reversed(records) if turned else records:
        file = files.find(*pair())
        files.queue(file, file.history.accept(one) if file.history else History("t.py::test", one, one))
    files.write()
    history = files.find(*pair()).history
    assert history is not None
    assert history.accepted == now
    assert history.anchor == (OURS.anchor if has_file else now)


@pytest.mark.parametrize("is_exchanged", [False, True])
def test_a_file_is_found_if_an_earlier_version_called_its_variant_otherwise(tmp_path: Path, is_exchanged: bool) -> None:
    """Settings decide, not labels: the file is that of the variant, and an exchanged order is noticed all the same."""
    dora = Peft("lora", r=8, use_dora=True, learning_rate=1e-3)
    earlier, now, other = pair(0.1, replace(dora, label="lora r=8 use_dora")), pair(0.1, dora), pair(0.2)
    assert (dora.label, earlier[0].label) == ("lora r=8 dora", "lora r=8 use_dora")
    for number, asked in enumerate([other, earlier] if is_exchanged else [earlier, other], start=1):
        history = History("t.py::test", record_pair(*asked), record_pair(*asked))
        tmp_path.joinpath(file_name("t.py::test", number)).write_text(write_history(history))
    files = AcceptedFiles("t.py::test", tmp_path, write_all)
    if is_exchanged:
        with pytest.raises(ConfigurationError, match=r"that of lora r=16, and that of lora r=8 dora is in"):
            files.find(*now)
    else:
        found = files.find(*now).history
        assert found is not None
        assert found.accepted.candidate.variant == earlier[0].variant


def test_a_file_of_another_test_is_refused_by_both_names(tmp_path: Path) -> None:
    """It was copied or renamed: whether that is meant is for the user to say, in the file."""
    files = AcceptedFiles("t.py::test_new", tmp_path, write_all)
    place = files.find(*pair()).place
    place.write_text(write_history(OURS))
    with pytest.raises(ConfigurationError, match=r"'t.py::test', and this is the test 't.py::test_new'.*delete it"):
        files.find(*pair())
    place.write_text(place.read_text().replace('"t.py::test"', '"t.py::test_new"'))
    assert files.find(*pair()).history == replace(OURS, test="t.py::test_new")


def test_files_that_no_test_looks_for_are_found(tmp_path: Path) -> None:
    """Those of tests that are gone, whatever the number of the pair; not those of tests that may only be left out."""
    gone, kept, left_out = "t.py::test_gone", "t.py::test_kept", "u.py::test_left_out"
    for test in (gone, kept, left_out):
        for number in (1, 2):
            (tmp_path / file_name(test, number)).write_text(write_history(replace(HISTORY, test=test)))
    misnamed = tmp_path / "copy.json"
    misnamed.write_text(write_history(replace(HISTORY, test=kept)))
    for name, text in (("other.json", "{}"), ("list.json", "[]"), ("text.json", "no JSON"), ("note.txt", gone)):
        (tmp_path / name).write_text(text)
    (tmp_path / "folder.json").mkdir()
    found = find_unused(tmp_path, [kept], lambda test: test != left_out)
    assert {(unused.place.name, unused.test, unused.number) for unused in found} == {
        (file_name(gone, 1), gone, 1),
        (file_name(gone, 2), gone, 2),
        ("copy.json", kept, 1),
    }
    notes = [unused_note(unused, [kept]) for unused in found]
    assert [file_name(kept, 1) in note for note in notes] == [unused.test == kept for unused in found]
    assert sum("t.py::test_gone, which was not collected" in note for note in notes) == 2
    assert find_unused(tmp_path / "nothing", [kept], bool) == []


@pytest.mark.parametrize(
    ("test", "changes", "known"),
    [
        ("t.py::test_gone", {}, True),
        ("gone.py::test_it", {}, True),
        ("gone.py::test_it", {"partly": ["t.py"]}, True),
        ("t.py::test_gone", {"partly": ["t.py"]}, False),
        ("t.py::test_gone", {"partly": ["u.py"]}, True),
        ("u.py::test_gone", {}, False),  # a file that was not collected at all
        ("t.py::test_gone", {"only_some": True}, False),
        ("gone.py::test_it", {"only_some": True}, False),
    ],
)
def test_only_of_files_that_were_collected_whole_it_is_known_what_is_gone(
    tmp_path: Path, test: str, changes: dict[str, Any], known: bool
) -> None:
    """Or of files that do not exist; if anything may be left out, nothing is known."""
    for name in ("t.py", "u.py"):
        (tmp_path / name).touch()
    partly = frozenset((tmp_path / name).resolve() for name in changes.pop("partly", ()))
    found = Collected(frozenset(["t.py::test_kept"]), tmp_path, partly, changes.pop("only_some", False))
    assert found.has_looked_for(test) is known


@pytest.mark.parametrize("kind", ["folder", "bytes"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    """A folder in its place, or bytes that are no text."""
    files = AcceptedFiles("t.py::test", tmp_path, write_all)
    place = files.find(*pair()).place
    place.mkdir() if kind == "folder" else place.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=f"accepted results in '.*{place.name}' cannot be read"):
        files.find(*pair())


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file in the folder's place, which shows when it is to be written."""
    files = AcceptedFiles("t.py::test", tmp_path / "taken", write_all)
    asked = files.find(*pair())
    (tmp_path / "taken").write_text("")
    files.queue(asked, OURS)
    with pytest.raises(ConfigurationError, match=f"accepted results '.*{asked.place.name}' cannot be written"):
        files.write()


def test_where_one_file_cannot_be_written_none_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test fails, so the files of all its pairs stay as they were, and no draft is left."""
    files = AcceptedFiles("t.py::test", tmp_path, write_all)
    asked = [files.find(*pair()), files.find(*pair(0.1, LoRA(r=8, learning_rate=1e-3)))]
    for one in asked:
        files.queue(one, OURS)
    synced: list[int] = []

    def disk_is_full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_is_full)
    with pytest.raises(ConfigurationError, match="cannot be written: No space left on device") as caught:
        files.write()
    assert all(repr(str(one.place)) in str(caught.value) for one in asked)
    assert list(tmp_path.iterdir()) == []
    assert files.news() == ([], [])


def test_a_pair_is_not_judged_against_the_file_of_another_one(tmp_path: Path) -> None:
    """If a test asks in another order than when they were accepted, or no longer about one, the error says so."""
    eight, two = LoRA(r=8, learning_rate=1e-3), LoRA(r=2, learning_rate=1e-3)
    asked: list[tuple[TrainedVariant, ...]] = [pair(0.0, eight), pair(0.2, two)]
    accepting = AcceptedFiles("t.py::test", tmp_path, write_all)
    for one in asked:
        held = record_pair(*one)
        accepting.queue(accepting.find(*one), History("t.py::test", held, held))
    accepting.write()
    same = AcceptedFiles("t.py::test", tmp_path, write_all)
    assert all(same.find(*one).history is not None for one in asked)
    exchanged = AcceptedFiles("t.py::test", tmp_path, write_all)
    with pytest.raises(ConfigurationError, match=r"is that of lora r=8, and that of lora r=2 is in '.*\.2\.json'"):
        exchanged.find(*asked[1])
    # Another variant in the place of the first is what a regression may come from.
    renewed = AcceptedFiles("t.py::test", tmp_path, write_all)
    assert renewed.find(*pair(0.0, LoRA(r=4, learning_rate=1e-3))).history is not None
    assert renewed.find(*asked[1]).history is not None


def test_a_parameter_that_was_dropped_gives_its_file_to_no_other(tmp_path: Path) -> None:
    """Their names move up, and a regressed variant would be held to what was accepted of a worse one."""
    four, sixteen = LoRA(r=4, learning_rate=1e-3), LoRA(r=16, learning_rate=1e-3)
    for number, one in enumerate((pair(0.2, four), pair(0.0, sixteen))):
        accepting = AcceptedFiles(f"t.py::test[lora{number}]", tmp_path, write_all)
        held = record_pair(*one)
        accepting.queue(accepting.find(*one), History(f"t.py::test[lora{number}]", held, held))
        accepting.write()
    moved = AcceptedFiles("t.py::test[lora0]", tmp_path, write_all)
    with pytest.raises(ConfigurationError, match=r"is that of lora r=4, and that of lora r=16 is in 't.test\[lora1\]-"):
        moved.find(*pair(0.15, sixteen))
    assert AcceptedFiles("t.py::test[lora1]", tmp_path, write_all).find(*pair(0.15, sixteen)).history is not None


def test_the_same_settings_on_another_text_are_another_pair(tmp_path: Path) -> None:
    """A test of two workloads may give one of them the settings that the other has."""
    four, eight = LoRA(r=4, learning_rate=1e-3), LoRA(r=8, learning_rate=1e-3)
    files = AcceptedFiles("t.py::test", tmp_path, write_all)
    for number, one in enumerate((pair(0.0, four), pair(0.0, eight))):
        asked, held = files.find(*one), record_pair(*one)
        if number:
            held = replace(held, data_orders=tuple(f"of another text {order}" for order in held.data_orders))
        files.queue(asked, History("t.py::test", held, held))
    files.write()
    later = AcceptedFiles("t.py::test", tmp_path, write_all)
    assert later.find(*pair(0.0, eight)).history is not None


def test_differences_that_are_not_those_of_the_losses_are_no_record(tmp_path: Path) -> None:
    """A hand that loosens the gate in one place of the file is noticed by the other."""
    values = record().to_dict()
    values["differences"] = [[value + 10 for value in row] for row in values["differences"]]
    with pytest.raises(FtguardError, match="nats per token with losses of"):
        PairRecord.from_dict(values)


def test_other_trainings_complete_no_record() -> None:
    """Their seconds are not those of these seeds, or of these losses."""
    ours = record(0.2)
    bare = replace(ours, candidate=replace(ours.candidate, seconds_per_step=None))
    assert bare.completed_by(ours) == ours
    assert bare.completed_by(record(0.3)) == bare
