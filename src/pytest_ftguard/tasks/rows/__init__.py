"""Rows of data sets: files, folders, the hub and functions of the user's, read with the library `datasets`.

Here is also which of them are evaluated.
"""

from __future__ import annotations

from pytest_ftguard.tasks.rows.choosing import Candidates, Chosen, choose, listed
from pytest_ftguard.tasks.rows.evaluated import RowSet, described
from pytest_ftguard.tasks.rows.reading import Rows, read_rows

__all__ = ["Candidates", "Chosen", "RowSet", "Rows", "choose", "described", "listed", "read_rows"]
