"""Whether two variants did the same work, in the same arithmetic, from the same model, by what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pytest_ftguard.comparison.problem import Problem, name_of
from pytest_ftguard.results import SequenceLosses, TrainedVariant, Trial
from pytest_ftguard.specs import Workload, fields_of, without_folders
from pytest_ftguard.specs.values import plain

__all__ = [
    "different_arithmetic",
    "different_content",
    "different_environment",
    "different_threads",
    "different_workload",
    "same_base",
    "same_losses",
    "same_sequences",
    "step_0",
]

# The wrapped model must start where the base model stands; what remains is rounding in the precision used.
_STEP_0_TOLERANCE: Final = {"fp32": 1e-3, "bf16": 5e-3}
# The base model's losses of single sequences, measured twice, perhaps on two machines.
_BASE_TOLERANCE: Final = {"fp32": 1e-4, "bf16": 5e-3}
_MEAN_BASE_TOLERANCE: Final = {"fp32": 1e-5, "bf16": 5e-4}


def different_workload(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[Problem]:
    """Yield each part of the workload that differs."""
    # Of what may be "auto", the environment says what it stood for.
    names = fields_of(Workload, "trial", resolved=False)
    left, right = ({name: plain(getattr(side.workload, name)) for name in names} for side in (candidate, baseline))
    differing = [name for name in names if not _is_same(name, left[name], right[name])]
    settings = [name for name in differing if name not in _PLACES]
    # With other settings, or without results, the contents of two places cannot be compared, nor need they be.
    comparable = not settings and all(trial.measured.outcome == "ok" for trial in (*candidate.trials, *baseline.trials))
    places = [name for name in differing if comparable and name in _PLACES]
    for name in (*settings, *(name for name in places if not _same_content(name, candidate, baseline))):
        ours, theirs = left[name], right[name]
        if isinstance(ours, dict):
            keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
            ours, theirs = ({key: side.get(key) for key in keys} for side in (ours, theirs))
        yield Problem(
            f"the two variants did not do the same work ({name})",
            why=_told_apart(name, ours, theirs),
            remedy="train both on one workload",
        )


def _is_same(name: str, ours: Any, theirs: Any) -> bool:
    """Return whether a setting is the same; if an argument names a file, its folder may differ."""
    return ours == theirs or (name not in _PLACES and without_folders(ours) == without_folders(theirs))


def _told_apart(name: str, ours: Any, theirs: Any) -> str:
    """Say what differs, by names that mean something on every machine."""
    one, other = without_folders(ours), without_folders(theirs)
    if one == other:
        return f"{name} is {one!r} for both, but the contents differ."
    contents = " (their contents differ)" if name in _PLACES else ""
    return f"{name} is {one!r} for the candidate and {other!r} for the baseline{contents}."


def _same_content(name: str, candidate: TrainedVariant, baseline: TrainedVariant) -> bool:
    """Return whether the trials show that two places, for example on two machines, hold the same."""
    theirs = {trial.spec.seed: trial for trial in baseline.trials}
    pairs = [(trial, theirs[trial.spec.seed]) for trial in candidate.trials if trial.spec.seed in theirs]
    return bool(pairs) and all(_PLACES[name](ours, their) for ours, their in pairs)


def _same_training(ours: Trial, theirs: Trial) -> bool:
    return ours.measured.data_order is not None and ours.measured.data_order == theirs.measured.data_order


def _same_validation(ours: Trial, theirs: Trial) -> bool:
    return same_sequences(ours.measured.validation, theirs.measured.validation)


def _same_reference(ours: Trial, theirs: Trial) -> bool:
    return same_sequences(ours.measured.reference, theirs.measured.reference)


def _same_tokens(ours: Trial, theirs: Trial) -> bool:
    return _same_training(ours, theirs) and _same_validation(ours, theirs)


def same_sequences(ours: SequenceLosses | None, theirs: SequenceLosses | None) -> bool:
    """Return whether both losses were measured, on the same sequences."""
    if ours is None or theirs is None:
        return False
    return (ours.digest, ours.tokens, ours.documents) == (theirs.digest, theirs.tokens, theirs.documents)


def same_base(ours: Trial, theirs: Trial) -> bool:
    """Return whether the base models have the same loss on every sequence, except for rounding."""
    return same_losses(ours.measured.base_validation, theirs.measured.base_validation, _precision(ours))


def same_losses(one: SequenceLosses | None, other: SequenceLosses | None, precision: str) -> bool:
    """Return whether a model has the same loss on every sequence on both sides, except for rounding."""
    if one is None or other is None or not same_sequences(one, other):
        return False
    single, mean = _tolerance(_BASE_TOLERANCE, precision), _tolerance(_MEAN_BASE_TOLERANCE, precision)
    return abs(one.loss - other.loss) <= mean * other.loss and all(
        abs(a - b) <= single * max(1.0, abs(b)) for a, b in zip(one.nll, other.nll, strict=True)
    )


def _precision(trial: Trial) -> str:
    return trial.measured.environment.precision if trial.measured.environment else "fp32"


def _tolerance(by_precision: Mapping[str, float], precision: str) -> float:
    return by_precision.get(precision, min(by_precision.values()))


# The same text, model or tokenizer may have another path on another machine; what was measured decides.
_PLACES: Final[Mapping[str, Callable[[Trial, Trial], bool]]] = {
    "model": same_base,
    "revision": same_base,
    "tokenizer": _same_tokens,
    "train": _same_training,
    "validation": _same_validation,
    "reference": _same_reference,
}


_NO_BASE: Final = "Without it nothing shows what was learned."


def different_content(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[Problem]:
    """Yield for each common seed whether batches or base model differ; failed trials are left to other checks."""
    theirs = {trial.spec.seed: trial for trial in baseline.trials}
    common = [(trial, theirs[trial.spec.seed]) for trial in candidate.trials if trial.spec.seed in theirs]
    if candidate.trials and baseline.trials and not common:
        yield Problem(
            "the two variants have no seed in common",
            why="So nothing shows that they did the same work.",
            remedy="train both with the same seeds",
        )
    for ours, other in common:
        if ours.measured.outcome != "ok" or other.measured.outcome != "ok":
            continue
        where = f"seed {ours.spec.seed}"
        if ours.measured.data_order is None or other.measured.data_order is None:
            yield Problem(f"{where}: it is not known which batches the two variants were trained on")
        elif not _same_count(ours, other):
            yield Problem(
                f"{where}: the loss was taken of a different number of tokens for each variant",
                why=f"It was taken of {ours.measured.supervised_tokens:,} tokens for the candidate and of "
                f"{other.measured.supervised_tokens:,} for the baseline.",
            )
        elif ours.measured.data_order != other.measured.data_order:
            yield Problem(f"{where}: the two variants were not trained on the same batches in the same order")
        if ours.measured.code != other.measured.code:
            yield Problem(f"{where}: the source of the training function was not the same for the two variants")
        if ours.measured.base_validation is None or other.measured.base_validation is None:
            yield Problem(f"{where}: the loss of the base model was not measured", why=_NO_BASE)
        elif not same_sequences(ours.measured.base_validation, other.measured.base_validation):
            yield Problem(f"{where}: the two variants were not evaluated on the same validation sequences")
        elif not same_base(ours, other):
            yield Problem(
                f"{where}: the two variants do not start from the same base model",
                why="The losses of the base model on the same text differ.",
            )


def _same_count(ours: Trial, theirs: Trial) -> bool:
    """Return whether the loss was taken of as many tokens; what an earlier version measured does not say."""
    counts = {ours.measured.supervised_tokens, theirs.measured.supervised_tokens}
    return len(counts) == 1 or None in counts


def different_arithmetic(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[Problem]:
    """Yield why losses cannot be compared: another kind of device or another precision rounds differently."""
    for trial in (*candidate.trials, *baseline.trials):
        if trial.measured.outcome == "ok" and trial.measured.environment is None:
            yield Problem(f"the device and precision of {name_of(trial)}, were not recorded")
    for name in ("device", "precision"):
        ours, theirs = _environment_values(candidate, name), _environment_values(baseline, name)
        if ours and theirs and (ours != theirs or len(ours) > 1):
            yield Problem(
                f"the two variants did not do the same work ({name})",
                why=_sides(name, ours, theirs),
                remedy="train both in one environment",
            )


def different_environment(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[Problem]:
    """Yield why bytes and seconds cannot be compared: they belong to their machine and to the versions on it."""
    yield from _different("device_name", "platform", "versions", sides=(candidate, baseline))


def different_threads(candidate: TrainedVariant, baseline: TrainedVariant) -> Iterator[Problem]:
    """Yield why seconds cannot be compared, although bytes can."""
    yield from _different("threads", sides=(candidate, baseline))


def _different(*names: str, sides: tuple[TrainedVariant, TrainedVariant]) -> Iterator[Problem]:
    candidate, baseline = sides
    for name in names:
        ours, theirs = _environment_values(candidate, name), _environment_values(baseline, name)
        if ours and theirs and (ours != theirs or len(ours) > 1):
            yield Problem(
                f"the two variants were not measured in one environment ({name})",
                why=_sides(name, ours, theirs),
                remedy="train both in one environment",
            )


def _sides(name: str, ours: set[str], theirs: set[str]) -> str:
    return f"{name} is {', '.join(sorted(ours))} for the candidate and {', '.join(sorted(theirs))} for the baseline."


def _environment_values(variant: TrainedVariant, name: str) -> set[str]:
    values = (
        getattr(trial.measured.environment, name) for trial in variant.trials if trial.measured.environment is not None
    )
    texts = ((", ".join(f"{key} {value[key]}" for key in value) if name == "versions" else value) for value in values)
    return set(map(str, texts))


def step_0(ours: Trial, theirs: Trial) -> Iterator[Problem]:
    """Yield why two trials do not start from the same model.

    A method that adds something at once, such as a prompt, does not start at the base model. If the model is the base
    model with its adapter switched off, the method explains the difference, and it is left out.
    """
    starts = [
        trial.measured.curve[0]
        for trial in (ours, theirs)
        if trial.measured.curve and trial.measured.curve[0].step == 0
    ]
    if len(starts) != 2:
        yield Problem(f"seed {ours.spec.seed}: the loss before training was not measured for both variants")
        return
    tolerance = _tolerance(_STEP_0_TOLERANCE, _precision(ours))
    losses = [point.loss for point in starts]
    if not _start_on_the_same(ours, theirs):
        # The base model is the same, so what matters is how far from it each of them starts.
        distances = [trial.measured.start for trial in (ours, theirs)]
        base = ours.measured.base_validation
        if None in distances or base is None:
            yield Problem(f"seed {ours.spec.seed}: the loss before training was not measured on the same sequences")
            return
        losses = [base.loss + distance.base_gap for distance in distances if distance is not None]
    left, right = (loss - _explained(trial) for loss, trial in zip(losses, (ours, theirs), strict=True))
    if not abs(left - right) <= tolerance * max(1.0, abs(right)):
        yield Problem(
            f"seed {ours.spec.seed}: the two variants do not start from the same model",
            why=f"Before training the loss is {left:.4f} for the candidate and {right:.4f} for the baseline"
            f"{_off(ours, theirs)}.",
        )


def _start_on_the_same(ours: Trial, theirs: Trial) -> bool:
    """Return whether the starts of two trials were measured on the same sequences."""
    one, other = ours.measured.curve_of, theirs.measured.curve_of
    if one is None and other is None:
        return True  # that of their evaluation, which is compared elsewhere
    return one is not None and other is not None and (one.digest, one.tokens) == (other.digest, other.tokens)


def _explained(trial: Trial) -> float:
    """Return the part of a trial's start that its method explains, in nats per token."""
    start, base = trial.measured.start, trial.measured.base_validation
    if start is None or start.disabled_gap is None or base is None:
        return 0.0
    tolerance = _tolerance(_STEP_0_TOLERANCE, _precision(trial))
    return start.base_gap if start.disabled_gap <= tolerance * max(1.0, base.loss) else 0.0


def _off(*trials: Trial) -> str:
    """Return what was found with the adapters switched off."""
    return "".join(
        f"; with the adapter of {trial.spec.variant.label} switched off, a sequence is still "
        f"{trial.measured.start.disabled_gap:.4f} nats per token from the base model"
        for trial in trials
        if trial.measured.start is not None and trial.measured.start.disabled_gap is not None and not _explained(trial)
    )
