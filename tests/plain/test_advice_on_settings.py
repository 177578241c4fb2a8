"""Whoever follows the advice of an error about settings, specs or names sees it work."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Final

import pytest

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.gates.setting import Origin, Setting
from pytest_ftguard.plugin.xdist import disturbance
from pytest_ftguard.reporting.json import json_report, read_report
from pytest_ftguard.reporting.notes import fairness_notes
from pytest_ftguard.reporting.registry import find_renderer
from pytest_ftguard.results import Parameters
from pytest_ftguard.running.executor import ExecutorOptions
from pytest_ftguard.running.executors import make_executor
from pytest_ftguard.running.unchanged import UnchangedFiles, refuse_missing_texts
from pytest_ftguard.settings.keys import BY_NAME
from pytest_ftguard.settings.parsers import template_of
from pytest_ftguard.settings.reading import Settings, marker_problem
from pytest_ftguard.specs import (
    Full,
    LoRA,
    Peft,
    TrialSpec,
    Variant,
    Workload,
    find_variant_class,
    import_path,
    register_variant,
    with_learning_rate,
)
from pytest_ftguard.specs.methods import variants
from pytest_ftguard.specs.refused import REFUSED_LORA_OPTIONS, REFUSED_MODEL_ARGS, REFUSED_TRAINING_ARGS
from pytest_ftguard.specs.texts import hub_text
from pytest_ftguard.store.contents import UnknownContentError, text_content
from pytest_ftguard.tasks import Task, check_name, find_task
from pytest_ftguard.tasks.causal_lm import CausalLM
from tests.plain.builders import LORA, WORKLOAD, trained, trial

Call = Callable[[], object]


def refused(call: Call, kind: type[Exception] = ConfigurationError) -> str:
    """The message of a call that is refused."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def said(message: str, pattern: str) -> str:
    """What a message says at a place."""
    found = re.search(pattern, message)
    assert found is not None, message
    return found[1]


def setting(name: str, value: Any, folder: Path = Path("/root-folder"), kind: Any = "ini") -> Setting:
    made: Setting = BY_NAME[name].read(value, Origin(kind, f"ftguard_{name} in pytest.ini", folder))
    return made


def settings(folder: Path = Path("/root-folder"), /, **values: Any) -> Settings:
    return Settings({name: setting(name, value, folder) for name, value in values.items()})


def other(work: Workload, **changes: Any) -> Workload:
    """The workload with fields that a message names."""
    return replace(work, **changes)


def keys_in(message: str) -> list[str]:
    """The settings that a message names."""
    return [name for name in re.findall(r"\bftguard_(\w+)", message) if name in BY_NAME]


def test_the_keys_that_a_workload_asks_for_are_enough() -> None:
    """Nothing else has to be set."""
    message = refused(settings().workload)
    keys = said(message, r"set (.*) in the ini file").split(", ")
    assert settings(**{key.removeprefix("ftguard_"): "x" for key in keys}).workload().model == "x"


def test_a_file_that_can_be_written_is_named_as_advised(tmp_path: Path) -> None:
    """Within the folder that was named, next to what is no file, or in the folder that was to be made."""
    assert "give a file name" in refused(lambda: setting("json", ".", tmp_path))
    assert "give a file name" in refused(lambda: setting("json", "/dev/null"))
    setting("json", "report.json", tmp_path)
    message = refused(lambda: setting("json", "out/report.json", tmp_path))
    Path(said(message, "there is no folder '(.*)': create it")).mkdir()
    setting("json", "out/report.json", tmp_path)


def test_a_folder_is_named_as_advised(tmp_path: Path) -> None:
    """Also one that does not exist yet."""
    (tmp_path / "file").touch()
    assert "give a folder" in refused(lambda: setting("cache_dir", "file", tmp_path))
    for name in (".", "later"):
        setting("cache_dir", name, tmp_path)


def test_a_chat_template_is_named_or_given_as_advised(tmp_path: Path) -> None:
    """By the path of its file, or as it is."""
    origin = Origin("ini", "ftguard_chat_template in pytest.ini", tmp_path)
    message = refused(lambda: template_of("mine.jinja", origin), ValueError)
    assert "give the path of a Jinja file, or the template" in message
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    assert template_of("mine.jinja", origin) == template_of("{{ messages }}", origin)


@pytest.mark.parametrize("size", ["0", "-1 GB", "many"])
def test_a_store_of_no_size_or_of_any_is_set_as_advised(size: str) -> None:
    """By the key and by the size that the message names."""
    message = refused(lambda: setting("cache_size", size))
    assert setting(keys_in(message.partition("to keep no store")[2])[0], True).value is True
    assert setting("cache_size", said(message, r'a large size such as "(.*?)"')).value >= 10**15


def test_accepting_is_asked_for_on_the_command_line_as_advised() -> None:
    """The option that is named is the key's own."""
    message = refused(lambda: setting("update", "true"))
    option = said(message, r"give it on the command line, as (\S+)")
    assert BY_NAME["update"].option == option
    assert setting("update", True, kind="command line").value is True


def test_a_marker_is_written_as_advised() -> None:
    """With the keyword that the message shows."""
    message = marker_problem((0.05,), {})
    assert message is not None
    assert marker_problem((), {said(message, r"write ftguard\((\w+)=\.\.\.\)"): 0.05}) is None


def adapter_config(folder: Path, **values: Any) -> str:
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return str(folder)


def test_the_configuration_of_an_adapter_is_given_as_advised(tmp_path: Path) -> None:
    """What save_pretrained of peft wrote is a folder with such a file."""
    message = refused(lambda: setting("adapter_config", "nothing", tmp_path))
    assert "give what save_pretrained of peft wrote" in message
    assert settings(tmp_path, adapter_config=adapter_config(tmp_path, peft_type="LORA", r=4)).lora() == Peft(
        "lora", r=4
    )


def test_two_sources_of_a_candidate_are_made_one_as_advised(tmp_path: Path) -> None:
    """Either of the two is left out, or the value is set in the file."""
    folder = adapter_config(tmp_path, peft_type="LORA", r=4)
    message = refused(settings(adapter_config=folder, lora_r=8).lora)
    assert "remove one of them" in message
    assert settings(lora_r=8).lora() == LoRA(r=8)
    assert settings(adapter_config=folder).lora() == Peft("lora", r=4)
    adapter_config(Path(said(message, "set the value in '(.*)'$")), peft_type="LORA", r=8)
    assert settings(adapter_config=folder).lora() == Peft("lora", r=8)


@pytest.mark.parametrize("choice", [0, 1])
def test_a_learning_rate_without_a_rule_is_set_as_advised(tmp_path: Path, choice: int) -> None:
    """As a number or by a search: both keys that the message names do."""
    folder = adapter_config(tmp_path, peft_type="VERA", r=4)
    given = {"adapter_config": folder, "lora_search_learning_rate": "no"}
    message = refused(settings(**given).lora)
    key = keys_in(message.rpartition("gives a learning rate: ")[2])[choice]
    candidate = settings(**{**given, key: "yes" if f"ftguard_{key} = yes" in message else "1e-3"}).lora()
    assert with_learning_rate(candidate, Full()).learning_rate


@pytest.mark.parametrize("choice", ["learning_rate=...", 'search_learning_rate="yes"'])
def test_a_method_without_a_rule_is_given_a_rate_as_advised(choice: str) -> None:
    """In code, as in settings."""
    message = refused(lambda: with_learning_rate(Peft("vera", search_learning_rate="no"), Full()))
    assert choice in message
    name, _, value = choice.replace("...", "0.01").partition("=")
    given: dict[str, Any] = {"search_learning_rate": "no", name: ast.literal_eval(value)}
    assert with_learning_rate(Peft("vera", **given), Full()).learning_rate
    spec = refused(lambda: TrialSpec(workload=WORKLOAD, variant=LoRA(), seed=0))
    assert "use with_learning_rate first" in spec
    TrialSpec(workload=WORKLOAD, variant=with_learning_rate(LoRA(), Full()), seed=0)


INSTEAD: Final[dict[str, Any]] = {
    "precision": "fp32",
    "steps": 5,
    "batch_size": 2,
    "device": "cpu",
    "seeds": (1,),
    "revision": "abc",
    "full_learning_rate": 1e-4,
    "lora_learning_rate": 1e-4,
}
"""A value for each setting that a refused option is to be set by."""
REFUSED: Final = {
    (field, name): reason
    for field, table in (("training_args", REFUSED_TRAINING_ARGS), ("model_args", REFUSED_MODEL_ARGS))
    for name, reason in table.items()
    if re.search(r"\b(set|use|name) ", reason)
}


@pytest.mark.parametrize(("field", "name"), REFUSED)
def test_what_is_refused_is_set_as_advised(monkeypatch: pytest.MonkeyPatch, field: str, name: str) -> None:
    """By a key of its own, by a variable, or by the values themselves."""
    message = refused(lambda: other(WORKLOAD, **{field: {name: True}}))
    advice = message.rpartition(f"may not set {name!r}: ")[2]
    if "in the environment instead" in advice:
        from huggingface_hub import get_token

        monkeypatch.setenv(said(advice, r"set (\w+) in the environment"), "a token")
        assert get_token() == "a token"
        return
    if "for example" in advice:
        other(WORKLOAD, **{field: {said(advice, r"for example (\w+)$"): 0.0}})
        return
    names = [one for one in re.findall(r"\w+", advice.rpartition("set ")[2]) if one in INSTEAD]
    assert names, message
    for one in names:
        made = settings(**{one: INSTEAD[one]})
        assert made.value(one, None) == INSTEAD[one]
        if one in Workload.__dataclass_fields__:
            assert getattr(other(WORKLOAD, **{one: INSTEAD[one]}), one) == INSTEAD[one]


@pytest.mark.parametrize(
    ("name", "value"),
    [("r", 4), ("lora_alpha", 8), ("target_modules", ["c_attn"]), ("lora_dropout", 0.1), ("bias", "all")],
)
def test_an_option_with_a_field_is_given_there_as_advised(name: str, value: Any) -> None:
    """The field that the message names takes the value."""
    message = refused(lambda: LoRA(options={name: value}))
    field = said(message, r"use LoRA\((\w+)=\.\.\.\)")
    found = getattr(LoRA(**{field: value}), field)
    assert (list(found) if isinstance(value, list) else found) == value


def test_another_method_is_given_to_peft_as_advised() -> None:
    """Its type is the method, which is given first; the base model's revision is the workload's."""
    assert "use Peft(...)" in REFUSED_LORA_OPTIONS["peft_type"]
    assert "use Peft(...)" in refused(lambda: LoRA(options={"peft_type": "IA3"}))
    message = refused(lambda: Peft("ia3", peft_type="IA3"))
    assert Peft(said(message, r"as in Peft\('(\w+)', \.\.\.\)")).method == "ia3"
    assert "set its revision" in refused(lambda: LoRA(options={"revision": "abc"}))
    assert replace(WORKLOAD, revision="abc").revision == "abc"


def test_a_file_of_peft_s_is_mended_as_advised(tmp_path: Path) -> None:
    """There is one, it is JSON, it names its method, and nothing is set twice."""
    assert "give a folder with an adapter_config.json" in refused(lambda: Peft(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{")
    assert "let peft's save_pretrained write it" in refused(lambda: Peft(tmp_path))
    adapter_config(tmp_path, r=4)
    assert "let peft write it" in refused(lambda: Peft(tmp_path))
    adapter_config(tmp_path, peft_type="LORA", r=4)
    assert "set each in one place" in refused(lambda: Peft(tmp_path, r=8))
    assert Peft(tmp_path, lora_alpha=8) == Peft("lora", r=4, lora_alpha=8)
    adapter_config(tmp_path, peft_type="LORA")
    assert Peft(tmp_path, r=8) == Peft("lora", r=8)


def test_a_kind_of_ones_own_is_made_as_advised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has a name that nobody has, and stands at the top of a module."""

    @dataclass(frozen=True, kw_only=True)
    class Mine(Variant):
        kind: ClassVar[str] = "lora"
        learning_rate: float | None = None
        search_learning_rate: bool = False

    monkeypatch.setattr(variants, "_KINDS", dict(variants._KINDS))
    assert "choose another one" in refused(lambda: register_variant(Mine))
    Mine.kind = "advice_followed"
    register_variant(Mine)
    assert "put it at the top of a module" in refused(lambda: import_path(Mine()))
    (tmp_path / "advised_variant.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom pytest_ftguard.specs import Variant\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Variant):\n    kind: ClassVar[str] = 'advised_variant'\n"
        "    learning_rate: float | None = None\n    search_learning_rate: bool = False\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_path(find_variant_class("advised_variant:Mine")()) == "advised_variant:Mine"


def test_one_of_two_own_trainings_is_left_out_as_advised() -> None:
    """And what is the Trainer's is left to the function."""
    own: dict[str, Any] = {"trainer": "m:Mine", "training_function": "m:train", "training_args": {"optim": "sgd"}}
    assert "leave one out" in refused(lambda: other(WORKLOAD, **own))
    assert replace(WORKLOAD, trainer="m:Mine", training_args=own["training_args"]).trainer == "m:Mine"
    message = refused(lambda: replace(WORKLOAD, training_function="m:train", training_args=own["training_args"]))
    assert "set them in the function" in message
    assert replace(WORKLOAD, training_function="m:train").training_function == "m:train"


def test_data_on_the_hub_are_written_as_advised() -> None:
    """With a split; with a commit what is trained is known."""
    message = refused(lambda: hub_text("hub:someone/rows"))
    forms = re.findall(r'"(hub:\S+)"', message)
    assert [found.split for found in map(hub_text, forms) if found] == ["split", "split"]
    message = refused(lambda: text_content("hub:someone/rows:train", {}), UnknownContentError)
    assert text_content(said(message, r"as in (hub:\S+)"), {})[0] == "hub"


def test_rows_of_a_function_are_written_to_a_file_as_advised(tmp_path: Path) -> None:
    """The content of a file is known."""
    message = refused(lambda: text_content("mine.data:rows", {}), UnknownContentError)
    assert "write them to a file and give its path" in message
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}')
    assert text_content(str(tmp_path / "rows.jsonl"), {})[0] == ".jsonl"


def anything(options: ExecutorOptions) -> object:
    """Make what is no executor."""
    return object()


def test_an_executor_is_named_as_advised() -> None:
    """One of those that are known, or a function; what that must have is told, too."""
    options = ExecutorOptions()
    message = refused(lambda: make_executor("slurm", options))
    for name in said(message, r"use one of (.*), or module:function").split(", "):
        make_executor(name, options).close()
    message = refused(lambda: make_executor("os:sep", options))
    assert "name a function or a class" in message
    make_executor("pytest_ftguard.running.local.executor:LocalExecutor", options).close()
    message = refused(lambda: make_executor(f"{__name__}:anything", options))
    assert hasattr(sys.modules[said(message, r"see (.*)\.Executor$")], "Executor")


def test_a_task_is_named_as_advised() -> None:
    """One of those that are known, or a class that is derived from Task."""
    message = refused(lambda: check_name("summaries", "it"))
    for name in said(message, r"use one of (.*), or module:Class").split(", "):
        check_name(name, "it")
        find_task(name)
    message = refused(lambda: find_task("os:sep"))
    assert "name a class that is derived from pytest_ftguard.tasks.Task" in message
    assert type(find_task("pytest_ftguard.tasks.causal_lm:CausalLM")) is CausalLM


class Answers(CausalLM):
    """A task that has no rows of its own."""

    rows = Task.rows


def test_a_task_gives_the_rows_of_its_examples_as_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the method that the message names."""
    examples: Any = SimpleNamespace(sequences=[1, 2])
    name = said(refused(lambda: Answers().rows(examples, None)), r"replace its method (\w+)")
    monkeypatch.setattr(Answers, name, lambda *_: [{}, {}])
    assert len(Answers().rows(examples, None)) == 2


def test_time_gates_run_without_xdist_as_advised() -> None:
    """Then nothing is said to disturb them."""
    busy: Any = SimpleNamespace(workerinput={"workercount": 2})
    assert "in a run of their own, without xdist" in str(disturbance(busy))
    alone: Any = SimpleNamespace()
    assert disturbance(alone) is None


def test_a_renderer_is_named_as_advised() -> None:
    """One of those that are known, or a function."""
    message = refused(lambda: find_renderer("html"))
    for name in said(message, r"give one of (.*), or a function").split(", "):
        assert callable(find_renderer(name))
    assert find_renderer("pytest_ftguard.reporting.json:render") is find_renderer("json")


def test_a_text_that_is_not_there_is_given_as_advised(tmp_path: Path) -> None:
    """As soon as the file exists, nothing is refused; a file that was changed is written to another path."""
    work = replace(WORKLOAD, train=str(tmp_path / "a.txt"), validation=str(tmp_path / "v.txt"))
    for _ in range(2):
        message = refused(lambda: refuse_missing_texts(work))
        assert "give a file that exists" in message
        Path(said(message, r"text '(.*)' cannot be read")).write_text("text")
    refuse_missing_texts(work)
    files = UnchangedFiles()
    files.check(work)
    (tmp_path / "a.txt").write_text("another")
    message = refused(lambda: files.check(work))
    role = said(message, r"write each (\w+) to a path of its own")
    (tmp_path / "b.txt").write_text("another")
    (tmp_path / "a.txt").unlink()
    files.check(other(work, **{role: str(tmp_path / "b.txt")}))


@pytest.mark.parametrize("wrong", [None, "planned", "broken"])
def test_a_report_is_written_as_advised(tmp_path: Path, wrong: str | None) -> None:
    """By a run that trains, with this version."""
    place = tmp_path / "report.json"
    sound = json_report([trial(LORA, [20.0] * 64)], [])
    if wrong is not None:
        place.write_text(sound.replace('"outcome": "ok"', '"outcome": "planned"') if wrong == "planned" else "{}")
    message = refused(lambda: read_report(place))
    assert any(one in message for one in ("give what --ftguard-json wrote", "run without --ftguard-plan", "make it ag"))
    place.write_text(sound)
    (found,) = read_report(place)
    assert found.variant == LORA


def notes(**changes: Any) -> str:
    work = other(WORKLOAD, **{key: changes.pop(key) for key in list(changes) if key in ("steps", "final")})
    variant = changes.pop("variant", LORA)
    return "\n".join(fairness_notes([trained(variant, trial(variant, [20.0] * 64, workload=work, **changes))]))


def test_a_note_is_gone_as_soon_as_its_advice_is_followed() -> None:
    """More steps or final = true; more capacity; an adapter on what was left alone."""
    few = notes(steps=50)
    assert "train longer" in few
    assert "are few:" not in notes(steps=100) + notes(steps=50, **{said(few, r"the workload's (\w+) = true"): True})
    searched = replace(LORA, search_learning_rate="yes")
    small = notes(variant=searched, parameters=Parameters(10**9, 1000))
    assert "or give it more capacity" in small
    assert "capacity" not in notes(variant=searched, parameters=Parameters(10**9, 10**8))
    parts = {"q_proj": 0.3, "mlp.up": 0.7}
    little = notes(parameters=Parameters(10**9, 10**8, adapted={"q_proj": 0.3}, left_alone={"mlp.up": 0.7}))
    assert "adapt " in little
    assert "adapter" not in notes(parameters=Parameters(10**9, 10**8, adapted=parts, left_alone={}))
