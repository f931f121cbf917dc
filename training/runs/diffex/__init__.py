"""DiffEx: a diffusion autoencoder that knows the classifier, and directions in its codes (arXiv:2502.09663)."""
