"""Two versions of a model on the same test patients."""
