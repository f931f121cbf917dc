"""Results on their way to their destinations."""
