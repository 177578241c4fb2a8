"""Classification of texts: rows with a text, perhaps a second one, and a label."""

from __future__ import annotations

from pytest_ftguard.tasks.classification.task import Classification

__all__ = ["Classification"]
