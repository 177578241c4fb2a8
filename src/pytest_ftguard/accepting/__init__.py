"""Results that a team accepted: records and their files, what changed since, and the gate and helper that use them."""
