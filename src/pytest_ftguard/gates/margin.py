"""A limit in nats per token, the unit in which gains and trends are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_ftguard.gates.limits import PERPLEXITY, Limit
from pytest_ftguard.results import TrainedVariant

__all__ = ["Margin", "margin_of"]


@dataclass(frozen=True)
class Margin:
    """What a limit allows, in nats per token.

    Attributes:
        nats: The limit in nats per token.
        limit: The limit in its own unit.
        baseline: Label of the baseline.
        perplexity: The baseline's perplexity, if the limit is in points of perplexity.
    """

    nats: float
    limit: Limit
    baseline: str
    perplexity: float | None = None

    def __str__(self) -> str:
        """Return the limit with its unit, and what it is in nats per token."""
        if self.perplexity is None:
            return f"{self.nats:.4g} nats per token"
        at = f"at {self.baseline}'s perplexity of {self.perplexity:.2f}"
        return f"{self.limit} points of perplexity ({self.nats:.4g} nats per token {at})"

    def worth(self, nats: float) -> float:
        """Return the limit, in its own unit, that allows so many nats per token."""
        return nats if self.perplexity is None else self.perplexity * math.expm1(nats)

    def show_gain(self, nats: float) -> str:
        """Return a gain of the baseline in nats per token and, if the limit is in points, in points of perplexity."""
        shown = f"{nats:+.4f} nats per token"
        return shown if self.perplexity is None else f"{shown} ({self.worth(nats):+.4g} points of perplexity)"


def margin_of(limit: Limit, baseline: TrainedVariant) -> Margin:
    """Return what a limit in nats per token or in points of perplexity is in nats per token.

    A candidate that is so many points above the baseline's perplexity p has a loss that is log(1 + points / p) higher.
    """
    perplexity = baseline.perplexity
    if limit.unit != PERPLEXITY or perplexity is None:
        return Margin(limit.value, limit, baseline.label)
    share = limit.value / perplexity
    return Margin(math.log1p(share) if share > -1 else -math.inf, limit, baseline.label, perplexity)
