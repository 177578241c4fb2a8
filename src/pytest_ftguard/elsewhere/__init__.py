"""Results that other programs or other runs made."""
