"""A tiny model with a fast tokenizer and a chat template, and rows in each of the four formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "END_OUTSIDE",
    "NO_END",
    "NO_TURNS",
    "TEMPLATE",
    "conversations",
    "rows_of",
    "save_chat_model",
    "write_rows",
]

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_END = TEMPLATE.replace("<|end|>", "")
END_OUTSIDE = TEMPLATE.replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>")
NO_TURNS = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
_THINGS = ("apple", "bread", "chair", "door", "engine", "flower", "glass", "house", "island", "jacket", "kettle")
_COLOURS = ("red", "green", "blue", "black", "white", "yellow", "brown", "grey")


def save_chat_model(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Save a random Llama of two layers and a byte-level tokenizer with the tokens of the template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [row["text"] for row in rows_of("text", 200)]
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special[2:]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def conversations(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Return questions with answers, all of them different."""
    found = []
    for number in range(start, start + count):
        thing, colour = _THINGS[number % len(_THINGS)], _COLOURS[number // len(_THINGS) % len(_COLOURS)]
        more = " and heavy" * (number % 3)
        found.append((f"What is {thing} number {number}?", f"The {thing} is {colour}{more}."))
    return found


def rows_of(kind: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    """Return rows of a format: "text", "prompt", "messages" or "chat prompt"."""
    made: list[dict[str, Any]] = []
    for question, answer in conversations(count, start):
        user, assistant = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
        more = [user, {"role": "assistant", "content": f"Really: {answer}"}]
        formats: dict[str, dict[str, Any]] = {
            "text": {"text": f"{question} {answer}"},
            "prompt": {"prompt": question, "completion": f" {answer}"},
            "messages": {"messages": [user, assistant, *(more if len(made) % 2 else [])]},
            "chat prompt": {"prompt": [user], "completion": [assistant]},
        }
        made.append(formats[kind])
    return made


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as JSON lines, and return the path."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)
