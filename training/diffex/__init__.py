"""`python -m training run diffex`: what a classifier looks at, as ranked attributes (arXiv:2502.09663)."""
