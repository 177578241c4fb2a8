"""A model is trained only if its own loss is that of the next token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import BartConfig, BartForCausalLM, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from pytest_ftguard.errors import ConfigurationError
from pytest_ftguard.tasks.causal_lm.behaviour import check_loss


def model(loss: Any = None) -> Any:
    """A tiny GPT-2, with a loss of the test's own."""
    torch.manual_seed(0)
    made: Any = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=16))
    real = made.forward

    def forward(input_ids: Any, labels: Any = None, **options: Any) -> Any:
        answer = real(input_ids=input_ids, **options)
        return SimpleNamespace(logits=answer.logits, loss=None if labels is None else loss(answer.logits, labels))

    if loss is not None:
        made.forward = forward
    return made


def mean(logits: Any, labels: Any) -> Any:
    return cross_entropy(logits.flatten(0, 1), labels.flatten())


def shifted(logits: Any, labels: Any) -> Any:
    return mean(logits[:, :-1], labels[:, 1:])


def counts_the_masked(logits: Any, labels: Any) -> Any:
    return shifted(logits, labels.clamp(min=0))


@pytest.mark.parametrize(
    "loss",
    [
        None,
        shifted,
        lambda logits, labels: shifted(logits, labels) + 7,  # as that of a router
        lambda logits, labels: 0.9 * shifted(logits, labels),
        lambda logits, labels: cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum"),
        lambda logits, labels: shifted(logits, labels) + 0.2 * mean(logits[:, :-2], labels[:, 2:]),  # of two tokens
    ],
    ids=["GPT-2", "shifted", "auxiliary", "scaled", "sum", "second token"],
)
def test_the_loss_of_the_next_token_is_let_through(loss: Any) -> None:
    """Whatever its scale, and what it adds."""
    check_loss(model(loss))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (mean, "labels are not shifted"),
        (lambda logits, labels: mean(logits[:, 1:], labels[:, 1:]), "labels are not shifted"),
        (lambda logits, labels: mean(logits[:, :-2], labels[:, 2:]), "the token after it"),
        (lambda logits, labels: shifted(logits, labels) + 0.1 * mean(logits[:, :1], labels[:, :1]), "first label"),
        (lambda logits, labels: mean(logits[:, -2:-1], labels[:, -1:]), "the token after it"),
        (lambda logits, _: logits.sum(), "does not depend on the labels"),
        (lambda *_: None, "gives no loss"),
        (lambda _, labels: labels.nothing, "cannot be called .* with input_ids and labels: AttributeError"),
        (counts_the_masked, "counts labels of -100"),
    ],
)
def test_another_loss_is_refused(loss: Any, words: str) -> None:
    """Not shifted, shifted twice, of the first or the last token, of no token, none, broken, or of what is masked."""
    with pytest.raises(ConfigurationError, match=words):
        check_loss(model(loss))


def test_real_classes_are_told_apart() -> None:
    """A mixture with the loss of its router passes, and the decoder of BART does not."""
    tiny: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads: dict[str, Any] = {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_local_experts": 2,
        "output_router_logits": True,
    }
    check_loss(MixtralForCausalLM(MixtralConfig(**tiny, **heads)))
    layers: dict[str, Any] = {"decoder_layers": 1, "decoder_ffn_dim": 32, "decoder_attention_heads": 2}
    with pytest.raises(ConfigurationError, match=r"BartForCausalLM .*labels are not shifted"):
        check_loss(BartForCausalLM(BartConfig(vocab_size=64, d_model=32, **layers, max_position_embeddings=16)))
