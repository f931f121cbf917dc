"""Fixtures of the node's tests."""

from certificates import authority, mine, theirs
from databases import ledger, postgres_url, url
from working import redis_server

__all__ = ["authority", "ledger", "mine", "postgres_url", "redis_server", "theirs", "url"]
