"""Gates: a limit applied to what was measured gives a verdict that explains itself."""
