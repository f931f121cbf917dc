"""How a worker's Celery acknowledges a message; named by the tasks of `broker`, loaded where tasks are run."""

from typing import Any

from celery.worker.request import Request


class HonestRequest(Request):
    """An acknowledgement that fails for want of a broker ends the connection, as any other failure of it does.

    Celery logs it and goes on. kombu then counts the message among those being worked on, for ever: at prefetch 1 the
    worker takes nothing more, polls nothing, and so never sees that its connection is dead.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connection_errors = ()  # those that Celery would catch
