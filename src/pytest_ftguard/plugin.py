"""pytest's hooks and the fixtures: here pytest's objects become plain data, and plain data reaches the user.

Whatever the hooks need only once something is trained is imported inside them: every pytest run loads this module.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from pytest_ftguard.errors import ConfigurationError, FtguardError, FtguardWarning, GateFailure, hide_our_frames
from pytest_ftguard.files import write_whole
from pytest_ftguard.session import Run, memory_budget
from pytest_ftguard.settings import MARKER_KEYS, Settings, add_options, marker_problem, read_settings
from pytest_ftguard.testrecord import TestRecord, is_worker

if TYPE_CHECKING:
    from pytest_ftguard.results import TrainedVariant
    from pytest_ftguard.specs import Full, LoRA, Variant, Workload

__tracebackhide__ = hide_our_frames

_FIXTURES: Final = frozenset({"full_variant", "lora_variant", "ftguard"})
_MARKER: Final = (
    f"ftguard({', '.join(f'{name}=None' for name in MARKER_KEYS)}): limits of this test's gates (pytest-ftguard)"
)
_RUN: Final = pytest.StashKey[Run]()

Spec = TypeVar("Spec")


class Ftguard:
    """What the fixture `ftguard` gives to a test.

    Attributes:
        settings: What command line, environment and ini file set.
        limits: What the test's markers set.
    """

    def __init__(self, request: pytest.FixtureRequest, run: Run) -> None:
        self._request = request
        self._run = run
        self.settings: Settings = run.settings
        self.limits: Settings = run.test.marker if run.test else Settings({})

    def train(self, variant: Variant, workload: Workload | None = None) -> TrainedVariant:
        """Return a variant trained with every seed of the workload; in one run nothing is trained twice.

        Args:
            variant: `Full` or `LoRA`; LoRA's learning rate is by default ten times that of `ftguard_full`.
            workload: What is held fixed; the fixture `ftguard_workload` by default.
        """
        return self._run.train(
            variant,
            lambda: workload or _spec(self._request, "ftguard_workload"),
            lambda: _spec(self._request, "ftguard_full"),
            [memory_budget(self._request.node, self.settings)],
        )


@pytest.fixture(scope="session")
def ftguard_workload(pytestconfig: pytest.Config) -> Workload:
    """What is held fixed while the variants are compared; made from options and ini keys unless overridden."""
    return _from_settings(pytestconfig, "ftguard_workload", Settings.workload)


@pytest.fixture(scope="session")
def ftguard_full(pytestconfig: pytest.Config) -> Full:
    """Full fine-tuning; made from options and ini keys unless overridden."""
    return _from_settings(pytestconfig, "ftguard_full", Settings.full)


@pytest.fixture(scope="session")
def ftguard_lora(pytestconfig: pytest.Config) -> LoRA:
    """LoRA; made from options and ini keys unless overridden."""
    return _from_settings(pytestconfig, "ftguard_lora", Settings.lora)


def _from_settings(config: pytest.Config, name: str, make: Callable[[Settings], Spec]) -> Spec:
    run = config.stash[_RUN]
    run.fixtures_from_settings.add(name)
    try:
        made = make(run.settings)
    except ConfigurationError as error:
        failure = pytest.fail.Exception(f"ftguard: {error}", pytrace=False)
    else:
        run.made_of_settings.append(made)
        return made
    raise failure


def _spec(request: pytest.FixtureRequest, name: str) -> Any:
    """Return the value of a fixture, and warn where it is overridden and leaves settings without effect."""
    value = request.getfixturevalue(name)
    run = request.config.stash[_RUN]
    unused = [] if name in run.fixtures_from_settings else run.settings.of_fixture(name)
    if unused:
        run.fixtures_from_settings.add(name)  # once is enough
        places = ", ".join(setting.place for setting in unused)
        message = f"{places}: without effect, because the fixture {name} is overridden and does not use it"
        warnings.warn(FtguardWarning(message), stacklevel=1)
    return value


@pytest.fixture(scope="session")
def full_variant(request: pytest.FixtureRequest) -> TrainedVariant:
    """The model after full fine-tuning, one trial per seed; trained on first use, once per pytest run."""
    return _session_variant(request, "ftguard_full")


@pytest.fixture(scope="session")
def lora_variant(request: pytest.FixtureRequest) -> TrainedVariant:
    """The model after LoRA, one trial per seed; trained on first use, once per pytest run."""
    return _session_variant(request, "ftguard_lora")


def _session_variant(request: pytest.FixtureRequest, fixture: str) -> TrainedVariant:
    run = request.config.stash[_RUN]
    run.session_variants_to_come.discard(request.fixturename or "")
    # The specs are asked for by name so that a disabled run does not even prepare their data.
    return run.train(
        lambda: _spec(request, fixture),
        lambda: _spec(request, "ftguard_workload"),
        lambda: _spec(request, "ftguard_full"),
        run.fixture_budgets.get(request.fixturename or "", []),
    )


@pytest.fixture
def ftguard(request: pytest.FixtureRequest) -> Ftguard:
    """Train further variants inside a test, and read its limits."""
    return Ftguard(request, request.config.stash[_RUN])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Check every setting before anything is collected."""
    config.addinivalue_line("markers", _MARKER)
    try:
        run = Run(config, read_settings(config))
    except ConfigurationError as error:
        raise pytest.UsageError(f"ftguard: {error}") from None
    config.stash[_RUN] = run
    config.pluginmanager.register(_Collector(run), "ftguard-collector")
    if run.is_planned:
        config.pluginmanager.register(_Plan(), "ftguard-plan")
    elif run.settings.value("update", False):
        config.pluginmanager.register(_Accepting(run), "ftguard-accepting")


class _Collector:
    """Keeps what reports bring; an object of its own, because pytest's hook for reports names no configuration."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the trials and verdicts of a report."""
        content = getattr(report, "ftguard", None)
        if content:
            self._run.keep(report.nodeid, content)


class _Plan:
    """Lets tests name what they would train, and skips them; registered under a plan only: nobody else pays for it."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip a test that trains nothing."""
        if _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            pytest.skip("ftguard plan: no test is run")

    @pytest.hookimpl(wrapper=True, specname="pytest_runtest_setup")
    def pytest_fixtures_setup(self) -> Generator[None, object, object]:
        """Skip a test whose fixtures need what was not trained."""
        return (yield from _skip_on_error())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Let a test name its gates, and take whatever comes of it for a skip."""
        yield from _skip_on_error()
        pytest.skip("ftguard plan: nothing was trained")


class _Accepting:
    """Writes what a test accepts once it has passed; registered under --ftguard-update only, so nobody else pays."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Tell the report of a test from those of its subtests, which come before the call is over."""
        try:
            return (yield)
        finally:
            if self._run.test is not None:
                self._run.test.call_is_over = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # after whatever else may still let the test fail
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Write what a test accepts where its report says that it has passed; where that cannot be done, it fails.

        Some failures are known to the report alone: that of a method of unittest, or of an xfail that is strict. The
        report of the teardown brings the summary what became of it.
        """
        report = yield
        if self._run.test is not None:
            try:
                self._run.test.settle(report)
            except (ConfigurationError, GateFailure) as error:
                report.outcome, report.longrepr = "failed", f"ftguard: {error}"
        return report


def _skip_on_error() -> Generator[None, object, object]:
    """Run the rest of a hook; an error skips the test, unless it is one of ours, which tells a mistake.

    A mistake in a test, such as a helper without a limit, would fail the run as well, after the training.
    """
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as error:
        is_ours = isinstance(error, pytest.fail.Exception) and str(error).startswith("ftguard:")
        if is_ours or isinstance(error, ConfigurationError):
            raise
        reason = f"ftguard plan: nothing was trained, so it stopped at {type(error).__name__}: {error}"
    pytest.skip(reason)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fail at once where an accelerator is required and there is none."""
    settings = session.config.stash[_RUN].settings
    required = settings.get("require_gpu")
    idle = settings.value("disable", False) or settings.value("plan", False)
    if required is None or not required.value or idle or is_worker(session.config):
        return
    from pytest_ftguard.running.devices import find_accelerator

    try:
        problem = None if find_accelerator() else "this machine has no accelerator that torch can use"
    except FtguardError as error:
        problem = str(error)
    if problem:
        raise pytest.UsageError(f"ftguard: require_gpu is set by {required.place}, but {problem}")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of xdist the folder that the processes of this run share."""
    node.config.stash[_RUN].share_with(node.workerinput)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a wrong marker into an error of collection, in the file that has it."""
    report = yield
    problems = [
        f"{node.nodeid}: {problem}"
        for node in report.result or ()
        if isinstance(node, pytest.Item)
        for marker in node.iter_markers("ftguard")
        if (problem := marker_problem(marker.args, marker.kwargs))
    ]
    if problems:
        report.outcome = "failed"
        report.longrepr = "\n".join(problems)
        report.result = []
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, object, object]:
    """Keep the names of all tests, before anything takes some away: accepted results of the others are unused."""
    config.stash[_RUN].collected = [item.nodeid for item in items]
    return (yield)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count what will be trained, so that the next worker can be started early."""
    run = session.config.stash[_RUN]
    used = [name for item in session.items for name in getattr(item, "fixturenames", ()) if name in _FIXTURES]
    run.tests_to_come = used.count("ftguard")
    run.session_variants_to_come = set(used) - {"ftguard"}
    for item in session.items:
        for name in _FIXTURES.intersection(getattr(item, "fixturenames", ())):
            run.fixture_budgets.setdefault(name, []).append(memory_budget(item, run.settings))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the assertion helpers know which test is running, if it can use them."""
    # Whoever calls a helper has imported it, so a run in which nothing did pays nothing here.
    if _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) and "pytest_ftguard.assertions" not in sys.modules:
        return (yield)
    from pytest_ftguard.assertions import active_test

    run = item.config.stash[_RUN]
    run.tests_to_come -= "ftguard" in getattr(item, "fixturenames", ())
    run.test = TestRecord(item, run)
    token = active_test.set(run.test)
    try:
        return (yield)
    finally:
        active_test.reset(token)
        run.test = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start each run of a test, reruns included, without verdicts."""
    test = item.config.stash[_RUN].test
    if test is not None:
        test.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what was trained and decided to the report, which travels from xdist's workers to the controller."""
    report = yield
    run = item.config.stash[_RUN]
    test = run.test
    # A fixture of ours that a test asks for by name while it runs is not among its fixtures.
    if test is not None or run.has_trained:
        verdicts, planned = test.new_verdicts() if test else ([], [])
        content: dict[str, Any] = {
            "trials": [trial.to_dict() for trial in run.new_trials()],
            "verdicts": [verdict.to_dict() for verdict in verdicts],
            "planned": [verdict.to_dict() for verdict in planned],
            **(test.new_accepted() if test else {}),
            "not_run": run.why_not_run(call.excinfo.value) if call.excinfo is not None else None,
            **run.new_remarks(),
        }
        if any(content.values()):
            report.ftguard = content  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the comparison; nothing at all where nothing was trained."""
    run = config.stash[_RUN]
    if not (run.trials or run.verdicts or run.not_run or run.problems):
        return
    from pytest_ftguard.reporting.terminal import accepted_lines, plan_lines, reason_lines, summary_lines, timing_lines

    terminalreporter.section("ftguard summary")
    trials = run.reported
    lines = plan_lines(trials, run.planned) if run.is_planned else summary_lines(trials, run.concluded, run.not_run)
    for line in lines:
        failed = line.endswith(("FAIL", "INVALID", "INCONCLUSIVE"))
        terminalreporter.write_line(line, red=failed, green=line.endswith("PASS"))
    for note in (
        *reason_lines(run.reasons),
        *timing_lines(run.retimings),
        *run.notes,
        *accepted_lines(run.accepted, run.unchanged, run.not_accepted),
    ):
        terminalreporter.write_line(note)
    for problem in run.problems:
        terminalreporter.write_line(problem, red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the files, from the process that has all results."""
    run = session.config.stash[_RUN]
    run.close()
    if is_worker(session.config):
        return
    for name, write in (("calibration", run.calibrate), ("json", partial(_write_json, run))):
        try:
            write()
        except (OSError, ConfigurationError) as error:
            # The verdicts are still shown, and the run is not green: somebody relies on the file.
            place = run.settings.get(name)
            source = f" (set by {place.place})" if place else ""
            reason = error.strerror if isinstance(error, OSError) else error
            run.problems.append(f"ftguard: the file {run.settings.value(name, name)}{source} was not written: {reason}")
    if run.problems:
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def _write_json(run: Run) -> None:
    path = run.settings.value("json", None)
    if path is not None:
        from pytest_ftguard.reporting.json import json_report

        write_whole(Path(path), json_report(run.reported, run.concluded))


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what may still be running when the session broke off."""
    run = config.stash.get(_RUN, None)
    if run is not None:
        run.close()
