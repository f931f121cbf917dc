"""Explaining files and folders without servers."""
