"""The torch wing: the only rooms that import torch, transformers, peft and accelerate."""
