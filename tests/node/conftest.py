"""Fixtures of the node's tests."""

from databases import ledger, postgres_url, url

__all__ = ["ledger", "postgres_url", "url"]
