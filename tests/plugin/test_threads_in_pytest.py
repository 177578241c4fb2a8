"""A helper in another thread, task or context works for the test that is running."""

from __future__ import annotations

import json

import pytest
from tests.plain.builders import unwrapped

PRELUDE = """
import asyncio, contextvars, threading, time, unittest
from concurrent.futures import ThreadPoolExecutor
import pytest
from pytest_ftguard import assert_loss_gap

strict = pytest.mark.ftguard(max_loss_gap=0.05)
loose = pytest.mark.ftguard(max_loss_gap=0.3)
POOL = ThreadPoolExecutor(1)
"""
WAYS = """
@loose
def test_first(full_variant, lora_variant):
    global CONTEXT
    CONTEXT = contextvars.copy_context()
    POOL.submit(assert_loss_gap, lora_variant, full_variant).result()

@strict
def test_context_of_an_earlier_test(full_variant, lora_variant):
    CONTEXT.run(assert_loss_gap, lora_variant, full_variant)

@strict
def test_older_thread(full_variant, lora_variant):
    POOL.submit(assert_loss_gap, lora_variant, full_variant).result()

@strict
def test_nobody_asks_the_thread(full_variant, lora_variant):
    thread = threading.Thread(target=assert_loss_gap, args=(lora_variant, full_variant))
    thread.start()
    thread.join()

@strict
class TestTasks(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def variants(self, full_variant, lora_variant):
        self.pair = lora_variant, full_variant

    async def test_coroutine(self):
        assert_loss_gap(*self.pair)

    async def test_to_thread(self):
        await asyncio.to_thread(assert_loss_gap, *self.pair)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_every_way_to_call_a_helper_finds_the_running_test(made_up: pytest.Pytester, workers: int) -> None:
    """The gap of 0.1 fails by the marker wherever it is asked for, and each verdict is in summary, JUnit and JSON."""
    made_up.makepyfile(test_it=PRELUDE + WAYS)
    options = ["-n", str(workers), "--dist=loadfile"] if workers else []
    result = made_up.runpytest_subprocess(
        "--ftguard-json=r.json", "--junitxml=j.xml", "-o", "ftguard_gain_factor=0", "-W", "ignore", *options
    )
    result.assert_outcomes(passed=1, failed=5)
    verdicts = json.loads((made_up.path / "r.json").read_text())["verdicts"]
    assert [(one["status"], one["limit"], one["limit_source"]) for one in verdicts] == [
        ("PASS", 0.3, "marker"),
        *[("FAIL", 0.05, "marker")] * 5,
    ]
    assert [one["nodeid"].rpartition("::")[2] for one in verdicts] == [
        "test_first",
        "test_context_of_an_earlier_test",
        "test_older_thread",
        "test_nobody_asks_the_thread",
        "test_coroutine",
        "test_to_thread",
    ]
    assert (made_up.path / "j.xml").read_text().count('"ftguard.loss_gap.status"') == 6
    unwrapped(result).fnmatch_lines(
        ["note: a helper was called in the thread 'ThreadPoolExecutor-*_0', which is older *"]
    )


def test_a_verdict_after_the_end_of_its_test_makes_the_run_fail(made_up: pytest.Pytester) -> None:
    """The thread carries the context of its test, so the verdict is listed there, and the green test is not enough."""
    made_up.makepyfile(
        test_it=PRELUDE
        + """
STARTED = threading.Event()

def test_leaves_a_thread(full_variant, lora_variant):
    def later():
        STARTED.wait()
        assert_loss_gap(lora_variant, full_variant, at_most=0.05)
    context = contextvars.copy_context()
    global THREAD
    THREAD = threading.Thread(target=context.run, args=(later,))
    THREAD.start()
""",
    )
    with (made_up.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(
            "\nimport pytest, sys\n"
            "@pytest.hookimpl(tryfirst=True)\n"
            "def pytest_sessionfinish():\n"
            "    sys.modules['test_it'].STARTED.set()\n"
            "    sys.modules['test_it'].THREAD.join()\n"
        )
    result = made_up.runpytest_subprocess("-o", "ftguard_gain_factor=0", "--ftguard-json=r.json", "-W", "ignore")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    unwrapped(result).fnmatch_lines(
        ["loss gap*FAIL", "*test_leaves_a_thread", "*test_leaves_a_thread: loss_gap FAIL was given by a thread after *"]
    )
    assert [one["status"] for one in json.loads((made_up.path / "r.json").read_text())["verdicts"]] == ["FAIL"]


def test_a_helper_outside_of_any_test_is_an_error(made_up: pytest.Pytester) -> None:
    """Its verdict would be shown nowhere; in the teardown of a session fixture it belongs to the last test."""
    made_up.makepyfile(
        test_it=PRELUDE
        + """
@pytest.fixture(scope="session")
def judged(full_variant, lora_variant):
    global PAIR
    PAIR = lora_variant, full_variant
    yield
    assert_loss_gap(*PAIR, at_most=0.05)

def test_last(judged): pass
"""
    )
    with (made_up.path / "conftest.py").open("a", encoding="utf-8") as file:
        file.write(
            "\nimport sys\n"
            "def pytest_sessionfinish():\n"
            "    from pytest_ftguard import ConfigurationError, assert_loss_gap\n"
            "    try:\n"
            "        assert_loss_gap(*sys.modules['test_it'].PAIR, at_most=0.3)\n"
            "    except ConfigurationError as error:\n"
            "        print(f'refused: {error}')\n"
        )
    result = made_up.runpytest_subprocess("-o", "ftguard_gain_factor=0", "-s")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*refused: a helper was called while no test was running*", "loss gap*FAIL"])


def test_an_error_that_the_test_takes_is_named(made_up: pytest.Pytester) -> None:
    """The test is green and its gate is not; and no verdict comes back from a process that the test forks."""
    made_up.makepyfile(
        test_it=PRELUDE
        + """
async def judge(*pair):
    assert_loss_gap(*pair)

@strict
def test_forgotten(full_variant, lora_variant):
    async def test():
        task = asyncio.create_task(judge(lora_variant, full_variant))
        await asyncio.sleep(0.1)
        assert task.done()
    asyncio.run(test())

@loose
def test_forked(full_variant, lora_variant):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        pool.submit(assert_loss_gap, lora_variant, full_variant).result()

@pytest.mark.xfail(strict=True)
@strict
def test_known(full_variant, lora_variant):
    assert_loss_gap(lora_variant, full_variant)
"""
    )
    result = made_up.runpytest_subprocess("-o", "ftguard_gain_factor=0", "-W", "ignore")
    result.assert_outcomes(passed=1, failed=1, xfailed=1)
    output = str(unwrapped(result))
    assert "note: test_it.py::test_forgotten passed although its gate loss gap ended FAIL" in output
    assert "test_known passed although" not in output
    assert "in a process that test_it.py::test_forked has forked" in output


@pytest.mark.parametrize("argument", ["at_most=9", ""])
def test_a_helper_in_a_forked_process_fails_the_test_that_ignores_it(made_up: pytest.Pytester, argument: str) -> None:
    """The child's exit status is not looked at; with a limit or without one, no gate was asked, so nothing is green."""
    made_up.makepyfile(
        test_it=PRELUDE
        + f"""
def test_forked(full_variant, lora_variant):
    import os
    child = os.fork()
    if not child:
        try:
            assert_loss_gap(lora_variant, full_variant, {argument})
        finally:
            os._exit(1)
    os.waitpid(child, 0)

def test_next():
    pass

def test_plain_fork():
    import os
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
"""
    )
    result = made_up.runpytest_subprocess("-o", "ftguard_gain_factor=0", "-W", "ignore")
    result.assert_outcomes(failed=1, passed=2)
    assert "a helper was called in a process that test_it.py::test_forked has forked" in result.stdout.str()
