"""A timing that was made again."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Retiming"]


@dataclass(frozen=True)
class Retiming:
    """A pair of variants that was timed again.

    Attributes:
        candidate: Label of the variant that is judged.
        baseline: Label of the variant that it is judged against.
        steps: Steps of each trial.
        seeds: Number of trials of each variant.
        why: Why the seconds that they had could not be compared.
        cached: Whether an earlier run had timed them so.
        look: Which timing of the pair it was, from 1.
    """

    candidate: str
    baseline: str
    steps: int
    seeds: int
    why: str
    cached: bool = False
    look: int = 1

    @property
    def pair(self) -> tuple[str, str, str]:
        """What it has in common with further timings of the same pair."""
        return self.candidate, self.baseline, self.why
