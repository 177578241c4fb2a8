"""What all assertion helpers share: they find the limit, ask the gate, record the verdict, and fail the test."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, Protocol, cast

from pytest_ftguard import current
from pytest_ftguard.comparison.curves import has_own_curves
from pytest_ftguard.current import RunningTest, active_test
from pytest_ftguard.errors import ConfigurationError, FtguardWarning, GateFailure, LimitExceeded
from pytest_ftguard.gates.catalogue import argument_of, argument_setting
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.rule import GAIN_FACTOR, Rule
from pytest_ftguard.gates.setting import Setting
from pytest_ftguard.gates.settling import settle_pair
from pytest_ftguard.gates.verdict import Verdict, needs_seeds
from pytest_ftguard.results import TrainedVariant
from pytest_ftguard.specs import key_of
from pytest_ftguard.statistics import SeedNoise

__all__ = [
    "ActiveTest",
    "Reaction",
    "active_test",
    "check_pair",
    "check_variant",
    "conclude",
    "conclude_all",
    "find_test",
    "limit_of",
    "look",
    "rule_of",
    "setting_of",
    "value_of",
]


DEFAULT_CONFIDENCE = 0.95


Reaction = Literal["fail", "warn"]
"""What a verdict that is no PASS does to the test."""


Gate = Callable[[TrainedVariant, TrainedVariant, Limit, Rule], Verdict]
"""A function that judges a candidate against a baseline, by a limit and a rule."""


class ActiveTest(RunningTest, Protocol):
    """The test that is running: it knows the limits that were set, and keeps the verdicts."""

    @property
    def is_planned(self) -> bool:
        """Whether the variants are planned only, and not trained."""

    def setting(self, name: str) -> Setting | None:
        """Return a setting from the marker, the command line, the environment or the ini file."""

    def seed_noise(self, candidate: TrainedVariant, baseline: TrainedVariant) -> SeedNoise | None:
        """Return the calibrated noise of seeds for two variants; None if there is none."""

    def record(self, verdict: Verdict, variants: Sequence[TrainedVariant]) -> None:
        """Keep a verdict, and the variants that it is about, for the summary and the files."""


def find_test() -> ActiveTest | None:
    """Return the test that a helper is called for; None outside of pytest.

    Raises:
        ConfigurationError: No test is running, or it cannot be known which one called.
    """
    return cast("ActiveTest | None", current.find_test())


def check_pair(helper: str, candidate: object, baseline: object, usage: str = "lora_variant, full_variant") -> None:
    """Raise an error if candidate and baseline are no pair, or were given the wrong way round."""
    ours, theirs = check_variant(helper, candidate), check_variant(helper, baseline)
    if ours.variant.kind == "full" and theirs.variant.kind != "full":
        message = (
            f"{helper} was given {ours.label} as the candidate and {theirs.label} as the baseline: swap them, "
            f"{helper}({usage})"
        )
        raise ConfigurationError(message)
    # Also if one of the two was read from a report: the same training cannot be worse than itself, whatever its label.
    if ours is theirs or key_of(ours.variant, "training") == key_of(theirs.variant, "training"):
        labels = f"{ours.label} and {theirs.label}, one training under two labels,"
        message = (
            f"{helper} was given {ours.label if ours.label == theirs.label else labels} as the candidate and as the "
            f"baseline: such a gate cannot fail; give two variants: {helper}({usage})"
        )
        raise ConfigurationError(message)


def rule_of(confidence: float | None, same_learning_rate: bool = False) -> Rule:
    """Return how a gate decides, by argument and settings."""
    return Rule(
        confidence=value_of("confidence", confidence, DEFAULT_CONFIDENCE),
        gain_factor=value_of("gain_factor", None, GAIN_FACTOR),
        same_learning_rate=same_learning_rate,
    )


def look(assess: Gate, candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule) -> Verdict:
    """Ask a gate; settle learning rates that its answer hangs on; if it is in doubt, ask again with more seeds."""

    def answer(rule: Rule) -> Callable[[TrainedVariant, TrainedVariant], Verdict]:
        return lambda ours, theirs: _with_curves(assess, ours, theirs, limit, _calibrated(rule, ours, theirs))

    # Only variants that were trained in this run, with the same seeds, can get more.
    both = candidate.source and baseline.source and candidate.workload.looks == baseline.workload.looks
    looks = candidate.workload.looks if both else ()
    if len(looks) < 2:
        # The other run may have stopped at the look that answered: then that look's share of the error counts.
        elsewhere = [side.workload.looks for side in (candidate, baseline) if side.source is None]
        taken = max(elsewhere, key=len, default=looks)
        if len(taken) > 1:
            rule = rule.at_look(1 + sum(len(candidate.trials) > seeds for seeds in taken), len(taken))
        return settle_pair(answer(rule), candidate, baseline)[0]
    for look, seeds in enumerate(looks, start=1):
        candidate = candidate.with_seeds(seeds)
        baseline = baseline.with_seeds(seeds) if candidate.ok else baseline  # with a failed seed there is no verdict
        verdict, candidate, baseline = settle_pair(answer(rule.at_look(look, len(looks))), candidate, baseline)
        if not needs_seeds(verdict):
            break
    return verdict


def _with_curves(
    assess: Gate, candidate: TrainedVariant, baseline: TrainedVariant, limit: Limit, rule: Rule
) -> Verdict:
    """Ask a gate; train what was only evaluated again if the gate lacks nothing but losses along training."""
    verdict = assess(candidate, baseline, limit, rule)
    lacks = verdict.status == "INCONCLUSIVE" and not needs_seeds(verdict) and not has_own_curves(candidate, baseline)
    if not lacks or candidate.workload.final:
        return verdict
    return assess(candidate.with_curves(), baseline.with_curves(), limit, rule)


def _calibrated(rule: Rule, candidate: TrainedVariant, baseline: TrainedVariant) -> Rule:
    test = find_test()
    return rule if test is None else replace(rule, seed_noise=test.seed_noise(candidate, baseline))


def check_variant(helper: str, value: object) -> TrainedVariant:
    """Return what a helper was given, if it is a trained variant."""
    if not isinstance(value, TrainedVariant):
        message = f"{helper} takes trained variants, such as the fixture lora_variant gives, got {value!r}"
        raise ConfigurationError(message)
    return value


def setting_of(name: str, argument: Any) -> Setting | None:
    """Return a setting: that of the argument, or else of the running test."""
    if argument is not None:
        return argument_setting(name, argument)
    test = find_test()
    return test.setting(name) if test else None


def value_of(name: str, argument: Any, default: Any) -> Any:
    """Return a setting's value, or the default if nobody made it."""
    setting = setting_of(name, argument)
    return default if setting is None else setting.value


def limit_of(helper: str, name: str, argument: Any) -> Limit:
    """Return the limit of a gate; that there is none is an error."""
    setting = setting_of(name, argument)
    if setting is None:
        message = (
            f"{helper} has no limit, and a gate without a limit is never green: pass {argument_of(name)}=..., mark the "
            f"test with ftguard({name}=...), or set ftguard_{name} in the ini file"
        )
        raise ConfigurationError(message)
    return Limit.of(setting)


def conclude(
    verdict: Verdict, on_inconclusive: Reaction | None, *variants: TrainedVariant, warn_of_invalid: bool = False
) -> Verdict:
    """Record a verdict, and fail the test or warn if it is not a PASS; to be called by a helper itself.

    Args:
        verdict: The verdict.
        on_inconclusive: The argument of that name.
        variants: What the verdict is about.
        warn_of_invalid: Whether INVALID only warns too.
    """
    return _concluded([verdict], on_inconclusive, variants, warn_of_invalid=warn_of_invalid)


def conclude_all(verdicts: Sequence[Verdict], on_inconclusive: Reaction | None, *variants: TrainedVariant) -> Verdict:
    """Record several verdicts of one gate, and fail the test or warn if not all are a PASS; see `conclude`.

    Returns:
        The worst of them.
    """
    return _concluded(verdicts, on_inconclusive, variants)


_WORST_FIRST: Final = ("FAIL", "INVALID", "INCONCLUSIVE")


def _concluded(
    verdicts: Sequence[Verdict],
    on_inconclusive: Reaction | None,
    variants: Sequence[TrainedVariant],
    *,
    warn_of_invalid: bool = False,
) -> Verdict:
    choice = value_of("on_inconclusive", on_inconclusive, "fail")
    warned = {"INCONCLUSIVE"} if choice == "warn" else set()
    if warn_of_invalid:
        warned.add("INVALID")
    verdicts = [replace(verdict, only_warned=verdict.status in warned) for verdict in verdicts]
    worst = min(verdicts, key=lambda one: _WORST_FIRST.index(one.status) if one.status in _WORST_FIRST else 9)
    test = find_test()
    if test is not None:
        for verdict in verdicts:
            test.record(verdict, variants)
        if test.is_planned:  # nothing was trained, so nothing is decided
            return worst
    failed = [verdict for verdict in verdicts if not verdict.lets_pass and not verdict.only_warned]
    if failed:
        failed.sort(key=lambda one: _WORST_FIRST.index(one.status))
        message = "\n\n".join(verdict.message for verdict in failed)
        raise (LimitExceeded if failed[0].status == "FAIL" else GateFailure)(message)
    for verdict in verdicts:
        if verdict.only_warned:
            # The user looks at the frame that called the helper, which is three above this one.
            warnings.warn(FtguardWarning(verdict.message), stacklevel=4)
    return worst
