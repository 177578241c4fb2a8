"""pytest's hooks. As long as a run uses nothing of ours they only watch, because every pytest run loads this module.

What they do in a run that uses the plugin is in `in_use`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from pytest_ftguard.current import active_test, running
from pytest_ftguard.plugin.options import LIMITS_AND_RULES, OPTIONS
from pytest_ftguard.plugin.run import FIXTURES, LEFT_OVER, RUN, Run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_ftguard.current import RunningTest
    from pytest_ftguard.gates.setting import Key

_MARKER: Final = "ftguard"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    for title, rows in OPTIONS.items():
        _add_options(parser, title, rows)


def _add_options(parser: pytest.Parser, title: str, rows: Iterable[tuple[str, bool, str]]) -> None:
    group = parser.getgroup(f"ftguard {title}", f"pytest-ftguard, full fine-tuning against LoRA: {title.lower()}")
    for name, is_flag, meaning in rows:
        # default=None: an option that was not given must not hide the ini key.
        action = {"action": "store_true"} if is_flag else {"action": "store", "metavar": name.upper()}
        option, ini = f"--ftguard-{name.replace('_', '-')}", f"ftguard_{name}"
        group.addoption(option, dest=ini, default=None, help=meaning, **action)
        parser.addini(ini, meaning.replace("%%", "%"), default=None)


def _is_set(config: pytest.Config, options: object) -> bool:
    """Return whether the command line, the environment or the ini file seems to set anything of ours.

    In doubt it does: whoever then reads the settings looks closely, and refuses a name that is unknown.
    """
    if any(name.startswith("FTGUARD_") for name in os.environ):
        return True
    if any(value is not None and name.startswith("ftguard_") for name, value in vars(options).items()):
        return True
    # pytest has no public list of the keys; the private one was renamed in pytest 9.
    keys = config._inicfg if hasattr(config, "_inicfg") else config.inicfg
    overrides = getattr(options, "override_ini", None) or ()
    if any("ftguard" in text.lower() for texts in (keys, overrides) for text in texts):
        return True
    path = config.inipath  # pytest 8 passes over a table of TOML that pytest 9 reads
    return path is not None and path.suffix == ".toml" and b"ftguard_" in path.read_bytes()


def _added_keys() -> tuple[Key, ...]:
    """Return the keys of gates of the user's own, which a module that was imported by now has added."""
    catalogue = sys.modules.get("pytest_ftguard.gates.catalogue")
    return () if catalogue is None else catalogue.added_keys()


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser
) -> Generator[None, object, object]:
    """Learn of gates of the user's own before options are parsed, behind conftest.py: modules are found next to it."""
    result = yield
    if _is_set(early_config, early_config.known_args_namespace):
        from pytest_ftguard.plugin.in_use import import_gates

        import_gates(early_config)
    _add_options(parser, "Limits and rules", ((key.name, key.flag, key.help) for key in _added_keys()))
    return result


def pytest_configure(config: pytest.Config) -> None:
    """Check every setting before anything is collected."""
    run = Run(config)
    if _is_set(config, config.option):
        from pytest_ftguard.plugin.in_use import configure

        configure(run)
    limits = ", ".join(f"{name}=None" for name in _keywords())
    config.addinivalue_line("markers", f"{_MARKER}({limits}): limits of this test's gates (pytest-ftguard)")
    config.stash[RUN] = run
    running.open_session(run.add_problem)
    config.pluginmanager.register(Collector(run), "ftguard-collector")


def _keywords() -> Iterable[str]:
    catalogue = sys.modules.get("pytest_ftguard.gates.catalogue")
    return LIMITS_AND_RULES if catalogue is None else catalogue.MARKER_KEYS


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fail at once if there is no such renderer, or an accelerator is required and there is none."""
    ours = session.config.stash[RUN].session
    if ours is not None:
        from pytest_ftguard.plugin.in_use import check_at_start

        check_at_start(ours)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker of xdist had left when it ended."""
    for parcel in getattr(node, "workeroutput", {}).get(LEFT_OVER, ()):
        node.config.stash[RUN].use().take(parcel)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of xdist the folder that the processes of this run share."""
    node.config.stash[RUN].folder.share_with(node.workerinput)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a wrong marker into an error of collection, in the file that has it."""
    report = yield
    marked = [node for node in report.result or () if isinstance(node, pytest.Item) and _is_marked(node)]
    if marked:
        from pytest_ftguard.plugin.in_use import refuse_wrong_markers

        refuse_wrong_markers(report, marked)
    return report


def _is_marked(item: pytest.Item) -> bool:
    return next(item.iter_markers(_MARKER), None) is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, object, object]:
    """Keep the names of all tests before a hook leaves some out: their accepted results are in use."""
    config.stash[RUN].collected = [item.nodeid for item in items]
    return (yield)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count what will be trained, so that the next worker can be started early."""
    run = session.config.stash[RUN]
    if any(not FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) for item in session.items):
        from pytest_ftguard.plugin.in_use import count_trainings

        count_trainings(run.use(), session.items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let the assertion helpers know which test is running."""
    run = item.config.stash[RUN]
    test = run.start(item)
    token = active_test.set(cast("RunningTest", test))
    running.enter(cast("RunningTest", test))
    try:
        return (yield)
    finally:
        test.is_over = True
        running.leave()
        active_test.reset(token)
        run.test = None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start each attempt of a test, reruns included, without verdicts; a marker that a hook has added may be wrong."""
    run = item.config.stash[RUN]
    if run.test is not None:
        run.test.start()
    if run.session is not None or _is_marked(item):
        from pytest_ftguard.plugin.in_use import set_up

        set_up(run.session, item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test if a helper failed in one of its threads and nobody asked the thread for its result."""
    __tracebackhide__ = True  # other people's errors pass through here
    result = yield
    test = item.config.stash[RUN].test
    if test is not None:
        test.raise_unhandled()
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Do the same for a thread that has ended since."""
    __tracebackhide__ = True  # other people's errors pass through here
    result = yield
    test = item.config.stash[RUN].test
    if test is not None:
        test.raise_unhandled()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what was trained and decided to the report, which travels from xdist's workers to the controller."""
    if call.excinfo is not None:
        from pytest_ftguard.plugin.tracebacks import hide_our_frames

        hide_our_frames(call.excinfo)
    report = yield
    run = item.config.stash[RUN]
    if run.test is not None:
        run.test.note_made(report)
    parcel = run.session and run.session.pack(call.excinfo.value if call.excinfo is not None else None)
    if parcel is not None:
        report.ftguard = parcel  # type: ignore[attr-defined]
    test = run.session and run.session.test
    if test:
        report.ftguard_test = [test.name, test.attempt]  # type: ignore[attr-defined]
    return report


class Collector:
    """Keeps what reports bring; an object of its own, because pytest's hook for reports names no configuration."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(tryfirst=True)  # before JUnit XML takes the properties
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the trials and verdicts of a report."""
        if self._run.test is not None:
            self._run.test.note_logged(report)
        parcel = getattr(report, "ftguard", None)
        if parcel:
            self._run.use().take(parcel)
        if hasattr(report, "ftguard_test"):
            self._run.use().note_outcome(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the comparison; nothing at all if nothing was trained."""
    ours = config.stash[RUN].session
    if ours is not None and not ours.received.is_empty:
        from pytest_ftguard.plugin.outputs import print_summary

        print_summary(ours, terminalreporter)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the files, from the process that has all results."""
    run = session.config.stash[RUN]
    if run.forks.has():
        run.use()
    if run.session is not None:
        from pytest_ftguard.plugin.in_use import finish

        finish(run.session, session)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what may still be running when the session broke off."""
    run = config.stash.get(RUN, None)
    if run is not None:
        run.close()
        running.close_session()
