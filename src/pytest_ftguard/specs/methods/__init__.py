"""The variants: ways of adapting the weights, each found by its kind."""
