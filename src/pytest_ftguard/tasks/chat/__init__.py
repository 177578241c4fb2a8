"""The task of chat models: conversations and prompts with completions, in TRL's formats."""

from __future__ import annotations

from pytest_ftguard.tasks.chat.task import Chat

__all__ = ["Chat"]
