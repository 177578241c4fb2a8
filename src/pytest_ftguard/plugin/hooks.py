"""pytest's hooks and the fixtures: here pytest's objects become plain data, and plain data reaches the user.

Whatever the hooks need only once something is trained is imported inside them: every pytest run loads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

from pytest_ftguard.errors import ConfigurationError, FtguardError, hide_our_frames
from pytest_ftguard.files import write_whole
from pytest_ftguard.gates.catalogue import MARKER_KEYS
from pytest_ftguard.gates.current import active_test, running
from pytest_ftguard.plugin.active_test import is_worker
from pytest_ftguard.plugin.on_demand import FIXTURES, Accepting, Collector, Plan
from pytest_ftguard.plugin.session import Run
from pytest_ftguard.settings.markers import find_problem, limits_of, memory_budget
from pytest_ftguard.settings.reading import Settings, add_options, read_settings

if TYPE_CHECKING:
    from pytest_ftguard.results import TrainedVariant
    from pytest_ftguard.specs import Full, LoRA, Variant, Workload

__tracebackhide__ = hide_our_frames

_MARKER: Final = (
    f"ftguard({', '.join(f'{name}=None' for name in MARKER_KEYS)}): limits of this test's gates (pytest-ftguard)"
)
_LEFT_OVER: Final = "ftguard_left_over"
# With `request` a test may ask for a fixture of ours while it runs.
_MAY_TRAIN: Final = FIXTURES | {"request"}
_RUN: Final = pytest.StashKey[Run]()

Spec = TypeVar("Spec")


class Ftguard:
    """What the fixture `ftguard` gives to a test.

    Attributes:
        settings: What command line, environment and ini file set.
    """

    def __init__(self, request: pytest.FixtureRequest, run: Run) -> None:
        self._request = request
        self._run = run
        self.settings: Settings = run.settings

    @property
    def limits(self) -> Settings:
        """What the test's markers set, those included that were added while it runs."""
        return limits_of(self._request.node)

    def train(self, variant: Variant, workload: Workload | None = None) -> TrainedVariant:
        """Return a variant trained with every seed of the workload; in one run nothing is trained twice.

        Args:
            variant: `Full` or `LoRA`; LoRA's learning rate is by default ten times that of `ftguard_full`.
            workload: What is held fixed; the fixture `ftguard_workload` by default.
        """
        return self._run.train(
            lambda: variant,  # a class, with its brackets forgotten, is no variant
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
    run.made_of_settings.add(name)
    try:
        made = make(run.settings)
    except ConfigurationError as error:
        failure = pytest.fail.Exception(f"ftguard: {error}", pytrace=False)
    else:
        run.specs_of_settings.append(made)
        return made
    raise failure


def _spec(request: pytest.FixtureRequest, name: str) -> Any:
    """Return the value of a fixture, and note whether it is overridden without a use for the settings."""
    value = request.getfixturevalue(name)
    run = request.config.stash[_RUN]
    if name not in run.made_of_settings:
        run.overridden.add(name)
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
    run.overrides.note_made(request.fixturename or "")
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
    running.open_session(run.new_problems.append)
    config.pluginmanager.register(Collector(run), "ftguard-collector")
    if run.is_planned:
        config.pluginmanager.register(Plan(), "ftguard-plan")
    elif run.settings.value("update", False):
        config.pluginmanager.register(Accepting(run), "ftguard-accepting")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fail at once where an accelerator is required and there is none."""
    settings = session.config.stash[_RUN].settings
    required = settings.get("require_gpu")
    idle = settings.value("disable", False) or settings.value("plan", False)
    if required is None or not required.value or idle or is_worker(session.config):
        return
    from pytest_ftguard.running.local.devices import find_accelerator

    try:
        problem = None if find_accelerator() else "this machine has no accelerator that torch can use"
    except FtguardError as error:
        problem = str(error)
    if problem:
        raise pytest.UsageError(f"ftguard: require_gpu is set by {required.origin.name}, but {problem}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker of xdist had left when it ended."""
    for parcel in getattr(node, "workeroutput", {}).get(_LEFT_OVER, ()):
        node.config.stash[_RUN].take(parcel)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of xdist the folder that the processes of this run share."""
    node.config.stash[_RUN].share_with(node.workerinput)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a wrong marker into an error of collection, in the file that has it."""
    report = yield
    items = [node for node in report.result or () if isinstance(node, pytest.Item)]
    problems = [f"{item.nodeid}: {problem}" for item in items if (problem := find_problem(item))]
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
    used = [name for item in session.items for name in getattr(item, "fixturenames", ()) if name in FIXTURES]
    run.tests_to_come = used.count("ftguard")
    run.session_variants_to_come = set(used) - {"ftguard"}
    for item in session.items:
        for name in FIXTURES.intersection(getattr(item, "fixturenames", ())):
            # A wrong marker, which a hook has added since, is an error of its test.
            budget = None if find_problem(item) else memory_budget(item, run.settings)
            run.fixture_budgets.setdefault(name, []).append(budget)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the assertion helpers know which test is running."""
    run = item.config.stash[_RUN]
    run.tests_to_come -= "ftguard" in getattr(item, "fixturenames", ())
    run.test = run.new_test(item)
    token = active_test.set(run.test)
    running.enter(run.test)
    try:
        return (yield)
    finally:
        run.test.is_over = True
        running.leave()
        active_test.reset(token)
        run.test = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start each attempt of a test, reruns included, without verdicts; a marker that a hook has added may be wrong."""
    run = item.config.stash[_RUN]
    if run.test is not None:
        run.test.start()
    problem = find_problem(item)
    if problem:
        pytest.fail(f"ftguard: {problem}", pytrace=False)
    if not _MAY_TRAIN.isdisjoint(getattr(item, "fixturenames", ())):
        run.overrides.start(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose helper has failed in a thread that nobody asked for its result."""
    __tracebackhide__ = True  # other people's errors pass through here
    result = yield
    test = item.config.stash[_RUN].test
    if test is not None:
        test.raise_unhandled()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Do the same for a thread that has ended since."""
    __tracebackhide__ = True  # other people's errors pass through here
    result = yield
    test = item.config.stash[_RUN].test
    if test is not None:
        test.raise_unhandled()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what was trained and decided to the report, which travels from xdist's workers to the controller."""
    report = yield
    run = item.config.stash[_RUN]
    if run.test is not None:
        run.test.note_made(report)
    parcel = run.pack(run.test, call.excinfo.value if call.excinfo is not None else None)
    if parcel is not None:
        report.ftguard = parcel  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the comparison; nothing at all where nothing was trained."""
    run, found = config.stash[_RUN], config.stash[_RUN].received
    if found.is_empty:
        return
    from pytest_ftguard.reporting.terminal import (
        accepted_lines,
        plan_lines,
        reason_lines,
        summary_lines,
        timing_lines,
        unused_setting_lines,
    )

    terminalreporter.section("ftguard summary")
    trials = found.reported
    lines = (
        plan_lines(trials, found.planned) if run.is_planned else summary_lines(trials, found.concluded, found.not_run)
    )
    for line in lines:
        failed = line.endswith(("FAIL", "INVALID", "INCONCLUSIVE"))
        terminalreporter.write_line(line, red=failed, green=line.endswith("PASS"))
    for note in (
        *reason_lines(found.reasons),
        *timing_lines(found.retimings),
        *found.notes,
        *unused_setting_lines(run.unused_settings()),
        *accepted_lines(found.accepted, found.unchanged, found.not_accepted),
    ):
        terminalreporter.write_line(note)
    for problem in found.problems:
        terminalreporter.write_line(problem, red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the files, from the process that has all results."""
    run = session.config.stash[_RUN]
    run.close()
    left = run.left_over()
    if is_worker(session.config):
        session.config.workeroutput[_LEFT_OVER] = left  # type: ignore[attr-defined]
        return
    for parcel in left:
        run.take(parcel)
    for name, write in (("calibration", run.calibrate), ("json", partial(_write_json, run))):
        try:
            write()
        except (OSError, ValueError, ConfigurationError) as error:
            # The verdicts are still shown, and the run is not green: somebody relies on the file.
            place = run.settings.get(name)
            source = f" (set by {place.origin.name})" if place else ""
            reason = error.strerror if isinstance(error, OSError) else error
            run.received.problems.append(
                f"ftguard: the file {run.settings.value(name, name)}{source} was not written: {reason}"
            )
    if run.received.problems:
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def _write_json(run: Run) -> None:
    path = run.settings.value("json", None)
    if path is not None:
        from pytest_ftguard.reporting.json import json_report

        write_whole(Path(path), json_report(run.received.reported, run.received.concluded))


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what may still be running when the session broke off."""
    run = config.stash.get(_RUN, None)
    if run is not None:
        run.close()
        running.close_session()
