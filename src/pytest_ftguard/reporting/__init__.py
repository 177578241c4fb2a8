"""Results and verdicts become text; pure functions."""
