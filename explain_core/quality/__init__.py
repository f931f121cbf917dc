"""Metrics of explanations and their controls."""
