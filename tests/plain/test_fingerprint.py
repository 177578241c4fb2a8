"""A trial's fingerprint changes with everything that decides its result, and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from pytest_ftguard.running.local import devices
from pytest_ftguard.running.local.devices import device_slots
from pytest_ftguard.specs import Full, LoRA, TrialSpec, Variant, Workload, fields_of, places_of
from pytest_ftguard.store import contents
from pytest_ftguard.store import fingerprint as module
from pytest_ftguard.store.contents import UnknownContentError, file_digest, installed_version
from pytest_ftguard.store.fingerprint import Fingerprint, changes, fingerprint_of, machine_facts

FULL = Full(learning_rate=1e-4)
LORA = LoRA(learning_rate=1e-3)


@pytest.fixture
def work(tmp_path: Path) -> Workload:
    """A workload whose files are there."""
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "training_args.bin"):
        (tmp_path / "model" / name).write_text(name)
    for name in ("train.txt", "validation.txt"):
        (tmp_path / name).write_text(name)
    train, validation = (str(tmp_path / f"{name}.txt") for name in ("train", "validation"))
    return Workload(model=str(tmp_path / "model"), train=train, validation=validation)


def key(
    workload: Workload,
    variant: Variant = FULL,
    *,
    seed: int = 0,
    precision: str = "fp32",
    environment: dict[str, str] | None = None,
) -> str:
    trial = TrialSpec(workload=workload, variant=variant, seed=seed)
    return fingerprint_of(trial, "cpu", precision, known={}, environment=environment or {}).key


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which devices are looked for."""
    monkeypatch.setattr(devices, "_DEVICES", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"target_modules": ["v", "q", "q"]}, {"target_modules": ("q", "v")}, True),
        ({"target_modules": ["q"]}, {"target_modules": ["q", "v"]}, False),
        ({"target_modules": "v|q"}, {"target_modules": "q|v"}, False),
        ({"options": {"layers_to_transform": [10, 9]}}, {"options": {"layers_to_transform": [9, 10]}}, True),
        ({"options": {"layers_to_transform": [9]}}, {"options": {"layers_to_transform": 9}}, False),
        ({"options": {"modules_to_save": ["b", "a"]}}, {"options": {"modules_to_save": ["a", "b"]}}, True),
        ({"options": {"exclude_modules": ["b", "a"]}}, {"options": {"exclude_modules": ["a", "b"]}}, True),
        ({"options": {"exclude_modules": "b|a"}}, {"options": {"exclude_modules": "a|b"}}, False),
        # The first pattern that matches says which layer it is.
        ({"options": {"layers_pattern": ["b", "a"]}}, {"options": {"layers_pattern": ["a", "b"]}}, False),
    ],
)
def test_the_order_of_what_peft_takes_as_a_set_does_not_matter(
    work: Workload, one: dict[str, Any], other: dict[str, Any], is_same: bool
) -> None:
    """Nor that a name stands there twice; a regular expression is a text, and is left as it is."""
    first, second = (LoRA(learning_rate=1e-3, **values) for values in (one, other))
    assert (first == second) is is_same
    assert (key(work, first) == key(work, second)) is is_same
    if isinstance(first.target_modules, str):
        assert first.target_modules == one.get("target_modules", "all-linear")


OTHER: dict[str, Any] = {
    "task": "test_fingerprint:Task",
    "block_size": 64,
    "batch_size": 2,
    "steps": 7,
    "seeds": (4, 5, 6),
    "precision": None,  # as resolved
    "final": True,
    "validation_sequences": 80,
    "model_args": {"attn_implementation": "eager"},
    "training_args": {"weight_decay": 0.1},
    "training_function": "test_fingerprint:key",
    "trainer": "test_fingerprint:key",
    "most_seeds": 8,
    "purpose": "search",
    "chat_template": "{{ messages }}",
    "completion_only_loss": True,
    "assistant_only_loss": True,
    "packing": True,
    "score": "test_fingerprint:key",
    "slices": ("language",),
    "group": "movie",
}


@pytest.mark.parametrize("name", [*fields_of(Workload, "result", places=False), "seeds", "most_seeds", "final"])
def test_a_field_of_the_workload_changes_the_fingerprint_if_it_decides_the_result(
    work: Workload, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The table says so; a label or the other seeds change nothing, and places count by content, as tested below."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    decides = name in fields_of(Workload, "result")
    if OTHER[name] is not None:
        assert (key(replace(work, **{name: OTHER[name]})) != key(work)) is decides


def test_every_field_of_the_workload_is_tested_here() -> None:
    """A new field stands in the list above, or names a place."""
    assert {*OTHER, *places_of(Workload, "model", "revision", "text")} == {item.name for item in fields(Workload)}


def test_results_that_an_earlier_version_stored_are_found(work: Workload, tmp_path: Path) -> None:
    """Digests of an earlier version of what a spec and its files decide, apart from versions and code."""
    reference, tokenizer = tmp_path / "reference.jsonl", tmp_path / "own" / "tokenizer.json"
    tokenizer.parent.mkdir()
    model = tmp_path / "bare" / "config.json"
    model.parent.mkdir()
    tokenizer.write_text("own/tokenizer.json")
    model.write_text("model/config.json")
    reference.write_text("reference.jsonl")
    plain = replace(work, model=str(model.parent))
    rich = replace(
        plain,
        tokenizer=str(tokenizer.parent),
        reference=str(reference),
        steps=7,
        seeds="3..8",  # type: ignore[arg-type]
        final=True,
        validation_sequences=80,
        model_args={"attn_implementation": "eager"},
        training_args={"weight_decay": 0.1, "run_name": "x"},
        purpose="search",
    )
    lora = LoRA(
        r=4,
        alpha=2.5,
        target_modules=["q", "v"],
        dropout=0.1,
        bias="all",
        learning_rate=1e-3,
        search_learning_rate=True,
        options={"use_dora": True},
    )
    stored = {
        "77a3fdb810c50a8d833f3ff8bcd500e4ebb7a404978fcd884a9c43da152ec3a4": TrialSpec(
            workload=rich, variant=lora, seed=3, device="cuda:1"
        ),
        "4022aec5e80e023a762f11902809839c3a2f2735b7d57c43728c08544a4a5a4b": TrialSpec(
            workload=plain, variant=FULL, seed=3
        ),
    }
    for digest, spec in stored.items():
        found = fingerprint_of(spec, "cpu", "fp32", known={}, environment={"ATEN_CPU_CAPABILITY": "avx2"})
        lasting = {name: value for name, value in found.parts.items() if not name.startswith(("version of", "code of"))}
        assert Fingerprint(lasting).key == digest


def test_variant_seed_and_precision_decide(work: Workload) -> None:
    """Each of them gives another trial; whether the learning rate was given or found gives the same."""
    dora = replace(LORA, options={"use_dora": True})
    variants: list[Variant] = [FULL, replace(FULL, learning_rate=2e-4), LORA, replace(LORA, r=8), dora]
    keys = {key(work, variant) for variant in variants} | {key(work, seed=1), key(work, precision="bf16")}
    assert len(keys) == len(variants) + 2
    assert key(work, replace(LORA, search_learning_rate=True)) == key(work, LORA)


def test_paths_do_not_matter_and_contents_do(work: Workload, tmp_path: Path) -> None:
    """Copied elsewhere it is the same trial; a byte of a text, the weights or the tokenizer makes another."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("model", "train.txt", "validation.txt"):
        copy = shutil.copytree if (tmp_path / name).is_dir() else shutil.copy
        copy(tmp_path / name, elsewhere / name)
    train, validation = (str(elsewhere / f"{name}.txt") for name in ("train", "validation"))
    moved = replace(work, model=str(elsewhere / "model"), train=train, validation=validation)
    assert key(moved) == key(work)
    for name in ("README.md", "training_args.bin"):
        (elsewhere / "model" / name).write_text("other")
        assert key(moved) == key(work)
    seen = {key(work)}
    for name in ("train.txt", "validation.txt", "model/config.json", "model/model.safetensors", "model/tokenizer.json"):
        (elsewhere / name).write_text(f"another {name}")
        assert key(moved) not in seen
        seen.add(key(moved))


def test_the_end_of_a_texts_name_says_how_it_is_read(work: Workload, tmp_path: Path) -> None:
    """The same bytes as JSON lines are other documents."""
    shutil.copy(work.train, tmp_path / "train.jsonl")
    shutil.copy(work.train, tmp_path / "renamed.txt")
    assert key(replace(work, train=str(tmp_path / "train.jsonl"))) != key(work)
    assert key(replace(work, train=str(tmp_path / "renamed.txt"))) == key(work)


def test_the_files_that_are_loaded_are_those_that_count(work: Workload, tmp_path: Path) -> None:
    """A subfolder of any name, behind a link as well, and a GGUF file however its name is spelt; none is no model."""
    model = tmp_path / "model"
    (tmp_path / "real").mkdir()
    (model / "checkpoint-5").mkdir()
    (model / "linked").symlink_to(tmp_path / "real")
    for options, path in {
        "subfolder=checkpoint-5": model / "checkpoint-5" / "model.safetensors",
        "subfolder=linked": tmp_path / "real" / "model.safetensors",
        "gguf_file=W.GGUF": model / "W.GGUF",
    }.items():
        name, _, value = options.partition("=")
        chosen = replace(work, model_args={name: value})
        path.write_text("before")
        before = key(chosen)
        path.write_text("after")
        assert key(chosen) != before, options
    (model / "empty").mkdir()
    with pytest.raises(UnknownContentError, match="has no file that is known to belong to one"):
        key(replace(work, model_args={"subfolder": "empty"}))


def test_a_reference_and_a_tokenizer_of_its_own_decide(work: Workload, tmp_path: Path) -> None:
    """The reference's losses are part of the result, and the tokenizer cuts every text."""
    keys = {key(work), key(replace(work, reference=work.validation)), key(replace(work, tokenizer=work.model))}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("arguments", "same"),
    [({"run_name": "x", "report_to": "none", "log_level": "error"}, True), ({"max_grad_norm": 0.5}, False)],
)
def test_how_a_training_is_logged_does_not_matter(work: Workload, arguments: dict[str, Any], same: bool) -> None:
    """Names of runs and log levels decide nothing; the optimizer's options do."""
    assert (key(replace(work, training_args=arguments)) == key(work)) is same


@pytest.mark.parametrize(("name", "same"), [("NVIDIA_TF32_OVERRIDE", False), ("HOME", True), ("OMP_NUM_THREADS", True)])
def test_variables_by_which_libraries_compute_otherwise_decide(work: Workload, name: str, same: bool) -> None:
    """Others do not; the number of threads belongs to the machine, whose seconds it decides."""
    assert (key(work, environment={name: "0"}) == key(work)) is same


def test_versions_and_our_own_code_decide(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result of another torch, or of code that trains otherwise, is not taken."""
    before = key(work)
    monkeypatch.setattr(module, "installed_version", lambda name: "0" if name == "torch" else "1")
    assert key(work) != before
    monkeypatch.setattr(module, "installed_version", lambda _: "1")
    before_optional = key(work)
    monkeypatch.setattr(module, "installed_version", lambda name: "0" if name == "liger-kernel" else "1")
    assert key(work) != before_optional
    monkeypatch.undo()
    monkeypatch.setattr(module, "_own_code", lambda: "changed")
    assert key(work) != before


def install(site: Path, origin: dict[str, Any] | None, code_hash: str = "abc") -> None:
    """Put a distribution of version 1 into a folder of packages, as an installer does."""
    info = site / "madeup-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: madeup\nVersion: 1\n")
    record = f"madeup/core.py,sha256={code_hash},9\nmadeup/core.pyc,,\n../../bin/madeup,sha256=x{site.name},9\n"
    (info / "RECORD").write_text(record)
    (info / "direct_url.json").unlink(missing_ok=True)
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))


def test_an_index_tells_code_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an index gave under a version stays what it is."""
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_version("madeup") == "not installed"
    install(tmp_path, None)
    assert installed_version("madeup") == "1"


@pytest.mark.parametrize(
    "origin",
    [
        {"url": "https://example.org/madeup", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}},
        {"url": "https://example.org/madeup.zip", "archive_info": {}},
        {"url": "file:///src/madeup", "dir_info": {}},
    ],
)
def test_what_is_not_from_an_index_is_told_by_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any]
) -> None:
    """A branch, an archive or a folder keeps its version while it changes; where it is installed does not matter."""
    found = []
    for site, code in (("one", "abc"), ("two", "abc"), ("three", "def")):
        with monkeypatch.context() as at_site:
            at_site.syspath_prepend(str(tmp_path / site))
            install(tmp_path / site, origin, code)
            found.append(installed_version("madeup"))
    assert found[0] == found[1] != found[2]
    assert all(version.startswith("1 ") for version in found)


def test_an_editable_installation_is_told_by_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's developer changes them without a new version; tests and hidden folders are not what is imported."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    project = tmp_path / "a project"
    for name in ("src/madeup", "tests", ".venv/lib"):
        (project / name).mkdir(parents=True)
    core = project / "src" / "madeup" / "core.py"
    core.write_text("x = 1\n")
    install(tmp_path / "site", {"url": project.as_uri(), "dir_info": {"editable": True}})
    before = installed_version("madeup")
    for name in ("tests/test_core.py", ".venv/lib/other.py", "src/madeup/notes.txt"):
        (project / name).write_text("y = 1\n")
    assert installed_version("madeup") == before
    core.write_text("x = 2\n")
    changed = installed_version("madeup")
    assert changed != before
    (core.parent / "build").mkdir()
    (core.parent / "build" / "part.py").write_text("y = 2\n")
    assert installed_version("madeup") not in (before, changed)


def test_a_file_that_a_setting_names_decides_by_its_content(work: Workload, tmp_path: Path) -> None:
    """`accelerator_config` may be one; where it lies does not matter."""
    keys = []
    for name, text in (("one.json", "{}"), ("two.json", "{}"), ("three.json", '{"split_batches": true}')):
        (tmp_path / name).write_text(text)
        keys.append(key(replace(work, training_args={"accelerator_config": str(tmp_path / name)})))
    assert keys[0] == keys[1] != keys[2]


def test_the_source_of_a_training_function_decides_with_all_that_it_imports(
    work: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's own modules, directly or not, in packages too; what is installed is not read, nothing runs.

    Our own code has parts of its own in the fingerprint, wherever it lies.
    """
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ours").mkdir()
    files = {
        "ours/__init__.py": "",
        "ours/loop.py": "import numpy, json\nfrom ours import losses\nfrom .rates import rate\nraise SystemExit\n",
        "ours/losses.py": "import helper_of_losses, pytest_ftguard.tasks\n",
        "ours/rates.py": "from ours import kernel\nrate = 1\n",
        f"ours/kernel{EXTENSION_SUFFIXES[-1]}": "compiled\n",
        "helper_of_losses.py": "x = 1\n",
        "unrelated.py": "x = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    workload = replace(work, training_function="ours.loop:train")
    before = key(workload)
    for name in files.keys() - {"unrelated.py"}:
        (tmp_path / name).write_text(files[name] + "# changed\n")
        assert key(workload) != before, name
        (tmp_path / name).write_text(files[name])
    with monkeypatch.context() as other_numpy:
        other_numpy.setattr(contents, "installed_version", lambda _: "0")
        sources = contents.source_files("ours.loop:train", {})
        assert sources["installed numpy"] == "0"
        assert not any("ftguard" in name for name in sources)
    (tmp_path / "ours" / "losses.py").write_text("import found_by_nobody\n")
    with pytest.raises(UnknownContentError, match="the source of 'found_by_nobody' is not found"):
        key(workload)
    (tmp_path / "ours" / "losses.py").write_text(files["ours/losses.py"])
    (tmp_path / "unrelated.py").write_text("x = 2\n")
    assert key(workload) == before
    assert "ours" not in sys.modules
    with pytest.raises(UnknownContentError, match=r"the source of 'nowhere\.loop:train' is not found"):
        key(replace(work, training_function="nowhere.loop:train"))


def test_data_count_by_their_content_wherever_they_lie(work: Workload, tmp_path: Path) -> None:
    """A folder by its files, a compressed file by what its name says is in it, a hub name by its commit."""
    chat = replace(work, task="chat")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.arrow").write_text("rows")
    one, other = (key(replace(chat, train=str(tmp_path / name))) for name in ("one", "other"))
    assert one == other
    (tmp_path / "other" / "data.arrow").write_text("other rows")
    assert key(replace(chat, train=str(tmp_path / "other"))) != one
    for name in ("rows.jsonl.gz", "rows.csv.gz", "v2.jsonl.gz"):
        (tmp_path / name).write_text("packed")
    packed = [
        key(replace(chat, train=str(tmp_path / name))) for name in ("rows.jsonl.gz", "v2.jsonl.gz", "rows.csv.gz")
    ]
    assert packed[0] == packed[1] != packed[2]
    commits = [f"hub:someone/rows@{digit * 40}:train" for digit in "ab"]
    assert key(replace(chat, train=commits[0])) != key(replace(chat, train=commits[1]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hub:someone/rows:train", "may change on the hub at any time: name the commit, as in hub:someone/rows@0123"),
        ("hub:someone/rows@main:train", "may change on the hub at any time"),
        ("mine.data:rows", "which rows 'mine.data:rows' returns is known only when it is called"),
    ],
)
def test_data_that_may_be_others_whenever_they_are_read_are_unknown(work: Workload, text: str, words: str) -> None:
    """So nothing is stored that could be served for other data."""
    for role in ("train", "validation", "reference"):
        with pytest.raises(UnknownContentError, match=words):
            key(replace(work, task="chat", **{role: text}))  # type: ignore[arg-type]


def test_what_reads_rows_decides_where_rows_are_read(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of datasets or jinja2 is another trial of the task chat, and none of plain texts."""
    chat = replace(work, task="chat")
    before = key(work), key(chat)
    real = installed_version
    monkeypatch.setattr(module, "installed_version", lambda name: "0" if name == "jinja2" else real(name))
    assert key(work) == before[0]
    assert key(chat) != before[1]


def test_a_name_on_the_hub_that_nobody_answers_for_is_unknown(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a guess: what the name stands for may have changed."""
    with pytest.raises(UnknownContentError, match="which revision 'someone/nothing' is"):
        key(replace(work, model="someone/nothing"))


def test_a_model_on_the_hub_is_known_by_its_commit(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is part of the path in the local cache; another one is another model."""
    import huggingface_hub

    def commit(name: str) -> Callable[..., str]:
        return lambda *_, **__: f"/cache/models--a--b/snapshots/{name}/config.json"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", commit("abc"))
    hub = replace(work, model="a/b")
    before = key(hub)
    assert key(hub) == before
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", commit("def"))
    assert key(hub) != before


def test_a_large_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size, inode and times tell; one that was changed a moment ago is read again, for its time may not."""
    path = tmp_path / "weights"
    path.write_bytes(b"a" * (1 << 20))
    known: dict[str, list[Any]] = {}
    first = file_digest(path, known)
    assert known == {}
    monkeypatch.setattr(contents, "_SETTLED_SECONDS", -1.0)
    os.utime(path, (1000, 1000))
    assert file_digest(path, known) == first
    known[str(path)][-1] = "remembered"
    assert file_digest(path, known) == "remembered"
    path.write_bytes(b"b" * (1 << 20))
    os.utime(path, (1000, 1000))  # as copying tools do, and models of one architecture have one size
    assert file_digest(path, known) not in (first, "remembered")
    with pytest.raises(UnknownContentError, match="cannot be read"):
        file_digest(tmp_path / "none", known)


def test_changes_are_named_with_their_values_where_they_are_short() -> None:
    """A digest says nothing to a person."""
    ours = Fingerprint({"steps": 7, "train text": [".txt", "a"], "seed": 0, "weights": "a" * 64})
    theirs = {"steps": 5, "train text": [".txt", "b"], "seed": 0, "weights": "b" * 64, "lora_r": 4}
    assert changes(ours, theirs) == ["lora_r (4 -> none)", "steps (5 -> 7)", "train text", "weights"]


def test_no_part_of_an_entry_is_obeyed_by_the_terminal() -> None:
    """Anyone may have written it: what is no printable character is shown as Python would write it."""
    theirs = {"\x1b]0;owned\x07": 1, "steps": "7\r\u202e", "größe": "ü"}
    assert changes(Fingerprint({}), theirs) == [
        r"\x1b]0;owned\x07 (1 -> none)",
        "größe (ü -> none)",
        r"steps (7\r\u202e -> none)",
    ]


def test_the_facts_of_a_machine_are_those_that_auto_depends_on() -> None:
    """The devices that are visible and the threads belong to them."""
    facts = {
        machine_facts("auto", "auto", {}),
        machine_facts("cpu", "auto", {}),
        machine_facts("auto", "bf16", {}),
        machine_facts("auto", "auto", {"CUDA_VISIBLE_DEVICES": "1"}),
        machine_facts("auto", "auto", {"OMP_NUM_THREADS": "1"}),
    }
    assert len(facts) == 5
    assert machine_facts("auto", "auto", {"HOME": "/root"}) == machine_facts("auto", "auto", {})


@pytest.mark.parametrize(
    ("attribute", "file"),
    [
        ("_NVIDIA", "gpus/0000:1b:00.0/information"),
        ("_NVIDIA", "version"),
        ("_AMD", "1/properties"),
        ("_WINDOWS", "."),
        ("_CPUINFO", "."),
    ],
)
def test_another_device_is_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, file: str
) -> None:
    """Told by what the system's drivers show, without torch; whether it is there, and which one it is."""
    shown = tmp_path / "shown"
    monkeypatch.setattr(module, attribute, shown)
    without = machine_facts("auto", "auto", {})
    (shown / file).parent.mkdir(parents=True, exist_ok=True)
    (shown / file).write_text("model name : one")
    present = machine_facts("auto", "auto", {})
    assert present != without
    (shown / file).write_text("model name : another")
    assert (machine_facts("auto", "auto", {}) != present) is (attribute != "_WINDOWS")


@pytest.mark.parametrize(
    ("device", "visible", "present", "slots"),
    [
        ("auto", None, [], ("cpu",)),
        ("auto", None, ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"], ("0", "1")),
        ("cpu", None, ["nvidia0"], ("cpu",)),
        ("cuda", "2,3", ["nvidia0"], ("2", "3")),
        ("cuda:0", " GPU-ab , MIG-1/2", [], ("GPU-ab", "MIG-1/2")),
        ("auto", "", ["nvidia0"], ("cpu",)),
        ("auto", "-1", ["nvidia0"], ("cpu",)),
        ("mps", None, ["nvidia0"], ("cpu",)),
    ],
)
def test_a_trial_is_lent_one_of_the_devices_that_its_caller_sees(
    machine: Path, device: str, visible: str | None, present: list[str], slots: tuple[str, ...]
) -> None:
    """Those that the caller hides are never taken."""
    for name in present:
        (machine / name).touch()
    assert device_slots(device, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == slots
