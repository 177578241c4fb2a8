"""Rows with labels, and tiny models of the kinds that classify them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ByT5Tokenizer,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

__all__ = ["KINDS", "rows_of", "save_model", "write_rows"]

KINDS = ("bert", "bert without pooler", "distilbert", "gpt2", "llama")
WORDS = {"pos": ("good", "great", "fine", "nice"), "neg": ("bad", "poor", "awful", "sad")}


def save_model(folder: Path, kind: str) -> Path:
    """Write a random model with a byte-level tokenizer."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    more: dict[str, Any] = {"num_attention_heads": 2, "max_position_embeddings": 64}
    made: dict[str, Any] = {
        "bert": lambda: BertModel(BertConfig(**sizes, **more)),
        "bert without pooler": lambda: BertForMaskedLM(BertConfig(**sizes, **more)),
        "distilbert": lambda: DistilBertModel(
            DistilBertConfig(vocab_size=384, dim=32, hidden_dim=64, n_layers=2, n_heads=2, max_position_embeddings=64)
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=384, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1)
        ),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**sizes, **more, bos_token_id=1, eos_token_id=1)),
    }
    made[kind]().save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return folder


def rows_of(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Short texts, of which one word tells the class."""
    draw = random.Random(seed)
    labels = [draw.choice(sorted(WORDS)) for _ in range(count)]
    return [
        {"text": f"{draw.choice(WORDS[label])} {'so ' * draw.randrange(4)}{draw.randrange(10**6)}", "label": label}
        for label in labels
    ]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
