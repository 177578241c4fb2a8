"""The task of causal language models: to predict each token from those before it."""
