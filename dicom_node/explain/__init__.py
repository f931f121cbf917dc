"""One task: its images explained, its results written."""
