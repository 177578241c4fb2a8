"""Two trained variants side by side: their pairs, and whether they did the same work."""
