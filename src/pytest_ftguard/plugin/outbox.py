"""What a pytest process has to tell, packed into the reports of its tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_ftguard.plugin.received import identity

if TYPE_CHECKING:
    from pytest_ftguard.gates.verdict import Verdict
    from pytest_ftguard.plugin.active_test import TestRecord
    from pytest_ftguard.plugin.workshop import Workshop
    from pytest_ftguard.results import Trial

__all__ = ["Outbox"]


class Outbox:
    """News for the process that shows the summary; in a run without xdist this very process.

    Args:
        process: The name of this process.
        workshop: Where trials are trained.

    Attributes:
        notes: What the summary is to say.
        problems: What makes the run fail.
        made_of_settings: Fixtures of specs that were made of settings.
        overridden: Fixtures of specs that the user has made in another way.
    """

    def __init__(self, process: str, workshop: Workshop) -> None:
        self.notes: list[str] = []
        self.problems: list[str] = []
        self.made_of_settings: set[str] = set()
        self.overridden: set[str] = set()
        self._process = process
        self._workshop = workshop
        self._numbers = itertools.count()
        # Parcels that are on their way: a plugin may drop the report that carries one.
        self._sent: dict[str, dict[str, Any]] = {}
        self._late: list[TestRecord] = []
        self._told_origins: dict[str, set[str]] = {"made_of_settings": set(), "overridden": set()}
        self._told_remarks = (0, 0, 0, 0)
        self._told_trials: set[tuple[str, bool, bool, str]] = set()
        self._shown: dict[tuple[str, bool, bool, str], Trial] = {}

    def note(self, text: str) -> None:
        """Have the summary say something, once."""
        if text not in self.notes:
            self.notes.append(text)

    def show(self, trials: Iterable[Trial]) -> None:
        """Keep trials for the summary, among which may be some that were not trained in this run."""
        for trial in trials:
            self._shown.setdefault(identity(trial), trial)

    def add_late(self, test: TestRecord, verdict: Verdict) -> None:
        """Keep a verdict that was given after its test was over, which makes the run fail unless it is a PASS."""
        self._late.append(test)
        text = (
            f"{test}: {verdict.gate} {verdict.status} was given by a thread after the test was over: let the test wait "
            "for its threads"
        )
        (self.notes if verdict.status == "PASS" else self.problems).append(text)

    def pack(self, test: TestRecord | None, not_run: str | None = None) -> dict[str, Any] | None:
        """Return what is new since the last call as plain values for a report; None if nothing is.

        Args:
            test: The test that is running.
            not_run: Why nothing could be trained for it, if that is why it was skipped.
        """
        origins = {"made_of_settings": self.made_of_settings, "overridden": self.overridden}
        trials = self._new_trials()
        parcel: dict[str, Any] = {
            **({} if test is None else test.news()),
            "trials": [trial.to_dict() for trial in trials],
            "variant_classes": _classes_of(trials),
            "not_run": not_run,
            **self._new_remarks(),
            **{name: sorted(fixtures - self._told_origins[name]) for name, fixtures in origins.items()},
        }
        # A later attempt that gives no verdict takes back those of the attempt before.
        if not any(parcel.values()) and not (test is not None and test.has_forgotten):
            return None
        self._told_origins = {name: set(fixtures) for name, fixtures in origins.items()}
        if test is not None:
            parcel |= {"nodeid": str(test), "test": test.name, "attempt": test.attempt}
        parcel["number"] = f"{self._process}-{next(self._numbers)}"
        self._sent[parcel["number"]] = parcel
        return parcel

    def _new_trials(self) -> list[Trial]:
        trained = self._workshop.lab.results if self._workshop.lab else ()
        known = set(map(identity, trained))
        results = [*trained, *(trial for name, trial in self._shown.items() if name not in known)]
        fresh = [trial for trial in results if identity(trial) not in self._told_trials]
        self._told_trials.update(map(identity, fresh))
        return fresh

    def _new_remarks(self) -> dict[str, Any]:
        """Return why trials were trained or timed again, and what is wrong with kept files, since the last call."""
        lab, store = self._workshop.lab, self._workshop.store
        notes, self.notes = self.notes, []
        problems, self.problems = self.problems, []
        if lab is None or store is None:
            return {"reasons": [], "notes": notes, "problems": problems, "retimings": []}
        from dataclasses import asdict

        reasons, faults, retimings, broken_off = self._told_remarks
        fresh = {
            "reasons": [[one.label, one.seed, one.changes] for one in lab.reasons[reasons:]],
            "notes": [
                *store.problems[faults:],
                *notes,
                *(f"the training of {one}, so its gates gave no verdict" for one in lab.broken_off[broken_off:]),
            ],
            "problems": problems,
            "retimings": [asdict(one) for one in lab.retimings[retimings:]],
        }
        self._told_remarks = (len(lab.reasons), len(store.problems), len(lab.retimings), len(lab.broken_off))
        return fresh

    def arrived(self, parcel: dict[str, Any]) -> None:
        """Note that a report has brought a parcel."""
        self._sent.pop(parcel["number"], None)

    def left_over(self) -> list[dict[str, Any]]:
        """Return what no report has brought: plugins drop reports, and whoever stops a run leaves tests without one."""
        for test in dict.fromkeys(self._late):
            parcel = self.pack(test)
            if parcel is not None:
                parcel["is_late"] = True
        self.pack(None)
        left, self._sent = list(self._sent.values()), {}
        return left


def _classes_of(trials: Sequence[Trial]) -> list[str]:
    """Return the import paths of the user's own classes of variants: xdist's controller has imported no test."""
    if not trials:
        return []
    from pytest_ftguard.specs import import_paths

    return import_paths(trial.spec.variant for trial in trials)
