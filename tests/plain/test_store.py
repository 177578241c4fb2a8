"""What is read from the store is what was written, or nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_ftguard.results import Breakdown, Timing, Trial
from pytest_ftguard.running.local.leases import Neighbours, leased
from pytest_ftguard.store.fingerprint import Fingerprint
from pytest_ftguard.store.locks import held
from pytest_ftguard.store.store import Store, StoreOptions

from .builders import ENVIRONMENT, FULL, LORA, trial

ROOT = Path(__file__).parents[2]
PARTS = Fingerprint({"kind": "full", "seed": 0, "steps": 100})
RESULT = trial(FULL, [20.0, 21.0], time=Timing(0.5, 97, 50.0, run="earlier"))


def store(folder: Path, run: str = "now", **options: Any) -> Store:
    return Store(StoreOptions(folder, **options), run)


def find(where: Store, environment: Any = ENVIRONMENT) -> Trial | None:
    return where.find(PARTS, RESULT.spec, environment)


def entry(folder: Path) -> Path:
    (path,) = (folder / "results").rglob("*.json")
    return path


def test_what_was_kept_is_found_by_another_run_and_called_cached(tmp_path: Path) -> None:
    """All of it but the folder of the weights, which lives no longer than its run; the spec is the one asked for."""
    earlier = store(tmp_path, "earlier")
    earlier.keep(PARTS, RESULT.come_by(model_dir="/weights"))
    assert earlier.problems == [f"weights were not stored in {str(tmp_path)!r}: No such file or directory"]
    found = find(store(tmp_path))
    assert found is not None
    assert found.provenance.cached
    assert found.provenance.model_dir is None
    assert found.come_by(cached=False, not_kept=None) == RESULT
    moved = replace(RESULT.spec, workload=replace(RESULT.spec.workload, train="elsewhere.txt"))
    again = store(tmp_path).find(PARTS, moved, ENVIRONMENT)
    assert again is not None
    assert again.spec == moved
    assert store(tmp_path).find(Fingerprint({**PARTS.parts, "seed": 1}), RESULT.spec, ENVIRONMENT) is None


def test_what_this_run_has_trained_is_not_called_cached(tmp_path: Path) -> None:
    """Another process of the run finds it as if it had trained it, weights included, in protected mode as well."""
    kept = RESULT.come_by(model_dir="/weights")
    store(tmp_path, "earlier").keep(PARTS, kept)
    assert find(store(tmp_path, "earlier", reads=False)) == kept
    later = store(tmp_path, "later", reads=False)
    assert find(later) is None
    assert later.problems == [f"protected is set, so all results stored in {str(tmp_path)!r} are ignored"]


def test_another_machines_result_says_so_and_ones_own_is_preferred(tmp_path: Path) -> None:
    """Losses serve everywhere; bytes and seconds are marked where another machine, or none like it, measured them."""
    other = replace(ENVIRONMENT, device_name="another processor")
    store(tmp_path).keep(PARTS, RESULT)
    elsewhere = find(store(tmp_path), other)
    assert elsewhere is not None
    assert elsewhere.provenance.measured_elsewhere == (
        "it was trained on a processor with 2 threads, and this is another processor with 2 threads"
    )
    nowhere = find(store(tmp_path), None)
    assert nowhere is not None
    assert "a machine without that device" in str(nowhere.provenance.measured_elsewhere)
    store(tmp_path).keep(PARTS, RESULT.remeasured(environment=other))
    for machine in (ENVIRONMENT, other):
        found = find(store(tmp_path), machine)
        assert found is not None
        assert (found.measured.environment, found.provenance.measured_elsewhere) == (machine, None)


@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_byte_that_was_changed_never_gives_another_result(tmp_path: Path, position: float, value: int) -> None:
    """Wherever it is, the entry is set aside and named, or it is a byte that says nothing about the result."""
    place = tmp_path / "store"
    store(place).keep(PARTS, RESULT)
    path = entry(place)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] = value
    path.write_bytes(content)
    ours = store(place)
    found = find(ours)
    assert found is None or found.come_by(cached=False, not_kept=None) == RESULT
    assert (found is None) == ("is damaged" in " ".join(ours.problems))
    assert (found is None) == (not path.exists())


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"{}\n{}\n", b"[1]\n2\n", b"\xff\xfe\n", b'{"parts": {}, "checksum": "x"}\n{}\n']
)
def test_what_is_no_entry_is_set_aside_and_named(tmp_path: Path, content: bytes) -> None:
    """The trial is trained again, and its new entry is found."""
    store(tmp_path).keep(PARTS, RESULT)
    entry(tmp_path).write_bytes(content)
    ours = store(tmp_path)
    assert find(ours) is None
    (problem,) = ours.problems
    assert "is damaged" in problem
    assert "damaged/" in problem
    ours.keep(PARTS, RESULT)
    assert find(ours) is not None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("spec.variant.learning_rate", 10**400),
        ("spec.workload", []),
        ("measured.parameters.total", "x"),
        ("measured.parameters.trainable", True),
        ("measured.validation.nll", [20.0, None]),
        ("measured.validation.nll", [20.0, 10**400]),
        ("measured.validation.tokens", [10.5, 10]),
        ("measured.validation.tokens", [0, 0]),
        ("measured.curve", [{"step": 0, "loss": "2", "nll": []}]),
        ("measured.memory.peak_bytes", {}),
        ("measured.memory.breakdown", asdict(Breakdown(1, 1, 1, 1, peak_stage=3))),  # type: ignore[arg-type]
        ("measured.memory.phases", {"load": "x"}),
        ("measured.time.seconds_per_step", "x"),
        ("measured.time.run", 3),
        ("measured.environment.threads", "2"),
        ("measured.environment.versions", ["torch"]),
        ("measured.notes", [1]),
        ("provenance.cached", 1),
    ],
)  # fmt: skip
def test_a_wrong_value_under_a_right_checksum_is_set_aside(tmp_path: Path, place: str, value: Any) -> None:
    """Whoever writes the value can write the checksum as well: no gate and no summary gets to see it."""
    store(tmp_path).keep(PARTS, RESULT)
    header, body = map(json.loads, entry(tmp_path).read_text().splitlines())
    *path, last = place.split(".")
    owner = body
    for name in path:
        owner = owner[name]
    owner[last] = value
    text = json.dumps(body)
    header["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    entry(tmp_path).write_text(f"{json.dumps(header)}\n{text}\n")
    ours = store(tmp_path)
    assert find(ours) is None
    assert "is damaged" in ours.problems[0]
    assert len(list((tmp_path / "damaged").iterdir())) == 1


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_result_whose_losses_are_not_finite_is_no_damage(tmp_path: Path, loss: float) -> None:
    """Such numbers are what a training measured that diverged at its end."""
    store(tmp_path).keep(PARTS, trial(FULL, [loss, 21.0], time=Timing(None, 0, 50.0)))
    ours = store(tmp_path)
    found = find(ours)
    assert ours.problems == []
    assert found is not None
    assert found.measured.validation is not None
    assert not math.isfinite(found.measured.validation.loss)


def test_nothing_is_set_aside_through_a_link(tmp_path: Path) -> None:
    """What lies in another folder is not replaced, nor removed for want of room; the entry stays, and is named."""
    work, folder = tmp_path / "work", tmp_path / "store"
    store(folder).keep(PARTS, RESULT)
    path = entry(folder)
    path.write_text("damaged")
    work.mkdir()
    names = [work / path.name, *(work / f"{number}.txt" for number in range(25))]
    for name in names:
        name.write_text("somebody's")
    (folder / "damaged").symlink_to(work)
    ours = store(folder)
    assert find(ours) is None
    assert all(name.read_text() == "somebody's" for name in names)
    assert path.exists()
    assert f"it could not be moved ({str(folder / 'damaged')!r} is a link to another folder)" in ours.problems[0]


def test_every_shorter_file_is_noticed(tmp_path: Path) -> None:
    """Wherever an entry was cut off, it gives no result; only its last line break is missed by nobody."""
    store(tmp_path).keep(PARTS, RESULT)
    path, content = entry(tmp_path), entry(tmp_path).read_bytes()
    for length in range(0, len(content) - 1, 7):
        path.write_bytes(content[:length])
        assert find(store(tmp_path)) is None


def test_a_result_under_the_name_of_another_is_not_taken_for_it(tmp_path: Path) -> None:
    """A file that was renamed is known by what it says it was trained from."""
    store(tmp_path).keep(PARTS, RESULT)
    other = Fingerprint({**PARTS.parts, "seed": 1})
    path = entry(tmp_path)
    moved = path.parents[1] / other.key[:2] / path.name.replace(PARTS.key, other.key)
    moved.parent.mkdir(exist_ok=True)
    path.rename(moved)
    ours = store(tmp_path)
    assert ours.find(other, RESULT.spec, ENVIRONMENT) is None
    assert "not what its name says" in ours.problems[0]


@pytest.mark.parametrize("outcome", ["diverged", "crashed", "timed_out", "out_of_memory"])
def test_failures_are_kept_for_the_processes_of_their_run_only(tmp_path: Path, outcome: Any) -> None:
    """Another run tries again, also one that waited for it; what nobody signs is believed by nobody who is careful."""
    failed = RESULT.remeasured(outcome=outcome)
    ours = store(tmp_path)
    ours.keep(PARTS, failed)
    assert not list(tmp_path.rglob("*.json"))
    ours.failures.keep(PARTS, failed)
    assert store(tmp_path).failures.find(PARTS, RESULT.spec) == failed
    assert store(tmp_path).failures.find(Fingerprint({**PARTS.parts, "seed": 1}), RESULT.spec) is None
    for options in ({"reads": False}, {"signing_key": b"key", "requires_signature": True}):
        careful: Any = options
        assert store(tmp_path, "now", **careful).failures.find(PARTS, RESULT.spec) is None
    later = store(tmp_path, "later")
    assert later.failures.find(PARTS, RESULT.spec) is None
    assert find(later) is None


@pytest.mark.parametrize("outcome", ["ok", "planned", "not_trained"])
def test_what_is_no_failure_is_not_taken_for_one(tmp_path: Path, outcome: Any) -> None:
    """Whoever wrote it there: a result is found by its checksum, or not at all."""
    ours = store(tmp_path)
    ours.failures.keep(PARTS, RESULT.remeasured(outcome=outcome))
    assert ours.failures.find(PARTS, RESULT.spec) is None


def test_only_what_is_signed_with_the_key_is_believed_where_signatures_are_required(tmp_path: Path) -> None:
    """No signature, another key's, or that of another content: each is passed over, named, and left where it is."""
    required: dict[str, Any] = {"signing_key": b"secret", "requires_signature": True}
    for key in (None, b"another"):
        store(tmp_path, signing_key=key).keep(PARTS, RESULT)
        ours = store(tmp_path, **required)
        assert find(ours) is None
        assert "it has no valid signature by this key" in ours.problems[0]
        assert entry(tmp_path).exists()
    store(tmp_path, signing_key=b"secret").keep(PARTS, RESULT)
    assert find(store(tmp_path, **required)) is not None
    # Whoever can write to the folder can write a matching checksum, and no signature.
    header, body = entry(tmp_path).read_text().splitlines()
    forged = body.replace("20.0", "10.0")
    values = {**json.loads(header), "checksum": hashlib.sha256(forged.encode()).hexdigest()}
    entry(tmp_path).write_text(f"{json.dumps(values)}\n{forged}\n")
    assert find(store(tmp_path)) is not None
    assert find(store(tmp_path, **required)) is None


@pytest.mark.parametrize("options", [{"reads": False}, {"signing_key": b"secret", "requires_signature": True}])
def test_notes_that_others_may_have_written_are_not_read(tmp_path: Path, options: dict[str, Any]) -> None:
    """A forged digest of the weights would pass a signed result of other weights off for the present ones'."""
    ours = store(tmp_path)
    (tmp_path / "weights").touch()
    ours.notes.digests[str(tmp_path / "weights")] = [1, 2, 3, "digest"]
    ours.keep(PARTS, RESULT)
    ours.notes.remember_environment("facts", ENVIRONMENT)
    assert store(tmp_path).notes.digests == ours.notes.digests
    assert store(tmp_path).notes.environment("facts") == ENVIRONMENT
    careful = store(tmp_path, **options)
    assert careful.notes.digests == {}
    assert careful.notes.environment("facts") is None


@pytest.mark.parametrize("value", [0.0, -1.0, 7, "1e9", True, None, [1.0], "NaN", "Infinity"])
def test_a_speed_is_remembered_and_one_that_is_none_is_not(tmp_path: Path, value: Any) -> None:
    """A float above 0 is one; whoever believes no notes does not read it."""
    store(tmp_path).notes.remember_speed("facts", 2.5e9)
    assert store(tmp_path).notes.speed("facts") == 2.5e9
    assert store(tmp_path).notes.speed("other facts") is None
    assert store(tmp_path, reads=False).notes.speed("facts") is None
    text = value if value in ("NaN", "Infinity") else json.dumps(value)
    (tmp_path / "speeds.json").write_text(f'{{"facts": {text}}}')
    assert store(tmp_path).notes.speed("facts") is None


WRONG_FACTS = json.dumps({"facts": {**asdict(ENVIRONMENT), "threads": "2"}})


@pytest.mark.parametrize("text", ["", "[]", "{", '{"facts": {"device": 1}}', '{"facts": 3}', WRONG_FACTS])
def test_damaged_notes_cost_time_and_nothing_else(tmp_path: Path, text: str) -> None:
    """They are asked for again."""
    for name in ("environments.json", "digests.json"):
        (tmp_path / name).write_text(text)
    assert store(tmp_path).notes.environment("facts") is None
    store(tmp_path).notes.remember_environment("facts", ENVIRONMENT)
    assert store(tmp_path).notes.environment("facts") == ENVIRONMENT


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    """Beyond its limit the store removes entries, and drafts of killed processes; finding one is using it."""
    names = [Fingerprint({**PARTS.parts, "seed": seed}) for seed in range(4)]
    for number, name in enumerate(names[:3]):
        store(tmp_path).keep(name, RESULT)
        for path in (tmp_path / "results").rglob(f"{name.key}*"):
            os.utime(path, (1000 + number, 1000 + number))
    size = next((tmp_path / "results").rglob("*.json")).stat().st_size
    draft = tmp_path / "results" / names[0].key[:2] / ".killed.draft"
    draft.write_text("half")
    os.utime(draft, (1, 1))
    assert store(tmp_path).find(names[0], RESULT.spec, ENVIRONMENT) is not None
    store(tmp_path, limit_bytes=3 * size + size // 2).keep(names[3], RESULT)
    there = [store(tmp_path).find(name, RESULT.spec, ENVIRONMENT) is not None for name in names]
    assert there == [True, False, True, True]
    assert not draft.exists()


def test_a_size_that_is_too_small_for_one_run_is_named(tmp_path: Path) -> None:
    """Results of this run that were removed again will be trained again; older ones make room without a word."""
    ours = store(tmp_path, limit_bytes=1)
    store(tmp_path).keep(PARTS, RESULT)
    os.utime(entry(tmp_path), (1000, 1000))
    ours._clean_up()
    assert not list((tmp_path / "results").rglob("*.json"))
    assert ours.problems == []
    ours.keep(PARTS, RESULT)
    assert ours.problems == ["cache_size is 1 B, too small for this run: results of it were removed again"]


READ_ONLY = """
import os, sys
from pathlib import Path
from tests.plain.test_store import PARTS, RESULT, find, store
RESULT.to_dict()  # import what writing needs while this process may still read it
os.chdir(sys.argv[1])  # what lies above it may be closed to others, as the tests' own folder is
if os.geteuid() == 0:  # to whom modes do not matter
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
ours = store(Path(sys.argv[2]))
with ours.lock(PARTS.key, lambda: None):
    ours.keep(PARTS, RESULT)
print(find(ours) is not None, ours.problems)
"""


def test_a_folder_that_may_only_be_read_serves_and_is_named(tmp_path: Path) -> None:
    """What is there is found, what cannot be written is said, or that not even that may be; nothing ends the run."""
    folder = tmp_path / "store"
    store(folder).keep(PARTS, RESULT)
    for name in ("locks", "closed"):
        (folder / name).mkdir()
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "closed").chmod(0)
    command = [sys.executable, "-c", READ_ONLY, str(folder)]
    done = [
        subprocess.run([*command, place], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for place in (".", "closed")
    ]
    for path in paths:
        path.chmod(0o755)
    assert done[0].startswith("True ")
    assert "nothing can be locked in '.': Permission denied" in done[0]
    assert "the result was not stored in '.': Permission denied" in done[0]
    assert done[1].startswith("False ")
    assert "'closed' cannot be read: Permission denied" in done[1]


def test_few_damaged_entries_are_left_to_be_looked_at(tmp_path: Path) -> None:
    """The last twenty, and the one that was named last is among them, however long it had not been used."""
    for seed in range(25):
        store(tmp_path).keep(Fingerprint({**PARTS.parts, "seed": seed}), RESULT)
        path = entry(tmp_path)
        path.write_text("damaged")
        os.utime(path, (10**9 - seed, 10**9 - seed))
        ours = store(tmp_path)
        assert ours.find(Fingerprint({**PARTS.parts, "seed": seed}), RESULT.spec, ENVIRONMENT) is None
        assert (tmp_path / "damaged" / path.name).exists()
        assert len(list((tmp_path / "damaged").iterdir())) == min(seed + 1, 20)


def test_digests_are_remembered_as_long_as_there_is_the_file(tmp_path: Path) -> None:
    """That of a file that was changed takes the place of the old one, and those of files that are gone are dropped."""
    (tmp_path / "weights").touch()
    here, gone = str(tmp_path / "weights"), str(tmp_path / "gone")
    for number in (1, 2):
        ours = store(tmp_path / "store")
        ours.notes.digests.update({here: [number, "digest"], gone: [number, "digest"]})
        ours.keep(PARTS, RESULT)
        assert store(tmp_path / "store").notes.digests == {here: [number, "digest"]}


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800"])
def test_a_digest_under_an_impossible_name_is_dropped_and_disturbs_nothing(tmp_path: Path, name: str) -> None:
    """The result is stored, which nobody denies, the other digests are remembered, and older entries make room."""
    (tmp_path / "weights").touch()
    here = str(tmp_path / "weights")
    store(tmp_path / "store").keep(Fingerprint({"kind": "lora"}), RESULT)
    os.utime(entry(tmp_path / "store"), (1000, 1000))
    ours = store(tmp_path / "store", limit_bytes=entry(tmp_path / "store").stat().st_size * 3 // 2)
    ours.notes.digests.update({name: [1, "digest"], here: [1, "digest"]})
    ours.keep(PARTS, RESULT)
    assert ours.problems == []
    assert find(ours) is not None
    assert entry(tmp_path / "store").name.startswith(PARTS.key)
    assert store(tmp_path / "store").notes.digests == {here: [1, "digest"]}


@pytest.mark.parametrize("parts", ["[1]", "null", '{"kind": "full", "seed": NaN}'])
def test_a_strange_entry_explains_nothing_and_ends_no_run(tmp_path: Path, parts: str) -> None:
    """Nobody looks at the checksum of what is only compared with."""
    store(tmp_path).keep(PARTS, RESULT)
    entry(tmp_path).write_text(f'{{"run": "earlier", "parts": {parts}}}\n{{}}\n')
    assert store(tmp_path).why_missing(Fingerprint({"kind": "full", "seed": 1})) in (None, "")


@pytest.mark.parametrize("options", [{}, {"reads": False}, {"signing_key": b"k", "requires_signature": True}])
def test_json_that_is_too_deep_to_read_is_damaged(tmp_path: Path, options: dict[str, Any]) -> None:
    """Wherever it lies in the store, it ends no run, in the modes that believe nothing as well."""
    store(tmp_path).keep(PARTS, RESULT)
    deep = "[" * 100_000
    entry(tmp_path).write_text(deep)
    (tmp_path / "failures").mkdir()
    for name in ("digests.json", "environments.json", f"failures/{PARTS.key}.json"):
        (tmp_path / name).write_text(deep)
    ours = store(tmp_path, "later", **options)
    assert find(ours) is None
    assert ours.failures.find(PARTS, RESULT.spec) is None
    assert ours.notes.environment("facts") is None
    assert "RecursionError" in ours.problems[0]


def test_nothing_outside_the_folder_is_removed_through_a_link(tmp_path: Path) -> None:
    """A folder that was restored from elsewhere may hold links to what is somebody's work."""
    work, folder = tmp_path / "work", tmp_path / "store"
    (work / "checkpoint-5").mkdir(parents=True)
    names = [work / "one.json", work / "two.draft", work / "checkpoint-5" / "three.json"]
    for path in names:
        path.write_text("x" * 1000)
        os.utime(path, (1000, 1000))
    store(folder).keep(PARTS, RESULT)
    for place in ("results/zz", "weights", "failures", f"checkpoints/{PARTS.key}"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).symlink_to(work)
    ours = store(folder, limit_bytes=1)
    ours.keep(PARTS, RESULT)
    ours.failures.keep(PARTS, RESULT.remeasured(outcome="crashed"))
    assert ours.checkpoints(PARTS) is None
    assert all(path.exists() for path in names)


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock here")])
def test_where_nothing_can_be_locked_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Trained twice is better than not at all; what fails inside is not taken for the lock."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pytest_ftguard.store.locks.FileLock.acquire", refuse)
    ours = store(tmp_path)
    with ours.lock(PARTS.key, lambda: None):
        ours.keep(PARTS, RESULT)
    assert find(ours) is not None
    assert "nothing can be locked in" in ours.problems[0]
    with pytest.raises(ZeroDivisionError), ours.lock(PARTS.key, lambda: None):
        raise ZeroDivisionError


def test_a_folder_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    """It is named, the lock is done without, and what is there is still found."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    ours = store(blocked / "store")
    with ours.lock(PARTS.key, lambda: None):
        ours.keep(PARTS, RESULT)
    assert find(ours) is None
    assert [problem.split(" in ")[0] for problem in ours.problems] == [
        "nothing can be locked",
        "the result was not stored",
    ]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.plain.test_store import ENVIRONMENT, PARTS, RESULT, find, store
place = Path(sys.argv[1])
store(place / "before").keep(PARTS, RESULT)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))  # a write beyond this fails, as on a full disk
ours = store(place / "full")
ours.keep(PARTS, RESULT)
print(ours.problems, find(ours), find(store(place / "before")) is not None)
"""


def test_a_full_disk_leaves_no_half_an_entry(tmp_path: Path) -> None:
    """The result is not stored, which is said, and no draft stays; what was stored before is still found."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "the result was not stored in" in done.stdout
    assert "File too large" in done.stdout
    assert done.stdout.strip().endswith("None True")
    assert not [path for path in (tmp_path / "full" / "results").rglob("*") if path.is_file()]


WRITERS = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
from pytest_ftguard.store.fingerprint import Fingerprint
from tests.plain.test_store import PARTS, RESULT, store
RESULT.to_dict()  # import what writing needs, before any writer has its few milliseconds
for number in range(50):
    child = os.fork()
    if child == 0:
        for seed in range(10**6):
            store(Path(sys.argv[1]), f"run {number}").keep(Fingerprint({**PARTS.parts, "seed": seed % 5}), RESULT)
    time.sleep(random.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_writer_killed_at_any_moment_leaves_whole_entries(tmp_path: Path) -> None:
    """After fifty kills every entry that is there is right."""
    command = [sys.executable, "-c", WRITERS, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    ours = store(tmp_path)
    found = [ours.find(Fingerprint({**PARTS.parts, "seed": seed}), RESULT.spec, ENVIRONMENT) for seed in range(5)]
    assert any(found)
    assert all(one is None or one.come_by(cached=False, not_kept=None) == RESULT for one in found)
    assert ours.problems == []
    assert not (tmp_path / "damaged").exists()


HOLDER = """
import sys, time
from pathlib import Path
from pytest_ftguard.store.locks import held
with held([Path(sys.argv[1])], lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock `tmp_path / "lock"`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_waits_for_its_holder_and_outlives_nobody(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    """While the holder lives others wait, or take the next one; when it is killed the lock is free, its file or not."""
    with held([tmp_path / "lock", tmp_path / "other"], lambda: None) as taken:
        assert taken == tmp_path / "other"
    waited = 0

    def kill_later() -> None:
        nonlocal waited
        waited += 1
        if waited == 3:
            holder.send_signal(signal.SIGKILL)

    with held([tmp_path / "lock"], kill_later) as taken:
        assert taken == tmp_path / "lock"
    assert waited >= 3


def test_trainings_at_the_same_time_know_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both that which came first and that which came later; one that was killed disturbs nobody, nor one that ended."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Neighbours() as alone:
        pass
    assert not alone.were_there
    with Neighbours() as first:
        with Neighbours() as second:
            assert second.were_there
        assert first.were_there
    with Neighbours() as later:
        assert not later.were_there
    (folder,) = tmp_path.iterdir()
    assert not list(folder.glob("*.met"))
    (folder / "killed.running").touch()
    with Neighbours() as after_a_kill:
        assert not after_a_kill.were_there
    assert not (folder / "killed.running").exists()


def test_gpus_are_leased_and_the_processor_is_shared_between_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainings take two GPUs; on the processor those of one run take turns, those of others do not wait."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    waits: list[int] = []

    def give_up() -> None:
        waits.append(1)
        raise TimeoutError

    with leased(["0", "1"], None, give_up) as one, leased(["0", "1"], None, give_up) as other:
        assert (one, other) == ("0", "1")
        with pytest.raises(TimeoutError), leased(["0", "1"], None, give_up):
            pass
    with leased(["cpu"], tmp_path, give_up) as slot:
        assert slot == "cpu"
        with pytest.raises(TimeoutError), leased(["cpu"], tmp_path, give_up):
            pass
        with leased(["cpu"], None, give_up):
            pass
    assert len(waits) == 2


def test_a_miss_names_what_has_changed_since_an_earlier_run(tmp_path: Path) -> None:
    """The nearest entry of the same kind is the one to compare with; those of this run explain nothing."""
    store(tmp_path, "earlier").keep(PARTS, RESULT)
    store(tmp_path, "earlier").keep(Fingerprint({**PARTS.parts, "seed": 5, "steps": 1}), RESULT)
    ours = store(tmp_path)
    ours.keep(Fingerprint({**PARTS.parts, "steps": 7}), RESULT)
    wanted = Fingerprint({**PARTS.parts, "steps": 7, "train text": [".txt", "ab" * 32]})
    assert ours.why_missing(wanted) == "steps (100 -> 7), train text"
    assert ours.why_missing(Fingerprint({**wanted.parts, "kind": "lora"})) is None
    # Another seed is no change.
    assert ours.why_missing(Fingerprint({**PARTS.parts, "seed": 9})) == ""
    assert store(tmp_path, reads=False).why_missing(wanted) is None


def test_what_stands_beside_others_is_not_called_changed(tmp_path: Path) -> None:
    """A third rank was made of neither of the two that this run has found, nor a further seed of another rank."""
    ranks = {r: Fingerprint({"kind": "lora", "seed": 0, "lora_r": r, "steps": 100}) for r in (2, 4, 8)}
    for r in (2, 4):
        store(tmp_path, "earlier").keep(ranks[r], RESULT)
        store(tmp_path, "earlier").keep(Fingerprint({**ranks[r].parts, "seed": 1}), RESULT)
    ours = store(tmp_path)
    assert ours.why_missing(ranks[8]) == "lora_r (4 -> 8)"
    assert ours.find(ranks[4], RESULT.spec, ENVIRONMENT) is not None
    assert ours.why_missing(ranks[8]) == "lora_r (2 -> 8)"
    assert ours.why_missing(Fingerprint({**ranks[4].parts, "seed": 2})) == ""
    assert ours.find(ranks[2], RESULT.spec, ENVIRONMENT) is not None
    assert ours.why_missing(ranks[8]) is None
    assert ours.why_missing(Fingerprint({**ranks[8].parts, "steps": 50})) is None


def test_a_timing_is_not_what_a_trial_was_changed_from(tmp_path: Path) -> None:
    """However near it is: its steps were chosen for the time that they take."""
    timing = Fingerprint({**PARTS.parts, "steps": 40, "beside": "another trial"})
    store(tmp_path, "earlier").keep(timing, RESULT)
    wanted = Fingerprint({**PARTS.parts, "train text": [".txt", "ab" * 32]})
    assert store(tmp_path).why_missing(wanted) is None
    store(tmp_path, "earlier").keep(Fingerprint({**PARTS.parts, "steps": 1, "block_size": 2}), RESULT)
    assert store(tmp_path).why_missing(wanted) == "block_size (2 -> none), steps (1 -> 100), train text"


def test_what_is_not_known_in_full_has_no_nearest_entry(tmp_path: Path) -> None:
    """A text that is missing makes such a fingerprint, and the trial itself says what is wrong."""
    store(tmp_path).keep(PARTS, RESULT)
    unknown = Fingerprint({"kind": "full", "spec": "x", "run": "y"}, is_complete=False)
    assert store(tmp_path, "later").why_missing(unknown) is None


def test_the_folder_keeps_itself_out_of_git_and_backups(tmp_path: Path) -> None:
    """Nobody commits it by mistake."""
    store(tmp_path / "cache").keep(PARTS, RESULT)
    assert (tmp_path / "cache" / ".gitignore").read_text() == "*\n"
    assert (tmp_path / "cache" / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_the_store_holds_nothing_that_could_run(tmp_path: Path) -> None:
    """Entries are JSON: reading one that names code does not run it."""
    ours = store(tmp_path)
    ours.keep(PARTS, RESULT.come_by(not_kept="__import__('os').abort()"))
    with suppress(OSError):
        ours.keep(Fingerprint({"kind": "lora"}), trial(LORA, [1.0]))
    for path in (tmp_path / "results").rglob("*.json"):
        for line in path.read_text().splitlines():
            assert isinstance(json.loads(line), dict)
    assert find(ours) is not None
