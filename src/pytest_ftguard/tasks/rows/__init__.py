"""Rows of data sets: files, folders, the hub and functions of the user's, read with the library `datasets`."""

from __future__ import annotations

from pytest_ftguard.tasks.rows.reading import Rows, read_rows

__all__ = ["Rows", "read_rows"]
