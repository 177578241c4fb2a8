"""What a run brought, put together as one `Summary`; pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_ftguard.comparison.grouping import by_workload, variants_of
from pytest_ftguard.gates.verdict import RecordedVerdict
from pytest_ftguard.reporting.gates import gates_block
from pytest_ftguard.reporting.plan import plan_blocks
from pytest_ftguard.reporting.scores import score_blocks
from pytest_ftguard.reporting.summary import Block, Line, Summary
from pytest_ftguard.reporting.variants import headings_of, labels_of, workload_block
from pytest_ftguard.results import Trial
from pytest_ftguard.results.retiming import Retiming
from pytest_ftguard.specs import key_of

__all__ = ["Remarks", "plan_summary", "remark_lines", "run_summary"]


@dataclass(frozen=True, kw_only=True)
class Remarks:
    """What a run has to say besides its trials and verdicts.

    Attributes:
        reasons: Seeds that were trained although others like them are stored, by label and by what differs in the
            nearest of those.
        retimings: Each pair of variants that was timed again.
        notes: Sentences.
        unused: Settings without effect, by the fixture that would have used them.
        accepted: The files of accepted results that were written.
        unchanged: The files that were accepted as they are.
        problems: What makes the run fail although no test did.
    """

    reasons: Mapping[tuple[str, str], Sequence[int]] = field(default_factory=dict)
    retimings: Sequence[Retiming] = ()
    notes: Sequence[str] = ()
    unused: Mapping[str, Sequence[str]] = field(default_factory=dict)
    accepted: Collection[str] = ()
    unchanged: Collection[str] = ()
    problems: Sequence[str] = ()


_NOTHING = Remarks()


def run_summary(
    trials: Sequence[Trial],
    verdicts: Sequence[RecordedVerdict],
    not_run: Sequence[str] = (),
    remarks: Remarks = _NOTHING,
) -> Summary:
    """Return what a run came to: the variants of each workload, then what failed, then the gates.

    Args:
        trials: All trials, in the order in which they were trained.
        verdicts: All verdicts, in the order in which they were given.
        not_run: Why tests were skipped for which nothing could be trained, one reason per test.
        remarks: What else there is to say.
    """
    blocks = _run_blocks(trials, verdicts, not_run)
    return Summary(tuple(blocks), tuple(remark_lines(remarks)), tuple(trials), tuple(verdicts))


def plan_summary(trials: Sequence[Trial], budgets: Sequence[RecordedVerdict], remarks: Remarks = _NOTHING) -> Summary:
    """Return what would be trained.

    Args:
        trials: All trials, planned or, if their results are known already, cached.
        budgets: What each memory budget would say.
        remarks: What else there is to say.
    """
    blocks = tuple(plan_blocks(trials, budgets))
    return Summary(blocks, tuple(remark_lines(remarks)), tuple(trials), is_plan=True)


def _run_blocks(
    trials: Sequence[Trial], verdicts: Sequence[RecordedVerdict], not_run: Sequence[str]
) -> Iterator[Block]:
    searches = [trial for trial in trials if trial.spec.workload.purpose == "search"]
    groups = by_workload(trial for trial in trials if trial.spec.workload.purpose == "gates")
    labels: dict[str, str] = {}
    judged = {recorded.verdict.keys for recorded in verdicts}
    for group in groups:
        yield workload_block(group, searches)
        variants = variants_of(group)
        yield from score_blocks(variants, headings_of(variants), judged)
        for key, label in labels_of(group).items():  # a variant may have a twin in one of its workloads only
            labels[key] = max(label, labels.get(key, ""), key=len)
    failures = tuple(_failures(trials, labels))
    if failures:
        yield Block("failures", lines=failures)
    if verdicts:
        yield gates_block(verdicts, labels)
    if not_run:
        tests = "1 test did not run, so its gates were" if len(not_run) == 1 else None
        tests = tests or f"{len(not_run)} tests did not run, so their gates were"
        reasons = tuple(Line(reason) for reason in dict.fromkeys(not_run))
        yield Block("not run", lines=(Line(f"{tests} not checked:", under=reasons),))


def _failures(trials: Sequence[Trial], labels: Mapping[str, str]) -> Iterator[Line]:
    for trial in trials:
        # A search tries rates that are too high; its own line says that they diverged.
        expected = trial.spec.workload.purpose == "search" and trial.measured.outcome == "diverged"
        if trial.measured.outcome != "ok" and not expected:
            detail = f": {trial.measured.error.message}" if trial.measured.error else ""
            timed = "timed again, " if trial.spec.workload.purpose == "timing" else ""
            variant = trial.spec.variant
            label = labels.get(key_of(variant, "trial"), variant.label)
            yield Line(f"{label}, seed {trial.spec.seed}, {timed}{trial.ending}{detail}", "bad")


def remark_lines(remarks: Remarks) -> Iterator[Line]:
    """Return what else the summary says, problems last."""
    yield from _reasons(remarks.reasons)
    yield from _retimings(remarks.retimings)
    yield from (Line(note, kind="note") for note in remarks.notes)
    if remarks.unused:
        places = ", ".join(place for found in remarks.unused.values() for place in found)
        fixtures = " and ".join(remarks.unused)
        text = f"note: without effect in this run, because every test overrides {fixtures}: {places}"
        yield Line(text, kind="note")
    yield from _accepted(remarks)
    yield from (Line(problem, "bad", kind="note") for problem in remarks.problems)


def _reasons(reasons: Mapping[tuple[str, str], Sequence[int]]) -> Iterator[Line]:
    for (label, differences), seeds in reasons.items():
        which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
        trained = f"trained, not taken from the store: {label}, {which}"
        yield Line(f"{trained}; the nearest there differs in: {differences}", kind="note")


def _retimings(retimings: Sequence[Retiming]) -> Iterator[Line]:
    for one in retimings:
        if any(other.pair == one.pair and other.look > one.look for other in retimings):
            continue  # it left a gate in doubt
        how = f"in turns, {one.steps} steps x {one.seeds} seeds each"
        when = "timed in an earlier run" if one.cached else "timed again"
        yield Line(f"{when}: {one.candidate} and {one.baseline}, {how}, because {one.why}", kind="note")


def _accepted(remarks: Remarks) -> Iterator[Line]:
    written, same = set(remarks.accepted), set(remarks.unchanged) - set(remarks.accepted)
    folders = ", ".join(sorted({str(Path(file).parent) for file in written or same}))
    if written:
        left = f"; {len(same)} unchanged" if same else ""
        yield Line(f"{_results(len(written))} accepted in {folders}: review and commit{left}")
    elif same:
        yield Line(f"{_results(len(same))} accepted before in {folders}: unchanged")


def _results(count: int) -> str:
    return f"{count} result{'s' if count > 1 else ''}"
