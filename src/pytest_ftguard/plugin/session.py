"""What one pytest process holds: settings, where trials are trained, what it has to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError
from pytest_ftguard.plugin.active_test import TestRecord
from pytest_ftguard.plugin.outbox import Outbox
from pytest_ftguard.plugin.overrides import Overrides
from pytest_ftguard.plugin.received import Received
from pytest_ftguard.plugin.workshop import Workshop
from pytest_ftguard.plugin.xdist import is_worker, process_name

if TYPE_CHECKING:
    from pytest_ftguard.gates.calibration import Calibration
    from pytest_ftguard.gates.setting import Setting
    from pytest_ftguard.plugin.run import CurrentTest, Run
    from pytest_ftguard.results import TrainedVariant
    from pytest_ftguard.settings.reading import Settings
    from pytest_ftguard.specs import Full, Variant, Workload
    from pytest_ftguard.specs.methods.rates import Maker

__all__ = ["Session"]


class Session:
    """What one pytest process holds once it uses the plugin.

    Args:
        run: The run of pytest.
        settings: What command line, environment and ini file set.

    Attributes:
        received: What has reached this process.
        outbox: What is to be told.
        overrides: Which specs hold for which test.
        specs_of_settings: The specs that fixtures made of settings, as they gave them: only these does an ini key
            change.
        session_variants_to_come: The session's variants that are asked for and not made yet.
        fixture_budgets: By session fixture of ours, the memory budget of each test that uses it.
        tests_to_come: Number of tests after the present one that train variants of their own.
    """

    def __init__(self, run: Run, settings: Settings) -> None:
        self.config = run.config
        self.settings = settings
        self.received = Received()
        self.workshop = Workshop(run.config, settings, run.folder)
        self.outbox = Outbox(process_name(run.config), self.workshop)
        self.overrides = Overrides()
        self.specs_of_settings: list[object] = []
        self.session_variants_to_come: set[str] = set()
        self.fixture_budgets: dict[str, list[Setting | None]] = {}
        self.tests_to_come = 0
        self._run = run
        self._has_noted_unused = False
        self._calibrations: tuple[Calibration, ...] | None = None
        self._skips: list[BaseException] = []

    @property
    def test(self) -> TestRecord | None:
        """The test that is running."""
        return None if self._run.test is None else self._run.test.opened()

    @property
    def is_planned(self) -> bool:
        """Whether nothing is to be trained, and the trials are only listed."""
        return bool(self.settings.value("plan", False))

    def train(
        self,
        variant: Variant | Callable[[], Variant],
        workload: Callable[[], Workload],
        full: Callable[[], Full],
        budgets: Sequence[Setting | None],
        why_not: str | None = None,
    ) -> TrainedVariant:
        """Train a variant, or return what was trained before; what cannot be done fails or skips the test.

        Args:
            variant: What is trained, or how to get it.
            workload: How to get what is held fixed.
            full: How to get full fine-tuning: its learning rate decides LoRA's by default.
            budgets: The memory budget of each test that asks for the variant; None if a test has none.
            why_not: Why it is not worth a training, so that only a result that is there already is returned.
        """
        if self.settings.value("disable", False):
            raise self._skip("ftguard is disabled: nothing is trained")
        from pytest_ftguard.plugin.policy import Policy, absolute
        from pytest_ftguard.specs import Variant, Workload, import_path

        chosen = variant() if callable(variant) else variant
        if not isinstance(chosen, Variant):
            message = f"ftguard: a variant must be Full(...), LoRA(...), Peft(...) or one of your own, got {chosen!r}"
            pytest.fail(message, pytrace=False)
        try:
            lab = self.workshop.open()
            lab.more_variants_expected = len(self.session_variants_to_come) + self.tests_to_come
            import_path(chosen)  # a class of the user's that another process would not find is an error here
            asked = workload()
            if not isinstance(asked, Workload):
                raise _failure(f"ftguard: a workload must be Workload(...), got {asked!r}")
            work = absolute(asked, self.config.rootpath)
            self.settings.check_task(work.task)
            trained = Policy(self.settings, lab).train(work, chosen, full, budgets, why_not, maker=self._maker(chosen))
            trained = replace(trained, workload_maker=self._maker(asked), overriding=self.settings.overriding())
        except DeviceUnavailableError as error:
            if self.settings.value("require_gpu", False):
                raise _failure(f"ftguard: {error}, and require_gpu is set") from None
            raise self._skip(f"ftguard: {error}") from None
        except ConfigurationError as error:
            raise _failure(f"ftguard: {error}") from None
        if self.is_planned:
            self.show([trained])
            return trained
        self._check_device(trained)
        return trained

    def _maker(self, spec: object) -> Maker:
        """Return what made a spec that a fixture or a test gives."""
        return "settings" if any(spec is made for made in self.specs_of_settings) else "code"

    def _check_device(self, trained: TrainedVariant) -> None:
        on_cpu = any(
            trial.measured.environment is not None and trial.measured.environment.device == "cpu"
            for trial in trained.trials
        )
        if on_cpu and self.settings.value("require_gpu", False):
            pytest.fail("ftguard: require_gpu is set, but the trial was trained on the CPU", pytrace=False)

    def show(self, variants: Iterable[TrainedVariant]) -> None:
        """Have the summary show the trials of variants, which may come from a report."""
        from pytest_ftguard.plugin.policy import with_absolute_paths

        trials = (trial for variant in variants for trial in variant.trials)
        self.outbox.show(with_absolute_paths(trials, self.config.rootpath))

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """What the file of calibrations holds; nothing if there is none yet.

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

    def note_unused(self, folder: Path, tests: Iterable[str]) -> None:
        """Have the summary name, once, the files of accepted results that no test looks for.

        Args:
            folder: The folder of the files.
            tests: pytest's names of the tests that are run.
        """
        if self._has_noted_unused:
            return
        self._has_noted_unused = True
        from pytest_ftguard.accepting.unused import find_unused, unused_note
        from pytest_ftguard.plugin.collected import collected

        found = collected(self.config, {*self._run.collected, *tests})
        for unused in find_unused(folder, found.names, found.has_looked_for):
            self.outbox.note(unused_note(unused, found.names))

    def unused_settings(self) -> dict[str, list[str]]:
        """Return the places of settings without effect, by the fixture that every test got from elsewhere."""
        unused = sorted(self.received.overridden - self.received.made_of_settings)
        places = {name: [setting.origin.name for setting in self.settings.of_fixture(name)] for name in unused}
        return {name: found for name, found in places.items() if found}

    def new_test(self, test: CurrentTest) -> TestRecord:
        """Return the record of a test, which starts now or is running already."""
        self.tests_to_come -= "ftguard" in getattr(test.item, "fixturenames", ())
        if test.attempt:
            self.overrides.start(test.item)
        return TestRecord(test, self, f"{process_name(self.config)}-{test.number}")

    def pack(self, error: BaseException | None) -> dict[str, object] | None:
        """Return what the test that is running has come to, for its report; None if there is nothing new.

        Args:
            error: What ended the phase of the test.
        """
        not_run = next((str(skip) for skip in self._skips if error is skip), None)
        return self.outbox.pack(self.test, not_run)

    def take(self, parcel: dict[str, object]) -> None:
        """Take over what a report has brought."""
        self.outbox.arrived(parcel)
        if not is_worker(self.config):
            self.received.take(parcel)

    def note_outcome(self, report: pytest.TestReport) -> None:
        """Keep what a report says of a test, which may ask a gate."""
        if not is_worker(self.config):
            test, attempt = report.ftguard_test
            expected = {"skipped": "xfailed", "passed": "xpassed"} if hasattr(report, "wasxfail") else {}
            outcome = expected.get(report.outcome, report.outcome)
            self.received.note_outcome(test, attempt, str(report.when), outcome)

    def left_over(self) -> list[dict[str, object]]:
        """Return what no report has brought."""
        if self._run.forks.take():
            self.outbox.problems.append("ftguard: a helper was called in a forked process after its test was over")
        return self.outbox.left_over()

    def _skip(self, reason: str) -> BaseException:
        self._skips.append(pytest.skip.Exception(reason))
        return self._skips[-1]


def _failure(message: str) -> BaseException:
    """Return what pytest.fail raises, for use with `from None`: a chained exception would be printed as well."""
    return pytest.fail.Exception(message, pytrace=False)
