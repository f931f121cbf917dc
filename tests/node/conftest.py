"""Fixtures of the node's tests."""

from databases import ledger, postgres_url, url
from toys import database

__all__ = ["database", "ledger", "postgres_url", "url"]
