"""A run that sets nothing begins to use the plugin when a test first does: no sooner, and late for nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest
from tests.plain.builders import unwrapped

from pytest_ftguard.accepting.names import file_name
from pytest_ftguard.running.lab import Lab

ROOT: Final = Path(__file__).parents[2]
# What a run may load that does not use the plugin. Each module costs every pytest run of its users a fifth of a
# millisecond, and three times as much if pytest's loader that rewrites asserts takes it.
LIGHT: Final = {
    "pytest_ftguard",
    "pytest_ftguard.current",
    "pytest_ftguard.plugin",
    "pytest_ftguard.plugin.fixtures",
    "pytest_ftguard.plugin.hooks",
    "pytest_ftguard.plugin.options",
    "pytest_ftguard.plugin.run",
    "contextvars",
    "_contextvars",
    "mmap",
}
MODULES = """
import os, sys
from pathlib import Path

def pytest_unconfigure():
    name = os.environ.get("PYTEST_XDIST_WORKER", "main")
    Path(f"{os.environ['KIND']}-{name}.txt").write_text("\\n".join(sys.modules))
"""
# Two variants whose gap is 0.1 nats per token, made without a fixture, a setting or a training.
PAIR = """
def pair(gap=0.1):
    from tests.plain.builders import FULL, LORA, trained, trial

    full = [20 + 0.01 * (number % 7) for number in range(64)]
    lora = [loss + 10 * gap for loss in full]
    return tuple(
        trained(variant, *(trial(variant, nll, seed=seed) for seed in (0, 1)))
        for variant, nll in ((LORA, lora), (FULL, full))
    )

def judge(limit, gap=0.1):
    from pytest_ftguard import assert_loss_gap

    return assert_loss_gap(*pair(gap), at_most=limit)
"""
CONFTEST = """
import pytest
from tests.plain import builders
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.running.lab import Lab

def train(self, workload, variant):
    nll = [20 + 0.01 * (number % 7) + (variant.kind == "lora") for number in range(64)]
    trials = [builders.trial(variant, nll, seed=seed, workload=workload) for seed in workload.seeds]
    self._results.update({one.fingerprint: one for one in trials})
    return TrainedVariant(workload, variant, tuple(trials))

Lab.train = train

@pytest.fixture(scope="session")
def ftguard_workload():
    from pytest_ftguard import Workload

    return Workload(model="m", train="t", validation="v", seeds=(0, 1))
"""
WORKERS = pytest.mark.parametrize("workers", [[], ["-n", "1"], ["-n", "2"]], ids=["alone", "one worker", "two workers"])


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, warm_runs: None) -> pytest.Pytester:
    """A project without any setting of ours, and with a module that makes a pair of variants."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'src'}:{pytester.path}")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(Lab, "train", Lab.train)  # what the project's conftest.py replaces is put back after the test
    pytester.makepyfile(pair=PAIR)
    return pytester


def modules(project: pytest.Pytester, kind: str, *options: str) -> dict[str, set[str]]:
    """The modules that each process of a run has loaded when it ends."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    subprocess.run(command, env={**_environment(), "KIND": kind}, check=True, cwd=project.path, timeout=60)
    files = project.path.glob(f"{kind}-*.txt")
    return {file.stem.rpartition("-")[2]: set(file.read_text().split("\n")) for file in files}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("FTGUARD_", "PYTEST_"))}


def test_a_run_that_uses_nothing_loads_a_few_small_modules(project: pytest.Pytester) -> None:
    """What the plugin adds to them is named above, on both sides of xdist, and pytest rewrites none of it."""
    project.makeconftest(MODULES)
    project.makepyfile(
        test_it="""
        import pytest, sys, unittest

        def test_loader():
            found = [module for name, module in sys.modules.items() if name.startswith("pytest_ftguard.plugin.")]
            assert {type(module.__loader__).__name__ for module in found} <= {"SourceFileLoader"}

        @pytest.fixture(params=[1, 2])
        def number(request, tmp_path, monkeypatch):
            yield request.param

        def test_number(number): pass

        @pytest.mark.skip
        def test_skipped(): pass

        @pytest.mark.xfail
        def test_known(): assert not True

        class TestCase(unittest.TestCase):
            def test_method(self): pass
        """
    )
    project.makeini("[pytest]\naddopts = --strict-markers --strict-config\nmarkers = slow: takes long")
    for workers, more in (("0", set()), ("1", {"pytest_ftguard.plugin.xdist"})):
        without = modules(project, f"without{workers}", "-n", workers, "-p", "no:ftguard")
        found = modules(project, f"with{workers}", "-n", workers)
        assert found.keys() == without.keys()
        # The xfail has an error whose frames may be ours.
        for name, loaded in found.items():
            allowed = LIGHT | more | {"pytest_ftguard.plugin.tracebacks", "pytest_ftguard.errors"}
            assert loaded - without[name] <= allowed, name


@WORKERS
@pytest.mark.parametrize("place", ["top", "function"])
def test_a_helper_that_no_fixture_precedes_counts(project: pytest.Pytester, workers: list[str], place: str) -> None:
    """The run fails with its gate, and the summary shows both verdicts, wherever the helper is imported."""
    top = "from pytest_ftguard import assert_loss_gap\n" if place == "top" else ""
    project.makepyfile(
        test_it=f"from pair import judge\n{top}"
        "def test_first(): pass\n"
        "def test_good(): assert judge(0.3).status == 'PASS'\n"
        "def test_bad(): judge(0.05)\n"
    )
    result = project.runpytest_inprocess(*workers)
    result.assert_outcomes(passed=2, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    output = result.stdout.str()
    assert "LimitExceeded" in output
    rows = [line.split() for line in output.splitlines() if line.startswith("loss gap ") and "(argument)" in line]
    assert sorted(row[-1] for row in rows) == ["FAIL", "PASS"]


@pytest.mark.parametrize("options", [["-p", "no:terminal"], ["-p", "no:cacheprovider", "-q", "--no-summary"]])
def test_without_a_terminal_the_run_fails_all_the_same(project: pytest.Pytester, options: list[str]) -> None:
    """Nothing but the exit status is left to say so."""
    project.makepyfile(test_it="from pair import judge\ndef test_bad(): judge(0.05)")
    assert project.runpytest_inprocess(*options).ret == pytest.ExitCode.TESTS_FAILED


WAYS = """
import asyncio, contextvars, os, threading, unittest
import pytest
from concurrent.futures import ThreadPoolExecutor
from pair import judge

POOL = ThreadPoolExecutor(1)
POOL.submit(int).result()
"""


@pytest.mark.parametrize(
    ("source", "outcomes", "words"),
    [
        (
            """
            def test_thread_that_nobody_asks():
                thread = threading.Thread(target=judge, args=(0.05,))
                thread.start()
                thread.join()
            """,
            {"failed": 1},
            "LimitExceeded",
        ),
        (
            """
            def test_older_thread():
                POOL.submit(judge, 0.05).result()
            """,
            {"failed": 1},
            "which is older than the test that was running",
        ),
        (
            """
            def test_younger_thread():
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(judge, 0.3).result()
            """,
            {"passed": 1},
            "loss gap",
        ),
        (
            """
            def test_two_at_once():
                start = threading.Barrier(8)
                def ask(number):
                    start.wait()
                    return judge(0.3)
                with ThreadPoolExecutor(8) as pool:
                    assert len(list(pool.map(ask, range(8)))) == 8
            """,
            {"passed": 1},
            "loss gap",
        ),
        (
            """
            async def ask():
                judge(0.05)

            def test_forgotten_task():
                async def test():
                    task = asyncio.create_task(ask())
                    await asyncio.sleep(0.1)
                    assert task.done()
                asyncio.run(test())
            """,
            {"passed": 1},
            "passed although its gate loss gap ended FAIL",
        ),
        (
            """
            class TestTasks(unittest.IsolatedAsyncioTestCase):
                async def test_it(self):
                    await asyncio.to_thread(judge, 0.05)
            """,
            {"failed": 1},
            "LimitExceeded",
        ),
        (
            """
            @pytest.fixture
            def judged():
                judge(0.05)

            def test_fixture(judged): pass
            """,
            {"errors": 1},
            "LimitExceeded",
        ),
        (
            """
            @pytest.fixture(scope="session")
            def judged():
                yield
                judge(0.05)

            def test_first(judged): pass
            def test_last(): pass
            """,
            {"passed": 2, "errors": 1},
            "*::test_last",
        ),
        (
            """
            def test_caught():
                with pytest.raises(AssertionError):
                    judge(0.05)
            """,
            {"passed": 1},
            "passed although its gate loss gap ended FAIL",
        ),
        (
            """
            @pytest.mark.xfail(strict=True)
            def test_known():
                judge(0.05)
            """,
            {"xfailed": 1},
            "loss gap*FAIL",
        ),
    ],
)
def test_every_way_to_a_helper_leads_to_its_test(
    project: pytest.Pytester, source: str, outcomes: dict[str, int], words: str
) -> None:
    """Threads, tasks and teardowns: the first use is counted for the test that is running."""
    project.makepyfile(test_it=WAYS + dedent(source))
    result = project.runpytest_subprocess("-W", "ignore")  # within this process the threads would be this test's too
    result.assert_outcomes(**outcomes)
    unwrapped(result).fnmatch_lines([f"*{words}*"])


FORKED = """
import os
from pair import judge, pair

def fork(call):
    child = os.fork()
    if not child:
        try:
            call()
        finally:
            os._exit(0)
    return child

def test_forked():
    os.waitpid(fork(lambda: judge({limit})), 0)

def test_next(): pass

def test_plain_fork():
    os.waitpid(fork(int), 0)
"""


@pytest.mark.parametrize("limit", ["0.05", "0.3", "None"])
def test_a_first_use_in_a_forked_process_fails_the_test_that_ignores_it(project: pytest.Pytester, limit: str) -> None:
    """The verdict stays in the child, so nothing is green: not with a wide limit, and not without one."""
    project.makepyfile(test_it=FORKED.format(limit=limit))
    result = project.runpytest_subprocess("-W", "ignore")
    result.assert_outcomes(failed=1, passed=2)
    assert "a helper was called in a process that test_it.py::test_forked has forked" in result.stdout.str()


def test_a_first_use_in_a_fork_that_outlives_its_test_fails_the_run(project: pytest.Pytester) -> None:
    """No test can tell of it any more, so the run does."""
    project.makepyfile(
        test_it="""
        import os, time
        from pair import judge

        def test_forked():
            global CHILD, START
            waiting, START = os.pipe()
            CHILD = os.fork()
            if not CHILD:
                os.read(waiting, 1)
                try:
                    judge(0.3)
                finally:
                    os._exit(0)

        def test_next():
            os.write(START, b"1")
            os.waitpid(CHILD, 0)
        """
    )
    result = project.runpytest_subprocess("-W", "ignore")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "a helper was called in a forked process after its test was over" in result.stdout.str()


def test_a_first_use_after_its_test_is_over_fails_the_run(project: pytest.Pytester) -> None:
    """Its test has passed already, and the verdict is no PASS."""
    project.makepyfile(
        test_it="""
        import contextvars
        from pair import judge

        def test_keeps_its_context():
            global CONTEXT
            CONTEXT = contextvars.copy_context()
        """
    )
    project.makeconftest(
        "import pytest, sys\n"
        "@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_sessionfinish():\n"
        "    module = sys.modules['test_it']\n"
        "    try: module.CONTEXT.run(module.judge, 0.05)\n"
        "    except AssertionError: pass\n"
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    unwrapped(result).fnmatch_lines(
        ["*loss gap*FAIL", "*test_keeps_its_context: loss_gap FAIL was given by a thread after the test was over*"]
    )


@pytest.mark.parametrize("place", ["module", "sessionfinish"])
def test_a_helper_outside_of_any_test_is_an_error(project: pytest.Pytester, place: str) -> None:
    """While tests are collected, and when they are over, its verdict would be shown nowhere."""
    call = (
        "from pair import judge\n{0}try:\n{0}    judge(0.3)\n{0}except Exception as error: print('refused:', error)\n"
    )
    project.makepyfile(test_it=(call.format("") if place == "module" else "") + "def test_it(): pass")
    if place == "sessionfinish":
        project.makeconftest(f"def pytest_sessionfinish():\n    {call.format('    ')}")
    result = project.runpytest_subprocess("-s")
    result.stdout.fnmatch_lines(["*refused: a helper was called while no test was running*"])


ATTEMPTS = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    for attempt in range(2):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        repeats = attempt == 0 and any(report.failed for report in reports)
        for report in reports:
            if repeats and report.failed:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
        if not repeats:
            break
    return True

def pytest_report_teststatus(report):
    if report.outcome == "rerun":
        return "rerun", "R", "RERUN"
"""


@pytest.mark.parametrize(
    ("first", "second", "status"), [(0.05, 0.3, "PASS"), (None, 0.05, "FAIL"), (0.3, 0.05, "PASS")]
)
def test_of_a_rerun_the_last_attempt_counts(
    project: pytest.Pytester, first: float | None, second: float, status: str
) -> None:
    """Also if the first one has used nothing; the number of attempts is known from the start."""
    project.makeconftest(ATTEMPTS)
    project.makepyfile(
        test_it=f"""
        from pair import judge
        LIMITS = [{first}, {second}]

        def test_it():
            limit = LIMITS.pop(0)
            assert limit is not None
            verdict = judge(limit)
        """
    )
    result = project.runpytest_inprocess("--junit-xml=j.xml")
    attempts = 1 if first == 0.3 else 2
    result.assert_outcomes(**{"passed" if status == "PASS" else "failed": 1})
    rows = [line.split() for line in result.stdout.str().splitlines() if line.startswith("loss gap ")]
    assert [row[-1] for row in rows if "(argument)" in row] == [status]
    xml = (project.path / "j.xml").read_text()
    assert f'name="ftguard.loss_gap.attempts" value="{attempts}"' in xml
    assert xml.count("ftguard.loss_gap.status") == 1


@WORKERS
def test_a_fixture_that_is_asked_for_by_name_is_trained(project: pytest.Pytester, workers: list[str]) -> None:
    """No argument of a test tells of it before it runs; folders with specs of their own get variants of their own."""
    project.makeconftest(CONFTEST)
    for name, rank in (("a", 2), ("b", 4)):
        folder = project.mkdir(name)
        folder.joinpath("__init__.py").touch()
        folder.joinpath("conftest.py").write_text(
            "import pytest\n@pytest.fixture(scope='session')\ndef ftguard_lora():\n"
            f"    from pytest_ftguard import LoRA\n    return LoRA(r={rank})\n"
        )
        folder.joinpath("test_it.py").write_text(
            "def test_it(request):\n"
            f"    assert request.getfixturevalue('lora_variant').variant.r == {rank}\n"
            "def test_gate(request):\n"
            "    from pytest_ftguard import assert_loss_gap\n"
            "    assert_loss_gap(*map(request.getfixturevalue, ('lora_variant', 'full_variant')), at_most=0.3)\n"
        )
    result = project.runpytest_inprocess(*workers)
    result.assert_outcomes(passed=4)
    output = result.stdout.str()
    assert all(label in output for label in ("ftguard summary", "lora r=2", "lora r=4"))
    assert output.count("loss gap ") == 2


@WORKERS
@pytest.mark.parametrize("name", ["full_variant", "lora_variant", "ftguard"])
def test_a_fixture_alone_brings_the_summary(project: pytest.Pytester, name: str, workers: list[str]) -> None:
    """What a test trains is shown, although no setting and no helper asked for anything."""
    project.makeconftest(CONFTEST)
    call = "ftguard.train(__import__('pytest_ftguard').LoRA(r=2)).loss" if name == "ftguard" else f"{name}.loss"
    project.makepyfile(test_it=f"def test_it({name}):\n    assert {call} > 0")
    result = project.runpytest_inprocess(*workers)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*ftguard summary*", "full *" if name == "full_variant" else "lora *"])


def test_processes_of_xdist_share_their_folder_and_remove_it(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker begins by itself; the folder in which they share trainings is one, and is gone at the end."""
    monkeypatch.setenv("TMPDIR", str(project.mkdir("tmp")))
    project.makeconftest(CONFTEST)
    project.makepyfile(
        test_it="""
        import pytest
        from pathlib import Path
        from pytest_ftguard.plugin.run import RUN

        @pytest.mark.parametrize("number", range(4))
        def test_it(request, number):
            request.getfixturevalue("lora_variant")
            folder = request.config.stash[RUN].folder.place
            assert folder.is_dir() and (folder / "store").exists() is False
            Path(f"{number}.txt").write_text(str(folder))
        """
    )
    result = project.runpytest_subprocess("-n", "2")
    result.assert_outcomes(passed=4)
    (folder,) = {file.read_text() for file in project.path.glob("?.txt")}
    assert not Path(folder).exists()
    assert not list((project.path / "tmp").glob("pytest-ftguard-*"))


@pytest.mark.parametrize("hook", ["setup", "modifyitems"])
def test_a_wrong_marker_that_a_hook_adds_fails_its_test(project: pytest.Pytester, hook: str) -> None:
    """Collection has not seen it, and a limit that nobody reads is a gate that nobody has."""
    project.makepyfile(test_it="def test_it(): pass")
    project.makeconftest(
        "import pytest\nMARK = pytest.mark.ftguard(max_los_gap=1)\n"
        + (
            "@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_setup(item): item.add_marker(MARK)\n"
            if hook == "setup"
            else "def pytest_collection_modifyitems(items): items[0].add_marker(MARK)\n"
        )
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    assert "no keyword 'max_los_gap'" in result.stdout.str()


def test_a_marker_limits_a_gate_that_is_asked_late(project: pytest.Pytester) -> None:
    """Whether it was there from the start or is added while the test runs."""
    project.makepyfile(
        test_it="""
        import pytest
        from pair import judge

        @pytest.mark.ftguard(max_loss_gap=0.05)
        def test_strict(): judge(None)

        @pytest.mark.ftguard(max_loss_gap=0.05)
        def test_looser(request):
            request.applymarker(pytest.mark.ftguard(max_loss_gap=0.3))
            judge(None)

        def test_none(): judge(None)
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=3)
    assert "assert_loss_gap has no limit" in result.stdout.str()


def test_an_environment_that_changes_within_the_run_sets_nothing(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings are read before the first test, so no test can loosen the limits of the next."""
    project.makepyfile(
        test_it="""
        from pair import judge

        def test_it(monkeypatch):
            monkeypatch.setenv("FTGUARD_MAX_LOSS_GAP", "9")
            judge(None)
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    assert "assert_loss_gap has no limit" in result.stdout.str()


@WORKERS
def test_accepted_results_of_tests_that_were_left_out_are_not_called_unused(
    project: pytest.Pytester, workers: list[str]
) -> None:
    """The names of all tests are kept before -k takes some away, in a run that uses nothing until a test asks."""
    project.makepyfile(
        test_it="""
        from pair import pair

        def ask():
            from pytest_ftguard import assert_no_regression
            assert_no_regression(*pair(), at_most=0.02)

        def test_one(): ask()
        def test_two(): ask()
        """
    )
    folder = project.mkdir("ftguard_baselines")
    for name in ("test_one", "test_two", "test_gone"):
        content = {"schema": 1, "accepted": [], "test": f"test_it.py::{name}"}
        (folder / file_name(f"test_it.py::{name}", 1)).write_text(json.dumps(content))
    output = str(unwrapped(project.runpytest_inprocess("-k", "test_one", *workers)))
    assert "test_gone" in output
    assert "test_two" not in output


@pytest.mark.parametrize("plugin", ["ftguard", "pytest_ftguard.plugin"])
def test_a_plugin_that_is_named_works_as_one_that_is_found(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, plugin: str
) -> None:
    """Where pytest loads no plugins by itself."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    project.makepyfile(test_it="from pair import judge\ndef test_bad(): judge(0.05)\ndef test_good(): judge(0.3)")
    result = project.runpytest_subprocess("-p", plugin)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*ftguard summary*"])


def test_files_that_are_asked_for_are_written_without_a_gate(project: pytest.Pytester) -> None:
    """A report of a run without trials says so; a page of an earlier run is taken away."""
    project.makepyfile(test_it="def test_it(): pass")
    (project.path / "s.md").write_text("of an earlier run")
    project.runpytest_inprocess("--ftguard-json=r.json", "--ftguard-markdown=s.md").assert_outcomes(passed=1)
    report = json.loads((project.path / "r.json").read_text())
    assert (report["trials"], report["verdicts"]) == ([], [])
    assert not (project.path / "s.md").exists()
    project.runpytest_inprocess("--ftguard-plan").assert_outcomes(skipped=1)
    project.runpytest_inprocess("--ftguard-disable").assert_outcomes(passed=1)


def test_pytest_lists_everything_although_nothing_is_used(project: pytest.Pytester) -> None:
    """Options, ini keys, marker and fixtures; and a conftest.py may ask for an option that nobody gave."""
    project.makeconftest("def pytest_configure(config): assert config.getoption('--ftguard-plan') is None")
    project.makepyfile(test_it="def test_it(): pass")
    helped = project.runpytest_inprocess("--help").stdout.str()
    assert all(name in helped for name in ("--ftguard-max-loss-gap=MAX_LOSS_GAP", "ftguard_lora_r (string):"))
    assert "@pytest.mark.ftguard(max_loss_gap=None, " in project.runpytest_inprocess("--markers").stdout.str()
    listed = project.runpytest_inprocess("--fixtures").stdout.str()
    assert "full_variant [session scope]" in listed
    assert "The model after LoRA, one trial per seed" in listed
    assert project.runpytest_inprocess("--strict-markers").ret == 0


@pytest.mark.parametrize("place", ["setup", "call"])
def test_what_a_first_use_makes_lives_as_long_as_its_session(project: pytest.Pytester, place: str) -> None:
    """A fixture of the session that holds a variant is not torn down in the middle of the test that asked for it."""
    asked = {"setup": "usefixtures('chosen')", "call": "filterwarnings('default')"}
    project.makeconftest(
        CONFTEST
        + """
@pytest.fixture(scope="session")
def holder(full_variant):
    open_ones = [full_variant]
    yield open_ones
    open_ones.clear()

@pytest.fixture
def chosen(request):
    return request.getfixturevalue("holder")
"""
    )
    project.makepyfile(
        test_it=f"""
        import pytest
        from pytest_ftguard import assert_memory_budget

        @pytest.mark.{asked[place]}
        @pytest.mark.parametrize("time", [1, 2])
        def test_it(request, time):
            holder = request.getfixturevalue("holder")
            assert_memory_budget(holder[0], at_most="1 GB")
            assert holder
        """
    )
    project.runpytest_inprocess().assert_outcomes(passed=2)
