"""Units that need no torch."""
