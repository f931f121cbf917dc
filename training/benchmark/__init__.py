"""The benchmark: every method judged on one dataset, with controls, as the tables of arXiv:2012.07332."""
