"""Options, ini keys, environment and marker are checked before anything runs; an unused plugin leaves no trace."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "ftguard_steps=many"], ["steps is 'many' (set by -o ftguard_steps=...)"]),
        (["-o", "ftguard_batch_size=0"], ["at least 1, got 0 (set by -o ftguard_batch_size=...)"]),
        (["--ftguard-precision=fp8"], ["'fp8'", "the option --ftguard-precision"]),
        (["--ftguard-on-inconclusive=skip"], ["fail, warn", "--ftguard-on-inconclusive"]),
        (["--ftguard-max-loss-gap=nan"], ["finite number", "nan"]),
        (["--ftguard-max-memory=60"], ["60%", "'60'"]),
        (
            ["-o", "ftguard_max_los_gap=1"],
            ["the key -o ftguard_max_los_gap=... is unknown; did you mean ftguard_max_loss_gap"],
        ),
        (["-o", "ftguard_training_args=seed=3"], ["'seed'", "set seeds instead"]),
        (["-o", "ftguard_model_args=token=hf_secret"], ["'token'", "set HF_TOKEN"]),
        (["-o", "ftguard_model_args=dtype=bfloat16"], ["'dtype'", "set precision"]),
        (["--ftguard-json=."], ["json is '.'", "it is a folder"]),
        (["--ftguard-json=nope/r.json"], ["json is 'nope/r.json'", "there is no folder", "create it"]),
        (["--ftguard-calibration=nope/r.json"], ["calibration is 'nope/r.json'", "there is no folder"]),
        *(
            (
                [f"--ftguard-cache-size={size}"],
                ["a size with a unit", "to keep no store, set ftguard_no_cache", "1000 TB"],
            )
            for size in ("0", "0 GB", "none", "5")
        ),
        *(
            ([f"--ftguard-timeout={time}"], ["--ftguard-timeout", 'for example "30 s", "10 min" or "2 h"'])
            for time in ("0", "0 s", "none", "3 days", "3 M", "-3")
        ),
    ],
)
def test_a_wrong_value_is_a_usage_error(project: pytest.Pytester, arguments: list[str], words: list[str]) -> None:
    """The exit code is 4, and the message names the value and where it came from."""
    project.makepyfile("def test_it(): pass")
    result = project.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert all(word in result.stderr.str() for word in words), result.stderr.str()
    assert "Traceback" not in result.stderr.str()


def test_an_unknown_key_of_the_ini_file_is_a_usage_error(pytester: pytest.Pytester) -> None:
    """A misspelt key in the file itself is not silently ignored either."""
    pytester.makeini("[pytest]\nftguard_stpes = 5")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "the key ftguard_stpes in tox.ini is unknown; did you mean ftguard_steps?" in result.stderr.str()


TOML = """
ftguard_seeds = [0, 1]
ftguard_steps = 30
ftguard_full_learning_rate = 1e-4
ftguard_final = true
ftguard_max_memory = "60%"
ftguard_lora_target_modules = ["c_attn", "c_proj"]
ftguard_training_args = {optim = "sgd", max_grad_norm = 0.5}
"""
NATIVE = pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="pytest 9 reads native TOML")


@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("pyproject.toml", "tool.pytest.ini_options"),
        pytest.param("pyproject.toml", "tool.pytest", marks=NATIVE),
        pytest.param("pytest.toml", "pytest", marks=NATIVE),
    ],
)
def test_toml_s_own_types_are_read(pytester: pytest.Pytester, file: str, table: str) -> None:
    """Numbers, booleans, lists and tables, with all their digits; -o and options come before them."""
    pytester.path.joinpath(file).write_text(f"[{table}]{TOML}", encoding="utf-8")
    pytester.makepyfile(
        """
        def test_it(ftguard):
            names = ("seeds", "steps", "full_learning_rate", "final", "lora_target_modules", "training_args", "lora_r")
            assert [ftguard.settings.value(name, None) for name in names] == [
                (0, 1), 40, 1e-4, True, ("c_attn", "c_proj"), {"optim": "sgd", "max_grad_norm": 0.5}, 8
            ]
            assert str(ftguard.settings.value("max_memory", None)) == "60%"
        """
    )
    result = pytester.runpytest_inprocess("-o", "ftguard_steps=40", "--ftguard-lora-r=8")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("table", ["tool.pytest.ini_options", pytest.param("tool.pytest", marks=NATIVE)])
def test_a_wrong_type_of_toml_is_a_usage_error(pytester: pytest.Pytester, table: str) -> None:
    """The message names key, value and file."""
    pytester.makepyprojecttoml(f"[{table}]\nftguard_steps = 30.0")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    message = "steps is 30.0 (set by ftguard_steps in pyproject.toml): it must be a whole number, written as 30"
    assert message in result.stderr.str()


@pytest.mark.skipif(pytest.version_tuple >= (9, 0), reason="pytest 9 reads the table")
def test_a_table_that_pytest_passes_over_is_written_as_advised(pytester: pytest.Pytester) -> None:
    """A limit that nobody reads is a gate that nobody has; the table that the message names is read."""
    pytester.makepyprojecttoml("[tool.pytest]\nftguard_max_memory = '60%'")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "does not read the table of pyproject.toml that sets ftguard_max_memory" in result.stderr.str()
    table = re.search(r"write (\[.*?\]) in pyproject.toml", result.stderr.str())
    assert table is not None
    pytester.makepyprojecttoml(f"{table[1]}\nftguard_max_memory = '60%'")
    assert pytester.runpytest_inprocess().ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_name_that_python_cannot_use_is_a_usage_error(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without UTF-8 the report could not be written once everything is trained."""
    for name, value in {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}.items():
        monkeypatch.setenv(name, value)
    with (project.path / "tox.ini").open("a", encoding="utf-8") as file:
        file.write("\nftguard_json = bericht-\u00e4.json\n")
    result = project.runpytest_subprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "this Python reads file names as ascii: set the environment variable PYTHONUTF8=1" in result.stderr.str()


@pytest.mark.parametrize("key", ["ftguard-max-memory", "FTGUARD_MAX_MEMORY"])
def test_a_key_that_is_spelt_as_an_option_or_variable_is_a_usage_error(pytester: pytest.Pytester, key: str) -> None:
    """Pytest would only warn of it, and the limit would not hold."""
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n{key} = '60%'\n")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"the key {key} in pyproject.toml is unknown; did you mean ftguard_max_memory?" in result.stderr.str()


def test_what_is_no_variant_or_workload_is_one_error(pytester: pytest.Pytester) -> None:
    """A class whose brackets were forgotten is not trained with its defaults."""
    pytester.makepyfile(
        """
        from pytest_ftguard import LoRA

        def test_class(ftguard):
            ftguard.train(LoRA)

        def test_workload(ftguard):
            ftguard.train(LoRA(r=4), "validation.txt")
        """
    )
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(failed=2)
    output = result.stdout.str()
    assert "ftguard: a variant must be Full(...), LoRA(...), Peft(...) or one of your own, got <class" in output
    assert "ftguard: a workload must be Workload(...), got 'validation.txt'" in output
    assert "Traceback" not in output


def test_an_unknown_environment_variable_is_a_usage_error(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable is not silently ignored."""
    monkeypatch.setenv("FTGUARD_MAX_LOS_GAP", "1")
    result = project.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "did you mean FTGUARD_MAX_LOSS_GAP" in result.stderr.str()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("marker", "words"),
    [("max_loss=1", "no keyword 'max_loss'"), ("0.1", "keywords only"), ("max_memory='lots'", "'lots'")],
)
def test_a_wrong_marker_is_an_error_of_collection(
    pytester: pytest.Pytester, marker: str, words: str, workers: int
) -> None:
    """The run fails without running a test, and the message names the test and the keyword."""
    pytester.makepyfile(f"import pytest\n@pytest.mark.ftguard({marker})\ndef test_it(): pass")
    result = pytester.runpytest_inprocess(*(["-n", str(workers)] if workers else []))
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    assert words in result.stdout.str()
    assert "test_it" in result.stdout.str()


def test_precedence_is_marker_command_line_environment_ini(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place overrides those after it."""
    monkeypatch.setenv("FTGUARD_MAX_LOSS_GAP", "3")
    monkeypatch.setenv("FTGUARD_CONFIDENCE", "0.9")
    project.makepyfile(
        """
        import pytest
        from pytest_ftguard.current import active_test

        def found(name):
            return active_test.get().setting(name)

        @pytest.mark.ftguard(max_loss_gap=1)
        def test_marker(ftguard):
            assert (found("max_loss_gap").value.value, found("max_loss_gap").origin.kind) == (1, "marker")
            assert ftguard.limits.get("max_loss_gap") == found("max_loss_gap")

        def test_command_line(ftguard):
            assert (found("max_loss_gap").value.value, found("max_loss_gap").origin.kind) == (2, "command line")

        def test_environment(ftguard):
            assert (found("confidence").value, found("confidence").origin.kind) == (0.9, "environment")

        def test_ini(ftguard):
            assert (ftguard.settings.value("steps", None), found("steps").origin.kind) == (12, "ini")
            assert found("steps").origin.name == "ftguard_steps in tox.ini"
            assert found("timeout") is None

        def test_overrides_of_the_ini_file(ftguard):
            assert str(found("lora_r").origin.name) == "-o ftguard_lora_r=..."
            assert (found("lora_alpha").origin.kind, found("lora_alpha").origin.name) == (
                "command line", "-o ftguard_lora_alpha=..."
            )
        """
    )
    monkeypatch.setenv("PYTEST_ADDOPTS", "-o ftguard_lora_alpha=8")
    options = ["--ftguard-max-loss-gap=2", "-o", "ftguard_max_loss_gap=4", "-o", "ftguard_confidence=0.8"]
    project.runpytest_inprocess(*options, "-o", "ftguard_lora_r=8").assert_outcomes(passed=5)


def test_a_timeout_without_a_unit_is_in_seconds(project: pytest.Pytester) -> None:
    """As the help says; and a size so large that nothing reaches it is a store without a limit."""
    project.makepyfile(
        """
        def test_it(ftguard):
            assert ftguard.settings.value("timeout", None) == 3.0
            assert ftguard.settings.value("cache_size", None) == 10**15
        """
    )
    project.runpytest_inprocess("--ftguard-timeout=3", "--ftguard-cache-size=1000 TB").assert_outcomes(passed=1)
    helped = " ".join(project.runpytest_inprocess("--help").stdout.str().split())
    assert "a number alone is seconds" in helped
    assert "0 is an error" in helped


POISON = """
import sys

class Poison:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "peft", "accelerate", "numpy", "scipy"}:
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Poison())
"""


def test_an_unused_plugin_imports_nothing_heavy_and_writes_nothing(pytester: pytest.Pytester) -> None:
    """Pytest runs a project without the fixtures where torch and its like raise on import, and prints no summary."""
    pytester.makeconftest(POISON)
    pytester.makepyfile(
        "import sys\ndef test_it(): assert not {'torch', 'numpy', 'scipy', 'transformers'} & set(sys.modules)"
    )
    before = set(pytester.path.rglob("*"))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)
    assert "ftguard summary" not in result.stdout.str()
    new = {path.name for path in set(pytester.path.rglob("*")) - before}
    assert not {name for name in new if "ftguard" in name}


def test_disabled_tests_are_skipped_and_counted(project: pytest.Pytester) -> None:
    """With --ftguard-disable nothing is trained, and the summary says how many tests did not run."""
    project.makepyfile("def test_a(full_variant): pass\ndef test_b(lora_variant): pass\ndef test_c(): pass")
    result = project.runpytest_inprocess("--ftguard-disable")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(
        ["*ftguard summary*", "2 tests did not run*", "*ftguard is disabled: nothing is trained"]
    )


@pytest.mark.torch
def test_a_device_that_is_not_there_skips_or_fails(project: pytest.Pytester) -> None:
    """A test that asks for a device of another kind is skipped and counted."""
    project.makepyfile("def test_a(full_variant): pass")
    result = project.runpytest_inprocess("--ftguard-device=xpu")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["1 test did not run*", "*device is 'xpu', but this machine has no such device*"])


@pytest.mark.torch
def test_a_required_gpu_that_is_not_there_fails_the_run(project: pytest.Pytester) -> None:
    """--ftguard-require-gpu on a machine without an accelerator is a usage error before any test."""
    import torch

    project.makepyfile("def test_a(): pass")
    result = project.runpytest_subprocess("--ftguard-require-gpu", timeout=120)
    if torch.accelerator.is_available():
        result.assert_outcomes(passed=1)
    else:
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "no accelerator" in result.stderr.str() + result.stdout.str()


@pytest.mark.torch
def test_settings_that_an_overridden_fixture_ignores_are_named(project: pytest.Pytester) -> None:
    """A rate in the ini file beside a fixture that sets its own is noted; not if the fixture refines it."""
    project.makepyfile(
        test_ignored="""
        import pytest
        from pytest_ftguard import Full

        @pytest.fixture(scope="session")
        def ftguard_full():
            return Full(learning_rate=2e-3)

        def test_it(full_variant): pass
        """,
        test_refined="""
        import dataclasses, pytest

        @pytest.fixture(scope="session")
        def ftguard_full(ftguard_full):
            return dataclasses.replace(ftguard_full, learning_rate=2 * ftguard_full.learning_rate)

        def test_it(full_variant): pass
        """,
    )
    ignored = project.runpytest_inprocess("test_ignored.py")
    ignored.assert_outcomes(passed=1, warnings=0)
    ignored.stdout.fnmatch_lines(
        [
            "note: without effect in this run, because every test overrides ftguard_full:",
            "*ftguard_full_learning_rate in tox.ini",
        ]
    )
    refined = project.runpytest_inprocess("test_refined.py")
    refined.assert_outcomes(passed=1)
    assert "without effect" not in refined.stdout.str()
    both = project.runpytest_inprocess()
    both.assert_outcomes(passed=2)
    assert "without effect" not in both.stdout.str()


FOLDER = """
import pytest
from pytest_ftguard import LoRA, Workload

@pytest.fixture(scope="session")
def ftguard_workload():
    return Workload(model="model-{name}", train="t", validation="v")

@pytest.fixture(scope="session")
def ftguard_lora():
    return LoRA(r={rank})
"""


@pytest.mark.parametrize("options", [[], ["-n", "2"]])
def test_each_folder_gets_the_variants_of_its_own_specs(made_up: pytest.Pytester, options: list[str]) -> None:
    """A variant of the session belongs to the specs of the tests that use it, as do the fixtures made of it."""
    made_up.makepyfile(test_it="")
    for name, rank in (("a", 2), ("b", 4), ("c", None)):
        folder = made_up.mkdir(name)
        folder.joinpath("__init__.py").touch()
        if rank is not None:
            folder.joinpath("conftest.py").write_text(FOLDER.format(name=name, rank=rank), encoding="utf-8")
        expected = (f"model-{name}", rank) if rank is not None else ("m", 16)
        folder.joinpath("test_it.py").write_text(
            "def test_model(full_variant, lora_variant, judged):\n"
            f"    assert (lora_variant.workload.model, lora_variant.variant.r) == {expected!r}\n"
            f"    assert full_variant.workload.model == {expected[0]!r}\n"
            "    assert judged is lora_variant\n"
            "def test_by_name(request):\n"
            f"    assert request.getfixturevalue('lora_variant').variant.r == {expected[1]}\n",
            encoding="utf-8",
        )
    with (made_up.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(
            "\nimport pytest\n@pytest.fixture(scope='session')\ndef judged(lora_variant):\n    return lora_variant\n"
        )
    result = made_up.runpytest_inprocess("a", "b", "c", "a/test_it.py::test_model", *options)
    assert result.ret == 0, result.stdout.str()
    assert "without effect" not in result.stdout.str()


def test_nothing_configured_says_what_to_set(pytester: pytest.Pytester) -> None:
    """A fixture used without any configuration names the keys and the fixture."""
    pytester.makepyfile("def test_it(full_variant): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    assert "ftguard_model, ftguard_train, ftguard_validation" in result.stdout.str()
