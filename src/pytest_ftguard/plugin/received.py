"""What the tests of a run came to, put together from what each of them reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_ftguard.gates.verdict import RecordedVerdict, TestOutcome
    from pytest_ftguard.results import Trial
    from pytest_ftguard.results.retiming import Retiming
    from pytest_ftguard.specs import Places, Variant

__all__ = ["Received", "identity"]


class Received:
    """What has reached the process that shows the summary and writes the files.

    Attributes:
        trials: Every trial that was trained, taken from the store, planned, or read from a report.
        not_run: Why tests were skipped for which nothing could be trained, one reason per test.
        problems: What makes the run fail although no test did.
        notes: What else the summary says.
        accepted: The files of accepted results that were written.
        unchanged: Those that were accepted as they are.
        reasons: Seeds that were trained again, by label and by what differs in the nearest stored entry.
        retimings: Pairs of variants that were timed again, and why.
        made_of_settings: The fixtures of specs that some test got from the settings.
        overridden: Those that some test got from a conftest.py or module of the user.
    """

    def __init__(self) -> None:
        self.trials: dict[tuple[str, bool, bool, str], Trial] = {}
        self.not_run: list[str] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.accepted: list[str] = []
        self.unchanged: list[str] = []
        self.reasons: dict[tuple[str, str], list[int]] = {}
        self.retimings: list[Retiming] = []
        self.made_of_settings: set[str] = set()
        self.overridden: set[str] = set()
        self._verdicts: list[tuple[str, int, bool, RecordedVerdict]] = []
        self._planned: list[RecordedVerdict] = []
        self._attempts: dict[str, int] = {}
        self._seen: dict[tuple[str, int], set[str]] = {}
        # The places of files, and the first known places of files with the same content.
        self._places: dict[Places, Places] = {}

    def take(self, parcel: Mapping[str, Any]) -> None:
        """Take over what a test reported. Of one trial from two workers of xdist, one is kept: that of the work."""
        self._take_trials(parcel["trials"], parcel.get("variant_classes", ()))
        if parcel.get("test"):
            self._take_verdicts(parcel)
        self.accepted += parcel.get("accepted", ())
        self.unchanged += parcel.get("unchanged", ())
        self.not_run += [parcel["not_run"]] if parcel["not_run"] else []
        self.made_of_settings.update(parcel["made_of_settings"])
        self.overridden.update(parcel["overridden"])
        self._take_remarks(parcel)

    def note_outcome(self, test: str, attempt: int, when: str, outcome: str) -> None:
        """Keep what a report says of a test.

        Args:
            test: What tells the test from every other one of the run.
            attempt: How many times it was started.
            when: The phase: "setup", "call" or "teardown".
            outcome: One of `TestOutcome`, or "rerun".
        """
        seen = self._seen.setdefault((test, attempt), set())
        if when == "call" or outcome != "passed":
            seen.add(outcome)
        if when == "teardown":
            seen.add("over")

    def _outcome(self, test: str, attempt: int) -> TestOutcome | None:
        """Return what became of a test; None if not every phase that tells it was reported."""
        seen = self._seen.get((test, attempt), set())
        if "failed" in seen:
            return "failed"
        if "over" not in seen or "rerun" in seen:
            return None
        outcomes: tuple[TestOutcome, ...] = ("xfailed", "skipped", "xpassed", "passed")
        return next((one for one in outcomes if one in seen), None)

    def _take_trials(self, trials: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
        if not trials:
            return
        from pytest_ftguard.errors import ConfigurationError
        from pytest_ftguard.results import Trial
        from pytest_ftguard.specs import find_variant_class

        try:
            for path in classes:  # of this run's own tests, so they may be imported
                find_variant_class(path)
        except ConfigurationError as error:
            self.problems.append(f"ftguard: {error}, so its trials are missing from the summary")
            return
        for values in trials:
            trial = Trial.from_dict(values)
            kept = self.trials.setdefault(identity(trial), trial)
            if trial.provenance.measured_again:  # to the other workers of xdist it is one of the store
                self.trials[identity(trial)] = trial
            ours, theirs = (self._first(one.spec.workload.places) for one in (trial, kept))
            if ours != theirs:
                self._places[ours] = theirs

    def _take_verdicts(self, parcel: Mapping[str, Any]) -> None:
        nodeid, test, attempt = parcel["nodeid"], parcel["test"], parcel["attempt"]
        self._attempts[test] = max(attempt, self._attempts.get(test, 0))
        if not (parcel["verdicts"] or parcel["planned"]):
            return
        from pytest_ftguard.gates.verdict import RecordedVerdict, Verdict

        for values in parcel["verdicts"]:
            one = RecordedVerdict(nodeid, Verdict.from_dict(values))
            self._verdicts.append((test, attempt, bool(parcel.get("is_late")), one))
        self._planned += [RecordedVerdict(nodeid, Verdict.from_dict(values)) for values in parcel["planned"]]

    def _take_remarks(self, parcel: Mapping[str, Any]) -> None:
        for label, seed, changes in parcel["reasons"]:
            self.reasons.setdefault((label, changes), []).append(seed)
        if parcel["retimings"]:
            from pytest_ftguard.results.retiming import Retiming

            found = [Retiming(**values) for values in parcel["retimings"]]
            self.retimings += [one for one in found if one not in self.retimings]
        self.notes += [f"note: {text}" for text in parcel["notes"] if f"note: {text}" not in self.notes]
        self.problems += parcel["problems"]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to say."""
        return not (self.trials or self._verdicts or self.not_run or self.problems or self.notes)

    @property
    def reported(self) -> list[Trial]:
        """The trials. Those with the same files are of one workload, even if each worker of xdist had its own copies.

        A trial that one test did not need counts only if no other test had it trained, and one that was evaluated
        again only if no gate had it trained after that.
        """
        trials = self.trials.values()
        trained = {_asked_for(trial) for trial in trials if trial.measured.outcome != "not_trained"}
        whole = {_asked_for(trial) for trial in trials if trial.measured.outcome == "ok" and _is_whole(trial)}
        found = (
            trial
            for trial in trials
            if (trial.measured.outcome != "not_trained" or _asked_for(trial) not in trained)
            and (_is_whole(trial) or _asked_for(trial) not in whole)
        )
        return [self._with_places(trial) for trial in found]

    @property
    def planned(self) -> list[RecordedVerdict]:
        """What memory budgets would say if the forecasts came true."""
        return self._planned

    @property
    def concluded(self) -> list[RecordedVerdict]:
        """The verdicts; if a test was tried several times, those of its last attempt.

        The outcome of a test says nothing of a verdict that was given after it.
        """
        from dataclasses import replace

        return [
            replace(one, test_outcome=None if is_late else self._outcome(test, attempt))
            for test, attempt, is_late, one in self._verdicts
            if attempt == self._attempts[test]
        ]

    def _with_places(self, trial: Trial) -> Trial:
        from dataclasses import replace

        work = trial.spec.workload
        return replace(trial, spec=replace(trial.spec, workload=replace(work, **self._first(work.places)._asdict())))

    def _first(self, places: Places) -> Places:
        while places in self._places:
            places = self._places[places]
        return places


def identity(trial: Trial) -> tuple[str, bool, bool, str]:
    """Tell a trial from its twins: that of a report, one that was left out, and that of another workload like it.

    If a fixture writes a text to a folder of its worker, the workers of xdist still ask for one workload.
    """
    from pytest_ftguard.specs import key_of

    work = key_of(trial.spec.workload, "trial", places="named")
    return trial.fingerprint, trial.provenance.cached, trial.measured.outcome == "not_trained", work


def _is_whole(trial: Trial) -> bool:
    """Return whether a trial's losses along training are of its own evaluation; one of a report stands for itself."""
    return trial.measured.curve_of is None or trial.provenance.content is None


def _asked_for(trial: Trial) -> tuple[str, Variant, int]:
    from pytest_ftguard.specs import key_of

    return key_of(trial.spec.workload, "trial", places="named"), trial.spec.variant, trial.spec.seed
