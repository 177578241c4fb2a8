"""What tasks on texts share: files become documents, documents become tokens, and copies are found."""
