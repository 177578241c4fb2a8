"""What earlier runs measured, found again by its content."""
