"""pytest's hooks: here its objects become plain data, and plain data reaches the user.

Whatever the hooks need only once something is trained is imported inside them: every pytest run loads this module.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import pytest

from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.gates.catalogue import MARKER_KEYS, added_keys
from pytest_ftguard.gates.current import active_test, running
from pytest_ftguard.plugin.on_demand import FIXTURES, Accepting, Collector, Plan
from pytest_ftguard.plugin.outputs import check_outputs, print_summary, write_outputs
from pytest_ftguard.plugin.session import SESSION, Session
from pytest_ftguard.plugin.tracebacks import hide_our_frames
from pytest_ftguard.plugin.xdist import is_worker
from pytest_ftguard.settings.keys import KEYS
from pytest_ftguard.settings.markers import find_problem, memory_budget
from pytest_ftguard.settings.own_gates import import_gates
from pytest_ftguard.settings.reading import add_options, read_settings

_LEFT_OVER: Final = "ftguard_left_over"


# With `request` a test may ask for a fixture of ours while it runs.
_MAY_TRAIN: Final = FIXTURES | {"request"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    added = {key.name for key in added_keys()}
    add_options(parser, (key for key in KEYS if key.name not in added))


def _import_gates(config: pytest.Config) -> None:
    try:
        import_gates(config)
    except ConfigurationError as error:
        raise pytest.UsageError(f"ftguard: {error}") from None


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    """Learn of gates of the user's own before options are parsed, behind conftest.py: modules are found next to it."""
    result = yield
    _import_gates(early_config)
    add_options(parser, added_keys())
    return result


def pytest_configure(config: pytest.Config) -> None:
    """Check every setting before anything is collected."""
    _import_gates(config)  # if a conftest.py names this plugin, pytest has not called the hook above
    limits = ", ".join(f"{name}=None" for name in MARKER_KEYS)
    config.addinivalue_line("markers", f"ftguard({limits}): limits of this test's gates (pytest-ftguard)")
    try:
        ours = Session(config, read_settings(config))
    except ConfigurationError as error:
        raise pytest.UsageError(f"ftguard: {error}") from None
    config.stash[SESSION] = ours
    running.open_session(ours.outbox.problems.append)
    config.pluginmanager.register(Collector(ours), "ftguard-collector")
    if ours.is_planned:
        config.pluginmanager.register(Plan(), "ftguard-plan")
    elif ours.settings.value("update", False):
        config.pluginmanager.register(Accepting(ours), "ftguard-accepting")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fail at once if there is no such renderer, or an accelerator is required and there is none."""
    if is_worker(session.config):
        return
    ours = session.config.stash[SESSION]
    try:
        check_outputs(ours)
    except ConfigurationError as error:
        raise pytest.UsageError(f"ftguard: {error}") from None
    settings = ours.settings
    required = settings.get("require_gpu")
    idle = settings.value("disable", False) or settings.value("plan", False)
    if required is None or not required.value or idle:
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
        node.config.stash[SESSION].take(parcel)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of xdist the folder that the processes of this run share."""
    node.config.stash[SESSION].workshop.folder.share_with(node.workerinput)


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
    config.stash[SESSION].collected = [item.nodeid for item in items]
    return (yield)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count what will be trained, so that the next worker can be started early."""
    ours = session.config.stash[SESSION]
    used = [name for item in session.items for name in getattr(item, "fixturenames", ()) if name in FIXTURES]
    ours.tests_to_come = used.count("ftguard")
    ours.session_variants_to_come = set(used) - {"ftguard"}
    for item in session.items:
        for name in FIXTURES.intersection(getattr(item, "fixturenames", ())):
            # A wrong marker, which a hook has added since, is an error of its test.
            budget = None if find_problem(item) else memory_budget(item)
            ours.fixture_budgets.setdefault(name, []).append(budget)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the assertion helpers know which test is running."""
    ours = item.config.stash[SESSION]
    ours.tests_to_come -= "ftguard" in getattr(item, "fixturenames", ())
    ours.test = ours.new_test(item)
    token = active_test.set(ours.test)
    running.enter(ours.test)
    try:
        return (yield)
    finally:
        ours.test.is_over = True
        running.leave()
        active_test.reset(token)
        ours.test = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start each attempt of a test, reruns included, without verdicts; a marker that a hook has added may be wrong."""
    ours = item.config.stash[SESSION]
    if ours.test is not None:
        ours.test.start()
    problem = find_problem(item)
    if problem:
        pytest.fail(f"ftguard: {problem}", pytrace=False)
    if not _MAY_TRAIN.isdisjoint(getattr(item, "fixturenames", ())):
        ours.overrides.start(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose helper has failed in a thread that nobody asked for its result."""
    __tracebackhide__ = True  # other people's errors pass through here
    result = yield
    test = item.config.stash[SESSION].test
    if test is not None:
        test.raise_unhandled()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Do the same for a thread that has ended since."""
    __tracebackhide__ = True  # other people's errors pass through here
    result = yield
    test = item.config.stash[SESSION].test
    if test is not None:
        test.raise_unhandled()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what was trained and decided to the report, which travels from xdist's workers to the controller."""
    if call.excinfo is not None:
        hide_our_frames(call.excinfo)
    report = yield
    ours = item.config.stash[SESSION]
    if ours.test is not None:
        ours.test.note_made(report)
    parcel = ours.pack(call.excinfo.value if call.excinfo is not None else None)
    if parcel is not None:
        report.ftguard = parcel  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the comparison; nothing at all where nothing was trained."""
    ours = config.stash[SESSION]
    if ours.received.is_empty:
        return
    print_summary(ours, terminalreporter)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the files, from the process that has all results."""
    ours = session.config.stash[SESSION]
    ours.workshop.close()
    left = ours.left_over()
    if is_worker(session.config):
        session.config.workeroutput[_LEFT_OVER] = left  # type: ignore[attr-defined]
        return
    for parcel in left:
        ours.take(parcel)
    write_outputs(ours)
    if ours.received.problems:
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what may still be running when the session broke off."""
    ours = config.stash.get(SESSION, None)
    if ours is not None:
        ours.workshop.close()
        running.close_session()
