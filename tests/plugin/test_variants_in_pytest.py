"""Variants that are not LoRA go the same way: any method of peft, and a kind of a project's own package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch

VARIANT = """
from dataclasses import dataclass
from typing import ClassVar
from pytest_ftguard.specs import Variant, register_variant
from pytest_ftguard.specs.identity import Row

@register_variant
@dataclass(frozen=True, kw_only=True)
class Heads(Variant):
    kind: ClassVar[str] = "heads"
    adapter: ClassVar[str] = "ours.adapter:HeadsAdapter"
    starts_at_base: ClassVar[bool] = True
    rows: ClassVar = {
        "layers": Row(training=True, memory=True),
        "learning_rate": Row(training=True),
        "search_learning_rate": Row(memory=True),
    }
    layers: int = 1
    learning_rate: float | None = None
    search_learning_rate: bool = False

    @property
    def label(self):
        return f"heads of {self.layers}"
"""
ADAPTER = """
from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.training.adapters import Adapter

class HeadsAdapter(Adapter):
    def check(self, model, variant):
        if variant.layers > len(model.transformer.h):
            raise ConfigurationError(f"there are no {variant.layers} layers")

    def apply(self, model, variant):
        model.requires_grad_(False)
        for block in model.transformer.h[-variant.layers:]:
            block.attn.requires_grad_(True)
        return model
"""
TEST = """
from ours.variant import Heads
from pytest_ftguard import assert_loss_gap, assert_memory_budget

def test_it(ftguard, full_variant):
    heads = ftguard.train(Heads(layers=2, learning_rate=3e-3))
    assert assert_loss_gap(heads, full_variant, at_most=3).status == "PASS"
    assert_memory_budget(heads, of=full_variant, at_most="100%")
    model, _ = heads.load()
    assert type(model).__name__ == "GPT2LMHeadModel"
"""


@pytest.fixture
def with_package(project: pytest.Pytester) -> pytest.Pytester:
    """A project with a package that adds a kind of variant."""
    project.makepyfile(**{"ours/__init__": "", "ours/variant": VARIANT, "ours/adapter": ADAPTER, "test_it": TEST})
    project.makeconftest("")
    return project


@pytest.mark.parametrize("workers", [0, 2])
def test_a_kind_of_a_projects_own_is_trained_stored_and_found_again(
    with_package: pytest.Pytester, workers: int
) -> None:
    """From its package alone, without and with xdist, whose controller has imported no test; its code decides."""
    options = ["--ftguard-json=report.json", *(["-n", str(workers)] if workers else [])]
    result = with_package.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["heads of 2 *", "loss gap *PASS*"])
    result = with_package.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["heads of 2 (cached) *"])
    trial = next(one for one in json.loads(Path("report.json").read_text())["trials"] if one["variant"] == "heads")
    assert trial["cached"]
    assert trial["settings"] == {"kind": "heads", "layers": 2, "learning_rate": 3e-3, "search_learning_rate": False}
    assert trial["start"] == {"base_gap": 0.0, "disabled_gap": None, "quantized_gap": None}
    if workers == 0:  # another adapter is another training
        with_package.makepyfile(**{"ours/adapter": f"{ADAPTER}\nANOTHER = 1\n"})
        result = with_package.runpytest_subprocess(*options, "--ftguard-plan")
        result.stdout.fnmatch_lines(["plan: 1 trial to train, 1 cached*"])


def test_a_class_that_no_other_process_finds_is_one_clear_message(with_package: pytest.Pytester) -> None:
    """So is one without an adapter, and one that does not fit the model."""
    local = "def made():\n" + "\n".join(f"    {line}" for line in VARIANT.splitlines()) + "\n    return Heads\n"
    local = local.replace("@register_variant", "").replace('"heads"', '"local"')
    adapter = '    adapter: ClassVar[str] = "ours.adapter:HeadsAdapter"\n'
    bare = VARIANT.replace('"heads"', '"bare"').replace(adapter, "")
    test = """
import pytest
from ours.variant import Heads
from ours.local import made
from ours.bare import Heads as Bare

@pytest.mark.parametrize("kind", [made(), Bare, lambda **rate: Heads(layers=3, **rate)])
def test_it(ftguard, kind):
    ftguard.train(kind(learning_rate=1e-3))
"""
    with_package.makepyfile(**{"ours/local": local, "ours/bare": bare, "test_it": test})
    result = with_package.runpytest_subprocess()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "ftguard: the variant class made.<locals>.Heads is not found as ours.local:made.<locals>.Heads*",
            "ftguard: the variant class Heads names no adapter*",
            "ftguard: there are no 3 layers",
        ]
    )
    assert "Traceback" not in result.stdout.str()


METHODS = """
import pytest
from peft import LoraConfig
from pytest_ftguard import Peft, assert_loss_gap, assert_memory_budget, assert_retention

METHODS = {
    "ia3": Peft("ia3", learning_rate=1e-2),
    "vera": Peft("vera", r=8, learning_rate=1e-2),
    "dora": Peft(LoraConfig(r=4, use_dora=True), learning_rate=1e-2),
    "prompt": Peft("prompt_tuning", num_virtual_tokens=4, learning_rate=0.5),
    "file": Peft("./adapter", learning_rate=1e-2),
}

@pytest.mark.parametrize("name", METHODS)
def test_it(ftguard, full_variant, name):
    trained = ftguard.train(METHODS[name])
    assert assert_loss_gap(trained, full_variant, at_most=3).status == "PASS"
    assert_memory_budget(trained, of=full_variant, at_most="100%")
"""


def test_methods_of_peft_pass_through_the_same_gates_and_are_found_again(project: pytest.Pytester) -> None:
    """A name, a configuration, a prompt and a folder of peft's; the folder's content counts, and not its place."""
    folder = project.mkdir("adapter")
    config = {"peft_type": "LN_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": "a", "peft_version": "1"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    project.makepyfile(test_it=METHODS)
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["note: before training prompt_tuning tokens=4 is 0.0*"])
    folder.rename(project.path / "elsewhere")
    (project.path / "elsewhere" / "adapter_config.json").write_text(json.dumps({**config, "peft_version": "2"}))
    project.makepyfile(test_it=METHODS.replace("./adapter", "elsewhere/adapter_config.json"))
    result = project.runpytest_subprocess("--ftguard-plan")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["plan: 0 trials to train, 6 cached; nothing was trained"])


def test_the_candidate_may_be_a_file_of_peft(project: pytest.Pytester) -> None:
    """The ini key makes `ftguard_lora` of it; its rate must be set or searched, and no LoRA key may be set too."""
    (project.path / "mine.json").write_text(json.dumps({"peft_type": "IA3"}))
    project.makepyfile(
        test_it="""
from pytest_ftguard import assert_loss_gap

def test_it(full_variant, lora_variant):
    assert lora_variant.variant.method == "ia3"
    assert_loss_gap(lora_variant, full_variant, at_most=3)
"""
    )
    result = project.runpytest_subprocess("--ftguard-adapter-config=mine.json")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["*adapter_config (set by the option --ftguard-adapter-config) and lora_r (set by ftguard_lora_r in tox.ini)*"]
    )
    ini = (project.path / "tox.ini").read_text().replace("ftguard_lora_r = 4\n", "ftguard_adapter_config = mine.json\n")
    (project.path / "tox.ini").write_text(ini)
    result = project.runpytest_subprocess("--ftguard-lora-search-learning-rate=no")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*set ftguard_lora_learning_rate, or ftguard_lora_search_learning_rate = yes"])
    result = project.runpytest_subprocess("--ftguard-lora-learning-rate=1e-2", "--ftguard-plan")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["ia3 *"])
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["searched for ia3, on sequences that no gate uses, *"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "*there is no such folder or file*"),
        ("[1", "*is not JSON*adapter_config in*tox.ini*"),
        ("[1]", "*has no peft_type*"),
        ('{"peft_type": "IA3", "task_type": "QUESTION_ANS"}', "*has the task_type 'QUESTION_ANS'*"),
    ],
)
def test_a_file_that_is_none_of_peft_is_a_usage_error(
    project: pytest.Pytester, content: str | None, words: str
) -> None:
    """It names the key and what is wrong, before anything runs."""
    if content is not None:
        (project.path / "mine.json").write_text(content)
    ini = (project.path / "tox.ini").read_text().replace("ftguard_lora_r = 4", "ftguard_adapter_config = mine.json")
    (project.path / "tox.ini").write_text(f"{ini}\nftguard_lora_learning_rate = 1e-2\n")
    result = project.runpytest_subprocess()
    assert result.ret == 4
    result.stderr.fnmatch_lines([words])
