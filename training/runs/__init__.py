"""Training runs: flat scripts, read from top to bottom."""
