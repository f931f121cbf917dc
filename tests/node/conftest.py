"""Fixtures of the node's tests."""

import logging

import pytest
import structlog
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


@pytest.fixture(autouse=True)
def _no_log_goes_where_an_earlier_test_had_it():
    """What a test has configured writes to its own stream, which is closed when the test is over."""
    yield
    root = logging.getLogger()
    ours = [one for one in root.handlers if isinstance(one.formatter, structlog.stdlib.ProcessorFormatter)]
    for handler in ours:
        root.removeHandler(handler)
