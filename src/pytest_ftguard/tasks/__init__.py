"""What a model is trained for: the torch parts load texts and the model, check both, and measure losses."""
