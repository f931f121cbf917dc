"""The clock."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The clock of the loops, where none is passed in."""
    return datetime.now(UTC)
