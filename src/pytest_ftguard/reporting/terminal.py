"""The summary and the progress line, as text."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tabulate import tabulate

from pytest_ftguard.comparison.same_work import same_base, same_sequences
from pytest_ftguard.reporting.gates import UNMEASURED, RecordedVerdict, gate_lines, measured_and_limit
from pytest_ftguard.reporting.notes import fairness_notes
from pytest_ftguard.results import TrainedVariant, TrialResult
from pytest_ftguard.running.clock import Progress
from pytest_ftguard.running.search import search_workload
from pytest_ftguard.running.timing import Retiming
from pytest_ftguard.specs import Variant, Workload, key_of, variant_to_dict
from pytest_ftguard.units import format_bytes, format_count, format_duration

__all__ = [
    "RecordedVerdict",
    "accepted_lines",
    "plan_lines",
    "progress_line",
    "reason_lines",
    "summary_lines",
    "timing_lines",
    "unused_setting_lines",
]


def summary_lines(
    trials: Sequence[TrialResult], verdicts: Sequence[RecordedVerdict], not_run: Sequence[str]
) -> list[str]:
    """Return the summary: a table of variants per workload, then the gates; empty where nothing happened.

    Args:
        trials: All trials, in the order in which they were trained.
        verdicts: All verdicts, in the order in which they were given.
        not_run: Why tests were skipped for which nothing could be trained, one reason per test.
    """
    searches = [trial for trial in trials if trial.spec.workload.purpose == "search"]
    blocks = [
        list(_workload_block(group, searches))
        for group in _by_workload([trial for trial in trials if trial.spec.workload.purpose == "gates"])
    ]
    failed = list(_failures(trials))
    if failed:
        blocks.append(failed)
    if verdicts:
        blocks.append(list(gate_lines(verdicts)))
    if not_run:
        tests = "1 test did not run, so its gates were" if len(not_run) == 1 else None
        tests = tests or f"{len(not_run)} tests did not run, so their gates were"
        blocks.append([f"{tests} not asked:", *(f"    {reason}" for reason in dict.fromkeys(not_run))])
    lines = [line for block in blocks for line in [*block, ""]]
    return lines[:-1]


def accepted_lines(
    files: Collection[str], unchanged: Collection[str] = (), not_accepted: Collection[str] = ()
) -> list[str]:
    """Return how many results were accepted, and where they are.

    Args:
        files: The files that were written.
        unchanged: The files that were accepted as they are.
        not_accepted: The tests that accepted a result and then did not pass.
    """
    written, same = set(files), set(unchanged) - set(files)
    folders = ", ".join(sorted({str(Path(file).parent) for file in written or same}))
    lines = []
    if written:
        left = f"; {len(same)} unchanged" if same else ""
        lines.append(f"{_results(len(written))} accepted in {folders}: review and commit{left}")
    elif same:
        lines.append(f"{_results(len(same))} accepted before in {folders}: unchanged")
    if not_accepted:
        tests = "the test" if len(not_accepted) == 1 else "the tests"
        lines.append(f"not accepted, since {tests} did not pass: {', '.join(sorted(not_accepted))}")
    return lines


def _results(count: int) -> str:
    return f"{count} result{'s' if count > 1 else ''}"


def plan_lines(trials: Sequence[TrialResult], budgets: Sequence[RecordedVerdict]) -> list[str]:
    """Return what would be trained, with the forecast of its memory, and what memory budgets would say to that.

    Args:
        trials: All trials, planned or, where their results are known already, cached.
        budgets: What each memory budget would say.
    """
    lines = []
    for group in _by_workload(trials):
        variants = _by_variant(group)
        labels = _labels([variant.variant for variant in variants])
        whole = next((one.forecast_memory_bytes for one in variants if one.variant.kind == "full"), None)
        rows = [_plan_row(variant, label, whole) for variant, label in zip(variants, labels, strict=True)]
        headers = ("variant", "trials", "trainable", "forecast of peak memory", "of full")
        align = ("left", "right", "right", "right", "right")
        table = tabulate(rows, headers, tablefmt="plain", colalign=align, disable_numparse=True).splitlines()
        reasons = {f"{one.spec.variant.label}: {one.error.message}" for one in group if one.error}
        lines += [_heading(group), *table, *(line for reason in sorted(reasons) for line in _wrapped(reason)), ""]
    for recorded in budgets:
        verdict = recorded.verdict
        says = {"PASS": "within", "FAIL": "BREAKS", "INVALID": "no forecast beside"}[verdict.status]
        measured, limit = measured_and_limit(verdict)
        lines += [f"{verdict.candidate}: {measured} {says} the budget of {limit} ({verdict.limit.origin.kind})"]
        lines += [f"    {recorded.nodeid}"]
    missing = sum(not trial.cached for trial in trials)
    word = "trial" if missing == 1 else "trials"
    return [f"plan: {missing} {word} to train, {len(trials) - missing} cached; nothing was trained", "", *lines]


def _plan_row(variant: TrainedVariant, label: str, whole: int | None) -> list[str]:
    trainable, peak = variant.trainable_parameters, variant.forecast_memory_bytes
    return [
        f"{label}{_cached(variant)}",
        str(len(variant.trials)),
        UNMEASURED if trainable is None else format_count(trainable),
        "no forecast" if peak is None else format_bytes(peak),
        "" if peak is None or not whole or variant.variant.kind == "full" else f"{100 * peak / whole:.1f}%",
    ]


def _by_workload(trials: Sequence[TrialResult]) -> list[list[TrialResult]]:
    groups: list[list[TrialResult]] = []
    for trial in trials:
        group = next((group for group in groups if _is_same_work(trial, group)), None)
        if group is None:
            groups.append([trial])
        else:
            group.append(trial)
    return groups


def _is_same_work(trial: TrialResult, group: Sequence[TrialResult]) -> bool:
    """Return whether a trial belongs to a group: the same workload, or one whose texts only lie elsewhere."""
    ours, theirs = trial.spec.workload, group[0].spec.workload
    places = {_place(one) for one in (trial, *group)} - {None}
    if len(places) > 1:  # one heading names one device
        return False
    twin = next((other for other in group if other.spec.seed == trial.spec.seed), None)
    if twin is None or trial.data_order is None or twin.data_order is None:
        return key_of(ours, "trial") == key_of(theirs, "trial")
    return (
        key_of(ours, "trial", places="named") == key_of(theirs, "trial", places="named")
        and trial.data_order == twin.data_order
        and same_sequences(trial.validation, twin.validation)
        and same_base(trial, twin)
    )


def _place(trial: TrialResult) -> tuple[str, str] | None:
    return (trial.environment.device_name, trial.environment.precision) if trial.environment else None


def _by_variant(trials: Sequence[TrialResult]) -> list[TrainedVariant]:
    groups: dict[str, dict[bool, dict[int, TrialResult]]] = {}
    for trial in trials:
        # Some seeds from the store and some trained are one variant; those of a report, which says nothing of the
        # content, are another.
        is_of_report = trial.cached and trial.content is None and trial.outcome != "planned"
        by_seed = groups.setdefault(key_of(trial.spec.variant, "trial"), {}).setdefault(is_of_report, {})
        by_seed.setdefault(trial.spec.seed, trial)
    work = trials[0].spec.workload
    trained = []
    for by_seed in (by_seed for by_origin in groups.values() for by_seed in by_origin.values()):
        seeds = tuple(by_seed[seed] for seed in sorted(by_seed))
        trained.append(TrainedVariant(work, seeds[0].spec.variant, seeds))
    # Full fine-tuning is what the others are read against, whenever it was trained.
    return sorted(trained, key=lambda variant: variant.variant.kind != "full")


def _workload_block(trials: Sequence[TrialResult], searches: Sequence[TrialResult]) -> Iterator[str]:
    variants = _by_variant(trials)
    labels = _labels([variant.variant for variant in variants])
    yield _heading(trials)
    rates = [f"{label} {side.variant.learning_rate:g}" for label, side in zip(labels, variants, strict=True)]
    yield f"learning rates: {', '.join(rates)}"
    for variant, label in zip(variants, labels, strict=True):
        tried = _tried(variant, searches)
        if tried:
            yield from _wrapped(_search_line(label, tried))
    yield ""
    rows = [row for row in [_base_row(trials), *map(_variant_row, variants, labels)] if row]
    headers = ("variant", "trainable", "val loss", "ppl", "peak memory", "s/step")
    align = ("left", "right", "left", "right", "right", "right")
    yield from tabulate(rows, headers, tablefmt="plain", colalign=align, disable_numparse=True).splitlines()
    for note in dict.fromkeys([*fairness_notes(variants), *_trial_notes(trials)]):
        yield from _wrapped(f"note: {note}")


def _trial_notes(trials: Sequence[TrialResult]) -> Iterator[str]:
    for trial in trials:
        for note in () if trial.cached else trial.notes:
            yield f"{trial.spec.variant.label}, seed {trial.spec.seed}: {note}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80, subsequent_indent="      ", break_long_words=False)


def _tried(variant: TrainedVariant, searches: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials of the search for a variant's learning rate, the lowest rate first."""
    rate = variant.variant.learning_rate
    if not variant.variant.search_learning_rate or rate is None:
        return []
    short = key_of(search_workload(variant.workload), "trial")
    trials = [
        trial
        for trial in searches
        if key_of(trial.spec.workload, "trial") == short
        and replace(trial.spec.variant, learning_rate=rate) == variant.variant
    ]
    return sorted(trials, key=lambda trial: trial.spec.variant.learning_rate or 0)


def _search_line(label: str, tried: Sequence[TrialResult]) -> str:
    results = [
        f"{trial.spec.variant.learning_rate:g} gives "
        + (trial.outcome if trial.validation is None else f"{trial.validation.loss:.3f}")
        for trial in tried
    ]
    steps = tried[0].spec.workload.steps
    losses = [math.inf if trial.validation is None else trial.validation.loss for trial in tried]
    found = f"searched for {label}, {steps} steps, sequences that no gate uses: {', '.join(results)}"
    return found + _edge(losses.index(min(losses)), tried) if math.isfinite(min(losses)) else found + _ALL_DIVERGED


_ALL_DIVERGED: Final = "; all diverged, so start the search from a much lower rate"


def _edge(best: int, tried: Sequence[TrialResult]) -> str:
    """Return what to do where the best of the rates is the first or the last of them."""
    if 0 < best < len(tried) - 1:
        return ""
    variant = tried[best].spec.variant
    word = "lowest" if best == 0 else "highest"
    return (
        f"; the best is the {word} that was tried and a better one may lie beyond: set "
        f"{variant.kind}_learning_rate = {variant.learning_rate:g} and search again"
    )


def _labels(variants: Sequence[Variant]) -> list[str]:
    """Return the variants' labels, with the settings that tell apart those that would look alike."""
    labels = []
    for variant in variants:
        ours = variant_to_dict(variant)
        twins = [variant_to_dict(other) for other in variants if other.label == variant.label]
        differing = [name for name in ours if any(other[name] != ours[name] for other in twins)]
        labels.append(" ".join([variant.label, *(f"{name}={_compact(ours[name])}" for name in differing)]))
    return labels


def _compact(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _heading(trials: Sequence[TrialResult]) -> str:
    workload = trials[0].spec.workload
    environment = next((trial.environment for trial in trials if trial.environment), None)
    seeds = len({trial.spec.seed for trial in trials})
    steps = f"{workload.steps} steps{' (final)' if workload.final else ''}"
    accumulated = workload.training_args.get("gradient_accumulation_steps", 1)
    batch = f"{workload.batch_size}x{workload.block_size}{f'x{accumulated}' if accumulated != 1 else ''}"
    parts = [
        f"{_model_name(workload)} on {Path(workload.train).stem}",
        f"{steps} of {batch} x {seeds} seed{'s' if seeds != 1 else ''}",
    ]
    if workload.training_function:
        parts.append(f"trained by {workload.training_function}")
    if environment:
        parts.append(f"{environment.device_name}, {environment.precision}")
    return " | ".join(parts)


def _model_name(workload: Workload) -> str:
    gguf = workload.model_args.get("gguf_file")
    return Path(str(gguf)).stem if gguf else Path(workload.model).name


def _base_row(trials: Sequence[TrialResult]) -> list[str] | None:
    base = next((trial.base_validation for trial in trials if trial.base_validation), None)
    return ["base model", "", f"{base.loss:.3f}", f"{base.perplexity:.2f}", "", ""] if base else None


def _cached(variant: TrainedVariant) -> str:
    count, cached = len(variant.trials), sum(trial.cached for trial in variant.trials)
    return "" if not cached else " (cached)" if cached == count else f" ({cached} of {count} cached)"


def _variant_row(variant: TrainedVariant, label: str) -> list[str]:
    trainable, total = variant.trainable_parameters, variant.total_parameters
    percent = 100 * trainable / total if trainable is not None and total else 100.0
    # Only what is all of it is shown as 100%.
    share = "100%" if percent == 100 else f"{percent:.2g}%" if percent < 99.5 else f"{min(percent, 99.9):.1f}%"
    loss, losses, perplexity = variant.loss, variant.losses or (), variant.perplexity
    spread = f" +-{statistics.stdev(losses):.3f}" if len(losses) > 1 and all(map(math.isfinite, losses)) else ""
    return [
        f"{label}{_cached(variant)}",
        UNMEASURED if trainable is None else f"{format_count(trainable)} {share:>4}",
        UNMEASURED if loss is None else f"{loss:.3f}{spread}",
        UNMEASURED if perplexity is None else f"{perplexity:.2f}",
        UNMEASURED if variant.peak_memory_bytes is None else format_bytes(variant.peak_memory_bytes),
        UNMEASURED if variant.seconds_per_step is None else f"{variant.seconds_per_step:.3g}",
    ]


def _failures(trials: Sequence[TrialResult]) -> Iterator[str]:
    for trial in trials:
        # A search tries rates that are too high; that they diverged is said where it lists them.
        expected = trial.spec.workload.purpose == "search" and trial.outcome == "diverged"
        if trial.outcome != "ok" and not expected:
            detail = f": {trial.error.message}" if trial.error else ""
            timed = "timed again, " if trial.spec.workload.purpose == "timing" else ""
            yield f"{trial.spec.variant.label}, seed {trial.spec.seed}, {timed}{trial.ending}{detail}"


_PHASES: Final = {
    "wait": "waiting for another training",
    "start": "starting",
    "load": "loading",
    "evaluate": "evaluating",
    "save": "saving",
}


def reason_lines(reasons: Mapping[tuple[str, str], Sequence[int]]) -> list[str]:
    """Return why variants were trained although others like them are in the store.

    Args:
        reasons: Seeds by label and by what differs in the nearest of those.
    """
    lines = []
    for (label, differences), seeds in reasons.items():
        which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))}"
        trained = f"trained, not taken from the store: {label}, {which}"
        lines += _wrapped(f"{trained}; the nearest there differs in: {differences}")
    return lines


def timing_lines(retimings: Sequence[Retiming]) -> list[str]:
    """Return which variants were timed again, how, and why.

    Args:
        retimings: Each pair that was.
    """
    lines = []
    for one in retimings:
        if any(other.pair == one.pair and other.look > one.look for other in retimings):
            continue  # it left a gate in doubt
        how = f"in turns, {one.steps} steps x {one.seeds} seeds each"
        when = "timed in an earlier run" if one.cached else "timed again"
        lines += _wrapped(f"{when}: {one.candidate} and {one.baseline}, {how}; why: {one.why}")
    return lines


def unused_setting_lines(unused: Mapping[str, Sequence[str]]) -> list[str]:
    """Return which settings had no effect.

    Args:
        unused: Their places, by the fixture that would have used them.
    """
    if not unused:
        return []
    places = ", ".join(place for found in unused.values() for place in found)
    fixtures = " and ".join(unused)
    return _wrapped(f"note: without effect in this run, because every test overrides {fixtures}: {places}")


def progress_line(progress: Progress) -> str:
    """Return one line that says where a trial stands."""
    spec = progress.spec
    what = {"search": f"learning rate {spec.variant.learning_rate:g}?", "timing": f"timing, seed {spec.seed}"}
    parts = [f"ftguard: {spec.variant.label}", what.get(spec.workload.purpose, f"seed {spec.seed}")]
    if progress.phase == "train":
        resumed = f", resumed at {progress.resumed_at}" if progress.resumed_at else ""
        parts.append(f"step {progress.step}/{spec.workload.steps}{resumed}")
    else:
        parts.append(_PHASES[progress.phase])
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.seconds_left is not None:
        parts.append(f"{format_duration(progress.seconds_left)} left")
    else:
        parts.append(f"{format_duration(progress.elapsed_seconds)} so far")
    return "  ".join(parts)
