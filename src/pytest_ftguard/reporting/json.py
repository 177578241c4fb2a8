"""The JSON report, written and read: strict JSON, in which what was not measured, or is not finite, is null."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from pytest_ftguard import __version__
from pytest_ftguard.comparison.examples import lost_most, pairs_to_compare
from pytest_ftguard.comparison.grouping import by_workload, trained_variants, variants_of
from pytest_ftguard.comparison.means import by_slice, mean, mean_scores
from pytest_ftguard.comparison.specialization import specialization_of
from pytest_ftguard.errors import ConfigurationError, FtguardError
from pytest_ftguard.gates.verdict import RecordedVerdict
from pytest_ftguard.reporting.summary import Summary
from pytest_ftguard.results import (
    Answers,
    Measured,
    Provenance,
    SequenceLosses,
    TrainedVariant,
    Trial,
    from_plain,
    to_plain,
)
from pytest_ftguard.specs import TrialSpec, readable_json, variant_to_dict

__all__ = ["json_report", "read_report", "render"]

_SCHEMA: Final = 1


def render(summary: Summary) -> str:
    """Return the text of the report on a run."""
    return json_report(summary.trials, summary.verdicts, summary.root)


def json_report(trials: Sequence[Trial], verdicts: Sequence[RecordedVerdict], root: Path | None = None) -> str:
    """Return the text of the report.

    Args:
        trials: All trials.
        verdicts: All verdicts.
        root: The folder from which paths are written if they lie in it; the others, and all if it is None, stay whole.
    """
    environment = next((trial.measured.environment for trial in trials if trial.measured.environment), None)
    gated = by_workload(trial for trial in trials if trial.spec.workload.purpose == "gates")
    workloads = [variants_of(group) for group in gated]
    report = {
        "schema": _SCHEMA,
        "ftguard_version": __version__,
        "environment": to_plain(environment),
        "trials": [_trial(trial) for trial in trials],
        "verdicts": [_verdict(recorded) for recorded in verdicts],
        "lost_most": list(_lost_most(workloads, verdicts)),
        "specialization": list(_specialization(workloads)),
    }
    # Not in the middle of another path; and a root folder that is that of the machine is no place of the project's own.
    inside = (
        None if root is None or root == root.parent else re.compile(rf"(?<![^\s'\"=:,;([{{]){re.escape(f'{root}/')}")
    )
    return readable_json(_strict(report, inside))


def read_report(path: str | os.PathLike[str]) -> tuple[TrainedVariant, ...]:
    """Return the variants that another run trained, from the file that `--ftguard-json` named.

    They go through the same assertion helpers as those of this run, for example LoRA trained now next to full
    fine-tuning trained last night: what was measured decides whether the two did the same work, wherever the files
    lay. Memory and time are judged only within one environment. The weights are not in the report, so `load` is an
    error.

    Args:
        path: The report; a relative path starts at the working folder, as for `open`.

    Returns:
        One variant for each workload and way of adapting the weights: full fine-tuning first, the others in the order
        of the report.

    Raises:
        ConfigurationError: The file cannot be read, or is not a report that this version reads.
    """
    place = str(Path(path).absolute())
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        if report["schema"] != _SCHEMA:
            message = f"the report {place!r} has schema {report['schema']!r}, and this version reads {_SCHEMA}"
            raise ConfigurationError(message)
        if any(values["outcome"] == "planned" for values in report["trials"]):
            message = (
                f"the report {place!r} is that of a plan, in which nothing was trained: run without --ftguard-plan"
            )
            raise ConfigurationError(message)
        trials = [_read_trial(values) for values in report["trials"]]
    except OSError as error:
        message = f"the report {place!r} cannot be read: {error.strerror or error}; give what --ftguard-json wrote"
        raise ConfigurationError(message) from None
    except ConfigurationError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FtguardError) as error:
        message = (
            f"the report {place!r} is not one that --ftguard-json of this version wrote "
            f"({type(error).__name__}: {error}): make it again"
        )
        raise ConfigurationError(message) from None
    # Which of them was trained first depends on the tests, and must not decide which is taken for which.
    found = sorted(trained_variants(trials), key=lambda variant: variant.variant.kind != "full")
    settled = [one for one in found if one.variant.search == "yes"]
    return tuple(one for one in found if not any(_is_first_guess(one, other) for other in settled))


def _is_first_guess(one: TrainedVariant, other: TrainedVariant) -> bool:
    """Return whether a variant is another one before a search had found the other's learning rate."""
    guess = replace(one.variant, learning_rate=other.variant.learning_rate, search_learning_rate="yes")
    return one.variant.search == "auto" and guess == other.variant and one.workload == other.workload


def _verdict(recorded: RecordedVerdict) -> dict[str, Any]:
    values = recorded.verdict.shown()
    del values["set_by"]  # the message says it
    return {"nodeid": recorded.nodeid, "test_outcome": recorded.test_outcome, **values}


def _lost_most(
    workloads: Sequence[Sequence[TrainedVariant]], verdicts: Sequence[RecordedVerdict]
) -> Iterator[dict[str, Any]]:
    """Yield for each candidate the examples on which it lost most, without their texts."""
    judged = {recorded.verdict.keys for recorded in verdicts}
    for variants in workloads:
        for candidate, baseline in pairs_to_compare(variants, judged):
            found = lost_most(candidate, baseline)
            if found is not None:
                yield {
                    "candidate": candidate.label,
                    "baseline": baseline.label,
                    "score": found.score,
                    "examples": to_plain(found.examples),
                    "trials": _fingerprints([candidate]),
                }


def _specialization(workloads: Sequence[Sequence[TrainedVariant]]) -> Iterator[dict[str, Any]]:
    """Yield for each workload with a reference text how far its domain lies from that for the base model."""
    for variants in workloads:
        found = specialization_of(variants)
        if found is not None:
            yield {
                "domain_loss": found.domain_loss,
                "reference_loss": found.reference_loss,
                "difference": found.difference,
                "gain": mean(found.gains) if found.gains else None,
                "gains": found.gains,
                "unit": f"nats per {found.per}",
                "trials": _fingerprints(variants),
            }


def _fingerprints(variants: Sequence[TrainedVariant]) -> list[str]:
    return [trial.fingerprint for variant in variants for trial in variant.trials]


_LOSSES: Final = ("validation", "base_validation", "reference", "base_reference")
# The report gives the short names to what most readers want: the sums over the text.
_ROWS: Final = {"nll": "sequence_nll", "tokens": "sequence_tokens"}
# Parts of losses that are null if there is nothing to say; others that are None are left out.
_NULLS: Final = frozenset({"documents"})
# What an earlier version did not write. All else is in every report, so what lacks it is damaged.
_LATER: Final = frozenset({"start", "notes", "remarks", "supervised_tokens"})
# What came together with `measured_again`.
_WITH_AGAIN: Final = frozenset({"curve_of", "probe"})
# What came together with `adapted_share`.
_WITH_SHARE: Final = frozenset({"updates"})


def _trial(trial: Trial) -> dict[str, Any]:
    spec, measured = trial.spec, trial.measured
    return {
        "fingerprint": trial.fingerprint,
        "variant": spec.variant.kind,
        "label": spec.variant.label,
        "settings": variant_to_dict(spec.variant),
        "workload": spec.workload.to_dict(),
        "device": spec.device,
        "seed": spec.seed,
        "purpose": spec.workload.purpose,
        "cached": trial.provenance.cached,
        "measured_again": trial.provenance.measured_again,
        "base_gap": measured.start.quantized_gap if measured.start else None,
        "adapted_share": measured.parameters.under_adapters if measured.parameters else None,
        "scores": None if measured.validation is None else mean_scores(measured.validation),
        "slices": None if measured.validation is None else _slices(measured.validation),
        **to_plain(measured),
        **{name: _losses(getattr(measured, name)) for name in _LOSSES},
    }


def _slices(losses: SequenceLosses) -> dict[str, dict[str, Any]]:
    """Return by column and value how many examples a slice has, their loss, and the mean of each score by its name."""
    found: dict[str, dict[str, Any]] = {}
    for one, means in by_slice(losses).items():
        ours = {"examples": means.examples, "loss": means.loss}
        found.setdefault(one.column, {})[one.value] = {**ours, **means.scores, **ours}
    return found


def _losses(losses: SequenceLosses | None) -> dict[str, Any] | None:
    if losses is None:
        return None
    values = to_plain(losses)
    return {
        "loss": losses.loss,
        "perplexity": losses.perplexity,
        "sequences": len(losses.nll),
        "tokens": sum(losses.tokens),
        **_shares(losses.answers),
        **{_ROWS.get(name, name): part for name, part in values.items() if part is not None or name in _NULLS},
    }


def _shares(answers: Answers | None) -> dict[str, float]:
    return {} if answers is None else {"accuracy": answers.accuracy, "macro_f1": answers.macro_f1}


def _read_trial(values: Mapping[str, Any]) -> Trial:
    later = _LATER if "measured_again" in values else _LATER | _WITH_AGAIN
    later = later if "adapted_share" in values else later | _WITH_SHARE
    names = {item.name for item in fields(Measured)} - (later - values.keys())
    measured = {name: values[name] for name in names}
    curve = [{**point, "loss": _number(point["loss"]), "nll": _numbers(point["nll"])} for point in values["curve"]]
    losses = {name: _read_losses(values[name]) for name in _LOSSES}
    parts = {"workload": values["workload"], "variant": values["settings"]}
    return Trial(
        TrialSpec.from_dict({**parts, "seed": values["seed"], "device": values["device"]}),
        from_plain({**measured, **losses, "curve": curve}, Measured),
        Provenance(cached=True),
    )


def _read_losses(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    names = {item.name: _ROWS.get(item.name, item.name) for item in fields(SequenceLosses)}
    read = {name: values[given] for name, given in names.items() if given in values}
    scores = read.get("scores")
    if scores is not None:
        scored = {name: _numbers(row) for name, row in scores["values"].items()}
        read["scores"] = {**scores, "values": scored}
    return {**read, "nll": _numbers(read["nll"])}


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [_number(value) for value in values]


def _number(value: float | None) -> float:
    """Return a number of the report, in which one that is not finite is null."""
    return math.nan if value is None else value


def _strict(value: Any, root: re.Pattern[str] | None) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return root.sub("", value) if root else value
    if isinstance(value, Mapping):
        return {name: _strict(item, root) for name, item in value.items()}
    return [_strict(item, root) for item in value] if isinstance(value, list | tuple) else value
