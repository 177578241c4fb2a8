"""The variants of a workload, as a block of the summary."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pytest_ftguard.comparison.grouping import variants_of
from pytest_ftguard.comparison.specialization import specialization_of
from pytest_ftguard.reporting.gates import UNMEASURED
from pytest_ftguard.reporting.notes import fairness_notes
from pytest_ftguard.reporting.scores import BASE, column_of_score, score_cells, score_notes
from pytest_ftguard.reporting.summary import Block, Column, Line, Row, Table
from pytest_ftguard.reporting.visible import visible
from pytest_ftguard.results import TrainedVariant, Trial
from pytest_ftguard.specs import Variant, Workload, key_of, variant_to_dict
from pytest_ftguard.specs.short import search_workloads
from pytest_ftguard.specs.texts import is_place
from pytest_ftguard.units import format_bytes, format_count

__all__ = ["cached_mark", "distinct_labels", "headings_of", "labels_of", "workload_block", "workload_title"]

_REFERENCE: Final = Column("ref loss")
_PERPLEXITY: Final = Column("ppl", right=True)
_ACCURACY, _F1 = Column("accuracy"), Column("macro F1")
_MEMORY: Final = Column("peak memory", right=True)
_COLUMNS: Final[tuple[Column, ...]] = (
    Column("variant"),
    Column("trainable", right=True),
    Column("val loss"),
    _REFERENCE,
    _PERPLEXITY,
    _ACCURACY,
    _F1,
    _MEMORY,
    Column("s/step", right=True),
)


def workload_block(trials: Sequence[Trial], searches: Sequence[Trial]) -> Block:
    """Return what one workload's variants came to.

    Args:
        trials: The trials of the workload.
        searches: The trials of all searches for a learning rate.
    """
    variants = variants_of(trials)
    labels = distinct_labels([variant.variant for variant in variants])
    rates = [f"{label} {side.variant.learning_rate:g}" for label, side in zip(labels, variants, strict=True)]
    lines = [Line(f"learning rates: {', '.join(rates)}")]
    # The same search is found for its first guess and for the rate that it has led to, which was trained after it.
    found = {
        tuple(trial.fingerprint for tried in rounds for trial in tried): _search_line(label, variant.variant, rounds)
        for variant, label in zip(variants, labels, strict=True)
        if (rounds := _tried(variant, searches))
    }
    lines += [Line(text, kind="note") for text in found.values()]
    lines += [*_adapted_line(variants, labels), *_specialization_line(variants)]
    rows = [*_base_row(trials), *map(_variant_row, variants, labels)]
    names = dict(zip((key_of(one.variant, "trial") for one in variants), labels, strict=True))
    said = [*score_notes(variants, labels), *fairness_notes(variants, labels), *_trial_notes(trials, names)]
    return Block(
        "workload",
        workload_title(trials),
        tuple(lines),
        _table(rows, variants),
        tuple(Line(f"note: {note}", kind="note") for note in dict.fromkeys(said)),
    )


def _adapted_line(variants: Sequence[TrainedVariant], labels: Sequence[str]) -> Iterator[Line]:
    """Say how much of the base each variant adapts, if it was measured; what is trained as a whole needs no word."""
    shares = []
    for variant, label in zip(variants, labels, strict=True):
        counts = next((trial.measured.parameters for trial in variant.trials if trial.measured.parameters), None)
        if counts is not None and counts.under_adapters:
            shares.append(f"{label} {100 * counts.under_adapters:.3g}%")
    if shares:
        yield Line(f"base parameters under adapters: {', '.join(shares)}")


def _specialization_line(variants: Sequence[TrainedVariant]) -> Iterator[Line]:
    """Say how far the domain lies from the reference text for the base model, and what full learned of it."""
    found = specialization_of(variants)
    if found is not None:
        gain = ""
        if found.gains:
            mean = statistics.fmean(found.gains)
            spread = f" +-{statistics.stdev(found.gains):.3f}" if len(found.gains) > 1 else ""
            gain = f"; full {'gained' if mean >= 0 else 'lost'} {abs(mean):.3f}{spread}"
        yield Line(
            f"domain: the base model is at {found.domain_loss:.3f} nats per {found.per} on the validation text and at "
            f"{found.reference_loss:.3f} on the reference text ({found.difference:+.3f}){gain}"
        )


def _table(rows: Sequence[tuple[str, ...]], variants: Sequence[TrainedVariant]) -> Table:
    """Return the table of variants, without columns of what nobody measured: a reference text, or classes.

    A perplexity says nothing of classes, and leaves its room to a score.
    """

    def is_empty(column: Column) -> bool:
        return all(row[_COLUMNS.index(column)] in ("", UNMEASURED) for row in rows)

    columns, score = _COLUMNS, column_of_score(variants)
    left_out = {one for one in (_REFERENCE, _ACCURACY, _F1) if is_empty(one)}
    left_out |= set() if _ACCURACY in left_out and score is None else {_PERPLEXITY}
    if score is not None:
        place = columns.index(_MEMORY)
        columns = (*columns[:place], Column(visible(score)), *columns[place:])
        cells = score_cells(variants, score)[-len(rows) :]  # the base model has a row only if it was measured
        rows = [(*row[:place], cell, *row[place:]) for row, cell in zip(rows, cells, strict=True)]
    rest = [number for number, column in enumerate(columns) if column not in left_out]
    return Table(
        tuple(columns[number] for number in rest),
        tuple(Row(tuple(row[number] for number in rest)) for row in rows),
    )


def labels_of(trials: Sequence[Trial]) -> dict[str, str]:
    """Return what the table of a workload calls each variant, by the variant's key.

    Args:
        trials: The trials of the workload.
    """
    variants = [one.variant for one in variants_of(trials)]
    keys = (key_of(variant, "trial") for variant in variants)
    return dict(zip(keys, distinct_labels(variants), strict=True))


def headings_of(variants: Sequence[TrainedVariant]) -> list[str]:
    """Return what other tables call the variants of a workload; one that was also read elsewhere says which it is."""
    labels = distinct_labels([one.variant for one in variants])
    pairs = zip(labels, variants, strict=True)
    return [f"{label}{cached_mark(one)}" if labels.count(label) > 1 else label for label, one in pairs]


def workload_title(trials: Sequence[Trial]) -> str:
    """Return what the trials of one workload have in common: model, text, steps, seeds and machine."""
    workload = trials[0].spec.workload
    environment = next((trial.measured.environment for trial in trials if trial.measured.environment), None)
    seeds = len({trial.spec.seed for trial in trials})
    steps = f"{workload.steps} steps{' (final)' if workload.final else ''}"
    accumulated = workload.training_args.get("gradient_accumulation_steps", 1)
    batch = f"{workload.batch_size}x{workload.block_size}{f'x{accumulated}' if accumulated != 1 else ''}"
    parts = [
        f"{_model_name(workload)} on {_text_name(workload.train)}",
        f"{steps} of {batch} x {seeds} seed{'s' if seeds != 1 else ''}",
    ]
    if workload.own_training:
        parts.append(f"trained by {workload.own_training}")
    if environment:
        parts.append(f"{environment.device_name}, {environment.precision}")
    return " | ".join(parts)


def _text_name(text: str) -> str:
    return Path(text).stem if is_place(text) else text


def _model_name(workload: Workload) -> str:
    gguf = workload.model_args.get("gguf_file")
    return Path(str(gguf)).stem if gguf else Path(workload.model).name


def distinct_labels(variants: Sequence[Variant]) -> list[str]:
    """Return the variants' labels, with the settings that tell apart those that would look alike."""
    fields: dict[str, list[dict[str, Any]]] = {}
    for variant in variants:
        fields.setdefault(variant.label, []).append(_settings(variant))
    differing = {
        label: [
            name
            for name in dict.fromkeys(name for twin in twins for name in twin)
            if any(other.get(name) != twins[0].get(name) for other in twins)
        ]
        for label, twins in fields.items()
    }
    labels = []
    for variant in variants:
        ours = _settings(variant)
        settings = (f"{name}={_compact(ours[name])}" for name in differing[variant.label] if name in ours)
        labels.append(" ".join([variant.label, *settings]))
    return labels


def _settings(variant: Variant) -> dict[str, Any]:
    """Return a variant's settings, each of its options by its own name."""
    settings = variant_to_dict(variant)
    options = settings.pop("options", None)
    return {**settings, **options} if isinstance(options, dict) else settings


def _compact(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def cached_mark(variant: TrainedVariant) -> str:
    """Return how many of a variant's trials were not trained in this run, to stand after its label.

    They are "cached" if the store had them, "measured again" if stored weights were evaluated, and "read" if they come
    from a report or from runs of a Trainer.
    """
    words = list(filter(None, map(_come_by, variant.trials)))
    count = len(variant.trials)
    marks = [word if times == count else f"{times} of {count} {word}" for word, times in sorted(Counter(words).items())]
    return f" ({', '.join(marks)})" if marks else ""


def _come_by(trial: Trial) -> str:
    """Return how a trial was come by without a training; "" if it was trained."""
    if trial.provenance.measured_again:
        return "measured again"
    return "" if not trial.provenance.cached else "read" if trial.was_read else "cached"


def _base_row(trials: Sequence[Trial]) -> Iterator[tuple[str, ...]]:
    base = next((trial.measured.base_validation for trial in trials if trial.measured.base_validation), None)
    reference = next((trial.measured.base_reference for trial in trials if trial.measured.base_reference), None)
    if base:
        read = f"{reference.loss:.3f}" if reference else ""
        answers = base.answers
        judged = (f"{100 * answers.accuracy:.1f}%", f"{100 * answers.macro_f1:.1f}%") if answers else ("", "")
        yield BASE, "", f"{base.loss:.3f}", read, f"{base.perplexity:.2f}", *judged, "", ""


def _variant_row(variant: TrainedVariant, label: str) -> tuple[str, ...]:
    trainable, total = variant.trainable_parameters, variant.total_parameters
    percent = 100 * trainable / total if trainable is not None and total else 100.0
    # Only what is all of it is shown as 100%.
    share = "100%" if percent == 100 else f"{percent:.2g}%" if percent < 99.5 else f"{min(percent, 99.9):.1f}%"
    loss, losses, perplexity = variant.loss, variant.losses or (), variant.perplexity
    spread = f" +-{statistics.stdev(losses):.3f}" if len(losses) > 1 and all(map(math.isfinite, losses)) else ""
    return (
        f"{label}{cached_mark(variant)}",
        UNMEASURED if trainable is None else f"{format_count(trainable)} {share:>4}",
        UNMEASURED if loss is None else f"{loss:.3f}{spread}",
        _reference_loss(variant),
        UNMEASURED if perplexity is None else f"{perplexity:.2f}",
        *_answers(variant),
        UNMEASURED if variant.peak_memory_bytes is None else format_bytes(variant.peak_memory_bytes),
        UNMEASURED if variant.seconds_per_step is None else f"{variant.seconds_per_step:.3g}",
    )


def _answers(variant: TrainedVariant) -> tuple[str, str]:
    """Return accuracy and macro F1, each the mean over the seeds, in percent."""
    found = [trial.measured.validation.answers for trial in variant.trials if trial.measured.validation]
    answers = [one for one in found if one is not None]
    if not variant.ok or len(answers) != len(variant.trials):
        return UNMEASURED, UNMEASURED
    return _percent([one.accuracy for one in answers]), _percent([one.macro_f1 for one in answers])


def _percent(shares: Sequence[float]) -> str:
    spread = f" +-{100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.fmean(shares):.1f}%{spread}"


def _reference_loss(variant: TrainedVariant) -> str:
    losses = [trial.measured.reference.loss for trial in variant.trials if trial.measured.reference]
    is_complete = variant.ok and len(losses) == len(variant.trials)
    return f"{statistics.fmean(losses):.3f}" if losses and is_complete else UNMEASURED


def _trial_notes(trials: Sequence[Trial], names: Mapping[str, str]) -> Iterator[str]:
    for trial in trials:
        for note in () if trial.provenance.cached else trial.measured.notes:
            yield f"{names[key_of(trial.spec.variant, 'trial')]}, seed {trial.spec.seed}: {note}"


def _tried(variant: TrainedVariant, searches: Sequence[Trial]) -> list[list[Trial]]:
    """Return the trials of the rounds of the search for a variant's learning rate, the lowest rate first in each."""
    rate = variant.variant.learning_rate
    rounds = dict.fromkeys(key_of(work, "trial") for work in search_workloads(variant.workload))
    ours = [
        trial
        for trial in searches
        if key_of(replace(trial.spec.variant, learning_rate=rate), "trial") == key_of(variant.variant, "trial")
    ]
    if variant.variant.search == "no" or rate not in {trial.spec.variant.learning_rate for trial in ours}:
        return []  # a rate that was given, or is of another search
    found = ([trial for trial in ours if key_of(trial.spec.workload, "trial") == work] for work in rounds)
    return [sorted(trials, key=_rate) for trials in found if trials]


def _rate(trial: Trial) -> float:
    return trial.spec.variant.learning_rate or 0.0


def _search_line(label: str, variant: Variant, rounds: Sequence[Sequence[Trial]]) -> str:
    shown = []
    for tried in rounds:
        results = (
            f"{_rate(trial):g} gives "
            + (trial.measured.outcome if trial.measured.validation is None else f"{trial.measured.validation.loss:.3f}")
            for trial in tried
        )
        shown.append(f"{tried[0].spec.workload.steps} steps: {', '.join(results)}")
    found = f"searched for {label}, on sequences that no gate uses, {'; '.join(shown)}"
    if all(trial.measured.validation is None for tried in rounds for trial in tried):
        return found + _ALL_DIVERGED
    finished = [trial for trial in rounds[-1] if trial.measured.validation is not None]
    best = min(finished, key=_loss, default=None)
    kept = "" if best is None or _rate(best) == variant.learning_rate else _KEPT
    return found + kept + _edge(variant, sorted({_rate(trial) for tried in rounds for trial in tried}))


def _loss(trial: Trial) -> float:
    return math.inf if trial.measured.validation is None else trial.measured.validation.loss


_KEPT: Final = "; the first guess stays, because no other rate is better beyond the noise"
_ALL_DIVERGED: Final = "; all diverged, so start the search from a much lower rate"


def _edge(variant: Variant, rates: Sequence[float]) -> str:
    """Return what to do if the rate that was chosen is the lowest or the highest of those tried."""
    if variant.learning_rate not in (rates[0], rates[-1]):
        return ""
    word = "lowest" if variant.learning_rate == rates[0] else "highest"
    return (
        f"; the best is the {word} that was tried and a better one may lie beyond: search again, with "
        f"learning_rate = {variant.learning_rate:g} and search_learning_rate = yes"
    )
