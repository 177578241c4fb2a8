"""Where a variant's learning rate comes from: the same training may have a rate that was given, searched or assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_ftguard.specs.methods.base import Variant

__all__ = ["RateSource", "rate_source"]

Origin = Literal["given", "searched", "default"]
Maker = Literal["settings", "code", "elsewhere"]


@dataclass(frozen=True)
class RateSource:
    """Where a variant's learning rate comes from, and who could have it searched.

    Attributes:
        origin: "given" by the user, "searched", or the "default".
        maker: What made the variant: the "settings"; the user's "code", in a test or a fixture; or another run,
            "elsewhere", which this one cannot change.
        is_open: Whether it is a default that is searched before a verdict hangs on it.
        first: The first guess of the search, if there was one.
        why_not: Why it could not be searched; "" if nobody tried, or it was.
    """

    origin: Origin = "given"
    maker: Maker = "elsewhere"
    is_open: bool = False
    first: float | None = None
    why_not: str = ""


def rate_source(variant: Variant, maker: Maker) -> RateSource:
    """Return where the rate of a variant will come from.

    Args:
        variant: The variant as it was asked for, before its rate is filled in.
        maker: What made it.
    """
    if variant.searches_first:
        return RateSource("searched", maker)
    if variant.learning_rate is None:
        return RateSource("default", maker, is_open=variant.search == "auto")
    return RateSource("given", maker)
