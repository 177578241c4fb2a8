"""Trained weights beside their results: what is taken is what was kept, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.results import Timing, Trial
from pytest_ftguard.running.local.workers import Workers
from pytest_ftguard.store.fingerprint import Fingerprint
from pytest_ftguard.store.store import Store
from pytest_ftguard.store.weights import has_weights

from .builders import ENVIRONMENT
from .test_store import PARTS, RESULT, entry, store

FILES = {"model.safetensors": b"weights" * 20, "model.safetensors.index.json": b"{}"}


@pytest.fixture
def trained(tmp_path: Path) -> Trial:
    """A result whose weights are at hand, with files beside them that are not kept."""
    folder = tmp_path / "trained"
    folder.mkdir()
    other = {"modeling.py": b"raise SystemExit", "training_args.bin": b"pickle", "config.json": b"{}"}
    for name, content in {**FILES, **other}.items():
        (folder / name).write_bytes(content)
    return RESULT.come_by(model_dir=str(folder), content=PARTS.key)


def test_a_folder_whose_weights_were_removed_has_none(trained: Trial) -> None:
    """A cleaner of temporary files takes the folder, or only what is in it."""
    folder = Path(str(trained.provenance.model_dir))
    assert has_weights(str(folder))
    assert not has_weights(None)
    for name in FILES:
        (folder / name).unlink()
    assert not has_weights(str(folder))
    shutil.rmtree(folder)
    assert not has_weights(str(folder))


def test_folders_of_trials_are_made_again_after_a_cleaner_of_temporary_files(tmp_path: Path) -> None:
    """That of the run, in which those of its processes are, and that of one process."""
    shared = tmp_path / "shared"
    shutil.rmtree(tmp_path)
    workers = Workers(shared)
    first = workers.folder()
    assert first.is_dir()
    shutil.rmtree(shared)
    assert workers.folder().is_dir()
    assert not first.exists()


def take(ours: Store, target: Path) -> bool:
    found = ours.find(PARTS, RESULT.spec, ENVIRONMENT)
    return found is not None and ours.take_weights(found, target)


def weights(folder: Path) -> Path:
    (place,) = (folder / "weights").iterdir()
    return place


def test_weights_of_an_earlier_run_are_at_hand_again(trained: Trial, tmp_path: Path) -> None:
    """The same bytes, in a folder that is the taker's; nothing that could run, or name what runs, is kept."""
    store(tmp_path / "store", "earlier").keep(PARTS, trained)
    assert {path.name for path in weights(tmp_path / "store").iterdir()} == {*FILES, "ftguard_weights.json"}
    assert take(store(tmp_path / "store"), tmp_path / "taken")
    assert {path.name: path.read_bytes() for path in (tmp_path / "taken").iterdir()} == FILES


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def add_weights(path: Path) -> None:
    path.with_name("model-00002-of-00002.safetensors").write_text("more")


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "ftguard_weights.json"])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink, add_weights])
def test_damaged_weights_are_named_removed_and_not_taken(
    trained: Trial, tmp_path: Path, name: str, damage: Any
) -> None:
    """A changed, missing or added file: the trial is trained again, and the result itself stays."""
    store(tmp_path / "store").keep(PARTS, trained)
    damage(weights(tmp_path / "store") / name)
    ours = store(tmp_path / "store", "later")
    assert not take(ours, tmp_path / "taken")
    assert len(ours.problems) == 1
    assert "are not used, and trained again: " in ours.problems[0]
    assert not list((tmp_path / "store" / "weights").iterdir())
    assert entry(tmp_path / "store").exists()


def test_no_adapter_is_put_on_top_of_a_whole_model(trained: Trial, tmp_path: Path) -> None:
    """Even where the list names it; what would configure it is not taken at all."""
    folder = Path(str(trained.provenance.model_dir))
    (folder / "adapter_model.safetensors").write_bytes(b"another")
    store(tmp_path / "store").keep(PARTS, trained)
    assert not take(store(tmp_path / "store", "later"), tmp_path / "taken")
    (folder / "adapter_model.safetensors").unlink()
    store(tmp_path / "store").keep(PARTS, trained)
    (weights(tmp_path / "store") / "adapter_config.json").write_text("{}")
    assert take(store(tmp_path / "store", "later"), tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == set(FILES)


def test_what_a_method_changed_in_its_base_goes_with_the_adapter(trained: Trial, tmp_path: Path) -> None:
    """With an adapter it is taken; alone, or beside a whole model, nothing is."""
    folder = Path(str(trained.provenance.model_dir))
    for name, beside, taken in (("adapter_model", True, True), ("adapter_model", False, False), ("model", True, False)):
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        (folder / "base_changes.safetensors").write_bytes(b"residuals")
        if beside:
            (folder / f"{name}.safetensors").write_bytes(b"weights")
        store(tmp_path / "store").keep(PARTS, trained)
        target = tmp_path / f"{name} {beside}"
        assert take(store(tmp_path / "store", "later"), target) is taken
        assert not taken or (target / "base_changes.safetensors").read_bytes() == b"residuals"


def test_weights_of_another_result_are_not_taken(trained: Trial, tmp_path: Path) -> None:
    """The list names the result by its digest: one that was trained anew meanwhile has others."""
    store(tmp_path / "store").keep(PARTS, trained)
    old = weights(tmp_path / "store").rename(tmp_path / "old")
    store(tmp_path / "store").keep(PARTS, trained.remeasured(data_order="another"))
    new = weights(tmp_path / "store")
    new.rename(tmp_path / "new")
    old.rename(new)
    ours = store(tmp_path / "store", "later")
    assert not take(ours, tmp_path / "taken")
    assert "they belong to another result" in ours.problems[0]
    assert weights(tmp_path / "store").exists()


def test_weights_are_those_of_the_result_that_was_given(trained: Trial, tmp_path: Path) -> None:
    """Where another run has trained it anew since it was found, its result was read meanwhile or not."""
    ours = store(tmp_path / "store")
    store(tmp_path / "store", "earlier").keep(PARTS, trained)
    old = ours.find(PARTS, RESULT.spec, ENVIRONMENT)
    assert old is not None
    store(tmp_path / "store", "other").keep(PARTS, trained.remeasured(time=Timing(0.5, 97, 50.0, run="other")))
    new = ours.find(PARTS, RESULT.spec, ENVIRONMENT)
    assert new is not None
    assert not ours.take_weights(old, tmp_path / "old")
    assert "they belong to another result" in ours.problems[0]
    assert ours.take_weights(new, tmp_path / "new")


def test_weights_that_were_trained_again_are_there_for_the_next_run(trained: Trial, tmp_path: Path) -> None:
    """Where they were lost, those of another training to the same losses take their place; too large ones do not."""
    (Path(str(trained.provenance.model_dir)) / "model.safetensors").write_bytes(b"weights" * 1000)
    store(tmp_path / "store", "earlier").keep(PARTS, trained)
    weights(tmp_path / "store").rename(tmp_path / "lost")
    for limit, why in ((50_000, "they take more than an eighth of cache_size"), (10**6, None)):
        ours = store(tmp_path / "store", "later", limit_bytes=limit)
        found = ours.find(PARTS, RESULT.spec, ENVIRONMENT)
        assert found is not None
        assert not ours.take_weights(found, tmp_path / "missing")
        assert ours.keep_weights(found, Path(str(trained.provenance.model_dir))) == why
        assert take(store(tmp_path / "store", "next"), tmp_path / f"taken {limit}") is (why is None)
        assert ours.problems == []


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_others_may_read_weights_as_they_may_read_results(trained: Trial, tmp_path: Path, umask: int) -> None:
    """The umask says whom a store is shared with."""
    before = os.umask(umask)
    try:
        store(tmp_path / "store").keep(PARTS, trained)
    finally:
        os.umask(before)
    for path in (tmp_path / "store").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


@pytest.mark.parametrize("key", [None, b"another", b"secret"])
def test_only_signed_weights_are_taken_where_signatures_are_required(
    trained: Trial, tmp_path: Path, key: bytes | None
) -> None:
    """The list is signed as results are, and whoever has no key cannot make one for other files."""
    store(tmp_path / "store", signing_key=b"secret").keep(PARTS, trained)
    path = weights(tmp_path / "store") / "ftguard_weights.json"
    store(tmp_path / "other", signing_key=key).keep(PARTS, trained)
    path.write_text((weights(tmp_path / "other") / path.name).read_text())
    ours = store(tmp_path / "store", "later", signing_key=b"secret", requires_signature=True)
    assert take(ours, tmp_path / "taken") is (key == b"secret")
    assert path.exists()
    # A key is enough: require_signed may not be set.
    assert all("no valid signature by this key" in problem for problem in ours.problems)
    without = store(tmp_path / "store", "later", signing_key=None, requires_signature=True)
    assert not take(without, tmp_path / "never")


def test_protected_takes_no_weights(trained: Trial, tmp_path: Path) -> None:
    """Not even those of a result of this run that another process may have written."""
    store(tmp_path / "store", "now").keep(PARTS, trained)
    assert not take(store(tmp_path / "store", "now", reads=False), tmp_path / "taken")


def test_weights_that_would_fill_the_store_are_not_kept(trained: Trial, tmp_path: Path) -> None:
    """An eighth of its size is the most; the results are kept all the same."""
    size = sum(map(len, FILES.values()))
    for name, limit in (("most", 8 * size), ("beyond", 8 * size - 1)):
        ours = store(tmp_path / name, limit_bytes=limit)
        ours._keep_weights(Path(str(trained.provenance.model_dir)), Path("entry.json"), "digest")
        assert (tmp_path / name / "weights" / "entry").exists() is (name == "most")
        assert ours.problems == []


def test_weights_go_before_results(trained: Trial, tmp_path: Path) -> None:
    """However fresh they are: a result spares a whole training, and the oldest weights go first."""
    names = [Fingerprint({**PARTS.parts, "seed": seed}) for seed in range(3)]
    for number, name in enumerate(names):
        store(tmp_path / "store").keep(name, trained.come_by(content=name.key))
        for path in (tmp_path / "store").glob(f"*/**/{name.key}*"):
            os.utime(path, (1000 + number, 1000 + number))
    total = sum(path.stat().st_size for path in (tmp_path / "store" / "results").rglob("*.json"))
    held = 3 * sum(map(len, FILES.values()))
    ours = store(tmp_path / "store", limit_bytes=total + held - 1)
    ours._clean_up()
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "store" / "weights").iterdir()) == sorted(
        name.key for name in names[1:]
    )
    ours = store(tmp_path / "store", limit_bytes=total)
    ours._clean_up()
    assert not list((tmp_path / "store" / "weights").iterdir())
    assert len(list((tmp_path / "store" / "results").rglob("*.json"))) == 3
    assert ours.problems == []


WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
from tests.plain.test_store import store
for number in range(50):
    child = os.fork()
    if child == 0:
        while True:
            store(Path(sys.argv[1]))._keep_weights(Path(sys.argv[2]), Path("entry.json"), f"run {number}")
    time.sleep(random.uniform(0.0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_writer_killed_at_any_moment_leaves_whole_weights(trained: Trial, tmp_path: Path) -> None:
    """Or none, for they can be trained again; what it left half is removed an hour later."""
    command = [sys.executable, "-c", WRITERS, str(tmp_path / "store"), str(trained.provenance.model_dir)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    left = list((tmp_path / "store" / "weights").iterdir())
    whole = [path for path in left if path.name == "entry"]
    for place in whole:
        assert {path.name for path in place.iterdir()} == {*FILES, "ftguard_weights.json"}
        assert all((place / name).read_bytes() == content for name, content in FILES.items())
        json.loads((place / "ftguard_weights.json").read_text())
    for path in left:
        os.utime(path, (1000, 1000))
    store(tmp_path / "store")._clean_up()
    assert list((tmp_path / "store" / "weights").iterdir()) == whole
