"""What a reader should know about a comparison besides its verdicts: signs that it is unfair to LoRA, or too short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pytest_ftguard.comparison.capacity import capacity_of, left_out, reaches_little
from pytest_ftguard.comparison.problem import first_of
from pytest_ftguard.results import MOST_TRAINED_ON, SequenceLosses, TrainedVariant

__all__ = ["fairness_notes"]

_FEW_STEPS: Final = 100
_UNKNOWN: Final = 0.005
# Of any two texts on one subject a few sequences are in both.
_TRAINED_ON: Final = 0.01
# Medians of steps vary by a few percent from run to run.
_BELOW_THE_FLOOR: Final = 0.9
_CONSTANT: Final = ("constant_with_warmup", "constant")
_MOST_NAMES: Final = 4
# Below this the difference may be rounding.
_STARTS_ELSEWHERE: Final = 1e-3


def fairness_notes(variants: Sequence[TrainedVariant], labels: Sequence[str] = ()) -> list[str]:
    """Return one sentence for each sign, about variants of one workload; none of them changes a verdict.

    Args:
        variants: The variants.
        labels: What the summary calls each of them; none are their own labels.
    """
    labels = labels or [variant.label for variant in variants]
    notes = [
        *_texts(variants),
        *dict.fromkeys(remark for one in variants for trial in one.trials for remark in trial.measured.remarks),
        *_steps(variants),
        *_schedule(variants),
        *_one_sided_search(variants, labels),
        *_seconds_apart(variants),
    ]
    for variant, label in zip(variants, labels, strict=True):
        notes += _unused(variant, label)
        if variant.variant.kind != "full":
            notes += _held(variant, label)
            notes += _start(variant, label)
            notes += _too_fast(variant, label, variants)
            notes += _reach(variant, label)
            notes += _skipped(variant, label)
            notes += _capacity(variant, label)
    return notes


def _texts(variants: Sequence[TrainedVariant]) -> Iterator[str]:
    """Look at what was evaluated, which is the same for all variants."""
    for role in ("validation", "reference"):
        measured = (getattr(trial.measured, role) for variant in variants for trial in variant.trials)
        losses: SequenceLosses | None = next((one for one in measured if one is not None), None)
        if losses is None:
            continue
        if losses.repeated:
            yield f"{losses.repeated} sequences of the {role} text repeat earlier ones and were left out"
        # The task chat names the rows.
        if losses.trained_on >= _TRAINED_ON * len(losses.nll) > 0 and variants[0].workload.task != "chat":
            yield (
                f"{losses.trained_on} of {len(losses.nll)} {role} sequences are also in the training text (an error "
                f"above {100 * MOST_TRAINED_ON:g} %)"
            )
        if losses.unknown > _UNKNOWN:
            yield (
                f"the tokenizer does not know {100 * losses.unknown:.2g} % of the {role} text: its loss is that of a "
                "simpler text"
            )


def _steps(variants: Sequence[TrainedVariant]) -> Iterator[str]:
    workload = variants[0].workload
    if workload.steps < _FEW_STEPS and not workload.final:
        yield (
            f"{workload.steps} steps are few: LoRA often keeps up for the first hundred and falls behind later; train "
            "longer before you decide, or set the workload's final = true if production trains no longer"
        )


def _start(variant: TrainedVariant, label: str) -> Iterator[str]:
    """Say how far from the base model a method starts that does not start there."""
    measured = [
        trial.measured.start
        for trial in variant.trials
        if trial.measured.start
        and trial.measured.start.disabled_gap is not None
        and trial.measured.start.quantized_gap is None
    ]
    starts = [start for start in measured if abs(start.base_gap) >= _STARTS_ELSEWHERE]
    if starts:
        gap = max((start.base_gap for start in starts), key=abs)
        off = max(start.disabled_gap or 0.0 for start in starts)
        yield (
            f"before training {label} is {abs(gap):.4f} nats per token {'above' if gap > 0 else 'below'} the "
            f"base model; with its adapter switched off, no sequence is more than {off:.4f} from it"
        )


def _held(variant: TrainedVariant, label: str) -> Iterator[str]:
    """Say what it costs alone that the base is held in few bits: the same for every seed."""
    gaps = [trial.measured.start.quantized_gap for trial in variant.trials if trial.measured.start]
    gap = next((gap for gap in gaps if gap is not None), None)
    if gap is not None:
        yield (
            f"the base of {label} is quantized, which alone changes its loss by {gap:+.4f} nats per token before any "
            "training; the gap to full fine-tuning includes the part of this that the training does not recover"
        )


def _too_fast(variant: TrainedVariant, label: str, variants: Sequence[TrainedVariant]) -> Iterator[str]:
    """Compare the times of a step with the arithmetic, which sets a floor to their ratio."""
    full = next((one for one in variants if one.variant.kind == "full"), None)
    ours, theirs = _flop(variant), _flop(full) if full else None
    if full is None or not (ours and theirs and variant.seconds_per_step and full.seconds_per_step):
        return
    if len(_runs([variant, full])) > 1:
        return  # their ratio says nothing
    floor, ratio = ours / theirs, variant.seconds_per_step / full.seconds_per_step
    if ratio < _BELOW_THE_FLOOR * floor:
        yield (
            f"a step of {label} took {100 * ratio:.0f}% of full's, less than the {100 * floor:.0f}% that "
            "its arithmetic needs. Mostly the optimizer is the reason: it moves every weight of full, and the batch is "
            "small, so a larger batch shrinks the advantage. Or full was disturbed"
        )


def _seconds_apart(variants: Sequence[TrainedVariant]) -> Iterator[str]:
    if len(_runs(variants)) > 1:
        yield "not all seconds per step were measured in one run on one machine, so do not compare them"


def _runs(variants: Sequence[TrainedVariant]) -> set[tuple[str, str | None]]:
    """Return in which runs steps were timed, and on which other machines."""
    return {
        (one.measured.time.run, one.provenance.measured_elsewhere)
        for each in variants
        for one in each.trials
        if one.measured.time
    }


def _flop(variant: TrainedVariant) -> int | None:
    return next((trial.measured.time.flop_per_step for trial in variant.trials if trial.measured.time), None)


def _schedule(variants: Sequence[TrainedVariant]) -> Iterator[str]:
    schedule = variants[0].workload.training_args.get("lr_scheduler_type", _CONSTANT[0])
    if schedule not in _CONSTANT:
        yield (
            f"the schedule {schedule!r} changes the learning rate along the way, and that moves the trend on which "
            '"too early to tell" and assert_converged rest: rely on them only if the run has the steps of production'
        )


def _one_sided_search(variants: Sequence[TrainedVariant], labels: Sequence[str]) -> Iterator[str]:
    """Say that only one side was searched on demand; one that a verdict hangs on is searched by itself."""
    named = list(zip(variants, labels, strict=True))
    searched = [label for variant, label in named if variant.variant.search == "yes"]
    given = [label for variant, label in named if variant.variant.search == "no"]
    if searched and given:
        yield (
            f"the learning rate of {', '.join(searched)} was searched and that of {', '.join(given)} was not, which "
            f"favours {', '.join(searched)} unless the other rate is known to be good"
        )


def _reach(variant: TrainedVariant, label: str) -> Iterator[str]:
    """Judge what was adapted, as the trial measured it, not what was asked for."""
    counts = next((trial.measured.parameters for trial in variant.trials if trial.measured.parameters), None)
    if counts is None or not reaches_little(variant):
        return
    yield (
        f"{label} adapts {_largest(counts.adapted or {})}, "
        f"{100 * (counts.adapted_share or 0):.2g} % of the model's matrix weights; "
        f"{_largest(counts.left_alone or {})} have no adapter, which usually costs more than a low rank does: adapt "
        f"{' and '.join(left_out(variant))} before you reject {label}"
    )


def _skipped(variant: TrainedVariant, label: str) -> Iterator[str]:
    """Name what `all-linear` passes over without a word."""
    counts = next((trial.measured.parameters for trial in variant.trials if trial.measured.parameters), None)
    targets = getattr(variant.variant, "target_modules", None) or _options(variant).get("target_modules")
    if counts is not None and targets == "all-linear":
        for name, share in (counts.skipped_experts or {}).items():
            yield (
                f"{label}: all-linear skips {name} ({100 * share:.2g} % of the parameters): adapt it through "
                "target_parameters"
            )


def _unused(variant: TrainedVariant, label: str) -> Iterator[str]:
    """Name what no batch has reached, such as an expert without a token."""
    unused = dict.fromkeys(
        name for trial in variant.trials if trial.measured.updates for name in trial.measured.updates.unused
    )
    if unused:
        yield f"{label}: the training never used {first_of(list(unused))}, so nothing was learned there"


def _options(variant: TrainedVariant) -> Mapping[str, Any]:
    options = getattr(variant.variant, "options", {})
    return options if isinstance(options, Mapping) else {}


def _largest(shares: Mapping[str, float]) -> str:
    """Return the names with the largest shares, and how many more there are."""
    names = sorted(shares, key=lambda name: (-shares[name], name))
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _capacity(variant: TrainedVariant, label: str) -> Iterator[str]:
    """Compare what the adapter can hold with what the training text can teach, at most its loss in bits.

    More capacity is advised only if the rate was searched, and never for a run that is worse than the base model.
    """
    base = next((trial.measured.base_validation for trial in variant.trials if trial.measured.base_validation), None)
    found = capacity_of(variant)
    if base is None or found is None or (variant.loss is not None and variant.loss >= base.loss):
        return
    if found.is_too_small:
        is_searched = variant.variant.search == "yes"
        todo = f", or give it more capacity ({variant.variant.more_capacity})" if is_searched else ""
        yield (
            f"{label} can hold about {found.holds_bits / 1e6:.2g} million bits, fewer than the up to "
            f"{found.text_bits / 1e6:.2g} million that {found.tokens:,} training tokens can teach: expect a gap{todo}"
        )
