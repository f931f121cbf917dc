"""Errors of training."""

from explain_core.errors import ExplainError


class TrainingError(ExplainError):
    """A run cannot go on; the message says at which step, why, and what to do."""
