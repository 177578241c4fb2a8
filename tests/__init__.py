"""Tests of pytest-ftguard."""
