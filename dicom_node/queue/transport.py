"""Kombu's Redis transport, which passes over what is no message of ours.

Kombu ends the worker over an entry that it cannot read, and puts it back for the next worker to end over. Redis holds
hints only: what cannot be read is dropped and said, and the dispatcher submits again whatever it was about.
"""

import json
from base64 import b64decode
from collections.abc import Mapping
from queue import Empty
from typing import Any, Final

import structlog
from kombu.transport import redis

_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError)

log = structlog.get_logger(__name__)


def unusable(message: Any) -> str | None:
    """Why an entry of a queue is no message with one identifier (Celery's protocol 2), or None."""
    try:
        delivery = message["properties"]["delivery_info"]
        names = [message["properties"]["delivery_tag"], message["headers"]["task"], message["headers"]["id"]]
        names += [delivery["exchange"], delivery["routing_key"]]
        if not all(isinstance(name, str) for name in names):
            return "a name in it is no text"
        if (message["content-type"], message["properties"]["body_encoding"]) != ("application/json", "base64"):
            return "its body is not JSON in base64"
        arguments, keywords, options = json.loads(b64decode(message["body"], validate=True))
    except _UNREADABLE as error:
        return f"it cannot be read ({type(error).__name__})"
    if not isinstance(arguments, list) or [type(one) for one in arguments] != [str] or keywords != {}:
        return "its argument is not one identifier"
    return None if isinstance(options, Mapping) else "its options are no table"


class QoS(redis.QoS):
    """What was taken and not acknowledged."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002
        """Put a message back into its queue, or drop what is none."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except _UNREADABLE as error:
            log.warning("dropped from the broker: no message of ours", reason=type(error).__name__)
            with self.channel.conn_or_acquire(client) as connection:
                self._remove_from_indices(tag, connection.pipeline()).execute()


class Channel(redis.Channel):
    """A connection of a worker or of a submission."""

    QoS = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drop_what_is_no_queue()

    def _drop_what_is_no_queue(self) -> None:
        """Remove keys of ours that hold something of another type: nothing can be put there any more."""
        kinds = {self.unacked_key: b"hash", self.unacked_index_key: b"zset"}
        with self.conn_or_acquire() as client:
            for key, kind in kinds.items():
                if client.type(key) not in {kind, b"none"}:
                    log.warning("dropped from the broker: no table of ours", key=key)
                    client.delete(key)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ValueError as error:  # no JSON
            log.warning("dropped from the broker: no message of ours", reason=type(error).__name__)
            raise Empty from None


class SentinelChannel(Channel, redis.SentinelChannel):
    """The same to the Redis that the Sentinels name as master, who are asked at every connection."""


class Transport(redis.Transport):
    """Gives to the worker what is a message."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        reason = unusable(message)
        if reason is None:
            super()._deliver(message, queue)
        else:
            log.warning("dropped from the broker: no message of ours", reason=reason)


class SentinelTransport(Transport, redis.SentinelTransport):
    """The same where Sentinels say which Redis it is."""

    Channel = SentinelChannel
