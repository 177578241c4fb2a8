"""The short trials: what a search for a learning rate trains, and what a timing trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pytest_ftguard.specs.workload import Workload

__all__ = ["MOST_RATES", "SEARCH_SEED", "search_workloads", "timing_workload"]

MOST_RATES: Final = (5, 3)
"""The most rates that each of the two rounds of a search tries; the second tries two unless both diverge."""

SEARCH_SEED: Final = 2**32 - 1
"""Seed of a search's trials, the last one there is, so that no gate judges a seed that has chosen the rates."""

# The rounds of a search, by the share of the steps that they train. On the quickstart's model a tenth finds the best
# rates of full, and only half of the steps finds those of LoRA r=2 (benchmarks/results/rates.txt, rates_grid.txt).
_SHARES_OF_STEPS: Final = (10, 2)
# Within the first updates every rate looks alike.
_LEAST_SEARCHED_STEPS: Final = 10
# Three steps warm up, and the median of the other 37 moves by about a fifth of what a single step does.
_LEAST_TIMED_STEPS: Final = 40
# What else a machine does comes in bursts, and the first tenths of a second are a little slower than the rest.
_SECONDS: Final = 3.0
_ROUND_STEPS: Final = 20
# The losses judge nothing here; these few show that both variants start from one model.
_SEQUENCES: Final = 8


def search_workloads(workload: Workload) -> tuple[Workload, Workload]:
    """Return what the two rounds of a search train: a tenth of the steps, and half of them.

    Each has a seed of its own, and is judged on sequences that no gate uses: so the choice of a rate favours none of
    the trials that a gate judges. No round has fewer than 10 steps, unless the workload itself has fewer.
    """
    seed = next(seed for seed in range(SEARCH_SEED, -1, -1) if seed not in workload.seeds)
    first, second = (
        replace(
            workload,
            steps=min(workload.steps, max(_LEAST_SEARCHED_STEPS, workload.steps // share)),
            seeds=(seed,),
            most_seeds=0,
            reference=None,
            score=None,
            slices=(),
            purpose="search",
        )
        for share in _SHARES_OF_STEPS
    )
    return first, second


def timing_workload(workload: Workload, seeds: Sequence[int], seconds_per_step: float) -> Workload:
    """Return what a timing trains: the same with next to no evaluation, and steps for about three seconds.

    These are 40 at least, unless the workload itself has fewer.

    Args:
        workload: What the variants were trained on.
        seeds: The seeds that both have.
        seconds_per_step: Time of a step, as far as it is known; it need not be this machine's.
    """
    wanted = math.ceil(_SECONDS / seconds_per_step / _ROUND_STEPS) * _ROUND_STEPS
    return replace(
        workload,
        steps=min(workload.steps, max(_LEAST_TIMED_STEPS, wanted)),
        seeds=tuple(seeds),
        most_seeds=0,
        reference=None,
        validation_sequences=min(workload.validation_sequences, _SEQUENCES),
        score=None,
        slices=(),
        group=None,
        purpose="timing",
    )
