"""What pytest's hooks do in a run that uses the plugin."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.plugin.on_demand import Accepting, Plan
from pytest_ftguard.plugin.outputs import check_outputs, write_outputs
from pytest_ftguard.plugin.run import FIXTURES, LEFT_OVER, Run
from pytest_ftguard.plugin.session import Session
from pytest_ftguard.plugin.xdist import is_worker
from pytest_ftguard.settings import own_gates
from pytest_ftguard.settings.markers import find_problem, memory_budget
from pytest_ftguard.settings.reading import read_settings

__all__ = [
    "check_at_start",
    "configure",
    "count_trainings",
    "finish",
    "import_gates",
    "refuse_wrong_markers",
    "set_up",
]

# With `request` a test may ask for a fixture of ours while it runs.
_MAY_TRAIN = FIXTURES | {"request"}


def import_gates(config: pytest.Config) -> None:
    """Import the modules that `ftguard_gates` names; each adds its gates."""
    try:
        own_gates.import_gates(config)
    except ConfigurationError as error:
        raise pytest.UsageError(f"ftguard: {error}") from None


def configure(run: Run) -> None:
    """Read the settings, and register the hooks that some of them need."""
    import_gates(run.config)  # if a conftest.py names this plugin, pytest has not called its early hook
    try:
        ours = run.use(read_settings(run.config))
    except ConfigurationError as error:
        raise pytest.UsageError(f"ftguard: {error}") from None
    if ours.is_planned:
        run.config.pluginmanager.register(Plan(), "ftguard-plan")
    elif ours.settings.value("update", False):
        run.config.pluginmanager.register(Accepting(ours), "ftguard-accepting")


def check_at_start(ours: Session) -> None:
    """Fail at once if there is no such renderer, or an accelerator is required and there is none."""
    if is_worker(ours.config):
        return
    try:
        check_outputs(ours)
    except ConfigurationError as error:
        raise pytest.UsageError(f"ftguard: {error}") from None
    required = ours.settings.get("require_gpu")
    idle = ours.settings.value("disable", False) or ours.is_planned
    if required is None or not required.value or idle:
        return
    from pytest_ftguard.running.local.devices import find_accelerator

    try:
        problem = None if find_accelerator() else "this machine has no accelerator that torch can use"
    except FtguardError as error:
        problem = str(error)
    if problem:
        raise pytest.UsageError(f"ftguard: require_gpu is set by {required.origin.name}, but {problem}")


def refuse_wrong_markers(report: pytest.CollectReport, items: Sequence[pytest.Item]) -> None:
    """Turn a wrong marker of a test into an error of collection."""
    problems = [f"{item.nodeid}: {problem}" for item in items if (problem := find_problem(item))]
    if problems:
        report.outcome = "failed"
        report.longrepr = "\n".join(problems)
        report.result = []


def count_trainings(ours: Session, items: Sequence[pytest.Item]) -> None:
    """Count what the tests will train."""
    used = [name for item in items for name in getattr(item, "fixturenames", ()) if name in FIXTURES]
    ours.tests_to_come = used.count("ftguard")
    ours.session_variants_to_come = set(used) - {"ftguard"}
    for item in items:
        for name in FIXTURES.intersection(getattr(item, "fixturenames", ())):
            # A wrong marker, which a hook has added since, is an error of its test.
            budget = None if find_problem(item) else memory_budget(item)
            ours.fixture_budgets.setdefault(name, []).append(budget)


def set_up(ours: Session | None, item: pytest.Item) -> None:
    """Prepare the specs of a test before its fixtures are set up, unless a marker is wrong."""
    problem = find_problem(item)
    if problem:
        pytest.fail(f"ftguard: {problem}", pytrace=False)
    if ours is not None and not _MAY_TRAIN.isdisjoint(getattr(item, "fixturenames", ())):
        ours.overrides.start(item)


def finish(ours: Session, session: pytest.Session) -> None:
    """Write the files, from the process that has all results."""
    ours.workshop.close()
    left = ours.left_over()
    if is_worker(session.config):
        session.config.workeroutput[LEFT_OVER] = left  # type: ignore[attr-defined]
        return
    for parcel in left:
        ours.take(parcel)
    write_outputs(ours)
    if ours.received.problems:
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
