"""Datasets, training runs, evaluation and the model bundle's making."""
