"""Pretrain the base model of the quickstart: a byte-level GPT-2 of 0.86 million parameters, on English prose.

The result is in the repository (`base_model/`); this script shows where it comes from and makes it again, in about two
minutes on two processor cores:

    python pretrain.py [FOLDER]

It stops early on purpose. Like the base models of real projects, this one is far from what the narrow domain asks for,
and fine-tuning has more to learn than a small adapter can hold.
"""

import sys
from pathlib import Path

import torch
from texts import prose
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

SEED = 0
STEPS = 600
BATCH_SIZE = 8
BLOCK_SIZE = 256
LEARNING_RATE = 2e-3


def pretrain(folder: Path) -> None:
    """Pretrain the model and save it with its tokenizer.

    Args:
        folder: Where to save them.
    """
    torch.manual_seed(SEED)
    tokenizer = ByT5Tokenizer(extra_ids=0)  # bytes need no vocabulary file
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=BLOCK_SIZE,
            n_embd=128,
            n_layer=4,
            n_head=4,
            activation_function="gelu_pytorch_tanh",  # the function of GPT-2, in one kernel instead of seven
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    tokens = torch.tensor(tokenizer.encode(prose(), add_special_tokens=False))
    blocks = tokens[: len(tokens) // BLOCK_SIZE * BLOCK_SIZE].view(-1, BLOCK_SIZE)
    held_out = torch.arange(len(blocks)) % 20 == 0
    train, validation = blocks[~held_out], blocks[held_out]
    print(f"{model.num_parameters():,} parameters, {train.numel():,} training tokens")

    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, STEPS, pct_start=0.1, cycle_momentum=False
    )

    order = torch.cat([torch.randperm(len(train)) for _ in range(STEPS * BATCH_SIZE // len(train) + 1)])
    for step in range(STEPS):
        batch = train[order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: training loss {loss.item():.3f}", flush=True)

    with torch.no_grad():
        losses = [model(input_ids=batch, labels=batch).loss for batch in validation.split(BATCH_SIZE)]  # type: ignore[no-untyped-call]
    print(f"validation loss {torch.stack(losses).mean().item():.3f} nats per byte")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    pretrain(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "base_model")
