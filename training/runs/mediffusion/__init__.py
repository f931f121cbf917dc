"""Mediffusion: joint diffusion for classification, explanation and synthesis (arXiv:2411.09434)."""
