"""What would be trained, as blocks of the summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytest_ftguard.comparison.grouping import by_workload, variants_of
from pytest_ftguard.gates.verdict import RecordedVerdict, Status
from pytest_ftguard.reporting.gates import UNMEASURED, measured_and_limit
from pytest_ftguard.reporting.summary import TONE_OF, Block, Column, Line, Row, Table
from pytest_ftguard.reporting.variants import cached_mark, distinct_labels, workload_title
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.specs.short import MOST_RATES, search_workloads
from pytest_ftguard.units import format_bytes, format_count

__all__ = ["plan_blocks"]

_COLUMNS: Final = (
    Column("variant"),
    Column("trials", right=True),
    Column("trainable", right=True),
    Column("forecast of peak memory", right=True),
    Column("of full", right=True),
)
_SAYS: Final[dict[Status, str]] = {"PASS": "within", "FAIL": "BREAKS", "INVALID": "no forecast for"}


def plan_blocks(trials: Sequence[Trial], budgets: Sequence[RecordedVerdict]) -> Iterator[Block]:
    """Return what would be trained, with the forecast of its memory, and what memory budgets would say to that.

    Args:
        trials: All trials, planned or, if their results are known already, cached.
        budgets: What each memory budget would say.
    """
    trials = [trial for trial in trials if trial.spec.workload.purpose == "gates"]  # an earlier search is no plan
    missing = sum(not trial.provenance.cached for trial in trials)
    word = "trial" if missing == 1 else "trials"
    again = sum(trial.provenance.measured_again for trial in trials)
    measured = f", {again} to measure again" if again else ""
    cached = len(trials) - missing - again
    text = f"plan: {missing} {word} to train{measured}, {cached} cached; nothing was trained"
    yield Block("plan", lines=(Line(text),))
    for group in by_workload(trials):
        yield _workload(group)
    if budgets:
        yield Block("budgets", lines=tuple(map(_budget, budgets)))


def _workload(trials: Sequence[Trial]) -> Block:
    variants = variants_of(trials)
    labels = distinct_labels([variant.variant for variant in variants])
    whole = next((one.forecast_memory_bytes for one in variants if one.variant.kind == "full"), None)
    rows = tuple(Row(_cells(variant, label, whole)) for variant, label in zip(variants, labels, strict=True))
    reasons = {
        f"{trial.spec.variant.label}: {trial.measured.error.message}" for trial in trials if trial.measured.error
    }
    searches = (_search(label, variant) for label, variant in zip(labels, variants, strict=True))
    notes = tuple(Line(note, kind="note") for note in (*filter(None, searches), *sorted(reasons)))
    return Block("workload", workload_title(trials), table=Table(_COLUMNS, rows), notes=notes)


def _search(label: str, variant: TrainedVariant) -> str | None:
    """Return which trials the search for a learning rate adds; None if there will be none."""
    search = variant.variant.search
    if search == "no":
        return None
    rounds = zip(MOST_RATES, search_workloads(variant.workload), strict=True)
    added = " and ".join(f"{most} trials of {work.steps} steps" for most, work in rounds)
    if search == "yes":
        return (
            f"{label}: its learning rate is searched first, with at most {added}, so the rate of this plan may not be "
            "the one that is trained"
        )
    count = len(variant.trials)
    answer = "a gate on losses passes" if variant.variant.kind == "full" else "a gate on losses does not pass"
    return (
        f"{label}: if {answer} at its default learning rate, {variant.variant.learning_rate:g}, a search adds at most "
        f"{added}, and {count} training{'s' if count > 1 else ''} at the rate that it finds"
    )


def _cells(variant: TrainedVariant, label: str, whole: int | None) -> tuple[str, ...]:
    trainable, peak = variant.trainable_parameters, variant.forecast_memory_bytes
    return (
        f"{label}{cached_mark(variant)}",
        str(len(variant.trials)),
        UNMEASURED if trainable is None else format_count(trainable),
        "no forecast" if peak is None else format_bytes(peak),
        "" if peak is None or not whole or variant.variant.kind == "full" else f"{100 * peak / whole:.1f}%",
    )


def _budget(recorded: RecordedVerdict) -> Line:
    verdict = recorded.verdict
    measured, limit = measured_and_limit(verdict)
    text = (
        f"{verdict.candidate}: {measured} {_SAYS[verdict.status]} the budget of {limit} ({verdict.limit.origin.kind})"
    )
    return Line(text, TONE_OF[verdict.status], under=(Line(recorded.nodeid, kind="name"),))
