"""What tasks on texts share: files become documents, documents become tokens, and copies are found."""

from __future__ import annotations

from pytest_ftguard.tasks.text.files import Text, read_text

__all__ = ["Text", "read_text"]
