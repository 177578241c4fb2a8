"""The gate on the model as it ships: saved, merged or exported, and loaded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pytest_ftguard.comparison.evidence import count_units, unit_name
from pytest_ftguard.comparison.pairs import text_problems
from pytest_ftguard.comparison.problem import Problem, name_of
from pytest_ftguard.errors import ConfigurationError, DeviceUnavailableError, FtguardError
from pytest_ftguard.gates import explain
from pytest_ftguard.gates.asking import Reaction, check_variant, conclude, limit_of, rule_of
from pytest_ftguard.gates.limits import Limit
from pytest_ftguard.gates.margin import margin_of
from pytest_ftguard.gates.rates import learned_nothing
from pytest_ftguard.gates.rule import Rule
from pytest_ftguard.gates.settling import settle_one
from pytest_ftguard.gates.verdict import NOT_FINITE, Status, Verdict, decide, give, invalid
from pytest_ftguard.gates.way_out import way_out
from pytest_ftguard.results import SequenceLosses, TrainedVariant
from pytest_ftguard.results.forms import FormLosses, Shipping
from pytest_ftguard.statistics import FloatArray, Interval, cluster, gap_interval

__all__ = ["assert_merge_drift", "assess_merge_drift"]

_REASONS: Final = {"PASS": explain.WITHIN, "FAIL": explain.BEYOND, "INCONCLUSIVE": explain.UNDECIDED}
_GRAVITY: Final[tuple[Status, ...]] = ("PASS", "INCONCLUSIVE", "FAIL", "INVALID")
# In nats per token: two models with losses so close on every example are the same model.
_SAME: Final = 1e-4
_MOST_NAMED: Final = 5


def assert_merge_drift(
    variant: TrainedVariant,
    *,
    at_most: float | str | None = None,
    dtype: str = "bf16",
    deploy: str | None = None,
    confidence: float | None = None,
    on_inconclusive: Reaction | None = None,
) -> Verdict:
    """Fail the test unless the model as it ships has about the loss of the trained one.

    The trained model is saved and reloaded; merged, saved in fp32 and reloaded; and merged, saved in `dtype` and
    reloaded. The last one computes in that type, as a server would. Each is evaluated on the validation examples, in a
    process of its own, and the worst decides. A variant without an adapter is saved and reloaded in fp32 and in
    `dtype`.

    Args:
        variant: The variant that is judged.
        at_most: The largest accepted growth of the loss, in nats per token; by default `max_merge_drift`.
        dtype: Type of the weights that are shipped: "bf16", "fp16" or "fp32".
        deploy: "module:function": your own export in place of the model in `dtype`. The function takes a folder
            (`pathlib.Path`) with the merged model in fp32 and its tokenizer. It returns what is called as the model
            is, `served(input_ids=..., use_cache=False)`, with an `attention_mask` for examples of different lengths,
            and gives an object with `logits`.
        confidence: One-sided confidence of each bound; by default `confidence`, or 0.95.
        on_inconclusive: "fail" or "warn"; by default `on_inconclusive`, or "fail".

    Returns:
        The verdict: PASS, or INCONCLUSIVE if that only warns.

    Raises:
        LimitExceeded: The verdict is FAIL.
        GateFailure: The verdict is INVALID or INCONCLUSIVE.
        ConfigurationError: There is no limit, an argument is wrong, or the function cannot be imported.
    """
    check_variant("assert_merge_drift", variant)
    limit = limit_of("assert_merge_drift", "max_merge_drift", at_most)
    shipping, rule = Shipping(dtype, deploy), rule_of(confidence)
    verdict = settle_one(lambda ours: assess_merge_drift(ours, limit, rule, shipping), variant)
    return conclude(verdict, on_inconclusive, variant)


@dataclass(frozen=True)
class _Drift:
    """How the loss has grown in one form, over all seeds.

    Attributes:
        form: The form.
        status: What the gate says to it.
        interval: The growth, in nats per token.
        finding: What is known about the cause; "" if nothing is.
        suspicion: What makes its losses look too good; "" if nothing does.
    """

    form: str
    status: Status
    interval: Interval
    finding: str
    suspicion: str = ""

    @property
    def gravity(self) -> tuple[int, float]:
        """How much it weighs compared with another form."""
        return _GRAVITY.index(self.status), self.interval.value

    def text(self, limit: Limit) -> str:
        """Return the form with its growth."""
        value, lower, upper = limit.texts(self.interval.value, self.interval.lower, self.interval.upper)
        return f"{self.form} {value} [{lower}, {upper}]"


def assess_merge_drift(variant: TrainedVariant, limit: Limit, rule: Rule, shipping: Shipping) -> Verdict:
    """Judge how much the loss grows from the trained model to the one that ships.

    Args:
        variant: The variant that is judged.
        limit: The largest accepted growth, in nats per token.
        rule: How it is judged.
        shipping: How it is shipped.
    """
    problems = text_problems([variant], "validation") or learned_nothing(variant, rule.confidence)
    forms: tuple[tuple[FormLosses, ...], ...] = ()
    if not problems:
        try:
            forms = variant.forms(shipping)
        except (ConfigurationError, DeviceUnavailableError):
            raise
        except FtguardError as error:
            problems = [_not_at_hand(variant, str(error))]
    problems = problems or _unmeasured(variant, forms)
    if problems:
        return invalid("merge_drift", variant, None, limit, problems)
    drifts = [_drift(variant, rows, limit, rule) for rows in zip(*forms, strict=True)]
    return _answer(variant, drifts, limit, rule)


def _answer(variant: TrainedVariant, drifts: Sequence[_Drift], limit: Limit, rule: Rule) -> Verdict:
    worst = max(drifts, key=lambda drift: drift.gravity)
    shown = f"Each form: {'; '.join(drift.text(limit) for drift in drifts)}."
    findings = [drift.finding for drift in drifts if drift.finding and drift.status != "PASS"]
    suspicious = [drift.suspicion for drift in drifts if drift.suspicion]
    if worst.status == "INVALID":
        problem = Problem(f"{worst.form}: {NOT_FINITE}", why=shown)
        return invalid("merge_drift", variant, None, limit, [problem])
    gain = _gain(variant, rule)
    if worst.status != "FAIL" and not gain.lower > rule.gain_factor * max(0.0, limit.value):

        def status_at(value: float) -> Status:
            return decide("merge_drift", worst.interval, value)

        return invalid(
            "merge_drift",
            variant,
            None,
            limit,
            [explain.no_gain(variant, gain, rule, margin_of(limit, variant), status_at)],
            why=[shown],
        )
    return give(
        "merge_drift",
        worst.status,
        candidate=variant,
        baseline=None,
        measured=worst.interval,
        limit=limit,
        why=[
            f"The worst form is {variant.label} {worst.form}. {_REASONS[worst.status]}",
            shown,
            *findings,
            *suspicious,
            _basis(variant, rule),
        ],
        what_to_do=_what_to_do(variant, drifts, worst, limit, rule),
        note=" ".join([shown, *suspicious]),
        hangs_on=(),
    )


def _not_at_hand(variant: TrainedVariant, message: str) -> Problem:
    """Return that there are no weights that could be saved, merged and reloaded."""
    remedy = "" if variant.source is not None else "call assert_merge_drift in the run that trains the variant"
    why = f"{message[:1].upper()}{message[1:]}."
    return Problem(f"no form of {variant.label} was evaluated", why, remedy)


def _unmeasured(variant: TrainedVariant, forms: Sequence[Sequence[FormLosses]]) -> list[Problem]:
    """Return which forms could not be evaluated, or not on the examples of the training."""
    found = []
    for trial, rows in zip(variant.trials, forms, strict=True):
        trained = trial.measured.validation
        assert trained is not None  # what was not measured is among the problems
        for row in rows:
            if row.cause is not None or row.nll is None:
                found.append(Problem(f"{name_of(trial)}, {row.form}, cannot be evaluated: {row.cause}"))
            elif (row.digest, len(row.nll)) != (trained.digest, len(trained.nll)):
                found.append(Problem(f"{name_of(trial)}, {row.form}, was evaluated on other examples"))
    if not found and (not forms or len({tuple(row.form for row in rows) for rows in forms}) != 1 or not forms[0]):
        found.append(Problem(f"not all forms of {variant.label} were evaluated"))
    return found


def _validation(variant: TrainedVariant) -> SequenceLosses:
    losses = variant.trials[0].measured.validation
    assert losses is not None  # what was not measured is among the problems
    return losses


def _rows(values: Sequence[Sequence[float]], losses: SequenceLosses) -> FloatArray:
    rows = np.array(values, dtype=np.float64)
    return rows if losses.documents is None else cluster(rows, losses.documents)


def _tokens(losses: SequenceLosses) -> FloatArray:
    tokens = np.array(losses.tokens, dtype=np.float64)
    return tokens if losses.documents is None else cluster(tokens, losses.documents)


def _drift(variant: TrainedVariant, forms: Sequence[FormLosses], limit: Limit, rule: Rule) -> _Drift:
    """Judge one form. The weights of a seed are the same on both sides, so each seed is paired with itself."""
    losses = _validation(variant)
    pairs = [(form.nll, trial.measured.validation) for form, trial in zip(forms, variant.trials, strict=True)]
    values = [[a - b for a, b in zip(ours or (), then.nll if then else (), strict=True)] for ours, then in pairs]
    rows = _rows(values, losses)
    if not np.isfinite(rows).all():
        nan = float("nan")
        return _Drift(forms[0].form, "INVALID", Interval(nan, nan, nan, nan, nan, nan), "")
    interval = gap_interval(rows, _tokens(losses), rule.confidence)
    form, status = forms[0].form, decide("merge_drift", interval, limit.value)
    too_good = form.startswith("merged") and not rows.any()
    words = f"{form[:1].upper()}{form[1:]}, each loss is the trained one to the last digit, although a merge rounds."
    suspicion = f"{words} Look whether anything was merged." if too_good else ""
    return _Drift(form, status, interval, _finding(variant, forms), suspicion)


def _finding(variant: TrainedVariant, forms: Sequence[FormLosses]) -> str:
    """Return what is known about why a form has other losses."""
    form = forms[0].form
    changed = list(dict.fromkeys(name for one in forms for name in one.changed))
    if any(_is_base(one, trial.measured.base_validation) for one, trial in zip(forms, variant.trials, strict=True)):
        return f"{form[:1].upper()}{form[1:]}, it has the base model's losses: what was trained is lost."
    if not changed:
        return ""
    count, was = (f"{len(changed)} tensors are", "they were") if len(changed) > 1 else ("1 tensor is", "it was")
    named = ", ".join(changed[:_MOST_NAMED]) + (", ..." if len(changed) > _MOST_NAMED else "")
    return f"{form[:1].upper()}{form[1:]}, {count} not what {was} in memory: {named}."


def _is_base(form: FormLosses, base: SequenceLosses | None) -> bool:
    return base is not None and all(
        abs(a - b) <= _SAME * count for a, b, count in zip(form.nll or (), base.nll, base.tokens, strict=True)
    )


def _gain(variant: TrainedVariant, rule: Rule) -> Interval:
    """Return what the variant gained over the base model: what is lost with the adapter must exceed the limit."""
    losses, base = _validation(variant), variant.trials[0].measured.base_validation
    assert base is not None  # what was not measured is among the problems
    rows = [
        [a - b for a, b in zip(base.nll, trial.measured.validation.nll, strict=True)]
        for trial in variant.trials
        if trial.measured.validation is not None
    ]
    return gap_interval(_rows(rows, losses), _tokens(losses), rule.confidence)


def _basis(variant: TrainedVariant, rule: Rule) -> str:
    losses, seeds = _validation(variant), len(variant.trials)
    return (
        f"The interval rests on {count_units(losses)} {unit_name(losses)} and {seeds} seed{'s' if seeds > 1 else ''}, "
        f"each paired with the trained model's loss; {explain.ends_err(rule.confidence)}."
    )


def _what_to_do(variant: TrainedVariant, drifts: Sequence[_Drift], worst: _Drift, limit: Limit, rule: Rule) -> str:
    """Return what to do about a verdict; "" if that is nothing."""
    if worst.status == "INCONCLUSIVE":
        return way_out((worst.interval, limit.value), rule, variant, _validation(variant), "validation")
    return _where_it_is_lost(drifts) if worst.status == "FAIL" else ""


def _where_it_is_lost(drifts: Sequence[_Drift]) -> str:
    """Return what to do about the first form that fails: all later ones are made from it."""
    place, first = next((place, drift) for place, drift in enumerate(drifts) if drift.status == "FAIL")
    if place == 0:
        return "look at what save_pretrained leaves out of the file, because the loss is lost without any merge"
    known = "is within the limit" if drifts[place - 1].status == "PASS" else "does not fail"
    if first.form.startswith("deployed"):
        return f"look at your export, because the model {drifts[place - 1].form} {known}"
    if "fp32" in first.form:
        return f"ship the adapter next to its base and do not merge it, because the model {drifts[0].form} {known}"
    return f'ship the weights in fp32 (dtype="fp32"), because the model {drifts[place - 1].form} {known}'
