"""Fixtures of the node's tests."""

from certificates import authority, mine, theirs
from databases import ledger, postgres_url, url
from object_stores import hosts, s3, s3_server
from working import redis_server

__all__ = [
    "authority",
    "hosts",
    "ledger",
    "mine",
    "postgres_url",
    "redis_server",
    "s3",
    "s3_server",
    "theirs",
    "url",
]
