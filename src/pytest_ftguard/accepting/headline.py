"""What a reviewer reads of a file of accepted results, before the numbers; code never reads it back."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, Final

from pytest_ftguard.specs import Variant, variant_to_dict
from pytest_ftguard.units import format_bytes

if TYPE_CHECKING:
    from pytest_ftguard.accepting.record import PairRecord, SideRecord

__all__ = ["headline"]

_ALWAYS_SHOWN: Final = ("learning_rate", "alpha", "target_modules")
_SHOWN_VERSIONS: Final = ("torch", "transformers", "peft")


def headline(last: PairRecord, first: PairRecord) -> dict[str, str]:
    """Return the accepted result in a few lines: gap, losses, settings, training, and when and where it was measured.

    Args:
        last: What was accepted last.
        first: What was accepted first.
    """
    lines = {
        "accepted": _accepted(last),
        **({} if last.baseline is None else {"gap": _difference(last)}),
        "losses": _losses(last),
        **({"scores": _scores(last)} if last.scores else {}),
        "candidate": _settings(last.candidate.variant),
        **({} if last.baseline is None else {"baseline": _settings(last.baseline.variant)}),
        "training": _training(last),
        **({} if last.baseline is None else {"memory and time": _memory_and_time(last.candidate, last.baseline)}),
        "measured on": _place(last),
    }
    if first != last:
        what = f"gap {_gap(first)}" if first.baseline is not None else f"loss {first.loss(first.seeds):.4f}"
        lines["first accepted"] = f"{_accepted(first)}: {what}, {_settings(first.candidate.variant)}"
    return lines


def _memory_and_time(candidate: SideRecord, baseline: SideRecord) -> str:
    return f"candidate {_costs(candidate)}; baseline {_costs(baseline)}"


def _accepted(record: PairRecord) -> str:
    return record.accepted_on or "on an unknown date"


def _difference(record: PairRecord) -> str:
    side = "below" if record.gap(record.seeds) < 0 else "above"
    return f"{_gap(record)} nats per token, {record.candidate.variant.label} {side} {record.reference.variant.label}"


def _gap(record: PairRecord) -> str:
    bounds = "" if record.bounds is None else " [{:+.4f}, {:+.4f}]".format(*record.bounds)
    return f"{record.gap(record.seeds):+.4f}{bounds}"


def _losses(record: PairRecord) -> str:
    sides = [(side.variant.label, math.fsum(side.losses) / len(side.losses)) for side in record.sides]
    return ", ".join(f"{name} {loss:.4f}" for name, loss in [*sides, ("base model", record.base.loss)])


def _scores(record: PairRecord) -> str:
    places = range(len(record.seeds))
    sign, what = ("", "") if record.baseline is None else ("+", " gap")
    shown = [f"{name}{what} {score.mean(places):{sign}.4g}" for name, score in record.scores.items()]
    return ", ".join([*shown, *(f"{name} of the base model {score.base:.4g}" for name, score in record.scores.items())])


def _settings(variant: Variant) -> str:
    """Return a variant's settings: those that matter most, and those that are not the default."""
    usual = {item.name: _default(item) for item in fields(variant)}
    hidden = ("kind", *variant.told_by_label)
    shown = {
        name: value
        for name, value in variant_to_dict(variant).items()
        if name in _ALWAYS_SHOWN or (name not in hidden and value != usual[name])
    }
    return f"{variant.label}: {', '.join(f'{name} {_compact(value)}' for name, value in shown.items())}"


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _compact(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _training(record: PairRecord) -> str:
    work = record.work
    sizes = f"{work['steps']} steps of {work['batch_size']}x{work['block_size']}"
    seeds = f"{len(record.seeds)} seeds ({', '.join(map(str, record.seeds))})"
    text = f"{len(record.base.tokens)} validation sequences"
    return ", ".join([*([record.model] if record.model else []), sizes, seeds, text])


def _costs(side: SideRecord) -> str:
    peak = "no peak" if side.peak_bytes is None else format_bytes(side.peak_bytes)
    if side.seconds_per_step is None:
        return f"{peak}, no time"
    return f"{peak}, {sorted(side.seconds_per_step)[len(side.seconds_per_step) // 2]:.3g} s a step"


def _place(record: PairRecord) -> str:
    place = record.environment
    versions = [f"{name} {place.versions[name]}" for name in _SHOWN_VERSIONS if name in place.versions]
    return ", ".join([place.device_name, place.precision, f"pytest-ftguard {record.ftguard_version}", *versions])
