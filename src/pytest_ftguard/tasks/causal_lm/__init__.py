"""The task of causal language models: to predict each token from those before it."""

from __future__ import annotations

from pytest_ftguard.tasks.causal_lm.task import CausalLM

__all__ = ["CausalLM"]
