"""Texts that a model writes, greedily and in batches: what scores by generation are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

__all__ = ["generate"]

Prompt = str | Sequence[Mapping[str, Any]]


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 16
) -> list[str]:
    """Return what a model writes after each prompt, without the prompt.

    Each token is the likeliest one (greedy decoding), whatever the model's own generation settings say, so all variants
    write by one rule. Prompts of similar length share a batch; the order of the texts is that of the prompts.

    Args:
        model: A causal language model, as a score is handed it, or as `TrainedVariant.load` gives it.
        tokenizer: Its tokenizer.
        prompts: A text each, or messages, which the tokenizer's chat template turns into one.
        max_new_tokens: The most tokens of each text. It ends earlier with an EOS token.
        batch_size: Prompts in a batch.

    Raises:
        ValueError: A prompt has no tokens, or does not fit into the model with what is to be written.
    """
    if max_new_tokens < 1 or batch_size < 1:
        message = f"max_new_tokens and batch_size must be at least 1, got {max_new_tokens} and {batch_size}"
        raise ValueError(message)
    ends = _end_tokens(model, tokenizer)
    ids = [_prompt_ids(tokenizer, prompt, ends) for prompt in prompts]
    _check_lengths(model, ids, max_new_tokens)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=0 if pad is None else pad,
    )
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    written = [""] * len(ids)
    with _evaluating(model), _plain_generation(model), torch.no_grad():
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            for number, text in zip(part, _batch(model, tokenizer, [ids[one] for one in part], config), strict=True):
                written[number] = text
    return written


def _prompt_ids(tokenizer: Any, prompt: Prompt, ends: set[int]) -> list[int]:
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
    else:
        text = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    # Some tokenizers end every text: nothing is written after an end.
    return ids[:-1] if len(ids) > 1 and ids[-1] in ends else ids


def _check_lengths(model: Any, ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    config = getattr(model, "config", None)
    text_config = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    positions = getattr(text_config, "max_position_embeddings", None)
    for number, one in enumerate(ids):
        if not one:
            message = f"prompt {number + 1} has no tokens"
            raise ValueError(message)
        if isinstance(positions, int) and len(one) + max_new_tokens > positions:
            message = (
                f"prompt {number + 1} has {len(one)} tokens and max_new_tokens is {max_new_tokens}, but the model has "
                f"{positions} positions: shorten the prompt, or lower max_new_tokens"
            )
            raise ValueError(message)


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = own if isinstance(own, list | tuple) else [own]
    return {int(token) for token in (*found, tokenizer.eos_token_id) if token is not None}


def _batch(model: Any, tokenizer: Any, ids: Sequence[Sequence[int]], config: GenerationConfig) -> list[str]:
    longest = max(map(len, ids))
    device = next(model.parameters()).device
    # What a model writes follows the last token, so the padding stands on the left.
    rows = [[config.pad_token_id] * (longest - len(one)) + list(one) for one in ids]
    mask = [[0] * (longest - len(one)) + [1] * len(one) for one in ids]
    found = model.generate(
        input_ids=torch.tensor(rows, device=device),
        attention_mask=torch.tensor(mask, device=device),
        generation_config=config,
    )
    texts: list[str] = tokenizer.batch_decode(found[:, longest:], skip_special_tokens=True)
    return texts


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _plain_generation(model: nn.Module) -> Iterator[None]:
    """Put aside what a model came with, such as sampling or a penalty for what repeats."""
    owners: list[Any] = [part for part in model.modules() if hasattr(part, "generation_config")]
    kept = [(owner, owner.generation_config) for owner in owners]
    for owner in owners:
        owner.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for owner, config in kept:
            owner.generation_config = config
