"""DiffEx: what a classifier looks at, as ranked attributes of images (arXiv:2502.09663)."""
