"""Losses per sequence are exact."""

from __future__ import annotations

import math

import pytest
import torch

from pytest_ftguard.specs import Workload
from pytest_ftguard.tasks.causal_lm.data import EvaluationSet
from pytest_ftguard.tasks.causal_lm.evaluation import sequence_nll
from pytest_ftguard.tasks.causal_lm.models import load_base
from pytest_ftguard.tasks.causal_lm.task import CausalLM


def reference_nll(model: torch.nn.Module, sequence: torch.Tensor) -> float:
    """The definition: the sum of -log p of each token after the first, one sequence at a time."""
    with torch.no_grad():
        log_p = model(input_ids=sequence[None]).logits[0].double().log_softmax(-1)
    return -sum(float(log_p[i, sequence[i + 1]]) for i in range(len(sequence) - 1))


def test_padding_and_batches_do_not_change_a_sequences_loss(workload: Workload) -> None:
    """Sequences of unequal length, in batches of any size, have the loss that each has alone."""
    model = load_base(workload)
    sequences = [torch.randint(3, 300, (n,), generator=torch.Generator().manual_seed(n)) for n in (2, 32, 7, 32, 19)]
    expected = [reference_nll(model, sequence) for sequence in sequences]
    for batch_size in (1, 2, 5):
        assert sequence_nll(model, sequences, batch_size=batch_size, bf16=False) == pytest.approx(expected, rel=1e-5)


def test_tokens_are_those_that_are_predicted(workload: Workload) -> None:
    """A sequence of n tokens predicts n - 1, and the loss is per predicted token."""
    model = load_base(workload)
    data = EvaluationSet((torch.arange(3, 13), torch.arange(3, 8)), documents=(0, 1))
    losses = CausalLM().losses(model, data, batch_size=2, bf16=False)
    assert losses.tokens == (9, 4)
    assert losses.loss == pytest.approx(sum(losses.nll) / 13)
    assert losses.documents == (0, 1)


def test_a_loss_that_is_not_finite_is_returned_as_it_is(workload: Workload) -> None:
    """NaN weights give NaN, not a loss with the bad sequence left out."""
    model = load_base(workload)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(math.nan)
    nll = sequence_nll(model, [torch.arange(3, 13)] * 2, batch_size=2, bf16=False)
    assert all(math.isnan(value) for value in nll)


def test_evaluation_leaves_the_models_mode_and_the_random_state_alone(workload: Workload) -> None:
    """Measuring in the middle of a training does not change the training."""
    model = load_base(workload).train()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    sequence_nll(model, [torch.arange(3, 13)], batch_size=1, bf16=False)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
