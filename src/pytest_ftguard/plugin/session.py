"""The state of one pytest process: its lab, what was trained and decided, and the progress display."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, hide_our_frames
from pytest_ftguard.files import name_problem, write_whole
from pytest_ftguard.plugin.active_test import TestRecord, is_worker
from pytest_ftguard.plugin.overrides import Overrides
from pytest_ftguard.plugin.progress import ProgressDisplay
from pytest_ftguard.plugin.received import Received, identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_ftguard.accepting.record import UnusedFile
    from pytest_ftguard.gates.calibration import Calibration
    from pytest_ftguard.gates.verdict import Verdict
    from pytest_ftguard.keys import Setting
    from pytest_ftguard.results import TrainedVariant, TrialResult
    from pytest_ftguard.running.lab import Lab
    from pytest_ftguard.settings.reading import Settings
    from pytest_ftguard.specs import Full, Variant, Workload
    from pytest_ftguard.store.store import Store

__all__ = ["Run"]

__tracebackhide__ = hide_our_frames

_SHARED_FOLDER: Final = "ftguard_folder"
# A forecast must miss a budget by this factor before the training is not even tried.
_CLEARLY: Final = 1.1


class Run:
    """The state of one pytest process.

    Args:
        config: pytest's configuration.
        settings: What command line, environment and ini file set.
    """

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.config = config
        self.settings = settings
        self.test: TestRecord | None = None
        self.tests_started = 0
        self.received = Received()
        self.overrides = Overrides()
        self.collected: Sequence[str] = ()
        """pytest's names of all tests, also of those that were then left out."""
        self._unused: Sequence[UnusedFile] | None = None
        self.new_notes: list[str] = []
        """What the summary is to say, and no report has brought there yet."""
        self.new_problems: list[str] = []
        """What makes the run fail, and no report has brought to the summary yet."""
        self._late: list[TestRecord] = []
        self._outbox: dict[str, dict[str, Any]] = {}
        """Parcels that are on their way: a plugin may drop the report that carries one."""
        self._numbers = itertools.count()
        self._told: dict[str, set[str]] = {"made_of_settings": set(), "overridden": set()}
        self._worker = getattr(config, "workerinput", {}).get("workerid", "main")
        self._calibrations: tuple[Calibration, ...] | None = None
        self._skips: list[BaseException] = []
        self._lab: Lab | None = None
        self._sent: set[tuple[str, bool, bool, str]] = set()
        self._shown: dict[tuple[str, bool, bool, str], TrialResult] = {}
        self._progress = ProgressDisplay(config)
        self._store: Store | None = None
        self._remarked = (0, 0, 0, 0)
        shared = getattr(config, "workerinput", {}).get(_SHARED_FOLDER)
        self._shared: Path | None = Path(shared) if shared else None
        self.specs_of_settings: list[object] = []
        """The specs that fixtures made of settings, as they gave them: only these does an ini key change."""
        self.made_of_settings: set[str] = set()
        """Fixtures of specs that were made of settings."""
        self.overridden: set[str] = set()
        """Fixtures of specs that the user has made otherwise."""
        self.session_variants_to_come: set[str] = set()
        self.fixture_budgets: dict[str, list[Setting | None]] = {}
        """The memory budget of each test that uses a session fixture of ours."""
        self.tests_to_come = 0
        """Tests after the present one that train variants of their own."""

    def train(
        self,
        variant: Variant | Callable[[], Variant],
        workload: Callable[[], Workload],
        full: Callable[[], Full],
        budgets: Sequence[Setting | None],
    ) -> TrainedVariant:
        """Train a variant, or return what was trained before; what cannot be done fails or skips the test.

        Args:
            variant: What is trained, or how to get it.
            workload: How to get what is held fixed.
            full: How to get full fine-tuning, whose learning rate that of LoRA follows by default.
            budgets: The memory budget of each test that asks for the variant; None where it has none.
        """
        if self.settings.value("disable", False):
            raise self._skip("ftguard is disabled: nothing is trained")
        from dataclasses import replace

        from pytest_ftguard.specs import Full, LoRA, Workload, rate_source, with_learning_rate

        chosen = variant() if callable(variant) else variant
        if not isinstance(chosen, Full | LoRA):
            pytest.fail(f"ftguard: a variant must be Full(...) or LoRA(...), got {chosen!r}", pytrace=False)
        try:
            lab = self._open_lab()
            lab.more_variants_expected = len(self.session_variants_to_come) + self.tests_to_come
            asked = workload()
            if not isinstance(asked, Workload):
                raise _failure(f"ftguard: a workload must be Workload(...), got {asked!r}")
            work = self._with_calibration_seeds(_absolute(asked, self.config.rootpath))
            if self.is_planned:
                planned = lab.plan(work, with_learning_rate(chosen, full()))
                self.show([planned])
                return planned
            self._refuse_what_breaks_budgets(lab, work, with_learning_rate(chosen, full()), full, budgets)
            trained = lab.train(work, self._with_learning_rate(lab, work, chosen, full))
            is_of_settings = any(chosen is made for made in self.specs_of_settings)
            trained = replace(trained, rate=rate_source(chosen, "settings" if is_of_settings else "code"))
        except DeviceUnavailableError as error:
            if self.settings.value("require_gpu", False):
                raise _failure(f"ftguard: {error}, and require_gpu is set") from None
            raise self._skip(f"ftguard: {error}") from None
        except ConfigurationError as error:
            raise _failure(f"ftguard: {error}") from None
        on_cpu = any(trial.environment is not None and trial.environment.device == "cpu" for trial in trained.trials)
        if on_cpu and self.settings.value("require_gpu", False):
            pytest.fail("ftguard: require_gpu is set, but the trial was trained on the CPU", pytrace=False)
        return trained

    @property
    def is_planned(self) -> bool:
        """Whether nothing is to be trained, and the trials are only listed."""
        return bool(self.settings.value("plan", False))

    def _refuse_what_breaks_budgets(
        self,
        lab: Lab,
        workload: Workload,
        variant: Variant,
        full: Callable[[], Full],
        budgets: Sequence[Setting | None],
    ) -> None:
        """Fail before a training whose forecast breaks the memory budgets of all tests that need it by a clear margin.

        A test without a budget, or with a larger one, has a use for the training. Budgets are for what saves memory, so
        full fine-tuning is not held against them.
        """
        if not budgets or None in budgets or variant.kind == "full" or self.settings.value("forecast", "yes") == "no":
            return
        from dataclasses import replace

        from pytest_ftguard.gates.limits import SHARE, Limit
        from pytest_ftguard.gates.memory import foretell_memory
        from pytest_ftguard.specs import with_learning_rate

        candidate = lab.plan(workload, variant)
        if candidate.cached:
            return
        whole = full()
        broken = []
        for budget in filter(None, budgets):
            allowed = Limit.of(budget)
            limit = replace(allowed, value=_CLEARLY * allowed.value)
            baseline = lab.plan(workload, with_learning_rate(whole, whole)) if limit.unit == SHARE else None
            foretold = foretell_memory(candidate, limit, baseline)
            if foretold.status != "FAIL":
                return
            broken.append(f"{allowed} (set by {allowed.origin.name})")
        message = (
            f"ftguard: {foretold.message}, which breaks the budget of {' and '.join(dict.fromkeys(broken))} by a clear "
            "margin, so it was not trained; ftguard_forecast = no trains all the same"
        )
        raise _failure(message)

    def _with_learning_rate(self, lab: Lab, workload: Workload, variant: Variant, full: Callable[[], Full]) -> Variant:
        """Return the variant with its learning rate, searched where that is asked for."""
        from dataclasses import replace

        from pytest_ftguard.running.search import find_learning_rate
        from pytest_ftguard.specs import with_learning_rate

        def searched(chosen: Variant) -> float:
            lab.more_variants_expected += 1  # after each trial of the search comes another one, or the training itself
            try:
                return find_learning_rate(lab.train, workload, chosen)
            finally:
                lab.more_variants_expected -= 1

        if variant.learning_rate is None:
            # LoRA's rate follows full's, so where that is searched it is searched first; what was tried is remembered.
            base = full()
            if base.search_learning_rate and variant.kind != "full":
                base = replace(base, learning_rate=searched(with_learning_rate(base, base)))
            variant = with_learning_rate(variant, base)
        return replace(variant, learning_rate=searched(variant)) if variant.search_learning_rate else variant

    def _with_calibration_seeds(self, workload: Workload) -> Workload:
        from dataclasses import replace

        count = self.settings.value("calibrate", 0)
        return replace(workload, seeds=tuple(range(count)), most_seeds=0) if count else workload

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """What the file of calibrations holds; nothing where there is none yet.

        Raises:
            ConfigurationError: It is not a file of calibrations.
        """
        if self._calibrations is None:
            from pytest_ftguard.gates.calibration import read_calibrations

            setting = self.settings.get("calibration")
            path = None if setting is None else Path(setting.value)
            found = path is not None and path.exists()
            place = f"the calibration {path} (set by {setting.origin.name})" if setting else ""
            self._calibrations = read_calibrations(path.read_text(encoding="utf-8"), place) if path and found else ()
        return self._calibrations

    def find_unused(self, folder: Path, tests: Iterable[str]) -> Sequence[UnusedFile]:
        """Return the files of accepted results that no test looks for, and note them for the summary.

        Args:
            folder: Where the files are.
            tests: pytest's names of the tests that are run.
        """
        if self._unused is None:
            from pytest_ftguard.accepting.files import find_unused, unused_note
            from pytest_ftguard.plugin.collected import collected

            found = collected(self.config, {*self.collected, *tests})
            self._unused = find_unused(folder, found.names, found.has_looked_for)
            self.new_notes += [unused_note(unused, found.names) for unused in self._unused]
        return self._unused

    def calibrate(self) -> None:
        """Write the noise of seeds of all that was trained, where that was asked for, and say so in the summary."""
        if not self.settings.value("calibrate", 0) or self.is_planned:
            return
        from pytest_ftguard.gates.calibration import calibrate, write_calibrations
        from pytest_ftguard.results import by_variant

        path = Path(self.settings.value("calibration", None))
        found = []
        for baseline, candidates in by_variant(self.received.reported):
            for candidate in candidates:
                try:
                    found.append(calibrate(candidate, baseline))
                except ConfigurationError as error:
                    self.received.problems.append(f"ftguard: {error}")
                    continue
                noise = f"{found[-1].tau:.4f} nats per token over {found[-1].degrees_of_freedom + 1} seeds"
                self.received.notes.append(
                    f"calibrated {candidate.label} against {baseline.label}: {noise}, written to {path}"
                )
        if found:
            write_whole(path, write_calibrations([*self.calibrations, *found]))

    def _skip(self, reason: str) -> BaseException:
        self._skips.append(pytest.skip.Exception(reason))
        return self._skips[-1]

    def _why_not_run(self, error: BaseException) -> str | None:
        """Return why an exception skipped a test because nothing could be trained for it; None for any other."""
        return next((str(skip) for skip in self._skips if error is skip), None)

    def _open_lab(self) -> Lab:
        from pytest_ftguard.running.executor import ExecutorOptions
        from pytest_ftguard.running.executors import DEFAULT_EXECUTOR, make_executor
        from pytest_ftguard.running.lab import Lab, LabOptions

        if self._lab is None:
            self._store = self._open_store()
            chosen = self.settings.get("executor")
            name, origin = (chosen.value, chosen.origin.name) if chosen else (DEFAULT_EXECUTOR, "default")
            executor = make_executor(name, ExecutorOptions(self._shared, _disturbance(self.config)), origin)
            options = LabOptions(
                device=self.settings.value("device", "auto"),
                timeout_seconds=self.settings.value("timeout", None),
                keep_at_most_bytes=self.settings.keep_at_most_bytes,
                foretell=self.settings.value("forecast", "yes") == "yes",
                root=self._shared,
            )
            self._lab = Lab(options, executor, self._progress.show, self._store)
        return self._lab

    def _open_store(self) -> Store:
        from pytest_ftguard.store.store import Store, StoreOptions

        chosen = self.settings.store(self.config.rootpath)
        if chosen is None:
            # One that ends with the run: the workers of xdist share what they train, and with nobody else.
            chosen = StoreOptions(self._share() / "store", keeps_weights=False)
        return Store(chosen, self._shared.name if self._shared else uuid.uuid4().hex)

    def _share(self) -> Path:
        """Return the folder that all processes of this run share; the controller removes it."""
        if self._shared is None:
            self._shared = Path(tempfile.mkdtemp(prefix="pytest-ftguard-"))
        return self._shared

    def share_with(self, workerinput: dict[str, Any]) -> None:
        """Give a worker of xdist the folder that all processes of this run share."""
        workerinput[_SHARED_FOLDER] = str(self._share())

    @property
    def has_trained(self) -> bool:
        """Whether anything was trained, taken from the store, or planned."""
        return self._lab is not None

    def _new_remarks(self) -> dict[str, Any]:
        """Return why trials were trained or timed again, and what is wrong with kept files, since the last call."""
        from dataclasses import asdict

        reasons = self._lab.reasons if self._lab else []
        problems = self._store.problems if self._store else []
        retimings = self._lab.retimings if self._lab else ()
        notes, self.new_notes = self.new_notes, []
        faults, self.new_problems = self.new_problems, []
        broken_off = self._lab.broken_off if self._lab else []
        notes += [f"the training of {one}, so its gates gave no verdict" for one in broken_off[self._remarked[3] :]]
        fresh = {
            "reasons": [[one.label, one.seed, one.changes] for one in reasons[self._remarked[0] :]],
            "notes": [*problems[self._remarked[1] :], *notes],
            "problems": faults,
            "retimings": [asdict(one) for one in retimings[self._remarked[2] :]],
        }
        self._remarked = (len(reasons), len(problems), len(retimings), len(broken_off))
        return fresh

    def show(self, variants: Sequence[TrainedVariant]) -> None:
        """Keep the trials of variants for the summary, among which may be some that were not trained in this run."""
        for trial in (trial for variant in variants for trial in variant.trials):
            self._shown.setdefault(identity(trial), trial)

    def _new_trials(self) -> list[TrialResult]:
        """Return the trials since the last call."""
        trained = self._lab.results if self._lab else ()
        known = set(map(identity, trained))
        results = [*trained, *(trial for trial in self._shown.values() if identity(trial) not in known)]
        fresh = [trial for trial in results if identity(trial) not in self._sent]
        self._sent.update(map(identity, fresh))
        return fresh

    def new_test(self, item: pytest.Item) -> TestRecord:
        """Return the record of a test that starts now."""
        self.tests_started += 1
        return TestRecord(item, self, f"{self._worker}-{self.tests_started}")

    def unused_settings(self) -> dict[str, list[str]]:
        """Return the places of settings without effect, by the fixture that every test got from elsewhere."""
        unused = sorted(self.received.overridden - self.received.made_of_settings)
        places = {name: [setting.origin.name for setting in self.settings.of_fixture(name)] for name in unused}
        return {name: found for name, found in places.items() if found}

    def add_late(self, test: TestRecord, verdict: Verdict) -> None:
        """Keep a verdict that was given after its test was over, which makes the run fail unless it is a PASS."""
        self._late.append(test)
        text = (
            f"{test}: {verdict.gate} {verdict.status} was given by a thread after the test was over: let the test wait "
            "for its threads"
        )
        (self.new_notes if verdict.status == "PASS" else self.new_problems).append(text)

    def pack(self, test: TestRecord | None, error: BaseException | None = None) -> dict[str, Any] | None:
        """Return what is new since the last call as plain values for a report; None if nothing is.

        Args:
            test: The test that is running.
            error: What ended the phase of the test.
        """
        origins = {"made_of_settings": self.made_of_settings, "overridden": self.overridden}
        parcel: dict[str, Any] = {
            **({} if test is None else test.news()),
            "trials": [trial.to_dict() for trial in self._new_trials()],
            "not_run": None if error is None else self._why_not_run(error),
            **self._new_remarks(),
            **{name: sorted(fixtures - self._told[name]) for name, fixtures in origins.items()},
        }
        # A later attempt that gives no verdict takes back those of the attempt before.
        if not any(parcel.values()) and not (test is not None and test.has_forgotten):
            return None
        self._told = {name: set(fixtures) for name, fixtures in origins.items()}
        if test is not None:
            parcel |= {"nodeid": str(test), "test": test.name, "attempt": test.attempt}
        parcel["number"] = f"{self._worker}-{next(self._numbers)}"
        self._outbox[parcel["number"]] = parcel
        return parcel

    def take(self, parcel: dict[str, Any]) -> None:
        """Take over what a report has brought."""
        self._outbox.pop(parcel["number"], None)
        if not is_worker(self.config):
            self.received.take(parcel)

    def left_over(self) -> list[dict[str, Any]]:
        """Return what no report has brought: plugins drop reports, and whoever stops a run leaves tests without one."""
        for test in dict.fromkeys(self._late):
            self.pack(test)
        self.pack(None)
        left, self._outbox = list(self._outbox.values()), {}
        return left

    def close(self) -> None:
        """End what is running and remove what was written."""
        if self._lab is not None:
            self._lab.close()
        if self._shared is not None and not is_worker(self.config):
            shutil.rmtree(self._shared, ignore_errors=True)


def _failure(message: str) -> BaseException:
    """Return what pytest.fail raises, for use with `from None`: a chained exception would be printed as well."""
    return pytest.fail.Exception(message, pytrace=False)


def _disturbance(config: pytest.Config) -> str | None:
    """Return what keeps the processor busy beside a trial: the tests of xdist's other workers, for one."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers == 1:
        return None
    return (
        f"{workers} workers of xdist run tests on the same processor: run the time gates in a run of their own, "
        "without xdist"
    )


def _absolute(workload: Workload, root: Path) -> Workload:
    """Return the workload with its paths taken from pytest's root folder, as those of the ini file are."""
    from dataclasses import replace

    from pytest_ftguard.specs import places_of

    kind = type(workload)
    paths = {name: path for name in places_of(kind, "model", "text") if (path := getattr(workload, name)) is not None}
    texts = places_of(kind, "text")
    # A model that is no folder is a name on the hub.
    found = {
        name: os.path.normpath(root / path) if name in texts or (root / path).is_dir() else path
        for name, path in paths.items()
    }
    for name, path in found.items():
        if problem := name_problem(path):
            raise ConfigurationError(f"Workload.{name} is {path!r}: {problem}")
    return replace(workload, **found)
